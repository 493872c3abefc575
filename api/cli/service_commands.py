"""Commands that only call a running service, made from the operations of its API."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import httpx2
import msgspec
import typer

from .lazy_commands import Member, Operation, ServiceCommand, operations
from .terminal import (
    JsonLinesOption,
    JsonOption,
    fail,
    heading,
    parse_duration,
    print_message,
    write_json,
    write_json_lines,
    write_line,
    write_members,
    write_table,
)

UrlOption = Annotated[str, typer.Option(envvar="TRUSTWATCH_URL", help="where the service listens")]


def _given_token(context: typer.Context, option: typer.CallbackParam, value: str) -> str:
    """The token of `-` (standard input), `@FILE` or the environment; one in the command's own words is warned about."""
    try:
        if value == "-":
            return sys.stdin.readline().strip()
        if value.startswith("@"):
            return Path(value[1:]).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"the token cannot be read: {error}") from None
    source = context.get_parameter_source(option.name or "")
    if value and source is not None and source.name == "COMMANDLINE":
        print_message(
            "note: every user of this machine sees a token in the list of processes; "
            "set TRUSTWATCH_TOKEN, or give --token @FILE or --token - (standard input)"
        )
    return value


TokenOption = Annotated[
    str,
    typer.Option(
        envvar="TRUSTWATCH_TOKEN",
        callback=_given_token,
        help="bearer token (see `trustwatch token`), better as the variable, @FILE or - (standard input)",
    ),
]

DEFAULT_URL = "http://127.0.0.1:8420"
TIMEOUT_S, DOWNLOAD_TIMEOUT_S = 60.0, 600.0


class ServiceClient:
    """A running service."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.client = httpx2.Client(base_url=url, headers=headers, timeout=TIMEOUT_S)
        self.has_answered = False

    def request(self, method: str, url: str, **arguments: Any) -> httpx2.Response:
        """One request; every failure ends the command with a message."""
        try:
            response = self.client.request(method, url, **arguments)
        except httpx2.HTTPError as error:
            hint = "is the service running? At another address: --url or TRUSTWATCH_URL"
            raise fail(f"{self._silence(error)}; {hint}") from None
        self.has_answered = True
        return response

    def request_again_later(self, method: str, path: str, **arguments: Any) -> httpx2.Response | None:
        """Make a request; prints a message and returns None if a service that answered before does not answer now.

        One that never answered ends the command: its address is wrong, or it does not run.
        """
        if not self.has_answered:
            return self.request(method, path, **arguments)
        try:
            return self.client.request(method, path, **arguments)
        except httpx2.HTTPError as error:
            print_message(f"{self._silence(error)}; trying again")
            return None

    def _silence(self, error: httpx2.HTTPError) -> str:
        return f"{self.client.base_url} does not answer ({error or type(error).__name__})"

    def close(self) -> None:
        self.client.close()

    def call(
        self,
        operation: str,
        members: Mapping[str, Any],
        *,
        content: bytes | None = None,
        may_be_missing: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> httpx2.Response:
        """Answer of an operation. A refusal ends the command with a message."""
        response = self.request(**_request_of(operation, members, content), timeout=timeout_s)
        if response.is_success or (may_be_missing and response.status_code == 404):
            return response
        raise fail(problem_text(response))

    def download(self, operation: str, members: Mapping[str, Any], out: Path) -> None:
        """Write the answer of an operation to a file, which appears when it is complete."""
        part = out.with_name(out.name + ".part")
        try:
            with self.client.stream(**_request_of(operation, members), timeout=DOWNLOAD_TIMEOUT_S) as response:
                if not response.is_success:
                    response.read()
                    raise fail(problem_text(response))
                with part.open("wb") as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
        except httpx2.HTTPError as error:
            part.unlink(missing_ok=True)
            raise fail(f"{self.client.base_url}: the answer broke off ({error})") from None
        part.replace(out)


def _request_of(name: str, members: Mapping[str, Any], content: bytes | None = None) -> dict[str, Any]:
    """Arguments of a request: path and query with what is given, and the JSON body if the operation has one."""
    operation = operations()[name]
    placed: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "body": {}}
    for member in operation.members:
        if (value := members.get(member.name)) is not None:
            placed[member.place][member.name] = value
    path = operation.path.format(**{name: quote(str(value), safe="") for name, value in placed["path"].items()})
    request = {"method": operation.method, "url": path, "params": placed["query"]}
    if content is not None:
        return request | {"content": content, "headers": {"content-type": "application/json"}}
    takes_body = any(member.place == "body" for member in operation.members)
    return request | ({"json": placed["body"]} if takes_body else {})


def problem_text(response: httpx2.Response) -> str:
    """Text of a problem document, in one line."""
    try:
        body = response.json()
        return f"{response.status_code} {body.get('title', '')}: {body.get('detail', '')}"
    except ValueError:
        return f"{response.status_code} {response.text[:200]}"


_KINDS: Final[Mapping[str, type]] = {"integer": int, "number": float, "boolean": bool}
_CURSOR = "cursor"
_ALL = "all"
"""Choice of an option that has a default: send nothing."""
_LIMIT, _PAGE_ITEMS, _PART_ITEMS = 50, 500, 10
_PROSE = ("asked_why", "agents", "reason", "scopes", "subject", "why")
"""Columns that a terminal folds."""


def function_of(command: ServiceCommand) -> Callable[..., None]:
    """Function of the command, with a parameter for each member, for typer."""
    operation = operations()[command.operation]

    def run(url: str, token: str, json: bool, **given: Any) -> None:
        sent: dict[str, Any] = {}
        for member in operation.members:
            value = given.get(member.name)
            if value is not None and value != _ALL:
                sent[member.name] = parse_duration(value, f"--{option_name(member)}") if is_duration(member) else value
        with closing(ServiceClient(url, token)) as service:
            _run(service, command, sent, as_json=json)

    members = sorted(operation.members, key=lambda member: not _is_argument(command, member))
    parameters = [_parameter(command, member) for member in members if member.name != _CURSOR]
    as_json = JsonLinesOption if operation.paged else JsonOption
    for name, default, annotation in (
        ("url", DEFAULT_URL, UrlOption),
        ("token", "", TokenOption),
        ("json", False, as_json),
    ):
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = f"{operation.summary}.\n\n{operation.description}"
    return run


def _is_argument(command: ServiceCommand, member: Member) -> bool:
    return member.place == "path" or member.name in command.arguments


def _parameter(command: ServiceCommand, member: Member) -> Parameter:
    """Argument or option of a member. Durations are given as `4h`, and ids without `_id`."""
    default, name, text = command.defaults.get(member.name), option_name(member), member.help
    choices = (*member.choices, _ALL) if default and member.default is None else member.choices
    kind: Any = Literal[choices] if choices and not member.many else _KINDS.get(member.kind, str)
    if is_duration(member):
        kind, text = str, f"{text.removesuffix(', s')}: 90s, 30m, 4h, 2d"
    elif member.name == "limit":
        text = "most items to list"
    elif member.many:
        kind, text = list[str], f"{text}; {', '.join(choices)}"
    if member.default is not None and not default:
        text += f"; default: {member.default:g} s" if is_duration(member) else f"; default: {member.default}"
    if _is_argument(command, member):
        argument = typer.Argument(help=text, metavar=name.upper())
        return Parameter(member.name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, argument])
    option = typer.Option(f"--{name}", help=text)
    if member.required:
        return Parameter(member.name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option])
    optional = Annotated[kind | None, option]
    return Parameter(member.name, Parameter.KEYWORD_ONLY, default=default, annotation=optional)


def _run(service: ServiceClient, command: ServiceCommand, sent: dict[str, Any], *, as_json: bool) -> None:
    """Call the operation with the members *sent*, and print the answer."""
    operation = operations()[command.operation]
    if operation.paged:
        pages = _pages(service, command.operation, sent)
        _print_pages(pages, command.columns.split(), as_json=as_json)
        return
    answer = service.call(command.operation, sent).json()
    shown = {command.main: answer} if command.main else answer
    for name, part in command.parts.items():
        response = service.call(part, sent | {"limit": _PART_ITEMS}, may_be_missing=True)
        shown[name] = response.json() if response.is_success else None
        shown[name] = (shown[name] or {}).get("items", shown[name])
    if as_json:
        write_json(shown)
    else:
        write_members(shown, brief=operation.method != "GET")
        for name, text in command.if_empty.items():
            if not answer[name]:
                write_line(f"{heading(name)}: {text}")
    if command.holds and not answer[command.holds]:
        raise typer.Exit(1)


def call(
    operation: Annotated[str, typer.Argument(help="id of the operation; without one, all are listed")] = "",
    members: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="parameters and members of the body; JSON or texts"),
    ] = None,
    body: Annotated[str, typer.Option(help="file with the JSON body; - is standard input")] = "",
    out: Annotated[Path | None, typer.Option(help="file for the answer")] = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = "",
) -> None:
    """Call any operation of the API: print its answer, a list as JSON lines; or list the operations."""
    if not operation:
        rows = [{"operation": name, "what": known.summary} for name, known in sorted(operations().items())]
        write_table(rows, {"operation": "operation", "what": "what it does"})
        return
    known = operations().get(operation)
    if known is None:
        raise typer.BadParameter(f"no operation is called {operation}; `trustwatch call` lists them")
    sent = _given_members(known, members or ())
    content = _read_body(body) if body else None
    with closing(ServiceClient(url, token)) as service:
        if out is not None:
            service.download(operation, sent, out)
        elif known.paged:
            _print_pages(_pages(service, operation, sent), [], as_json=True)
        else:
            response = service.call(operation, sent, content=content)
            if response.headers.get("content-type", "").startswith("text/"):
                for line in response.text.splitlines():
                    write_line(line)
            elif response.headers.get("content-type", "").endswith("json"):
                write_json(response.json())
            elif response.content:
                raise typer.BadParameter("the answer is a file: give --out FILE")


def _read_body(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"--body {path}: {error.strerror}") from None


def _given_members(operation: Operation, texts: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Members by name, of NAME=VALUE. Raises BadParameter, which lists what the operation takes."""
    takes = {member.name: member for member in operation.members}
    sent: dict[str, Any] = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not given or name not in takes:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE of this operation. {_usage(operation)}")
        member = takes[name]
        is_text = member.kind == "string" and not member.many
        try:
            if member.many and member.place == "query":
                sent[name] = [*sent.get(name, ()), value]
            elif name == "limit":
                sent[name] = int(value)
            else:
                sent[name] = value if is_text or member.place != "body" else msgspec.json.decode(value)
        except ValueError as error:  # of JSON, too
            raise typer.BadParameter(f"{name} must be {'a number' if name == 'limit' else 'JSON'}: {error}") from None
    missing = [name for name, member in takes.items() if member.place == "path" and name not in sent]
    if missing:
        raise typer.BadParameter(f"{', '.join(missing)} missing. {_usage(operation)}")
    return sent


def _usage(operation: Operation) -> str:
    members = (
        f"{member.name}{'' if member.required else ' (optional)'}: {member.help}" for member in operation.members
    )
    return "It takes " + ("; ".join(members) or "nothing")


def option_name(member: Member) -> str:
    """Name of a member as an option."""
    name = member.name.removesuffix("_id")
    return (name.removesuffix("_s") if is_duration(member) else name).replace("_", "-")


def is_duration(member: Member) -> bool:
    """Whether a member is a number of seconds."""
    return member.name.endswith("_s") and member.kind in ("integer", "number")


def _pages(service: ServiceClient, operation: str, sent: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Pages of a list, with at most `limit` items in all."""
    limit, cursor = int(sent.get("limit") or _LIMIT), None
    while limit > 0:
        response = service.call(operation, {**sent, "limit": min(limit, _PAGE_ITEMS), "cursor": cursor})
        page: dict[str, Any] = response.json()
        yield page
        limit, cursor = limit - len(page["items"]), page["next_cursor"]
        if cursor is None:
            return


def _print_pages(pages: Iterator[dict[str, Any]], columns: list[str], *, as_json: bool) -> None:
    """Print a list, and the other members of its pages."""
    if as_json:
        write_json_lines(row for page in pages for row in page["items"])
        return
    rows: list[dict[str, Any]] = []
    notes: dict[str, str] = {}
    for page in pages:
        rows += page["items"]
        notes |= {name: note for name, note in page.items() if name != "next_cursor" and isinstance(note, str)}
    cells = [{name: _cell(row[name]) for name in columns} for row in rows]
    write_table(cells, {name: heading(name) for name in columns}, prose=_PROSE)
    for note in notes.values():
        print_message(note)


def _cell(value: Any) -> Any:
    """A member in a table: agents are named by their id, other objects by their first member."""
    if isinstance(value, list):
        return [item.get("agent_id", next(iter(item.values()))) if isinstance(item, dict) else item for item in value]
    return value

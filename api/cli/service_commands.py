"""Commands that only call a running service, made from the operations of its API."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import typer

from .operations import Member, Operation, ServiceCommand, operations
from .remote import DEFAULT_URL, ServiceClient, TokenOption, UrlOption
from .terminal import (
    JsonLinesOption,
    JsonOption,
    heading,
    parse_duration,
    print_message,
    write_json,
    write_json_lines,
    write_line,
    write_members,
    write_table,
)

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
        sent = {member.name: _value_of(member, given.get(member.name)) for member in operation.members}
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
        typer.Argument(metavar="[NAME=VALUE]...", help="parameters and members of the body; JSON if they are no text"),
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


def _value_of(member: Member, given: Any) -> Any:
    """What is sent for an option."""
    if given is None or given == _ALL:
        return None
    if not is_duration(member):
        return given
    return parse_duration(given, f"--{option_name(member)}")


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
    """Print a list, and what its pages say besides."""
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

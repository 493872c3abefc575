"""Client and options of commands that talk to a running service."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx2
import typer

from .operations import operations
from .terminal import fail, print_message

UrlOption = Annotated[str, typer.Option(envvar="TRUSTWATCH_URL", help="where the service listens")]


def _given_token(context: typer.Context, option: typer.CallbackParam, value: str) -> str:
    """The token of `-` (standard input), `@FILE` or the environment; one in the command's own words is warned about."""
    try:
        if value == "-":
            return sys.stdin.readline().strip()
        if value.startswith("@"):
            return Path(value[1:]).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"the token can not be read: {error}") from None
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
        """One request; None, and a message, where a service that has answered before does not answer now.

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
        """Close its connections."""
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

"""Client and options of commands that talk to a running service."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer

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
TenantOption = Annotated[str | None, typer.Option(help="tenant of the agent, where it is not the only one")]
IssuerOption = Annotated[str | None, typer.Option(help="issuer of the agent, where its id is not unique")]

DEFAULT_URL = "http://127.0.0.1:8420"
TIMEOUT_S = 60.0


class ServiceClient:
    """A running service.

    Args:
        url: where it listens.
        token: bearer token.
    """

    def __init__(self, url: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.client = httpx2.Client(base_url=url, headers=headers, timeout=TIMEOUT_S)
        self.has_answered = False

    def request(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        """One request; every failure ends the command with a message."""
        try:
            response = self.client.request(method, path, **arguments)
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

    def get(self, path: str, **parameters: Any) -> Any:
        """JSON of a successful GET; parameters that are None are left out."""
        return self._read_json("GET", path, parameters)

    def find(self, path: str, **parameters: Any) -> Any:
        """As `get`; None where the service has nothing of that name, or no such route yet (404)."""
        return self._read_json("GET", path, parameters, may_be_missing=True)

    def get_text(self, path: str) -> str:
        """Text of a successful GET."""
        response = self.request("GET", path)
        if not response.is_success:
            raise fail(problem_text(response))
        return response.text

    def post(self, path: str, body: dict[str, Any], *, timeout_s: float = TIMEOUT_S, **parameters: Any) -> Any:
        """JSON of a successful POST of *body*; parameters as of `get`."""
        return self._read_json("POST", path, parameters, json=body, timeout=timeout_s)

    def delete(self, path: str, **parameters: Any) -> Any:
        """JSON of a successful DELETE; parameters as of `get`."""
        return self._read_json("DELETE", path, parameters)

    def _read_json(
        self, method: str, path: str, parameters: dict[str, Any], *, may_be_missing: bool = False, **arguments: Any
    ) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        response = self.request(method, path, params=given, **arguments)
        if may_be_missing and response.status_code == 404:
            return None
        if not response.is_success:
            raise fail(problem_text(response))
        return response.json()


def problem_text(response: httpx2.Response) -> str:
    """Text of a problem document, in one line."""
    try:
        body = response.json()
        return f"{response.status_code} {body.get('title', '')}: {body.get('detail', '')}"
    except ValueError:
        return f"{response.status_code} {response.text[:200]}"


def paged_items(service: ServiceClient, path: str, limit: int, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Items of a paged list, at most *limit*."""
    cursor = None
    while limit > 0:
        page = service.get(path, limit=min(limit, 500), cursor=cursor, **parameters)
        yield from page["items"]
        limit -= len(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return


RISK_LEVELS = ("critical", "high", "medium", "low", "unknown")
"""As tables are sorted. What is unknown stands last: it is no risk that was measured."""


def risk_rank(level: str) -> int:
    """Place of a level in a table; a level that this version does not know stands first."""
    return RISK_LEVELS.index(level) if level in RISK_LEVELS else -1

"""Ids of requests: the caller's own or a new one, in every line that a request causes and in its answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import structlog
from starlette.types import Message, Scope, Send

REQUEST_ID_HEADER: Final = b"x-request-id"
REQUEST_ID_KEY: Final = "trustwatch.request_id"
"""Under which the scope of a request holds its id."""
_ID_PATTERN: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")


def given_request_id(scope: Scope) -> bytes:
    """The id that a request brings, where it is one that is fit to be repeated; empty = none."""
    given = b""
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER:
            if given or not _ID_PATTERN.match(value):
                return b""
            given = value
    return given


def request_id_of(scope: Scope, new_id: Callable[[], str]) -> str:
    """The id of a request; a new one where nothing has given it one."""
    stored_id: str | None = scope.get(REQUEST_ID_KEY)
    return stored_id or given_request_id(scope).decode() or new_id()


def identify_request(scope: Scope, send: Send, new_id: Callable[[], str]) -> Send:
    """Give a request its id, for all lines that follow in its task; returns the *send* that puts it into the answer."""
    request_id = given_request_id(scope) or new_id().encode()
    scope[REQUEST_ID_KEY] = request_id.decode()
    structlog.contextvars.bind_contextvars(request_id=scope[REQUEST_ID_KEY])

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))  # answers are made once and shared: never changed in place
            if not any(name == REQUEST_ID_HEADER for name, _ in headers):
                headers.append((REQUEST_ID_HEADER, request_id))
            message = {**message, "headers": headers}
        await send(message)

    return send_with_id

"""The whole body of a request, for routes that stand in front of FastAPI."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope


class RequestBodyTooLong(Exception):
    """The body has more bytes than are read."""


async def read_request_body(receive: Receive, most: int) -> bytes | None:
    """The body, at most so many bytes; None where the client went away before it was whole.

    Raises RequestBodyTooLong.
    """
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            raise RequestBodyTooLong
        more = message.get("more_body", False)
    return bytes(body)


def limit_body(receive: Receive, most: int) -> Receive:
    """*receive* that refuses, with 413, a body of more than *most* bytes."""
    left = most

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"the body may have {most} bytes")
        return message

    return counted


def declared_body_length(scope: Scope) -> int:
    """Content-Length of a request; 0 where none is given."""
    given = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(given) if given.isdigit() else 0

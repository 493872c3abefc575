"""The whole body of a request, for routes that stand in front of FastAPI."""

from __future__ import annotations

from starlette.types import Receive


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

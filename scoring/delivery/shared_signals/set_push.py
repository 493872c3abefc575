"""Push of one security event token (RFC 8935), and the meaning of the receiver's answer."""

from __future__ import annotations

from typing import Final

import httpx2
import msgspec

from trustwatch.ingest.outgoing_http import connection_error_text
from trustwatch.ingest.printable_text import printable_line
from trustwatch_client.timing import parse_retry_after

from ..delivery_target import DeliveryResult
from ..notifiers.webhook_notifier import MAX_ERROR_CHARS, read_beginning

SET_MEDIA_TYPE: Final = "application/secevent+jwt"
_ABOUT_STREAM: Final = frozenset({"invalid_key", "authentication_failed", "access_denied"})
"""Errors that are not caused by this SET: the next one would fail too, and this one may succeed later."""


class _SetError(msgspec.Struct):
    err: str = ""
    description: str = ""


async def push_set(client: httpx2.AsyncClient, url: str, authorization: str, token: str, now_ms: int) -> DeliveryResult:
    """Post *token* once: `delivered`, `failed` (the receiver refuses this SET for good), `retry`, or `gone`.

    The caller bounds the time and checks that *url* may be called; redirects are never followed.
    """
    headers = {"content-type": SET_MEDIA_TYPE, "accept": "application/json"}
    if authorization:
        headers["authorization"] = authorization
    try:
        async with client.stream("POST", url, content=token.encode(), headers=headers) as response:
            body = b"" if response.is_success else await read_beginning(response)
            return classify_answer(response.status_code, response.headers.get("retry-after"), body, now_ms)
    except httpx2.HTTPError as error:
        return DeliveryResult("retry", printable_line(connection_error_text(error, with_text=True), MAX_ERROR_CHARS))


def classify_answer(status: int, retry_after: str | None, body: bytes, now_ms: int) -> DeliveryResult:
    """Meaning of an answer to a push. Nothing of its text is kept but the error code: it may repeat a credential."""
    if 200 <= status < 300:
        return DeliveryResult("delivered")
    if status == 400:
        error = _error_code(body)
        return DeliveryResult("retry" if error in _ABOUT_STREAM else "failed", f"HTTP 400: {error}")
    if status == 410:
        return DeliveryResult("gone", "HTTP 410: the receiver is gone")
    return DeliveryResult("retry", f"HTTP {status}", parse_retry_after(retry_after, now_ms / 1000))


def _error_code(body: bytes) -> str:
    try:
        code = msgspec.json.decode(body, type=_SetError).err
    except msgspec.MsgspecError:
        code = ""
    return code if code.replace("_", "").isalpha() and len(code) <= 64 else "no code"

"""Deliveries over HTTP: signed webhooks, pushes of security event tokens (RFC 8935), and what answers mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx2
import msgspec
from standardwebhooks import Webhook, WebhookVerificationError

from trustwatch.ingest.outgoing_http import connection_error_text, make_http_client
from trustwatch.ingest.printable_text import printable_line
from trustwatch.ingest.settings import reveal
from trustwatch_client.timing import parse_retry_after

from ...records.commits import LeasedDelivery
from ..delivery_target import DeliveryResult
from .alert_formats import SIGNED_FORMATS, RenderedAlert, render_alert
from .webhook_target import WebhookTarget

AlertSigner = Callable[[str, bytes, str], bytes]
"""Makes a JWT for a target, by its name, of an alert (JSON) with that id."""

JWT_CONTENT_TYPE = "application/jwt"

MAX_ERROR_CHARS = 200  # Most characters of an answer that are kept and logged: it is the target's text, not ours

# Request Timeout, Too Early, Too Many Requests: the only refusals (4xx) that time may change.
_RETRIED_STATUSES = frozenset({408, 425, 429})


def classify_response(status: int, retry_after: str | None, text: str, now_ms: int) -> DeliveryResult:
    """Return what an answer means for the delivery."""
    if 200 <= status < 300:
        return DeliveryResult("delivered")
    line = printable_line(text, MAX_ERROR_CHARS)
    error = f"HTTP {status}: {line}" if line else f"HTTP {status}"
    if status == 410:
        return DeliveryResult("gone", error)
    if status >= 500 or status in _RETRIED_STATUSES:
        return DeliveryResult("retry", error, parse_retry_after(retry_after, now_ms / 1000))
    if 300 <= status < 400:
        return DeliveryResult("failed", f"HTTP {status}: redirects are not followed; configure the final URL")
    return DeliveryResult("failed", error)


# Against server-side request forgery: targets come from the configuration alone, redirects are never followed, proxies
# and credentials of the environment are not used, and no more than `MAX_ERROR_CHARS` of an answer are kept.


_MAX_REFUSAL_BYTES = 4_096  # bytes of a refusal: more than is kept, so that a secret in it is seen whole and hidden


@dataclass(eq=False)
class WebhookNotifier:
    """`Notifier` for webhooks."""

    client: httpx2.AsyncClient
    clock: Callable[[], int]
    sign: AlertSigner | None = None
    console: str = ""

    async def deliver(self, row: LeasedDelivery, target: WebhookTarget) -> DeliveryResult:
        """Post once. 2xx is delivered; `classify_response` specifies what any other answer means; a failed connection
        is retried. Events without a message in the format are skipped.
        """
        routing_key = reveal(target.routing_key)
        rendered = render_alert(row.row.payload, target.format, row.suppressed_before, routing_key, self.console)
        if rendered is None:
            why = f"nothing to {target.format}: an agent of the case stays at medium or above"
            return DeliveryResult("skipped", why + ", or the format cannot express what a person did")
        if target.signed:
            if self.sign is None:
                return DeliveryResult("retry", "signed alerts need `shared_signals.enabled`")
            token = await asyncio.to_thread(self.sign, target.name, rendered.body, row.row.key)
            rendered = RenderedAlert(token, JWT_CONTENT_TYPE)
        body, url, headers = rendered.body, target.url.reveal(), {"content-type": rendered.content_type}
        if target.format in SIGNED_FORMATS:
            headers |= sign_headers(row.row.key, body, target.secrets, self.clock())
        try:
            async with self.client.stream("POST", url, content=body, headers=headers) as response:
                text = "" if response.is_success else (await read_beginning(response)).decode(errors="replace")
                status, retry_after = response.status_code, response.headers.get("retry-after")
                return classify_response(status, retry_after, target.redact(text), self.clock())
        except httpx2.HTTPError as error:
            text = target.redact(connection_error_text(error, with_text=True))
            return DeliveryResult("retry", text[:MAX_ERROR_CHARS])


def sign_headers(message_id: str, body: bytes, secrets: tuple[str, ...], at_ms: int) -> dict[str, str]:
    """Headers of Standard Webhooks; *message_id* is the same for every attempt."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    text = body.decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_ms // 1000),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, text) for secret in secrets),
    }


def make_webhook_client(ca_file: Path | None = None) -> httpx2.AsyncClient:
    """Client of the notifier. *ca_file*: as of `make_http_client`.

    It has no separate timeout: the dispatcher bounds the whole attempt, not each phase of it.
    """
    return make_http_client(
        ca_file,
        timeout=None,
        limits=httpx2.Limits(max_connections=None),  # lanes are bounded; a shared bound would let one delay others
        headers={"user-agent": "trustwatch", "accept-encoding": "identity"},
    )


async def read_beginning(response: httpx2.Response) -> bytes:
    """Raw start of an answer: an endless or compressed one must not fill the memory."""
    data = b""
    async for chunk in response.aiter_raw(_MAX_REFUSAL_BYTES):
        data += chunk
        if len(data) >= _MAX_REFUSAL_BYTES:
            break
    return data[:_MAX_REFUSAL_BYTES]


def verify_signature(secret: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Returns whether a body was recently signed with *secret*, as the Standard Webhooks specification requires."""
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):  # a header that is not even of the form, a body that is not text
        return False
    return True


# Push of one security event token (RFC 8935), and the meaning of the receiver's answer.

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
        try:
            code = msgspec.json.decode(body, type=_SetError).err
        except msgspec.MsgspecError:
            code = ""
        error = code if code.replace("_", "").isalpha() and len(code) <= 64 else "no code"
        return DeliveryResult("retry" if error in _ABOUT_STREAM else "failed", f"HTTP 400: {error}")
    if status == 410:
        return DeliveryResult("gone", "HTTP 410: the receiver is gone")
    return DeliveryResult("retry", f"HTTP {status}", parse_retry_after(retry_after, now_ms / 1000))

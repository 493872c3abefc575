"""Webhooks: signed requests, and the meaning of an HTTP answer for the delivery."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
from standardwebhooks import Webhook, WebhookVerificationError

from ....ingest.errors import ConfigError
from ....ingest.printable_text import printable_line
from ...store.outbox_store import LeasedDelivery
from ..delivery_target import DeliveryResult, DeliveryTarget
from ..retry_after import parse_retry_after
from .alert_formats import ALERT_FORMATS, SIGNED_FORMATS, STATEFUL_FORMATS, AlertFormat, render_alert

MAX_ERROR_CHARS = 200
"""Most characters of an answer that are kept and logged: it is the target's text, not ours."""

# Request Timeout, Too Early, Too Many Requests: the only refusals (4xx) that time may change.
_RETRIED_STATUSES = frozenset({408, 425, 429})


def classify_response(status: int, retry_after: str | None, text: str, now_ms: int) -> DeliveryResult:
    """Meaning of an answer.

    Args:
        status: HTTP status.
        retry_after: that header, None = absent.
        text: beginning of the body, for the operator.
        now_ms: UTC milliseconds.
    """
    if 200 <= status < 300:
        return DeliveryResult("delivered")
    error = f"HTTP {status}" + _printable_detail(text)
    if status == 410:
        return DeliveryResult("gone", error)
    if status >= 500 or status in _RETRIED_STATUSES:
        return DeliveryResult("retry", error, parse_retry_after(retry_after, now_ms))
    if 300 <= status < 400:
        return DeliveryResult("failed", f"HTTP {status}: redirects are not followed; configure the final URL")
    return DeliveryResult("failed", error)


def _printable_detail(text: str) -> str:
    line = printable_line(text, MAX_ERROR_CHARS)
    return f": {line}" if line else ""


# Against server-side request forgery: targets come from the configuration alone, redirects are never followed, proxies
# and credentials of the environment are not used, and no more than `MAX_ERROR_CHARS` of an answer are kept.


_MAX_REFUSAL_BYTES = 4_096  # bytes of a refusal: more than is kept, so that a secret in it is seen whole and hidden
_MIN_SECRET_CHARS = 12  # parts of a URL below this are no secrets, and are words that a refusal may use

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of every secret, not one


@dataclass(frozen=True)
class WebhookTarget(DeliveryTarget):
    """Webhook that alerts are posted to.

    Args:
        url: https; plain http only to this machine's loopback and with *allow_plain_loopback*.
        secrets: `whsec_` + base64 of 24 to 64 bytes, for formats that are `SIGNED` and for no other. With several, each
            signs: give receivers the new one, add it here, and take the old one away when all have changed.
        format: how alerts are written for it.
        routing_key: PagerDuty's integration key, for that format and no other.
        allow_plain_loopback: for demos and tests.

    Raises:
        ConfigError: names the member, never shows a secret.
    """

    url: str = field(repr=False)  # some products put a token into the path
    secrets: tuple[str, ...] = field(default=(), repr=False)
    format: AlertFormat = field(default="cloudevents", kw_only=True)
    routing_key: str = field(default="", repr=False, kw_only=True)
    allow_plain_loopback: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_url(self)
        _check_secrets(self)

    @property
    def has_cooldown(self) -> bool:
        """False for receivers that keep one incident per agent: a cool-down would leave it open."""
        return self.format not in STATEFUL_FORMATS

    @property
    def ordered(self) -> bool:
        """True for receivers that keep an incident: triggered again after it was resolved, it would stay open."""
        return self.format == "pagerduty"

    @property
    def fingerprint(self) -> str:
        """Hash of the URL (and routing key): it says whether the target changed, and no more."""
        return hashlib.sha256((self.url + self.routing_key).encode()).hexdigest()[:32]

    def redact(self, text: str) -> str:
        """*text* by the target, without what of its secrets it repeats."""
        parts = urlsplit(self.url)
        tail = parts.path + (f"?{parts.query}" if parts.query else "")
        hidden = {self.url, tail, *tail.split("/"), *self.secrets, self.routing_key}
        for secret in sorted((part for part in hidden if len(part) >= _MIN_SECRET_CHARS), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


class WebhookNotifier:
    """`Notifier` for webhooks.

    Args:
        client: from `make_webhook_client`; the caller closes it.
        clock: UTC milliseconds; each attempt is signed for its own time, receivers refuse old ones.
    """

    def __init__(self, client: httpx.AsyncClient, clock: Callable[[], int]) -> None:
        self._client = client
        self._clock = clock

    async def deliver(self, row: LeasedDelivery, target: WebhookTarget) -> DeliveryResult:
        """Post once. 2xx is delivered; `classify_response` says what any other answer means; no connection is retried.

        What a format has nothing to say about is skipped.
        """
        rendered = render_alert(row.row.payload, target.format, row.suppressed_before, target.routing_key)
        if rendered is None:
            return DeliveryResult("skipped", f"a fall that stays at medium or above is nothing to {target.format}")
        headers = {"content-type": rendered.content_type}
        if target.format in SIGNED_FORMATS:
            headers |= sign_headers(row.row.key, rendered.body, target.secrets, self._clock())
        try:
            async with self._client.stream("POST", target.url, content=rendered.body, headers=headers) as response:
                text = "" if response.is_success else target.redact(await _read_beginning(response))
                return classify_response(response.status_code, response.headers.get("retry-after"), text, self._clock())
        except httpx.HTTPError as error:
            return DeliveryResult("retry", target.redact(f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARS])


def sign_headers(message_id: str, body: bytes, secrets: tuple[str, ...], at_ms: int) -> dict[str, str]:
    """Headers of Standard Webhooks; *message_id* is the same for every attempt."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    text = body.decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_ms // 1000),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, text) for secret in secrets),
    }


def make_webhook_client(verify: ssl.SSLContext | None = None, proxy: str | None = None) -> httpx.AsyncClient:
    """Client of the notifier. *verify*: a context for a private certificate authority; *proxy*: URL of a forward proxy.

    It has no time-out of its own: the dispatcher bounds the whole attempt, not each phase of it.
    """
    return httpx.AsyncClient(
        verify=True if verify is None else verify,
        proxy=proxy,
        trust_env=False,
        follow_redirects=False,
        timeout=None,  # noqa: S113 - see above
        limits=httpx.Limits(max_connections=None),  # lanes are bounded; a shared bound would let one delay others
        headers={"user-agent": "trustwatch", "accept-encoding": "identity"},
    )


async def _read_beginning(response: httpx.Response) -> str:
    """Raw start of an answer: an endless or compressed one must not fill the memory."""
    data = b""
    async for chunk in response.aiter_raw(_MAX_REFUSAL_BYTES):
        data += chunk
        if len(data) >= _MAX_REFUSAL_BYTES:
            break
    return data[:_MAX_REFUSAL_BYTES].decode(errors="replace")


def _check_url(target: WebhookTarget) -> None:
    parts = urlsplit(target.url)
    host = parts.hostname or ""
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ConfigError(f"target {target.name}: url must not hold credentials or a fragment")
    plain = parts.scheme == "http" and target.allow_plain_loopback and _is_loopback(host)
    if not host or not (parts.scheme == "https" or plain):
        raise ConfigError(
            f"target {target.name}: url must be https:// (http:// only to loopback and with allow_plain_loopback)"
        )


def _check_secrets(target: WebhookTarget) -> None:
    if target.format not in ALERT_FORMATS:
        raise ConfigError(f"target {target.name}: format must be one of {', '.join(ALERT_FORMATS)}")
    signed = target.format in SIGNED_FORMATS
    if signed and not target.secrets:
        raise ConfigError(f"target {target.name}: secrets is empty; alerts as {target.format} are always signed")
    if target.secrets and not signed:
        raise ConfigError(f"target {target.name}: secrets sign nothing in format {target.format}; leave them out")
    if bool(target.routing_key) != (target.format == "pagerduty"):
        raise ConfigError(f"target {target.name}: routing_key belongs to format pagerduty, and to no other")
    for index, secret in enumerate(target.secrets):
        if not _is_secret(secret):
            raise ConfigError(f"target {target.name}: secrets[{index}] is not whsec_ + base64 of 24 to 64 bytes")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_secret(secret: str) -> bool:
    if not secret.startswith(SECRET_PREFIX):
        return False
    try:
        return 24 <= len(base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)) <= 64
    except binascii.Error:
        return False


def verify_signature(secret: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Tell whether a body was lately signed with *secret*, as the Standard Webhooks specification says.

    Args:
        secret: `whsec_` + base64.
        body: as received.
        headers: names in small letters.
    """
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):  # a header that is not even of the form, a body that is no text
        return False
    return True

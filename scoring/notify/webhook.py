"""Alerts by webhook: an HTTP POST of the CloudEvent, signed as the Standard Webhooks specification says.

Against server-side request forgery: targets come from the configuration alone, redirects are never followed, proxies
and credentials of the environment are not used, and no more than `MAX_ERROR_CHARS` of an answer is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
from standardwebhooks import Webhook

from ...ingest.errors import ConfigError
from ..outbox.base import DeliveryResult, Target
from ..store.base import Outgoing
from .alert import CONTENT_TYPE, with_suppressed
from .answer import MAX_ERROR_CHARS, judge

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of every secret, not one


@dataclass(frozen=True)
class WebhookTarget(Target):
    """Where alerts are posted.

    Args:
        url: https; plain http only to this machine's loopback and with *allow_plain_loopback*.
        secrets: `whsec_` + base64 of 24 to 64 bytes. With several, each signs: give receivers the new one, add it here,
            and take the old one away when all have changed.
        allow_plain_loopback: for demos and tests.

    Raises:
        ConfigError: names the member, never shows a secret.
    """

    url: str = field(repr=False)  # some products put a token into the path
    secrets: tuple[str, ...] = field(repr=False)
    allow_plain_loopback: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_url(self)
        if not self.secrets:
            raise ConfigError(f"target {self.name}: secrets is empty; alerts are always signed")
        for index, secret in enumerate(self.secrets):
            if not _is_secret(secret):
                raise ConfigError(f"target {self.name}: secrets[{index}] is not whsec_ + base64 of 24 to 64 bytes")

    @property
    def fingerprint(self) -> str:
        """Hash of the URL: it says whether the target changed, and no more."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:32]


class WebhookNotifier:
    """`Notifier` for webhooks.

    Args:
        client: from `webhook_client`; the caller closes it.
        clock: UTC milliseconds; each attempt is signed for its own time, receivers refuse old ones.
    """

    def __init__(self, client: httpx.AsyncClient, clock: Callable[[], int]) -> None:
        self._client = client
        self._clock = clock

    async def deliver(self, row: Outgoing, target: WebhookTarget) -> DeliveryResult:
        """Post once. 2xx is delivered; `judge` says what any other answer means; no connection is retried."""
        body = with_suppressed(row.row.payload, row.suppressed_before)
        headers = signed_headers(row.row.key, body, target.secrets, self._clock())
        try:
            async with self._client.stream("POST", target.url, content=body, headers=headers) as response:
                text = "" if response.is_success else await _beginning(response)
                return judge(response.status_code, response.headers.get("retry-after"), text, self._clock())
        except httpx.HTTPError as error:
            return DeliveryResult("retry", f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS])


def signed_headers(message_id: str, body: bytes, secrets: tuple[str, ...], at_ms: int) -> dict[str, str]:
    """Headers of Standard Webhooks; *message_id* is the same for every attempt."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    text = body.decode()
    return {
        "content-type": CONTENT_TYPE,
        "webhook-id": message_id,
        "webhook-timestamp": str(at_ms // 1000),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, text) for secret in secrets),
    }


def webhook_client(verify: ssl.SSLContext | None = None, proxy: str | None = None) -> httpx.AsyncClient:
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


async def _beginning(response: httpx.Response) -> str:
    """Raw start of an answer: an endless or compressed one must not fill the memory."""
    data = b""
    async for chunk in response.aiter_raw(MAX_ERROR_CHARS):
        data += chunk
        if len(data) >= MAX_ERROR_CHARS:
            break
    return data[:MAX_ERROR_CHARS].decode(errors="replace")


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

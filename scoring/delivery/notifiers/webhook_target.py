"""Webhooks as an operator configures them: the part of the settings, and the target that alerts are posted to."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import urlsplit

from trustwatch.ingest.settings import Name, Secret, SettingsPart, check_url, reveal, setting

from ...records.agents import LevelName, RiskLevel
from ..delivery_target import MAX_NAME_LENGTH
from .alert_formats import SIGNED_FORMATS, STATEFUL_FORMATS, AlertFormat

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of every secret, not one

_MIN_SECRET_CHARS = 12  # shorter parts of a URL are not secrets, and may appear in error messages


class WebhookTarget(SettingsPart, frozen=True):
    """One target of alerts. Targets come from here alone, never from a request."""

    name: Annotated[Name, setting("name in logs and deliveries, at most 64 characters")]
    url: Annotated[Secret, setting("where alerts are posted; not shown")]  # some products put a token into the path
    format: Annotated[AlertFormat, setting("format of alerts")] = "cloudevents"
    secret: Annotated[
        Secret | None, setting("signing secret of Standard Webhooks, `whsec_…`; required for `cloudevents` and `ocsf`")
    ] = None
    previous_secret: Annotated[
        Secret | None, setting("the secret before, which also signs until the receiver has the new one")
    ] = None
    routing_key: Annotated[Secret | None, setting("integration key of PagerDuty")] = None
    levels: Annotated[
        tuple[LevelName, ...],
        setting("levels that it is notified of; `pagerduty` and `ocsf` also get those below medium", min_length=1),
    ] = ("medium", "high", "critical")
    signed: Annotated[
        bool,
        setting("send `cloudevents` and `ocsf` as JWTs that `/ssf/jwks.json` verifies; needs `shared_signals.enabled`"),
    ] = False

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME_LENGTH:
            raise ValueError(f"`name` has at most {MAX_NAME_LENGTH} characters")
        if self.signed and self.format not in SIGNED_FORMATS:
            raise ValueError(f"`signed` means nothing in format `{self.format}`; leave it out")
        check_url(self.url.reveal(), "`url`", loopback_http=True)
        self._check_presence("secret", self.secret, needed=self.format in SIGNED_FORMATS)
        check_signed_url(self.url.reveal(), self.secrets)
        if self.previous_secret is not None and self.secret is None:
            raise ValueError("`previous_secret` signs in addition to `secret`, which is missing; leave it out")
        self._check_presence("routing_key", self.routing_key, needed=self.format == "pagerduty")

    def _check_presence(self, member: str, secret: Secret | None, *, needed: bool) -> None:
        if needed and secret is None:
            raise ValueError(f"Object missing required field `{member}`, which format `{self.format}` needs")
        if secret is not None and not needed:
            raise ValueError(f"`{member}` means nothing in format `{self.format}`; leave it out")

    @property
    def secrets(self) -> tuple[str, ...]:
        """Secrets that sign, the present one first."""
        return tuple(secret.reveal() for secret in (self.secret, self.previous_secret) if secret is not None)

    @property
    def levels_taken(self) -> frozenset[RiskLevel]:
        """Levels it receives. A target that keeps incidents must receive their end, too."""
        ends = {RiskLevel.UNKNOWN, RiskLevel.LOW} if self.format in STATEFUL_FORMATS else set()
        return frozenset(RiskLevel[level.upper()] for level in self.levels) | ends

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
        """Hash of the URL (and routing key): it shows only whether the target changed."""
        return hashlib.sha256((self.url.reveal() + reveal(self.routing_key)).encode()).hexdigest()[:32]

    def redact(self, text: str) -> str:
        """*text* of the target, without what of its secrets it repeats."""
        return redact_secrets(text, self.url.reveal(), (*self.secrets, reveal(self.routing_key)))


def check_signed_url(url: str, secrets: Iterable[str]) -> None:
    """Raise ValueError unless one can post to *url* and sign by *secrets*; neither is shown."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("`url` must not hold credentials or a fragment")
    for secret in secrets:
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except ValueError:
            key = b""
        if not secret.startswith(SECRET_PREFIX) or not 24 <= len(key) <= 64:
            raise ValueError("`secret` must be whsec_ and base64 of 24 to 64 bytes; so must `previous_secret`")


def redact_secrets(text: str, url: str, secrets: Iterable[str]) -> str:
    """*text* that was received from *url*, without what it repeats of the address and of *secrets*."""
    parts = urlsplit(url)
    tail = parts.path + (f"?{parts.query}" if parts.query else "")
    hidden = {url, tail, *tail.split("/"), *secrets}
    for secret in sorted((part for part in hidden if len(part) >= _MIN_SECRET_CHARS), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text

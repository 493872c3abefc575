"""Base of every part of the settings: described members, secrets, and addresses that may be trusted.

Each subsystem declares its own part and takes it as its argument; `trustwatch.api.settings.root` nests them.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import msgspec

AFTER_KEY = "after"
"""Key of `setting(after=…)` in the annotation."""

BEFORE_KEY = "before"
"""Key of `setting(before=…)` in the annotation."""


def setting(description: str, *, after: str = "", before: str = "", **limits: Any) -> msgspec.Meta:
    """Meaning of a member, with its unit, and its limits (`ge`, `le`, `min_length`, …): the cell of the docs."""
    places = {key: member for key, member in ((AFTER_KEY, after), (BEFORE_KEY, before)) if member}
    return msgspec.Meta(description=description, extra=places or None, **limits)


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class SettingsPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts: frozen, and a misspelt member is an error."""


def is_loopback(host: str | None) -> bool:
    """True if *host* is this machine itself: only there plain http is accepted."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def check_url(url: str, member: str, *, loopback_http: bool) -> None:
    """Raise ValueError unless *url* is https, or http to loopback where *loopback_http* says so."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise ValueError(f"{member} is not a URL") from None
    if parts.username or parts.password:
        raise ValueError(f"{member} may not hold a user or password")
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and loopback_http and is_loopback(host):
        return
    raise ValueError(f"{member} must be an https URL" + (" (http only to loopback)" if loopback_http else ""))


class Secret:
    """Holds a secret so that no `repr`, `str`, format, log line or pickle shows it.

    >>> Secret("hunter2"), f"{Secret('hunter2')}"
    (Secret('***'), '***')
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        if not value:
            raise ValueError("a secret may not be empty")
        self.__value = value

    def reveal(self) -> str:
        """The secret itself. Hand it to the one library that needs it; never keep or print it."""
        return self.__value

    def matches(self, given: bytes) -> bool:
        """True if *given* is the secret; the time it takes reveals neither where they differ nor how long it is."""
        return hmac.compare_digest(_fixed_length(given), _fixed_length(self.__value.encode()))

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches(other.__value.encode())

    __hash__ = None  # type: ignore[assignment] # a hash would be a fingerprint of it

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never serialised")


def _fixed_length(text: bytes) -> bytes:
    """A digest: `compare_digest` takes the shorter way where lengths differ."""
    return hashlib.sha256(text).digest()


def reveal(secret: Secret | None) -> str:
    """The secret itself; "" if there is none."""
    return "" if secret is None else secret.reveal()

"""Shared signals (OpenID SSF 1.0): the transmitter of security event tokens, and those that we receive from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from trustwatch.ingest.settings import Name, SettingsPart, check_url, setting
from trustwatch.scoring.delivery.shared_signals.subject_identifiers import SubjectFormat

from .access_settings import IssuerSettings
from .signal_transmitter_settings import SignalTransmitterSettings

PushHost = Annotated[str, msgspec.Meta(pattern=r"^(\*\.)?[A-Za-z0-9.:_-]{1,253}\Z")]


class EncryptionSettings(SettingsPart, frozen=True):
    """Keys of one receiver: a JWKS that has one with `use: enc`. Without such a key nothing is sent to it."""

    jwks_uri: Annotated[str | None, setting("URL of its keys")] = None
    jwks_file: Annotated[Path | None, setting("a JWKS file instead of `jwks_uri`")] = None

    def __post_init__(self) -> None:
        self.as_issuer("receiver")

    def as_issuer(self, name: str) -> IssuerSettings:
        """Keys of the transmitter, as those of an issuer of that name."""
        return IssuerSettings(issuer=name, audiences=(name,), jwks_uri=self.jwks_uri, jwks_file=self.jwks_file)


class SharedSignalsSettings(SettingsPart, frozen=True):
    """Streams of security event tokens to receivers; off by default."""

    enabled: Annotated[bool, setting("send tokens to callers with scope `ssf.read` or `ssf.manage`")] = False
    issuer: Annotated[str | None, setting("`iss` of tokens, https; null is the service's URL")] = None
    key_dir: Annotated[
        Path | None,
        setting("folder of all keys of this part, shared by all processes; null is `shared-signals` in `data_dir`"),
    ] = None
    audiences: Annotated[Mapping[Name, Name], setting("`aud` by caller; default is its `client_id`")] = {}
    encryption: Annotated[
        Mapping[Name, EncryptionSettings],
        setting("callers whose tokens are encrypted (JWE) to their key; needs the extra `jwe`"),
    ] = {}
    push_hosts: Annotated[
        tuple[PushHost, ...],
        setting("hosts that tokens may be pushed to, `*.example.com` with subdomains; empty allows polling only"),
    ] = ()
    subject: Annotated[
        SubjectFormat,
        setting(
            "how CAEP events name an agent; `uri` if its id is one; `complex` adds the "
            "principal unless it is a pseudonym"
        ),
    ] = "iss_sub"
    transmitters: Annotated[
        tuple[SignalTransmitterSettings, ...],
        setting("products whose tokens we accept, also if `enabled` is false"),
    ] = ()

    def __post_init__(self) -> None:
        names = [transmitter.name for transmitter in self.transmitters]
        issuers = [transmitter.issuer for transmitter in self.transmitters]
        if len(set(names)) < len(names) or len(set(issuers)) < len(issuers):
            raise ValueError("`transmitters` have names and issuers of their own: two have the same")
        if self.issuer is not None:
            check_url(self.issuer, "`issuer`", loopback_http=True)
            parts = urlsplit(self.issuer)
            if parts.query or parts.fragment or self.issuer.endswith("/"):
                raise ValueError("`issuer` has no query, no fragment and no slash at its end")

    def may_push_to(self, url: str) -> bool:
        """True if `push_hosts` names the host of *url*, and it is https (http to loopback)."""
        try:
            check_url(url, "`endpoint_url`", loopback_http=True)
            if not (url.isascii() and url.isprintable()) or " " in url or urlsplit(url).port == 0:
                return False
            host = (urlsplit(url).hostname or "").lower()
        except ValueError:
            return False
        return any(_covers(pattern.lower(), host) for pattern in self.push_hosts)


def _covers(pattern: str, host: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern == host

"""Shared signals (OpenID SSF 1.0): the transmitter of security event tokens, and those that we receive from."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from trustwatch.ingest.settings import Name, Secret, SettingsPart, check_url, setting
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorAuthSettings
from trustwatch.scoring.delivery.shared_signals.subject_identifiers import SubjectFormat

from .access_settings import EventSourceSettings, IssuerSettings, check_shared_secret

TransmitterName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\Z")]
SIGNAL_SOURCE_PREFIX = "urn:trustwatch:signals:"
RECEIVE_PATH = "/ssf/receive/"
"""Path of a transmitter's pushes, before its name."""


class ManagedStreamSettings(SettingsPart, frozen=True):
    """Our stream at the transmitter: found by its metadata, made and changed at start."""

    delivery: Annotated[Literal["poll", "push"], setting("how tokens arrive")] = "poll"
    metadata_url: Annotated[str | None, setting("URL of its metadata; null is the well-known place")] = None
    receive_url: Annotated[
        str | None, setting("`push`: our address for it; null is `/ssf/receive/NAME` of this service")
    ] = None
    events: Annotated[tuple[Name, ...], setting("requested event types (URIs); empty is all that are believed")] = ()

    def __post_init__(self) -> None:
        for member in ("metadata_url", "receive_url"):
            url = getattr(self, member)
            if url is not None:
                check_url(url, f"`{member}`", loopback_http=True)


class SignalTransmitterSettings(SettingsPart, frozen=True):
    """One product whose security event tokens we take, by push, by poll or both."""

    name: Annotated[TransmitterName, setting("path `/ssf/receive/NAME` and name in metrics, in lower case")]
    issuer: Annotated[Name, setting("the `iss` of its tokens, compared exactly")]
    audiences: Annotated[tuple[Name, ...], setting("`aud` values that mean us", min_length=1)]
    tenants: Annotated[
        tuple[Name, ...],
        setting("tenants of the agents that it may report on; of several, the subject must name one", min_length=1),
    ]
    issuers: Annotated[tuple[Name, ...], setting("issuers of these agents; `*` is all; empty is `issuer`")] = ()
    agents: Annotated[tuple[Name, ...], setting("globs of their ids")] = ("*",)
    subjects: Annotated[
        Mapping[Name, Name], setting("agent ids by the ids that it uses, such as Keycloak's service accounts")
    ] = {}
    events: Annotated[tuple[Name, ...], setting("globs of the event types (URIs) that are believed")] = ("*",)
    jwks_uri: Annotated[str | None, setting("URL of its keys")] = None
    jwks_file: Annotated[Path | None, setting("a JWKS file instead of `jwks_uri`")] = None
    encrypted: Annotated[
        Literal["refuse", "accept", "require"],
        setting("encrypted tokens (JWE): refused, accepted, or required; needs the extra `jwe`"),
    ] = "refuse"
    push_secret: Annotated[
        Secret | None, setting("bearer secret of its pushes, at least 16 characters; null accepts none")
    ] = None
    poll_url: Annotated[str | None, setting("endpoint of our stream (RFC 8936); null polls nothing")] = None
    stream: Annotated[
        ManagedStreamSettings | None,
        setting("our stream there, which the service creates and keeps; null: the operator has created it"),
    ] = None
    auth: Annotated[
        ActuatorAuthSettings | None, setting("our credentials for polling and managing the stream; null sends none")
    ] = None

    def __post_init__(self) -> None:
        self.as_issuer()
        self.as_source()
        if self.push_secret is None and self.poll_url is None and not self.polls_own_stream:
            raise ValueError("a transmitter needs a `push_secret`, a `poll_url` or both, or a `stream` that is polled")
        if self.stream is not None and self.stream.delivery == "push" and self.push_secret is None:
            raise ValueError("a `stream` that is pushed needs a `push_secret`")
        if self.poll_url is not None and self.polls_own_stream:
            raise ValueError("`poll_url` comes from the transmitter if its `stream` is polled; remove it")
        if self.stream is not None:
            check_url(self.issuer, "`issuer` of a transmitter with a `stream`", loopback_http=True)
        if self.push_secret is not None:
            check_shared_secret(self.push_secret, "push_secret")
        if self.poll_url is not None:
            check_url(self.poll_url, "`poll_url`", loopback_http=True)
        if self.auth is not None and self.auth.token_url is not None:
            check_url(self.auth.token_url, "`auth.token_url`", loopback_http=True)

    @property
    def polls_own_stream(self) -> bool:
        """True if we keep a stream there that is polled."""
        return self.stream is not None and self.stream.delivery == "poll"

    def as_issuer(self) -> IssuerSettings:
        """The transmitter as an issuer: its keys, and the signatures of it that are accepted."""
        return IssuerSettings(
            issuer=self.issuer, audiences=self.audiences, jwks_uri=self.jwks_uri, jwks_file=self.jwks_file
        )

    def as_source(self) -> EventSourceSettings:
        """The claims that events derived from its tokens may make: it knows their subjects, so it attests them."""
        return EventSourceSettings(
            name=self.name,
            tenants=self.tenants,
            issuers=self.issuers or (self.issuer,),
            sources=(SIGNAL_SOURCE_PREFIX + self.name,),
            agents=self.agents,
            gateway=True,
        )

    def may_speak_of(self, event_type: str) -> bool:
        """True if events of that type are believed of it."""
        return any(fnmatch.fnmatchcase(event_type, pattern) for pattern in self.events)


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
        tuple[SignalTransmitterSettings, ...], setting("products whose tokens we accept, also if `enabled` is false")
    ] = ()

    def __post_init__(self) -> None:
        names = [transmitter.name for transmitter in self.transmitters]
        issuers = [transmitter.issuer for transmitter in self.transmitters]
        if len(set(names)) < len(names) or len(set(issuers)) < len(issuers):
            raise ValueError("`transmitters` must have different names and issuers")
        if self.issuer is not None:
            check_url(self.issuer, "`issuer`", loopback_http=True)
            parts = urlsplit(self.issuer)
            if parts.query or parts.fragment or self.issuer.endswith("/"):
                raise ValueError("`issuer` must not have a query, a fragment or a trailing slash")

    def may_push_to(self, url: str) -> bool:
        """True if `push_hosts` names the host of *url*, and it is https (http to loopback)."""
        try:
            check_url(url, "`endpoint_url`", loopback_http=True)
            if not (url.isascii() and url.isprintable()) or " " in url or urlsplit(url).port == 0:
                return False
            host = (urlsplit(url).hostname or "").lower()
        except ValueError:
            return False
        patterns = map(str.lower, self.push_hosts)
        return any(host.endswith(one[1:]) if one.startswith("*.") else host == one for one in patterns)

"""Transmitters of shared signals that we receive from, and what each may speak for."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from trustwatch.ingest.settings import Name, Secret, SettingsPart, check_url, setting
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorAuthSettings

from .access_settings import IssuerSettings
from .event_source_settings import EventSourceSettings

TransmitterName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\Z")]
SIGNAL_SOURCE_PREFIX = "urn:trustwatch:signals:"
RECEIVE_PATH = "/ssf/receive/"
"""Path of a transmitter's pushes, before its name."""
MIN_PUSH_SECRET_LENGTH = 16


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

    name: Annotated[
        TransmitterName,
        setting("path `/ssf/receive/NAME` and name in metrics, in lower case"),
    ]
    issuer: Annotated[Name, setting("the `iss` of its tokens, compared exactly")]
    audiences: Annotated[tuple[Name, ...], setting("`aud` values that mean us", min_length=1)]
    tenants: Annotated[
        tuple[Name, ...],
        setting("tenants of the agents that it may report on; of several, the subject must name one", min_length=1),
    ]
    issuers: Annotated[
        tuple[Name, ...],
        setting("issuers of these agents; `*` is all; empty is `issuer`"),
    ] = ()
    agents: Annotated[tuple[Name, ...], setting("globs of their ids")] = ("*",)
    subjects: Annotated[
        Mapping[Name, Name],
        setting("agent ids by the ids that it uses, such as Keycloak's service accounts"),
    ] = {}
    events: Annotated[tuple[Name, ...], setting("globs of the event types (URIs) that are believed")] = ("*",)
    jwks_uri: Annotated[str | None, setting("URL of its keys")] = None
    jwks_file: Annotated[Path | None, setting("a JWKS file instead of `jwks_uri`")] = None
    encrypted: Annotated[
        Literal["refuse", "accept", "require"],
        setting("encrypted tokens (JWE): refused, accepted, or required; needs the extra `jwe`"),
    ] = "refuse"
    push_secret: Annotated[
        Secret | None,
        setting("bearer secret of its pushes, at least 16 characters; null accepts none"),
    ] = None
    poll_url: Annotated[
        str | None,
        setting("endpoint of our stream (RFC 8936); null polls nothing"),
    ] = None
    stream: Annotated[
        ManagedStreamSettings | None,
        setting("our stream there, which the service creates and keeps; null: the operator has created it"),
    ] = None
    auth: Annotated[
        ActuatorAuthSettings | None,
        setting("our credentials for polling and managing the stream; null sends none"),
    ] = None

    def __post_init__(self) -> None:
        self.as_issuer()
        self.as_source()
        if self.push_secret is None and self.poll_url is None and not self.polls_own_stream:
            raise ValueError("a transmitter has a `push_secret`, a `poll_url` or both, or a `stream` that is polled")
        if self.stream is not None and self.stream.delivery == "push" and self.push_secret is None:
            raise ValueError("a `stream` that is pushed needs a `push_secret`")
        if self.poll_url is not None and self.polls_own_stream:
            raise ValueError("`poll_url` is told by the transmitter where its `stream` is polled: leave it out")
        if self.stream is not None:
            check_url(self.issuer, "`issuer` of a transmitter with a `stream`", loopback_http=True)
        if self.push_secret is not None:
            secret = self.push_secret.reveal()
            if len(secret) < MIN_PUSH_SECRET_LENGTH or not (secret.isascii() and secret.isprintable()):
                raise ValueError(
                    f"`push_secret` must have at least {MIN_PUSH_SECRET_LENGTH} printable ASCII characters"
                )
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
            issuer=self.issuer,
            audiences=self.audiences,
            jwks_uri=self.jwks_uri,
            jwks_file=self.jwks_file,
        )

    def as_source(self) -> EventSourceSettings:
        """The claims that events made of its tokens may make. It knows whose they are, so it vouches for them."""
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

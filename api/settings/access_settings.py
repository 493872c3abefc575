"""Access to the service: issuers of tokens, callers, and the operator's registry of agents."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from trustwatch.ingest.settings import Name, SettingsPart, check_url, setting

from .event_source_settings import SELF, EventSourceSettings

ANY_TENANT = "*"

ByteQuota = Annotated[int, msgspec.Meta(ge=1024)]


class IssuerSettings(SettingsPart, frozen=True):
    """One authorization server whose access tokens are accepted."""

    issuer: Annotated[Name, setting("the `iss` of its tokens, compared exactly")]
    audiences: Annotated[tuple[Name, ...], setting("`aud` values that mean this service", min_length=1)]
    jwks_uri: Annotated[str | None, setting("URL of its keys")] = None
    jwks_file: Annotated[Path | None, setting("a JWKS file instead of `jwks_uri`")] = None
    scopes: Annotated[
        Literal["spaces", "commas"],
        setting("separator of scopes in one text: `spaces` (RFC 6749), or `commas` as GitHub and Slack use"),
    ] = "spaces"

    def __post_init__(self) -> None:
        if (self.jwks_uri is None) == (self.jwks_file is None):
            raise ValueError("an issuer has either `jwks_uri` or `jwks_file`")
        if self.jwks_uri is not None:
            check_url(self.jwks_uri, "`jwks_uri`", loopback_http=True)


_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}")
_CERTIFICATE_NAME = re.compile(r"spiffe://[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+|[a-z0-9-]+(\.[a-z0-9-]+)+")

CallerScope = Literal[
    "trust.score:read",
    "trust.decide",
    "trust.ingest",
    "trust.feedback",
    "trust.admin",
    "trust.metrics",
    "ssf.read",
    "ssf.manage",
    "ssf.manage.poll",
]
"""As in tokens; a test holds them to what routes ask for."""


class CallerCertificateSettings(SettingsPart, frozen=True):
    """Client certificates that are a caller's credential, without a token. One that fits is enough."""

    scopes: Annotated[tuple[CallerScope, ...], setting("what it may do", min_length=1)]
    fingerprints: Annotated[tuple[Name, ...], setting("SHA-256 of its certificates, in hex")] = ()
    names: Annotated[
        tuple[Name, ...],
        setting(
            "SPIFFE IDs or lower-case DNS names of its certificates' SAN; the proxy must pass "
            "on the whole certificate (Envoy: `Cert`)"
        ),
    ] = ()

    def __post_init__(self) -> None:
        if not (self.fingerprints or self.names):
            raise ValueError("a certificate is known by `fingerprints` or by `names`")
        for fingerprint in self.fingerprints:
            if not _FINGERPRINT.fullmatch(fingerprint):
                raise ValueError(f"`fingerprints`: {fingerprint!r} is no SHA-256 in hex: 64 digits, colons at will")
        for name in self.names:
            if not _CERTIFICATE_NAME.fullmatch(name):
                raise ValueError(
                    f"`names`: {name!r} is neither a SPIFFE ID, as spiffe://acme.example/soc, nor a DNS name in small "
                    "letters, as soc.acme.example"
                )

    def digests(self) -> frozenset[bytes]:
        """The fingerprints as bytes."""
        return frozenset(bytes.fromhex(fingerprint.replace(":", "")) for fingerprint in self.fingerprints)


class CallerSettings(EventSourceSettings, frozen=True):
    """Claims that one client may make, known by a trusted issuer's tokens or by its certificate.

    A client without such an entry speaks for nobody.
    """

    client_id: Annotated[Name | None, setting("`client_id` (or `azp`, `cid`) of its token", after="name")] = None
    subject: Annotated[
        Name | None, setting("`sub` of its token; with `client_id`, both must match", after="client_id")
    ] = None
    authenticated_by: Annotated[
        Name | None, setting("issuer of its tokens; required with several `issuers`", after="subject")
    ] = None
    certificate: Annotated[
        CallerCertificateSettings | None,
        setting("client certificates that replace a token", after="authenticated_by"),
    ] = None
    bytes_per_day: Annotated[
        ByteQuota | None,
        setting(
            "quota of decompressed bytes a day; null is none",
            after="events_per_s",
        ),
    ] = None

    def __post_init__(self) -> None:
        if not (self.has_tokens or self.certificate):
            raise ValueError("a caller has a `client_id`, a `subject` or a `certificate`")
        if SELF in (self.agents or ()) and self.issuers and not self.has_tokens:
            raise ValueError("`agents` with `self` needs a `client_id` or `subject`: a certificate names no agent")
        if SELF in (self.agents or ()) and ANY_TENANT in self.tenants and self.issuers:
            raise ValueError("`agents` with `self` needs `tenants` by name: `*` is everybody's agent of that id")
        super().__post_init__()

    @property
    def has_tokens(self) -> bool:
        """True if tokens may stand for it."""
        return self.client_id is not None or self.subject is not None


class RegisteredAgent(SettingsPart, frozen=True):
    """Type and capabilities of agents, as the operator knows them; wins over what events assert."""

    tenant: Annotated[Name, setting("tenant of the agents")]
    issuer: Annotated[Name, setting("issuer of the agents")]
    agent: Annotated[Name, setting("glob of the agent id")]
    type: Annotated[Name, setting("role: the peer group of the agents")]
    capabilities: Annotated[
        tuple[Name, ...] | None, setting("actions that they are meant to do; null declares none")
    ] = None


ProxyNetwork = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
CertificateHeader = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")]


LOOPBACK_NETWORKS: Final = ("127.0.0.0/8", "::1/128")


class ProofSettings(SettingsPart, frozen=True):
    """Proofs that tokens bound to a key (DPoP) or to a certificate (mTLS) are shown by their owner."""

    nonce: Annotated[bool, setting("ask for our nonce in each DPoP proof")] = False
    certificate_header: Annotated[
        CertificateHeader | None,
        setting(
            "header in which a proxy passes the client's certificate: of RFC 9440, NGINX or "
            "Envoy; the proxy must remove it from requests"
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[ProxyNetwork, ...] | None,
        setting(
            "networks whose certificate header is believed; null is loopback; required with `callers[].certificate`"
        ),
    ] = None

    @property
    def proxies(self) -> tuple[str, ...]:
        """Networks from which the header counts."""
        return LOOPBACK_NETWORKS if self.trusted_proxies is None else self.trusted_proxies

    @property
    def declared_proxies(self) -> tuple[str, ...]:
        """Networks of which the settings say that a proxy is there."""
        return () if self.certificate_header is None and self.trusted_proxies is None else self.proxies

    def __post_init__(self) -> None:
        for network in self.proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(f"`trusted_proxies`: {network!r} is no network, as 10.0.0.0/8") from None


class VerificationSettings(SettingsPart, frozen=True):
    """Verification of tokens."""

    proofs: Annotated[ProofSettings, setting("tokens that are bound to a key or a certificate")] = ProofSettings()

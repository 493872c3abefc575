"""Access to the service: issuers of tokens, callers, and the operator's registry of agents."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.formats.format_registry import FORMATS, create_parser
from trustwatch.ingest.formats.raw_records import FormatParser
from trustwatch.ingest.formats.record_mapping import MappingSpec, mapping_spec
from trustwatch.ingest.kafka.settings import KafkaClientSettings
from trustwatch.ingest.settings import Name, Secret, SettingsPart, check_url, reveal, setting


class KafkaSettings(KafkaClientSettings, frozen=True):
    """The distributed form: events through Kafka instead of the log below `data_dir`."""

    partitions: Annotated[
        int, setting("partitions that `trustwatch topics create` makes", after="names", ge=1, le=1024)
    ] = 8
    replication: Annotated[int, setting("copies of each partition", after="partitions", ge=1, le=16)] = 3
    topics: Annotated[tuple[ForeignTopicSettings, ...], setting("foreign topics to read events from")] = ()

    def __post_init__(self) -> None:
        for index, source in enumerate(self.topics):
            if source.topic in self.topic_names:
                raise ValueError(f"`topics[{index}]`: {source.topic} is our own topic")
            if any(source.name == other.name or source.topic == other.topic for other in self.topics[:index]):
                raise ValueError(f"`topics[{index}]`: another one has the same name or topic")
        if self.topics and not self.bootstrap_servers:
            raise ValueError("`topics` needs `bootstrap_servers`")


EventRate = Annotated[float, msgspec.Meta(gt=0)]
SilenceSeconds = Annotated[float, msgspec.Meta(ge=10)]

ANY_NAME: Final = "*"
"""In a list of names: all."""
SELF = "self"
"""In a list of agents: the client of the source's own token."""

MARKING_FORMATS = frozenset({"envoy", "agentgateway", "hydra", "keycloak"})
"""Formats that know our refusals by members which the gateway or authorization server alone writes."""


MIN_SECRET_LENGTH = 16


def check_shared_secret(secret: Secret | None, member: str) -> None:
    """Raise ValueError unless *secret*, which others present to us, is long enough and can be sent in a header."""
    text = reveal(secret)
    if len(text) < MIN_SECRET_LENGTH or not (text.isascii() and text.isprintable()):
        raise ValueError(f"`{member}` must have at least {MIN_SECRET_LENGTH} printable ASCII characters")


def only_name(names: Collection[str]) -> str | None:
    """Return the default of a name that an event leaves out: the only name, else None."""
    return next(iter(names)) if len(names) == 1 and ANY_NAME not in names else None


class EventSourceSettings(SettingsPart, frozen=True):
    """A source of events, and the claims that these may make. With a name alone: none."""

    name: Annotated[Name, setting("unique name in logs, metrics and dead letters")]
    tenants: Annotated[tuple[Name, ...], setting("tenants that it may query and send events for; `*` is all")] = ()
    issuers: Annotated[tuple[Name, ...], setting("issuers of agents in its events; `*` is all")] = ()
    sources: Annotated[tuple[Name, ...], setting("globs of `source` in its events")] = ()
    agents: Annotated[
        tuple[Name, ...] | None,
        setting(
            "globs of agent ids in its events; `self` is the client of its token; null is "
            "`[self]`, with `settings_version` 1 all"
        ),
    ] = None
    gateway: Annotated[
        bool | None,
        setting(
            "it authenticates agents; events of other callers are self-asserted; null is true "
            "unless `agents` has `self`"
        ),
    ] = None
    enforces: Annotated[
        bool | None,
        setting(
            "it enforces our verdicts, so it may set `caused_by`; null is true for gateways "
            "with `format` `envoy`, `agentgateway`, `hydra` or `keycloak`"
        ),
    ] = None
    trusted: Annotated[bool, setting("it may state an agent's type and capabilities")] = False
    events_per_s: Annotated[EventRate | None, setting("limit of events per second; null is none")] = None
    silence_s: Annotated[
        SilenceSeconds | None, setting("it counts as silent after so long without an event, s; null is never")
    ] = None
    format: Annotated[
        str, setting("what it sends to `/v1/events`: a format as of `kafka.topics`; `native` is as the media type says")
    ] = "native"
    mapping: Annotated[
        Mapping[str, Any],
        setting(
            "own mapping (`mapping`) or changes to that of `format`; see [mappings](../docs/ingest-topics.md#a-mapping)"
        ),
    ] = {}

    def __post_init__(self) -> None:
        if self.enforces and not self.is_gateway:
            raise ValueError("`enforces` is for gateways: another source could hide its own actions as caused by us")
        if self.trusted and not self.is_gateway:
            raise ValueError(
                "`trusted` is for gateways: an agent would choose its own peer group; name the `agents`, or remove it"
            )
        try:
            self.parser()
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @property
    def is_gateway(self) -> bool:
        """True if its token authenticates the agents that its events name."""
        return self.gateway if self.gateway is not None else SELF not in (self.agents or ())

    @property
    def may_mark(self) -> bool:
        """True if it may mark an event as caused by us."""
        return self.enforces if self.enforces is not None else self.is_gateway and self.format in MARKING_FORMATS

    def parser(self) -> FormatParser:
        """Return the parser of its records. Raises ConfigError: format or mapping is invalid."""
        return create_parser(self.format, self.own_mapping())

    def own_mapping(self) -> MappingSpec | None:
        """Its `mapping`, if it has one. Raises ConfigError."""
        return mapping_spec(self.mapping) if self.mapping else None

    @property
    def max_silence_s(self) -> float:
        """Seconds without an event after which it counts as silent; infinite if it never does."""
        return math.inf if self.silence_s is None else self.silence_s


TopicEventRate = Annotated[float, msgspec.Meta(ge=0.1)]
TopicName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]


class ForeignTopicSettings(EventSourceSettings, frozen=True, kw_only=True):
    """One foreign topic: a source of events. It must name its format and the agents that it may report on."""

    topic: Annotated[TopicName, setting("topic to read", before="name")]
    format: Annotated[str, setting(f"one of {', '.join(f'`{name}`' for name in FORMATS)}", after="name")]
    tenants: Annotated[
        tuple[Name, ...], setting("tenants of its events; a single one is the default", after="name", min_length=1)
    ]
    issuers: Annotated[
        tuple[Name, ...], setting("issuers of its agents; a single one is the default", after="tenants", min_length=1)
    ]
    agents: Annotated[tuple[Name, ...], setting("globs of agent ids in its records", after="sources", min_length=1)] = (
        "*",
    )
    events_per_s: Annotated[
        TopicEventRate | None, setting("limit of events per second; the rest waits in Kafka", after="trusted")
    ] = None
    start: Annotated[Literal["earliest", "latest"], setting("where reading begins the first time")] = "earliest"

    def __post_init__(self) -> None:
        if SELF in self.agents:
            raise ValueError("`agents`: `self` is the client of a token, and a topic has none; list the agents")
        super().__post_init__()


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
            raise ValueError("an issuer needs either `jwks_uri` or `jwks_file`")
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
            raise ValueError("a certificate needs `fingerprints` or `names`")
        for fingerprint in self.fingerprints:
            if not _FINGERPRINT.fullmatch(fingerprint):
                raise ValueError(f"`fingerprints`: {fingerprint!r} is not a SHA-256 in hex: 64 digits, colons optional")
        for name in self.names:
            if not _CERTIFICATE_NAME.fullmatch(name):
                raise ValueError(
                    f"`names`: {name!r} is neither a SPIFFE ID, as spiffe://acme.example/soc, nor a lower-case DNS "
                    "name, as soc.acme.example"
                )

    def digests(self) -> frozenset[bytes]:
        """The fingerprints as bytes."""
        return frozenset(bytes.fromhex(fingerprint.replace(":", "")) for fingerprint in self.fingerprints)


class CallerSettings(EventSourceSettings, frozen=True):
    """Claims that one client may make, known by a trusted issuer's tokens or by its certificate.

    A client without an entry may act for no agent.
    """

    client_id: Annotated[Name | None, setting("`client_id` (or `azp`, `cid`) of its token", after="name")] = None
    subject: Annotated[
        Name | None, setting("`sub` of its token; with `client_id`, both must match", after="client_id")
    ] = None
    authenticated_by: Annotated[
        Name | None, setting("issuer of its tokens; required with several `issuers`", after="subject")
    ] = None
    certificate: Annotated[
        CallerCertificateSettings | None, setting("client certificates that replace a token", after="authenticated_by")
    ] = None
    bytes_per_day: Annotated[
        ByteQuota | None, setting("quota of decompressed bytes a day; null is none", after="events_per_s")
    ] = None

    def __post_init__(self) -> None:
        if not (self.has_tokens or self.certificate):
            raise ValueError("a caller needs a `client_id`, a `subject` or a `certificate`")
        if SELF in (self.agents or ()) and self.issuers and not self.has_tokens:
            raise ValueError("`agents` with `self` needs a `client_id` or `subject`: a certificate names no agent")
        if SELF in (self.agents or ()) and ANY_TENANT in self.tenants and self.issuers:
            raise ValueError("`agents` with `self` needs `tenants` by name: `*` means every agent of that id")
        super().__post_init__()

    @property
    def has_tokens(self) -> bool:
        """True if tokens identify it."""
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
        """Networks in which the settings declare a proxy."""
        return () if self.certificate_header is None and self.trusted_proxies is None else self.proxies

    def __post_init__(self) -> None:
        for network in self.proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(f"`trusted_proxies`: {network!r} is not a network like 10.0.0.0/8") from None


class VerificationSettings(SettingsPart, frozen=True):
    """Verification of tokens."""

    proofs: Annotated[ProofSettings, setting("tokens that are bound to a key or a certificate")] = ProofSettings()

"""The service itself: its addresses, tenants and pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Name, Secret, SettingsPart, check_url, setting
from trustwatch.scoring.learning.promotion import DriftSettings
from trustwatch.scoring.policy.book import EnforcementMode

ConsoleScope = Literal["trust.score:read", "trust.feedback", "trust.admin"]
MAX_SESSION_S = 7 * 86_400
"""Longest session, regardless of the settings."""

MIN_SESSION_KEY_LENGTH = 32
"""Characters of a session key: a shorter one could be guessed from a stolen cookie."""


class ConsoleGrantSettings(SettingsPart, frozen=True, kw_only=True):
    """Rights of the people who have a value in a claim of their ID token."""

    name: Annotated[Name, setting("name; removing it ends its sessions")]
    claim: Annotated[Name, setting("claim of the ID token: a text or list; dots lead into objects")] = "groups"
    value: Annotated[Name, setting("value that the claim is or contains; `*` is any")]
    scopes: Annotated[
        tuple[ConsoleScope, ...],
        setting("`trust.score:read` reads, the others act; none includes another", min_length=1),
    ] = ("trust.score:read",)
    tenants: Annotated[tuple[Name, ...], setting("tenants that the person sees and acts on; `*` is all", min_length=1)]


class ConsoleOidcSettings(SettingsPart, frozen=True, kw_only=True):
    """The OpenID provider at which people sign in."""

    issuer: Annotated[Name, setting("its `iss`, compared exactly")]
    client_id: Annotated[Name, setting("the console's client")]
    client_secret: Annotated[Secret | None, setting("its secret, if it has one")] = None
    client_key: Annotated[Secret | None, setting("private key (PEM) instead of a secret, for private_key_jwt")] = None
    client_key_id: Annotated[Name | None, setting("`kid` of that key")] = None
    scopes: Annotated[tuple[Name, ...], setting("requested scopes", min_length=1)] = ("openid", "profile")
    name_claim: Annotated[
        Name, setting("claim that names the person in records; choose one that is never reassigned")
    ] = "sub"
    grants: Annotated[
        tuple[ConsoleGrantSettings, ...], setting("who may do what; the first match decides", min_length=1)
    ]

    def __post_init__(self) -> None:
        check_url(self.issuer, "`issuer`", loopback_http=True)
        if "openid" not in self.scopes:
            raise ValueError("`scopes` must include `openid`")
        if self.client_secret is not None and self.client_key is not None:
            raise ValueError("use either `client_secret` or `client_key`")
        if (self.client_key is None) != (self.client_key_id is None):
            raise ValueError("`client_key` and `client_key_id` must be set together")
        names = [grant.name for grant in self.grants]
        if len(set(names)) < len(names):
            raise ValueError("`grants` must have different names")


class ConsoleSettings(SettingsPart, frozen=True, kw_only=True):
    """The console for people, at `/console`."""

    enabled: Annotated[bool, setting("serve it; needs `oidc` or `development_login`")] = False
    oidc: Annotated[ConsoleOidcSettings | None, setting("OpenID provider at which people sign in")] = None
    development_login: Annotated[
        bool, setting("sign-in with every right by a one-time link of `trustwatch console-link`; loopback only")
    ] = False
    session_key: Annotated[
        Secret | None,
        setting("key of sessions, 32 characters or more, shared by all replicas; null makes one in `data_dir`"),
    ] = None

    def __post_init__(self) -> None:
        if self.enabled and self.oidc is None and not self.development_login:
            raise ValueError("`enabled` needs `oidc` (or `development_login`): else no person could sign in")
        if self.session_key is not None and len(self.session_key.reveal()) < MIN_SESSION_KEY_LENGTH:
            raise ValueError(f"`session_key` needs at least {MIN_SESSION_KEY_LENGTH} characters")


class LifecycleSettings(SettingsPart, frozen=True):
    """A process at the lowest priority that trains, runs models in shadow, and watches for drift.

    Versions, calibration and the budget chart work without it. With Kafka, one of the workers that enable it runs it.
    """

    enabled: Annotated[bool, setting("run the process")] = False
    every_h: Annotated[
        float, setting("a new model is trained this often, h; 0 is on request only", ge=0, le=24 * 365)
    ] = 24.0
    min_agent_days: Annotated[int, setting("agent-days in shadow before a challenger may be promoted", ge=0)] = 100
    promote: Annotated[Literal["manual", "automatic"], setting("who promotes a better challenger")] = "manual"
    drift: Annotated[DriftSettings, setting("when behavior differs from what the model learned")] = DriftSettings()


class StoreSettings(SettingsPart, frozen=True):
    """The database. By default a separate file in `data_dir`."""

    url: Annotated[str | None, setting("`postgresql://USER@HOST/NAME`; null is SQLite in `data_dir`")] = None
    password: Annotated[Secret | None, setting("password of the database user")] = None
    agents_days: Annotated[
        int, setting("quiet agents are forgotten after so long without an event, days", ge=1, le=36_500)
    ] = 365

    def __post_init__(self) -> None:
        if self.url is None:
            return
        try:
            parts = urlsplit(self.url)
        except ValueError:
            raise ValueError("`url` is not a URL") from None
        if parts.password:
            raise ValueError("`url` must not contain a password; use `password`")
        if parts.scheme != "postgresql" or not parts.path.strip("/") or not parts.username:
            raise ValueError("`url` must be postgresql://USER@HOST:PORT/NAME")


class IdentitySettings(SettingsPart, frozen=True):
    """The key under which agents are known."""

    key_file: Annotated[
        Path | None,
        setting("identity key, shared by all processes on one database; null is `identity-key` in `data_dir`"),
    ] = None


class ArchiveSettings(SettingsPart, frozen=True):
    """Files of events and feature vectors: places and retention. Needs the extra `archive`."""

    directory: Annotated[Path | None, setting("where the archive of events is; null keeps none")] = None
    retention_days: Annotated[
        int, setting("dates older than this are removed, of events and of vectors, days", ge=1, le=36_500)
    ] = 365
    interval_s: Annotated[
        float, setting("events are in the archive after at most about this long, s; shorter makes more files", gt=0)
    ] = 300.0
    vectors: Annotated[Path | None, setting("folder of feature vectors and scores; null keeps none")] = None


class PrivacySettings(SettingsPart, frozen=True):
    """Logging of persons' identifiers, and keys of hashes."""

    pseudonymise_principals: Annotated[bool, setting("log keyed hashes in place of principals' identifiers")] = False
    key_file: Annotated[
        Path | None, setting("key of pseudonyms, shared by all replicas; null is `privacy-key` in `data_dir`")
    ] = None
    origin_key_generation: Annotated[int, setting("raise it to change all keys of arguments at once", ge=0)] = 0
    read_unlisted: Annotated[bool, setting("read the events topic also without a database that lists erased names")] = (
        False
    )


class ListenSettings(SettingsPart, frozen=True):
    """Address of the HTTP API."""

    host: Annotated[str, setting("address to listen on; anything but loopback needs a TLS proxy", min_length=1)] = (
        "127.0.0.1"
    )
    port: Annotated[int, setting("TCP port; 0 takes a free one", ge=0, le=65_535)] = 8420
    public_url: Annotated[str | None, setting("URL by which others reach the service; null is its own address")] = None
    allowed_hosts: Annotated[
        tuple[Name, ...], setting("further host names, without port, that `Host` may have in requests without a token")
    ] = ()

    def __post_init__(self) -> None:
        if self.public_url is not None:
            check_url(self.public_url, "`public_url`", loopback_http=True)

    def url(self) -> str:
        """URL of the service, for links."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


class LogSettings(SettingsPart, frozen=True):
    """The log of the service's processes, on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], setting("lowest level that is logged")] = "info"
    format: Annotated[Literal["auto", "text", "json"], setting("`auto` is text on a terminal, else JSON")] = "auto"


TRACES_PATH: Final = "/v1/traces"
"""Path at which OTLP/HTTP takes traces, below the URL of a collector."""


class OutgoingSettings(SettingsPart, frozen=True):
    """Connections that the service makes to others."""

    ca_file: Annotated[
        Path | None,
        setting(
            "further certificate authorities (PEM) for all outgoing HTTP; brokers and databases have separate settings"
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.ca_file is None:
            return
        from trustwatch.ingest.outgoing_http import trusted_authorities  # its library takes time to load

        try:
            trusted_authorities(self.ca_file)
        except ConfigError as error:
            raise ValueError(f"`ca_file`: {error}") from None


class TenantSettings(SettingsPart, frozen=True):
    """One tenant; the entry `*` applies to every tenant without an entry."""

    domains: Annotated[tuple[Name, ...], setting("domains inside the tenant, with their subdomains")] = ()
    mode: Annotated[EnforcementMode, setting("`shadow` decides and records, `enforce` also acts")] = "shadow"

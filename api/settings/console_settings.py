"""The console: who may sign in, and how long a session lasts."""

from __future__ import annotations

from typing import Annotated, Literal

from trustwatch.ingest.settings import Name, Secret, SettingsPart, check_url, setting

ConsoleScope = Literal["trust.score:read", "trust.feedback", "trust.admin"]
MAX_SESSION_S = 7 * 86_400
"""So long after signing in no session lasts, whatever the settings said then and say now."""

MIN_SESSION_KEY_LENGTH = 32
"""Characters of a session key: less could be guessed from a stolen cookie."""


class ConsoleGrantSettings(SettingsPart, frozen=True, kw_only=True):
    """Rights of the people who have a value in a claim of their ID token."""

    name: Annotated[Name, setting("its name; a session lasts as long as the grant of that name is here")]
    claim: Annotated[Name, setting("claim of the ID token: text, text with blanks or a list; dots go into objects")] = (
        "groups"
    )
    value: Annotated[Name, setting("what the claim must be or hold; compared exactly, `*` is anything")]
    scopes: Annotated[
        tuple[ConsoleScope, ...],
        setting("`trust.score:read` looks, the others act; none includes another", min_length=1),
    ] = ("trust.score:read",)
    tenants: Annotated[tuple[Name, ...], setting("tenants that are seen and acted on; `*` is all", min_length=1)]


class ConsoleOidcSettings(SettingsPart, frozen=True, kw_only=True):
    """The OpenID provider at which people sign in."""

    issuer: Annotated[Name, setting("its `iss`, compared exactly: https (http only to loopback)")]
    client_id: Annotated[Name, setting("the console as the provider knows it")]
    client_secret: Annotated[Secret | None, setting("its secret, if it has one: `{env: NAME}` or `{file: PATH}`")] = (
        None
    )
    client_key: Annotated[
        Secret | None, setting("private key in PEM instead of a secret (`private_key_jwt`): `{file: PATH}`")
    ] = None
    client_key_id: Annotated[Name | None, setting("`kid` of that key; for `client_key`, which needs it")] = None
    scopes: Annotated[tuple[Name, ...], setting("scopes that are asked for", min_length=1)] = ("openid", "profile")
    name_claim: Annotated[
        Name, setting("claim that names the person in records; choose one that the provider never gives to another")
    ] = "sub"
    grants: Annotated[
        tuple[ConsoleGrantSettings, ...], setting("who may do what; the first that fits decides", min_length=1)
    ]

    def __post_init__(self) -> None:
        check_url(self.issuer, "`issuer`", loopback_http=True)
        if "openid" not in self.scopes:
            raise ValueError("`scopes` must hold `openid`")
        if self.client_secret is not None and self.client_key is not None:
            raise ValueError("the console has either `client_secret` or `client_key`")
        if (self.client_key is None) != (self.client_key_id is None):
            raise ValueError("`client_key` and `client_key_id` belong together")
        names = [grant.name for grant in self.grants]
        if len(set(names)) < len(names):
            raise ValueError("each of `grants` needs a name of its own")


class ConsoleSettings(SettingsPart, frozen=True, kw_only=True):
    """The console for people, at `/console`."""

    enabled: Annotated[bool, setting("whether it is served; needs `oidc` or `development_login`")] = False
    oidc: Annotated[ConsoleOidcSettings | None, setting("the OpenID provider at which people sign in")] = None
    development_login: Annotated[
        bool,
        setting("sign-in by a one-time link of `trustwatch console-link`, which may do everything; only on loopback"),
    ] = False
    session_key: Annotated[
        Secret | None,
        setting("seals sessions, 32 characters or more, the same for all replicas; null makes one in `data_dir`"),
    ] = None

    def __post_init__(self) -> None:
        if self.enabled and self.oidc is None and not self.development_login:
            raise ValueError("`enabled` needs `oidc` (or `development_login`): else nobody could sign in")
        if self.session_key is not None and len(self.session_key.reveal()) < MIN_SESSION_KEY_LENGTH:
            raise ValueError(f"`session_key` needs at least {MIN_SESSION_KEY_LENGTH} characters")

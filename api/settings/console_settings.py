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

    enabled: Annotated[bool, setting("serve it; needs `oidc` or `development_login`")] = False
    oidc: Annotated[ConsoleOidcSettings | None, setting("OpenID provider at which people sign in")] = None
    development_login: Annotated[
        bool,
        setting("sign-in with every right by a one-time link of `trustwatch console-link`; loopback only"),
    ] = False
    session_key: Annotated[
        Secret | None,
        setting("key of sessions, 32 characters or more, shared by all replicas; null makes one in `data_dir`"),
    ] = None

    def __post_init__(self) -> None:
        if self.enabled and self.oidc is None and not self.development_login:
            raise ValueError("`enabled` needs `oidc` (or `development_login`): else nobody could sign in")
        if self.session_key is not None and len(self.session_key.reveal()) < MIN_SESSION_KEY_LENGTH:
            raise ValueError(f"`session_key` needs at least {MIN_SESSION_KEY_LENGTH} characters")

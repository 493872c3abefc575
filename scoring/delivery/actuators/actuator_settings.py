"""Actuators as an operator configures them: the part of the settings, and the target that desired states go to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec

from trustwatch.ingest.settings import Name, Secret, SettingsPart, check_url, setting

from ...records.agents import RiskLevel
from ..delivery_target import MAX_NAME_LENGTH
from ..notifiers.webhook_target import check_signed_url

ANY_NAME = "*"

ActuatorKind = Literal["hydra", "keycloak", "webhook"]
PositiveSeconds = Annotated[int, msgspec.Meta(ge=1)]


def check_client_credentials(
    client_id: str | None, client_secret: Secret | None, private_key: Secret | None, key_id: str
) -> None:
    """Raise ValueError unless a client that is named has one way to prove itself, and its key a name."""
    if client_id is not None and (client_secret is None) == (private_key is None):
        raise ValueError("a `client_id` has either a `client_secret` or a `private_key`")
    if private_key is not None and not key_id:
        raise ValueError("a `private_key` needs its `key_id`")


class ActuatorAuthSettings(SettingsPart, frozen=True):
    """Authentication of an actuator: a bearer token, or a client with a secret or (better) a private key."""

    bearer: Annotated[Secret | None, setting("token that the server issued to us")] = None
    client_id: Annotated[Name | None, setting("our client at the server")] = None
    client_secret: Annotated[Secret | None, setting("its secret, for client_secret_basic")] = None
    private_key: Annotated[Secret | None, setting("its private key (PEM), for private_key_jwt: `{file: PATH}`")] = None
    key_id: Annotated[str, setting("`kid` of the private key, as the server knows it")] = ""
    token_url: Annotated[str | None, setting("token endpoint, for the client's own token")] = None
    scope: Annotated[str, setting("requested scope")] = ""

    def __post_init__(self) -> None:
        if (self.bearer is None) == (self.client_id is None):
            raise ValueError("`auth` has either `bearer` or `client_id`")
        check_client_credentials(self.client_id, self.client_secret, self.private_key, self.key_id)
        if self.client_id is not None and self.token_url is None:
            raise ValueError("Object missing required field `token_url`, which a `client_id` needs")


class ActuatorSettings(SettingsPart, frozen=True):
    """One server at which clients of agents are lowered and restored, or tokens revoked."""

    name: Annotated[Name, setting("unique name in metrics and logs, at most 64 characters")]
    kind: Annotated[ActuatorKind, setting("product; `webhook` is for any other")]
    url: Annotated[str, setting("`hydra`: its admin API; `keycloak`: the server; `webhook`: where to post")]
    issuers: Annotated[
        tuple[Name, ...], setting("`iss` of this server: issuers of the agents that it serves", min_length=1)
    ]
    realm: Annotated[Name | None, setting("`keycloak`: realm of the clients")] = None
    tenants: Annotated[tuple[Name, ...], setting("tenants whose agents it serves; `*` is all", min_length=1)] = ("*",)
    clients: Annotated[Mapping[Name, Name], setting("client id by agent id, where they differ")] = {}
    auth: Annotated[
        ActuatorAuthSettings | None, setting("our credentials; null if the network guards the admin API")
    ] = None
    secret: Annotated[Secret | None, setting("`webhook`: signing secret of Standard Webhooks, `whsec_…`")] = None
    confirm_url: Annotated[
        str | None, setting('`webhook`: gets the same body, answers `{"confirmed": true}` when it is done')
    ] = None
    default_lifetime_s: Annotated[
        PositiveSeconds | None,
        setting(
            "token lifetime of clients without their own, s; null is the server's usual: 3600 "
            "of `hydra`, 300 of `keycloak`"
        ),
    ] = None
    every_level: Annotated[
        bool, setting("also apply the policy of `low` and `unknown`, which changes every agent's client")
    ] = False

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME_LENGTH:
            raise ValueError(f"`name` has at most {MAX_NAME_LENGTH} characters")
        token_url = None if self.auth is None else self.auth.token_url
        urls = {"url": self.url, "confirm_url": self.confirm_url, "auth.token_url": token_url}
        for member, url in urls.items():
            if url is not None:
                check_url(url, f"`{member}`", loopback_http=True)
        self._only("realm", self.realm, "keycloak", needed=True)
        self._only("secret", self.secret, "webhook", needed=True)
        if self.kind == "webhook":
            check_signed_url(self.url, self.secrets)
        self._only("confirm_url", self.confirm_url, "webhook")
        if self.kind == "keycloak" and self.auth is None:
            raise ValueError("Object missing required field `auth`, which kind `keycloak` needs")
        if self.kind == "webhook" and self.auth is not None:
            raise ValueError("`auth` means nothing to kind `webhook`, which signs; leave it out")

    def _only(self, member: str, value: object, kind: ActuatorKind, *, needed: bool = False) -> None:
        if self.kind == kind and needed and value is None:
            raise ValueError(f"Object missing required field `{member}`, which kind `{kind}` needs")
        if self.kind != kind and value is not None:
            raise ValueError(f"`{member}` means nothing to kind `{self.kind}`; leave it out")

    levels_taken: ClassVar[frozenset[RiskLevel]] = frozenset(RiskLevel)
    has_cooldown: ClassVar[bool] = False  # no change at a server may be kept back
    ordered: ClassVar[bool] = False  # the newest desired state of an agent applies, whichever row brings it

    @property
    def fingerprint(self) -> str:
        """It is never stopped for good, so its name is enough."""
        return self.name

    @property
    def secrets(self) -> tuple[str, ...]:
        """Secrets that sign."""
        return () if self.secret is None else (self.secret.reveal(),)

    def serves(self, tenant: str, issuer: str) -> bool:
        """Returns whether the actuator may change agents of that tenant and issuer."""
        return all(ANY_NAME in ours or name in ours for ours, name in ((self.tenants, tenant), (self.issuers, issuer)))

    def acts_at(self, level: int) -> bool:
        """Returns whether the policy of that level is applied; otherwise the server stays as it was."""
        return self.every_level or level >= RiskLevel.MEDIUM

    def client_of(self, agent_id: str) -> str:
        """Returns the client that represents an agent."""
        return self.clients.get(agent_id, agent_id)

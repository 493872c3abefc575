"""Settings of hooks and gateways."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.formats.expressions import JmesPathExpression
from trustwatch.ingest.settings import Name, Secret, SettingsPart, check_url, reveal, setting
from trustwatch.scoring.delivery.actuators.actuator_settings import check_client_credentials

from .access_settings import IssuerSettings, check_shared_secret

HookKind = Literal["hydra", "okta", "wso2", "zitadel", "authzen"]
HookName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\Z")]
HeaderName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")]


class HookSettings(SettingsPart, frozen=True):
    """One authorization server that queries while it issues tokens. `authzen` uses OAuth, all others a secret."""

    name: Annotated[HookName, setting("path `/hooks/NAME` and name in metrics, in lower case")]
    kind: Annotated[HookKind, setting("the product that asks; `authzen` asks at `/access/v1/evaluation(s)`")]
    tenant: Annotated[Name | None, setting("tenant of its agents; required except for `authzen`")] = None
    issuer: Annotated[Name | None, setting("issuer of its agents, as in events; required except for `authzen`")] = None
    secret: Annotated[
        Secret | None,
        setting(
            "shared secret of at least 16 characters: `user:password` for `basic`, the signing "
            "key for `zitadel`, none for `authzen`"
        ),
    ] = None
    proof: Annotated[
        Literal["header", "bearer", "basic"],
        setting("how the secret arrives; `header` is `X-Trustwatch-Key`; `zitadel` signs with it"),
    ] = "header"
    on_failure: Annotated[
        Literal["open", "closed"], setting("answer if a fault of ours prevents a decision: a token as usual, or none")
    ] = "closed"
    on_stale: Annotated[Literal["use", "deny"], setting("if risk may be out of date: use it, or deny")] = "use"
    claims: Annotated[bool, setting("write `risk_level` and `policy_version` into tokens")] = True
    agent: Annotated[
        str | None, setting("JMESPath of the agent in the request; null is the client (`user.id` for `zitadel`)")
    ] = None

    def __post_init__(self) -> None:
        if self.kind == "authzen":
            if self.secret is not None:
                raise ValueError("`secret` is not allowed for kind `authzen`, which uses OAuth tokens")
            return
        for member in ("tenant", "issuer", "secret"):
            if getattr(self, member) is None:
                raise ValueError(f"Object missing required field `{member}`, which kind `{self.kind}` needs")
        check_shared_secret(self.secret, "secret")
        if self.proof == "basic" and self.kind != "zitadel" and ":" not in reveal(self.secret):
            raise ValueError("`secret` must be `user:password` if `proof` is `basic`")
        self.expression()

    def expression(self) -> JmesPathExpression | None:
        """Expression that finds the agent in a request; None: the product's usual place."""
        try:
            return None if self.agent is None else JmesPathExpression(self.agent)
        except ConfigError as error:
            raise ValueError(f"`agent`: {error}") from None


HttpMethod = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{1,32}\Z")]


class IntrospectionServerSettings(SettingsPart, frozen=True):
    """The authorization server's own introspection endpoint (RFC 7662)."""

    url: Annotated[str, setting("introspection endpoint")]
    tokens: Annotated[
        Literal["opaque", "all"], setting("tokens that are introspected there: only opaque ones, or also verified JWTs")
    ] = "opaque"

    def __post_init__(self) -> None:
        check_url(self.url, "`url`", loopback_http=True)


class GatewayIssuerSettings(IssuerSettings, frozen=True):
    """One authorization server whose tokens agents present at gateways."""

    audiences: Annotated[tuple[Name, ...], setting("`aud` values of the APIs behind the gateways", min_length=1)]
    tenant: Annotated[Name | None, setting("tenant of its agents")] = None
    tenant_claim: Annotated[Name | None, setting("claim that names the tenant; overrides `tenant`")] = None
    agent_issuer: Annotated[Name | None, setting("issuer of its agents, as in events; null is `iss`")] = None
    introspection: Annotated[
        IntrospectionServerSettings | None, setting("its introspection endpoint, for `/introspect`")
    ] = None

    revocation_url: Annotated[
        str | None, setting("revocation endpoint (RFC 7009), where seen tokens are revoked if policy says `revoke`")
    ] = None
    client_id: Annotated[Name | None, setting("our client at both endpoints; null sends no credentials")] = None
    client_secret: Annotated[Secret | None, setting("its secret, for client_secret_basic")] = None
    private_key: Annotated[Secret | None, setting("its private key (PEM), for private_key_jwt")] = None
    key_id: Annotated[str, setting("`kid` of the private key")] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.revocation_url is not None:
            check_url(self.revocation_url, "`revocation_url`", loopback_http=True)
        if self.client_id is None and (self.client_secret is not None or self.private_key is not None):
            raise ValueError("`client_secret` and `private_key` need a `client_id`")
        check_client_credentials(self.client_id, self.client_secret, self.private_key, self.key_id)
        if self.tenant is None and self.tenant_claim is None:
            raise ValueError("an issuer of gateways needs `tenant`, `tenant_claim`, or both")


class GatewayClientSettings(SettingsPart, frozen=True):
    """A gateway that asks `/introspect` by `client_secret_basic`, if it cannot get a token for `trust.decide`."""

    client_id: Annotated[Name, setting("user name in Basic authentication")]
    secret: Annotated[Secret, setting("password of at least 16 characters")]
    tenants: Annotated[
        tuple[Name, ...] | None,
        setting("tenants whose tokens it may introspect; `*` is all; required with `settings_version` 2"),
    ] = None

    def __post_init__(self) -> None:
        if self.tenants is not None and not self.tenants:
            raise ValueError("`tenants` must name at least one; `*` is all")
        check_shared_secret(self.secret, "secret")


class GatewaySettings(SettingsPart, frozen=True):
    """Checks for gateways. Without issuers there are none: neither `/ext-authz`, `/forward-auth` nor `/introspect`."""

    issuers: Annotated[
        tuple[GatewayIssuerSettings, ...], setting("authorization servers whose tokens agents present at gateways")
    ] = ()
    clients: Annotated[
        tuple[GatewayClientSettings, ...], setting("gateways that call `/introspect` with a password")
    ] = ()
    safe_methods: Annotated[
        tuple[HttpMethod, ...], setting("methods that pass if only some of the token's scopes wait for a person")
    ] = ("GET", "HEAD", "OPTIONS")
    dpop: Annotated[
        Literal["refuse", "gateway", "verify"],
        setting(
            "tokens bound to a key: refused, verified by the gateway, or verified here by the "
            "forwarded `DPoP` header and URL"
        ),
    ] = "refuse"
    mtls: Annotated[
        Literal["gateway", "verify"],
        setting(
            "tokens bound to a certificate: verified by the gateway, or here by "
            "`verification.proofs.certificate_header`"
        ),
    ] = "gateway"
    risk_header: Annotated[
        HeaderName | None, setting("header of allowed calls with the risk level; null sends none")
    ] = None
    tell_approval: Annotated[bool, setting("send `X-Approval-Id` with step-up refusals")] = False
    resource_metadata: Annotated[str | None, setting("URL of the resource's metadata (RFC 9728) for challenges")] = None
    risk_claims: Annotated[
        bool, setting("add `risk_level` and `policy_version` to active answers of `/introspect`")
    ] = False
    on_failure: Annotated[
        Literal["open", "closed"], setting("answer to a verified token if a fault of ours prevents a decision")
    ] = "closed"
    on_stale: Annotated[Literal["use", "deny"], setting("if risk may be out of date: use it, or deny")] = "use"
    on_unreachable: Annotated[
        Literal["error", "inactive"],
        setting("answer of `/introspect` while the issuer's introspection is unavailable: 503, or `active: false`"),
    ] = "error"
    record: Annotated[Literal["denials", "all"], setting("calls that become audit events")] = "denials"

    def __post_init__(self) -> None:
        if self.resource_metadata is not None:
            check_url(self.resource_metadata, "`resource_metadata`", loopback_http=True)
        for part, names in (
            ("issuers", [issuer.issuer for issuer in self.issuers]),
            ("clients", [client.client_id for client in self.clients]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"`{part}`: two entries have the same name")

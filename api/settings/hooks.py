"""Hooks: authorization servers that ask while they issue a token, each by a secret of its own."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ...ingest.errors import ConfigError
from ...ingest.formats.expressions import JmesPathExpression
from .about import Name, SettingsPart, setting
from .secret import Secret

HookKind = Literal["hydra", "okta", "wso2", "zitadel", "authzen"]
HookName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\Z")]
HeaderName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")]

MIN_HOOK_SECRET_LENGTH = 16


class HookSettings(SettingsPart, frozen=True):
    """One authorization server that asks at issuance. `authzen` asks by OAuth, all others by a secret."""

    name: Annotated[HookName, setting("its path is `/hooks/NAME`, in small letters; also its name in metrics and logs")]
    kind: Annotated[HookKind, setting("the product that asks; `authzen` is asked at `/access/v1/evaluation(s)`")]
    tenant: Annotated[
        Name | None, setting("tenant of its agents; required but for `authzen`, where null is that of the caller")
    ] = None
    issuer: Annotated[
        Name | None, setting("issuer of its agents, as events name it; required but for `authzen`, as `tenant`")
    ] = None
    secret: Annotated[
        Secret | None,
        setting(
            "what the product proves itself by: `{env: NAME}` or `{file: PATH}`, at least 16 characters; "
            "`user:password` for `basic`, the signing key for `zitadel`, none for `authzen`"
        ),
    ] = None
    proof: Annotated[
        Literal["header", "bearer", "basic"], setting("how the secret comes; `zitadel` signs with it instead")
    ] = "header"
    header: Annotated[HeaderName, setting("the header that holds the secret where `proof` is `header`")] = (
        "X-Trustwatch-Key"
    )
    on_failure: Annotated[
        Literal["open", "closed"],
        setting("what a request gets that can not be decided for a fault of ours: a token as usual, or none"),
    ] = "closed"
    on_stale: Annotated[
        Literal["use", "deny"], setting("what is done where risk may be out of date: use what is known, or deny")
    ] = "use"
    claims: Annotated[bool, setting("write `risk_level` and `policy_version` into tokens")] = True
    agent: Annotated[
        str | None, setting("where in the request the agent is, JMESPath; null is the client (`user.id` for `zitadel`)")
    ] = None
    too_short: Annotated[
        Literal["deny", "minimum"],
        setting("`okta`: what becomes of tokens that may not live for the 300 s that Okta wants at least"),
    ] = "deny"
    tolerance_s: Annotated[float, setting("`zitadel`: how old a signature may be, s", gt=0, le=3600)] = 300.0

    def __post_init__(self) -> None:
        if self.kind == "authzen":
            if self.secret is not None:
                raise ValueError("`secret` means nothing for kind `authzen`, which wants OAuth tokens; leave it out")
            return
        for member in ("tenant", "issuer", "secret"):
            if getattr(self, member) is None:
                raise ValueError(f"Object missing required field `{member}`, which kind `{self.kind}` needs")
        self._check_secret()
        self.expression()

    def expression(self) -> JmesPathExpression | None:
        """Finds the agent in a request; None where the product's own place is meant."""
        try:
            return None if self.agent is None else JmesPathExpression(self.agent)
        except ConfigError as error:
            raise ValueError(f"`agent`: {error}") from None

    def _check_secret(self) -> None:
        secret = "" if self.secret is None else self.secret.reveal()
        if len(secret) < MIN_HOOK_SECRET_LENGTH or not (secret.isascii() and secret.isprintable()):
            raise ValueError(f"`secret` must have at least {MIN_HOOK_SECRET_LENGTH} printable ASCII characters")
        if self.proof == "basic" and self.kind != "zitadel" and ":" not in secret:
            raise ValueError("`secret` must be `user:password` where `proof` is `basic`")

"""Identity of a caller from verified claims: the agent, the person behind it, and the agents before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .events import AuditEvent, Call, EventAgent, EventCredential, EventPrincipal, fingerprint

MAX_DELEGATION_ACTORS = 16
"""Actors of a delegation chain that are read."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Calling agent; the code that makes this has verified its token.

    Attributes:
        agent_id, issuer, tenant: together the agent's key at the service.
        agent_type, capabilities: count only where the sender is `trusted` in the service's settings.
        principal: on whose behalf; None = nobody's but its own.
        delegation: actors, the current one first.
        scopes: of its token.
        token_id: `fingerprint` of the token's `jti`, never the token.
        session: conversation or workflow.
        acr, auth_time: how, and when (seconds since 1970), a person authenticated, as the token says.
    """

    agent_id: str
    issuer: str | None = None
    tenant: str | None = None
    agent_type: str | None = None
    agent_version: str | None = None
    capabilities: tuple[str, ...] | None = None
    principal: str | None = None
    delegation: tuple[str, ...] = ()
    scopes: tuple[str, ...] | None = None
    task: str | None = None
    token_id: str | None = None
    token_lifetime_s: float | None = None
    session: str | None = None
    acr: str | None = None
    auth_time: float | None = None

    def add_to_event(self, event: AuditEvent) -> AuditEvent:
        """*event* with what is known of the caller.

        Not with the scopes and the lifetime of its token: where Trustwatch narrows or shortens tokens both follow from
        its own verdicts, and would look like a change of the agent's habits.
        """
        return msgspec.structs.replace(
            event,
            agent=EventAgent(
                id=self.agent_id,
                issuer=self.issuer,
                type=self.agent_type,
                version=self.agent_version,
                capabilities=None if self.capabilities is None else list(self.capabilities),
            ),
            tenant=self.tenant,
            session=event.session or self.session,
            **self._details(),
        )

    def add_to_call(self, call: Call) -> Call:
        """*call* with what is known of the caller, if the call does not say it itself."""
        missing = {name: value for name, value in self._details().items() if getattr(call, name) is None}
        return msgspec.structs.replace(call, **missing)

    def _details(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "principal": EventPrincipal(id=self.principal) if self.principal else None,
            "delegation": list(self.delegation) or None,
            "credential": EventCredential(token_id=self.token_id) if self.token_id else None,
        }


def caller_from_claims(
    claims: Mapping[str, Any], *, tenant: str | None = None, tenant_claim: str = "organization_id"
) -> Caller | None:
    """Caller named by verified claims of a JWT or of introspection; None where they name none.

    The agent is the current actor: the outermost `act` (RFC 8693), else `client_id`, `azp` or `cid`, else `sub`.
        Earlier
    actors inform and decide nothing.

    Args:
        claims: verified by you, with the proof of what `cnf` binds the token to. An unverified token here lets anybody
            act as anybody.
        tenant: of every caller; else `tenant_claim` names it.
    """
    actors = _delegation_actors(claims)
    agent = actors[0] if actors else _first_text(claims, "client_id", "azp", "cid", "sub")
    if agent is None:
        return None
    principal = _text_or_none(claims.get("delegated_user_id")) or _text_or_none(claims.get("sub"))
    token_id = _text_or_none(claims.get("jti"))
    return Caller(
        agent_id=agent,
        issuer=_text_or_none(claims.get("iss")),
        tenant=tenant or _text_or_none(claims.get(tenant_claim)),
        agent_type=_text_or_none(claims.get("agent_type")),
        agent_version=_text_or_none(claims.get("agent_version")),
        capabilities=_name_list(claims.get("capabilities")),
        principal=principal if principal != agent else None,
        delegation=tuple(actors),
        scopes=_name_list(claims.get("scope", claims.get("scp"))),
        task=_text_or_none(claims.get("task")),
        token_id=fingerprint(token_id) if token_id else None,
        token_lifetime_s=_lifetime_s(claims.get("iat"), claims.get("exp")),
        acr=_text_or_none(claims.get("acr")),
        auth_time=float(at) if isinstance(at := claims.get("auth_time"), (int, float)) else None,
    )


def _delegation_actors(claims: Mapping[str, Any]) -> list[str]:
    """Subjects of the nested `act`, the current actor first."""
    actors: list[str] = []
    inner = claims.get("act")
    while isinstance(inner, Mapping) and len(actors) < MAX_DELEGATION_ACTORS:
        name = _first_text(inner, "sub", "client_id")
        if name is None:
            break
        actors.append(name)
        inner = inner.get("act")
    return actors


def _lifetime_s(issued: object, ends: object) -> float | None:
    if isinstance(issued, (int, float)) and isinstance(ends, (int, float)) and ends >= issued:
        return float(ends - issued)
    return None


def _first_text(claims: Mapping[str, Any], *names: str) -> str | None:
    return next((text for name in names if (text := _text_or_none(claims.get(name)))), None)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _name_list(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, (list, tuple)):
        return tuple(name for name in value if isinstance(name, str))
    return None

"""Actuations: what is lowered at which server, what was there before, and a look at all of it on demand."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from ...ingest.hashing import agent_key
from ...scoring.actuators import Desired, decode_desired
from ...scoring.actuators.desired import BadAction
from ...scoring.containment import Actuation
from ..problems import Problem, ProblemError
from .finding import visible_tenants
from .gate import Admin, Part, Reader
from .route_agents import Cursor, Issuer, Limit, Tenant
from .route_decisions import key_of
from .schemas import Level, PageOut, Time, problems
from .times import iso_ms, iso_or_none

router = APIRouter(tags=["actuations"])


class DesiredOut(BaseModel):
    """What is to hold for the agent's client."""

    risk_level: Level
    allow: bool
    max_token_lifetime_s: int | None = Field(description="null = no ceiling")
    refresh_allowed: bool
    revoke: bool


class ActuationOut(BaseModel):
    """One agent at one actuator."""

    target: str
    agent_id: str
    tenant: str
    issuer: str
    status: Literal["wanted", "applied", "confirmed", "restored", "failed"] = Field(
        description="`applied`: accepted by a receiver that nobody can ask"
    )
    version: int = Field(description="of what is wanted; higher ones replace lower ones")
    desired: DesiredOut | None = Field(description="null = written by another version of the service")
    original: Any = Field(description="what the server had before, as its actuator keeps it; null = nothing is lowered")
    error: str | None = Field(description="of the last attempt")
    decision_id: str | None
    caused_at: Time | None = Field(description="time of the event that led to it; null = time or a person did")
    wanted_at: Time
    confirmed_at: Time | None = Field(description="when the server said, asked for it, that it is so")
    updated_at: Time


class ReconcileOut(BaseModel):
    """How many agents are looked at."""

    agents: int


@router.get("/v1/actuations", summary="What actuators did and are to do")
async def actuations(
    parts: Part,
    caller: Reader,
    target: Annotated[str | None, Query(max_length=64, description="name of the actuator")] = None,
    agent_id: Annotated[str | None, Query(max_length=2048)] = None,
    tenant: Tenant = None,
    issuer: Issuer = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOut[ActuationOut]:
    """Last changed first. An agent that never was above `low` has none; one never seen has to be named in full.

    Scope `trust.score:read`.
    """
    tenants, key = visible_tenants(caller, tenant), None
    if agent_id is not None:
        key = await key_of(parts, caller, agent_id, tenant, issuer)
        if key is None and tenant is not None and issuer is not None:
            key = agent_key(tenant, issuer, agent_id)  # pinned, and never seen
        if key is None:
            return PageOut(items=[], next_cursor=None)
    page = await parts.read(parts.services.store.list_actuations, tenants, key, target, limit, cursor)
    return PageOut(items=[actuation_out(one) for one in page.items], next_cursor=page.next_cursor)


@router.post(
    "/v1/actuations/{target}/reconcile",
    status_code=202,
    responses=problems({404: "no such actuator"}),
    summary="Look at a server anew",
)
async def reconcile(target: str, parts: Part, caller: Admin, tenant: Tenant = None) -> ReconcileOut:
    """Compare every agent that is, or ought to be, lowered with the server, and put right what differs.

    It is done in the background, as at the start of the service and every hour. Scope `trust.admin`.
    """
    services = parts.services
    names = [one.name for one in services.settings.actuators]
    if target not in names or services.wishes is None:
        known = ", ".join(names) or "none: `actuators` of the settings is empty"
        raise ProblemError(Problem(404, "not_found", "Not found", f"there is no such actuator; configured are {known}"))
    return ReconcileOut(agents=await services.wishes.look_at_all(target, visible_tenants(caller, tenant)))


def actuation_out(one: Actuation) -> ActuationOut:
    """An actuation as it is answered."""
    wish = _desired(one)
    return ActuationOut(
        target=one.target,
        agent_id=one.agent.agent_id,
        tenant=one.agent.tenant,
        issuer=one.agent.issuer,
        status=one.status,
        version=one.version,
        desired=None if wish is None else _desired_out(wish),
        original=_json(one.original),
        error=one.error or None,
        decision_id=None if wish is None else wish.decision_id or None,
        caused_at=iso_or_none(one.caused_ms),
        wanted_at=iso_ms(one.wanted_ms),
        confirmed_at=iso_or_none(one.confirmed_ms),
        updated_at=iso_ms(one.updated_ms),
    )


def _desired_out(wish: Desired) -> DesiredOut:
    return DesiredOut(
        risk_level=cast(Any, wish.level),
        allow=wish.allow,
        max_token_lifetime_s=wish.max_token_lifetime_s,
        refresh_allowed=wish.refresh_allowed,
        revoke=wish.revoke,
    )


def _desired(one: Actuation) -> Desired | None:
    try:
        return decode_desired(one.desired)
    except BadAction:
        return None


def _json(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError:
        return None

"""Actuations: what is lowered at which server, what was there before, and a look at all of it on demand."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from ...ingest.hashing import agent_key
from ...scoring.actuators import DesiredState, decode_desired_state
from ...scoring.actuators.desired import UnreadableAction
from ...scoring.containment import Actuation
from ..problems import ProblemDetails, ProblemError
from .finding import visible_tenants
from .gate import AdministratorDep, ContextDep, ReaderDep
from .route_agents import CursorParam, IssuerParam, LimitParam, TenantParam
from .route_decisions import resolve_agent_key
from .schemas import Level, PageOut, TimeText, problem_responses
from .times import format_rfc3339, format_rfc3339_or_none

actuations_router = APIRouter(tags=["actuations"])


class DesiredStateOut(BaseModel):
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
    desired: DesiredStateOut | None = Field(description="null = written by another version of the service")
    original: Any = Field(description="what the server had before, as its actuator keeps it; null = nothing is lowered")
    error: str | None = Field(description="of the last attempt")
    decision_id: str | None
    caused_at: TimeText | None = Field(description="time of the event that led to it; null = time or a person did")
    wanted_at: TimeText
    confirmed_at: TimeText | None = Field(description="when the server said, asked for it, that it is so")
    updated_at: TimeText


class ReconciliationOut(BaseModel):
    """How many agents are looked at."""

    agents: int


@actuations_router.get("/v1/actuations", summary="What actuators did and are to do")
async def list_actuations(
    parts: ContextDep,
    caller: ReaderDep,
    target: Annotated[str | None, Query(max_length=64, description="name of the actuator")] = None,
    agent_id: Annotated[str | None, Query(max_length=2048)] = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[ActuationOut]:
    """Last changed first. An agent that never was above `low` has none; one never seen has to be named in full.

    Scope `trust.score:read`.
    """
    tenants, key = visible_tenants(caller, tenant), None
    if agent_id is not None:
        key = await resolve_agent_key(parts, caller, agent_id, tenant, issuer)
        if key is None and tenant is not None and issuer is not None:
            key = agent_key(tenant, issuer, agent_id)  # pinned, and never seen
        if key is None:
            return PageOut(items=[], next_cursor=None)
    page = await parts.call_store(parts.runtime.store.list_actuations, tenants, key, target, limit, cursor)
    return PageOut(items=[actuation_out(one) for one in page.items], next_cursor=page.next_cursor)


@actuations_router.post(
    "/v1/actuations/{target}/reconcile",
    status_code=202,
    responses=problem_responses({404: "no such actuator"}),
    summary="Look at a server anew",
)
async def reconcile_actuator(
    target: str, parts: ContextDep, caller: AdministratorDep, tenant: TenantParam = None
) -> ReconciliationOut:
    """Compare every agent that is, or ought to be, lowered with the server, and put right what differs.

    It is done in the background, as at the start of the service and every hour. Scope `trust.admin`.
    """
    services = parts.runtime
    names = [one.name for one in services.settings.actuators]
    if target not in names or services.desired_state is None:
        known = ", ".join(names) or "none: `actuators` of the settings is empty"
        raise ProblemError(
            ProblemDetails(404, "not_found", "Not found", f"there is no such actuator; configured are {known}")
        )
    return ReconciliationOut(
        agents=await services.desired_state.enqueue_full_reconciliation(target, visible_tenants(caller, tenant))
    )


def actuation_out(one: Actuation) -> ActuationOut:
    """An actuation as it is answered."""
    wish = _decode_desired_state(one)
    return ActuationOut(
        target=one.target,
        agent_id=one.agent.agent_id,
        tenant=one.agent.tenant,
        issuer=one.agent.issuer,
        status=one.status,
        version=one.version,
        desired=None if wish is None else desired_state_out(wish),
        original=_decode_original(one.original),
        error=one.error or None,
        decision_id=None if wish is None else wish.decision_id or None,
        caused_at=format_rfc3339_or_none(one.caused_ms),
        wanted_at=format_rfc3339(one.wanted_ms),
        confirmed_at=format_rfc3339_or_none(one.confirmed_ms),
        updated_at=format_rfc3339(one.updated_ms),
    )


def desired_state_out(wish: DesiredState) -> DesiredStateOut:
    return DesiredStateOut(
        risk_level=cast(Any, wish.level),
        allow=wish.allow,
        max_token_lifetime_s=wish.max_token_lifetime_s,
        refresh_allowed=wish.refresh_allowed,
        revoke=wish.revoke,
    )


def _decode_desired_state(one: Actuation) -> DesiredState | None:
    try:
        return decode_desired_state(one.desired)
    except UnreadableAction:
        return None


def _decode_original(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError:
        return None

"""Containment: approvals, pins, blast radius, and the risk of principals."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from ...ingest.hashing import agent_key
from ...scoring.blast_radius import ACTS_FOR, MOST_DEPTH, blast_radius
from ...scoring.containment import Intervention
from ...scoring.records import AgentName, Edge, RiskLevel
from ..callers import Caller
from .containment_schemas import (
    ActingOut,
    ApproveIn,
    BlastRadiusOut,
    InterventionOut,
    PinIn,
    PrincipalOut,
    PrincipalSeenOut,
    ReachedOut,
    WhyIn,
)
from .finding import find_entry, no_such, visible_tenants
from .gate import Judge, Part, Parts, Reader
from .persons import person
from .route_agents import AMBIGUOUS, Cursor, Issuer, Limit, Tenant
from .route_decisions import key_of
from .schemas import PageOut, problems
from .times import iso_ms, iso_or_none

DAY_MS = 86_400_000
ENDED = problems({404: "no such intervention", 409: "somebody decided already, or its time is over"})

router = APIRouter(tags=["containment"])

Status = Literal["active", "pending", "approved", "rejected", "ended", "expired"]
Since = Annotated[float, Query(ge=0.04, le=3650, description="edges seen in the last so many days")]


@router.get("/v1/interventions", summary="List pins and approvals")
async def interventions(
    parts: Part,
    caller: Reader,
    kind: Literal["pin", "approval"] | None = None,
    status: Status | None = None,
    agent_id: Annotated[str | None, Query(max_length=2048)] = None,
    tenant: Tenant = None,
    issuer: Issuer = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOut[InterventionOut]:
    """Newest first. Scope `trust.score:read`."""
    tenants, key = visible_tenants(caller, tenant), None
    if agent_id is not None:
        key = await key_of(parts, caller, agent_id, tenant, issuer)
        if key is None:
            return PageOut(items=[], next_cursor=None)
    page = await parts.read(parts.services.store.list_interventions, tenants, kind, status, key, limit, cursor)
    return PageOut(items=[intervention_out(one) for one in page.items], next_cursor=page.next_cursor)


@router.get("/v1/approvals", summary="List approvals")
async def approvals(
    parts: Part,
    caller: Reader,
    status: Status | None = None,
    tenant: Tenant = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOut[InterventionOut]:
    """What persons are asked, newest first; `?status=pending` is what waits. Scope `trust.score:read`."""
    return await interventions(parts, caller, "approval", status, None, tenant, None, limit, cursor)


@router.get("/v1/approvals/{intervention_id}", summary="One approval")
async def approval(intervention_id: str, parts: Part, caller: Reader) -> InterventionOut:
    """Scope `trust.score:read`."""
    return intervention_out(await _found(parts, caller, intervention_id, "approval"))


@router.post("/v1/approvals/{intervention_id}/approve", responses=ENDED, summary="Approve")
async def approve(intervention_id: str, parts: Part, caller: Judge, wish: ApproveIn) -> InterventionOut:
    """The scopes pass from now on, for this agent alone and until `valid_s` is over. Scope `trust.feedback`."""
    asked = await _found(parts, caller, intervention_id, "approval")
    by = person(parts, caller, asked.agent, wish.why)
    made = await parts.services.guard.approvals.decide(asked, by, approve=True, valid_s=wish.valid_s)
    return intervention_out(made)


@router.post("/v1/approvals/{intervention_id}/reject", responses=ENDED, summary="Reject")
async def reject(intervention_id: str, parts: Part, caller: Judge, wish: WhyIn) -> InterventionOut:
    """The next request that needs a person asks anew. Scope `trust.feedback`."""
    asked = await _found(parts, caller, intervention_id, "approval")
    by = person(parts, caller, asked.agent, wish.why)
    return intervention_out(await parts.services.guard.approvals.decide(asked, by, approve=False, valid_s=0.0))


@router.post("/v1/approvals/{intervention_id}/withdraw", responses=ENDED, summary="Withdraw an approval")
async def withdraw(intervention_id: str, parts: Part, caller: Judge, wish: WhyIn) -> InterventionOut:
    """End an approval before its time. Scope `trust.feedback`."""
    made = await _found(parts, caller, intervention_id, "approval")
    return intervention_out(await parts.services.guard.approvals.end(made, person(parts, caller, made.agent, wish.why)))


@router.post("/v1/agents/{agent_id:path}/pin", status_code=201, responses=AMBIGUOUS, summary="Pin an agent's level")
async def pin(
    agent_id: str, parts: Part, caller: Judge, wish: PinIn, tenant: Tenant = None, issuer: Issuer = None
) -> InterventionOut:
    """Policy acts on this level until it expires, whatever is measured; a measured risk goes on being shown.

    Also for an agent that was never seen, where tenant and issuer are named. Scope `trust.feedback`.
    """
    name = _named(parts, caller, agent_id, tenant, issuer)
    by = person(parts, caller, name, wish.why)
    made = await parts.services.guard.approvals.pin(name, RiskLevel[wish.level.upper()], by, wish.valid_s)
    return intervention_out(made)


@router.post("/v1/agents/{agent_id:path}/unpin", responses={**AMBIGUOUS, **ENDED}, summary="End a pin")
async def unpin(
    agent_id: str, parts: Part, caller: Judge, wish: WhyIn, tenant: Tenant = None, issuer: Issuer = None
) -> InterventionOut:
    """The measured level is acted on again. Scope `trust.feedback`."""
    name = _named(parts, caller, agent_id, tenant, issuer)
    made = await parts.services.guard.approvals.unpin(name, person(parts, caller, name, wish.why))
    if made is None:
        raise no_such("pin")
    return intervention_out(made)


@router.get("/v1/agents/{agent_id:path}/blast-radius", responses=AMBIGUOUS, summary="Whom an agent reached")
async def radius(
    agent_id: str,
    parts: Part,
    caller: Reader,
    tenant: Tenant = None,
    issuer: Issuer = None,
    days: Since = 7.0,
    depth: Annotated[int, Query(ge=1, le=MOST_DEPTH)] = MOST_DEPTH,
) -> BlastRadiusOut:
    """Agents it delegated to or called, and theirs, with their own risk. Scope `trust.score:read`."""
    services = parts.services
    name = _named(parts, caller, agent_id, tenant, issuer)
    since_ms = services.now_ms() - int(days * DAY_MS)
    found = await parts.read(
        blast_radius, services.store, name, lambda one: _level_of(parts, one), since_ms=since_ms, depth=depth
    )
    level = services.guard.verdicts.level_of(name.tenant, name.issuer, name.agent_id)
    return BlastRadiusOut(
        agent_id=name.agent_id,
        tenant=name.tenant,
        issuer=name.issuer,
        risk_level=_word(level),
        descendants_policy=_word(services.policy.book.descendants),
        complete=found.complete,
        agents=[
            ReachedOut(
                agent_id=one.name.agent_id,
                depth=one.depth,
                kind=_kind(one.kind),
                via=one.via,
                first_seen_at=iso_ms(one.first_ms),
                last_seen_at=iso_ms(one.last_ms),
                risk_level=None if one.level is None else _word(one.level),
                edge_risk_score=_decayed(parts, one.risk, one.risk_ms),
            )
            for one in found.agents
        ],
        principals=[
            PrincipalSeenOut(
                principal_id=one.target,
                first_seen_at=iso_ms(one.first_ms),
                last_seen_at=iso_ms(one.last_ms),
                pair_risk_score=_decayed(parts, one.risk, one.risk_ms),
            )
            for one in found.principals
        ],
    )


@router.get("/v1/principals/{principal_id:path}/risk", summary="Risk of a principal")
async def principal(
    principal_id: str, parts: Part, caller: Reader, tenant: str, issuer: str, days: Since = 7.0
) -> PrincipalOut:
    """That of the riskiest agent that acted on its behalf, and of each of them. Scope `trust.score:read`."""
    visible_tenants(caller, tenant)
    alias = parts.services.alias
    known = {principal_id} if alias is None else {principal_id, alias(tenant, principal_id)}
    keys = [agent_key(tenant, issuer, f"principal\x1f{name}") for name in sorted(known)]
    since_ms = parts.services.now_ms() - int(days * DAY_MS)
    edges = await parts.read(parts.services.store.edges, keys, outgoing=False, kinds=(ACTS_FOR,), since_ms=since_ms)
    if not edges:
        raise no_such("principal")
    agents = sorted(
        (_acting(parts, edge) for edge in edges),
        key=lambda one: (-RiskLevel[one.risk_level.upper()], -one.risk_score, one.agent_id),
    )
    worst = agents[0]
    return PrincipalOut(
        principal_id=principal_id,
        tenant=tenant,
        issuer=issuer,
        risk_level=worst.risk_level,
        risk_score=worst.risk_score,
        agents=agents,
    )


def intervention_out(made: Intervention) -> InterventionOut:
    """A pin or an approval as it is answered."""
    agent = made.agent
    return InterventionOut(
        intervention_id=made.intervention_id,
        kind=made.kind,
        status=made.status,
        agent_id=agent.agent_id,
        tenant=agent.tenant,
        issuer=agent.issuer,
        level=_word(RiskLevel(made.level)),
        scopes=list(made.scopes),
        asked_why=made.asked_why,
        asked_by=made.asked_by,
        asked_at=iso_ms(made.asked_ms),
        decided_by=made.decided_by or None,
        decided_at=iso_or_none(made.decided_ms),
        why=made.why or None,
        expires_at=iso_ms(made.expires_ms),
    )


async def _found(parts: Parts, caller: Caller, intervention_id: str, kind: str) -> Intervention:
    tenants = visible_tenants(caller, None)
    found = await parts.read(parts.services.store.intervention, intervention_id, tenants)
    if found is None or found.kind != kind:
        raise no_such(kind)
    return found


def _named(parts: Parts, caller: Caller, agent_id: str, tenant: str | None, issuer: str | None) -> AgentName:
    """The agent that is meant; one that was never seen has to be named in full."""
    entry = find_entry(parts.services.view, caller, agent_id, tenant, issuer)
    if entry is not None:
        return entry.summary.name
    tenant = tenant if tenant is not None else caller.binding.default_tenant
    issuer = issuer if issuer is not None else caller.binding.default_issuer
    if tenant is None or issuer is None:
        raise no_such("agent")
    return AgentName(agent_key(tenant, issuer, agent_id), tenant, issuer, agent_id)


def _level_of(parts: Parts, name: AgentName) -> RiskLevel | None:
    entry = parts.services.view.get(name.tenant, name.issuer, name.agent_id)
    return None if entry is None else RiskLevel(entry.summary.level)


def _acting(parts: Parts, edge: Edge) -> ActingOut:
    entry = parts.services.view.get(edge.tenant, edge.issuer, edge.source)
    level = RiskLevel.UNKNOWN if entry is None else RiskLevel(entry.summary.level)
    score = 0.0 if entry is None else round(entry.summary.risk_score, 4)
    return ActingOut(
        agent_id=edge.source,
        risk_level=_word(level),
        risk_score=score,
        last_seen_at=iso_ms(edge.last_ms),
        pair_risk_score=_decayed(parts, edge.risk, edge.risk_ms),
    )


def _decayed(parts: Parts, risk: float, at_ms: int) -> float:
    """Risk of a pair as of now: it decays as that of agents does."""
    half_life_ms = parts.services.settings.risk.half_life_s * 1000
    age_ms = max(0, parts.services.now_ms() - at_ms)
    return round(float(risk * 0.5 ** min(age_ms / half_life_ms, 1000.0)), 4)


def _word(level: RiskLevel) -> Any:
    return level.label


def _kind(kind: str) -> Any:
    return kind

"""Containment: approvals, pins, blast radius, and the risk of principals."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query

from ...ingest.hashing import agent_key
from ...ingest.timestamps import DAY_MS, format_rfc3339
from ...scoring.records.agents import AgentEdge, AgentName, RiskLevel
from ...scoring.records.containment import Intervention
from ...scoring.store.blast_radius import ACTS_FOR, MAX_DEPTH, find_blast_radius
from ..decisions.routes import resolve_agent_key
from ..http.agent_lookup import find_agent_entry, not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.dependencies import AdministratorDep, ApplicationContext, ContextDep, ReaderDep, ReviewerDep
from ..http.problems import ProblemDetails, ProblemError
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
    TokenPolicyOut,
    problem_responses,
)
from ..http.separation_of_duties import attribute_to_caller
from .schemas import (
    ActingAgentOut,
    ActuationOut,
    ApprovalIn,
    BlastRadiusOut,
    InterventionOut,
    JustificationIn,
    PinIn,
    PrincipalRiskOut,
    ReachedAgentOut,
    ReachedPrincipalOut,
    ReconciliationOut,
    TokenPoliciesOut,
    _kind_word,
    _level_word,
    actuation_out,
    intervention_out,
)

ENDED_RESPONSES = problem_responses({404: "no such intervention", 409: "somebody decided already, or its time is over"})

router = APIRouter(tags=["containment"])

InterventionStatusParam = Literal["active", "pending", "approved", "rejected", "ended", "expired"]
DaysParam = Annotated[float, Query(ge=0.04, le=3650, description="edges seen in the last so many days")]


@router.get("/v1/interventions", summary="List pins and approvals")
async def list_interventions(
    parts: ContextDep,
    caller: ReaderDep,
    kind: Literal["pin", "approval"] | None = None,
    status: InterventionStatusParam | None = None,
    agent_id: Annotated[str | None, Query(max_length=2048)] = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[InterventionOut]:
    """Newest first. Scope `trust.score:read`."""
    tenants, key = visible_tenants(caller, tenant), None
    if agent_id is not None:
        key = await resolve_agent_key(parts, caller, agent_id, tenant, issuer)
        if key is None:
            return PageOut(items=[], next_cursor=None)
    page = await parts.call_store(parts.runtime.store.list_interventions, tenants, kind, status, key, limit, cursor)
    return PageOut(items=[intervention_out(one) for one in page.items], next_cursor=page.next_cursor)


@router.get("/v1/approvals", summary="List approvals")
async def list_approvals(
    parts: ContextDep,
    caller: ReaderDep,
    status: InterventionStatusParam | None = None,
    tenant: TenantParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[InterventionOut]:
    """What persons are asked, newest first; `?status=pending` is what waits. Scope `trust.score:read`."""
    return await list_interventions(parts, caller, "approval", status, None, tenant, None, limit, cursor)


@router.get("/v1/approvals/{intervention_id}", summary="One approval")
async def get_approval(intervention_id: str, parts: ContextDep, caller: ReaderDep) -> InterventionOut:
    """Scope `trust.score:read`."""
    return intervention_out(await _find_intervention(parts, caller, intervention_id, "approval"))


@router.post("/v1/approvals/{intervention_id}/approve", responses=ENDED_RESPONSES, summary="Approve")
async def approve_request(
    intervention_id: str, parts: ContextDep, caller: ReviewerDep, wish: ApprovalIn
) -> InterventionOut:
    """The scopes pass from now on, for this agent alone and until `valid_s` is over. Scope `trust.feedback`."""
    asked = await _find_intervention(parts, caller, intervention_id, "approval")
    by = attribute_to_caller(parts.runtime.settings.actuators, caller, asked.agent, wish.why)
    made = await parts.runtime.decision_point.approval_workflow.decide(asked, by, approve=True, valid_s=wish.valid_s)
    return intervention_out(made)


@router.post("/v1/approvals/{intervention_id}/reject", responses=ENDED_RESPONSES, summary="Reject")
async def reject_request(
    intervention_id: str, parts: ContextDep, caller: ReviewerDep, wish: JustificationIn
) -> InterventionOut:
    """The next request that needs a person asks anew. Scope `trust.feedback`."""
    asked = await _find_intervention(parts, caller, intervention_id, "approval")
    by = attribute_to_caller(parts.runtime.settings.actuators, caller, asked.agent, wish.why)
    return intervention_out(
        await parts.runtime.decision_point.approval_workflow.decide(asked, by, approve=False, valid_s=0.0)
    )


@router.post("/v1/approvals/{intervention_id}/withdraw", responses=ENDED_RESPONSES, summary="Withdraw an approval")
async def withdraw_approval(
    intervention_id: str, parts: ContextDep, caller: ReviewerDep, wish: JustificationIn
) -> InterventionOut:
    """End an approval before its time. Scope `trust.feedback`."""
    made = await _find_intervention(parts, caller, intervention_id, "approval")
    return intervention_out(
        await parts.runtime.decision_point.approval_workflow.end_intervention(
            made, attribute_to_caller(parts.runtime.settings.actuators, caller, made.agent, wish.why)
        )
    )


@router.post(
    "/v1/agents/{agent_id:path}/pin",
    status_code=201,
    responses=AMBIGUOUS_AGENT_RESPONSES,
    summary="Pin an agent's level",
)
async def pin_agent(
    agent_id: str,
    parts: ContextDep,
    caller: ReviewerDep,
    wish: PinIn,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
) -> InterventionOut:
    """Policy acts on this level until it expires, whatever is measured; a measured risk goes on being shown.

    Also for an agent that was never seen, where tenant and issuer are named. Scope `trust.feedback`.
    """
    name = resolve_agent_name(parts, caller, agent_id, tenant, issuer)
    by = attribute_to_caller(parts.runtime.settings.actuators, caller, name, wish.why)
    made = await parts.runtime.decision_point.approval_workflow.pin(
        name, RiskLevel[wish.level.upper()], by, wish.valid_s
    )
    return intervention_out(made)


@router.post(
    "/v1/agents/{agent_id:path}/unpin", responses={**AMBIGUOUS_AGENT_RESPONSES, **ENDED_RESPONSES}, summary="End a pin"
)
async def unpin_agent(
    agent_id: str,
    parts: ContextDep,
    caller: ReviewerDep,
    wish: JustificationIn,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
) -> InterventionOut:
    """The measured level is acted on again. Scope `trust.feedback`."""
    name = resolve_agent_name(parts, caller, agent_id, tenant, issuer)
    made = await parts.runtime.decision_point.approval_workflow.unpin(
        name, attribute_to_caller(parts.runtime.settings.actuators, caller, name, wish.why)
    )
    if made is None:
        raise not_found_error("pin")
    return intervention_out(made)


@router.get(
    "/v1/agents/{agent_id:path}/blast-radius", responses=AMBIGUOUS_AGENT_RESPONSES, summary="Whom an agent reached"
)
async def get_blast_radius(
    agent_id: str,
    parts: ContextDep,
    caller: ReaderDep,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    days: DaysParam = 7.0,
    depth: Annotated[int, Query(ge=1, le=MAX_DEPTH)] = MAX_DEPTH,
) -> BlastRadiusOut:
    """Agents it delegated to or called, and theirs, with their own risk. Scope `trust.score:read`."""
    services = parts.runtime
    name = resolve_agent_name(parts, caller, agent_id, tenant, issuer)
    since_ms = services.now_ms() - int(days * DAY_MS)
    found = await parts.call_store(
        find_blast_radius, services.store, name, lambda one: _measured_level(parts, one), since_ms=since_ms, depth=depth
    )
    level = services.decision_point.policy_evaluator.effective_level(name.tenant, name.issuer, name.agent_id)
    return BlastRadiusOut(
        agent_id=name.agent_id,
        tenant=name.tenant,
        issuer=name.issuer,
        risk_level=_level_word(level),
        descendants_policy=_level_word(services.live_policy.book.descendants),
        complete=found.complete,
        agents=[
            ReachedAgentOut(
                agent_id=one.name.agent_id,
                depth=one.depth,
                kind=_kind_word(one.kind),
                via=one.via,
                first_seen_at=format_rfc3339(one.first_ms),
                last_seen_at=format_rfc3339(one.last_ms),
                risk_level=None if one.level is None else _level_word(one.level),
                edge_risk_score=_decayed_risk(parts, one.risk, one.risk_ms),
            )
            for one in found.agents
        ],
        principals=[
            ReachedPrincipalOut(
                principal_id=one.target,
                first_seen_at=format_rfc3339(one.first_ms),
                last_seen_at=format_rfc3339(one.last_ms),
                pair_risk_score=_decayed_risk(parts, one.risk, one.risk_ms),
            )
            for one in found.principals
        ],
    )


@router.get("/v1/principals/{principal_id:path}/risk", summary="Risk of a principal")
async def get_principal_risk(
    principal_id: str, parts: ContextDep, caller: ReaderDep, tenant: str, issuer: str, days: DaysParam = 7.0
) -> PrincipalRiskOut:
    """That of the riskiest agent that acted on its behalf, and of each of them. Scope `trust.score:read`."""
    visible_tenants(caller, tenant)
    alias = parts.runtime.principal_alias
    known = {principal_id} if alias is None else {principal_id, alias(tenant, principal_id)}
    keys = [agent_key(tenant, issuer, f"principal\x1f{name}") for name in sorted(known)]
    since_ms = parts.runtime.now_ms() - int(days * DAY_MS)
    edges = await parts.call_store(
        parts.runtime.store.edges, keys, outgoing=False, kinds=(ACTS_FOR,), since_ms=since_ms
    )
    if not edges:
        raise not_found_error("principal")
    agents = sorted(
        (_acting_agent_out(parts, edge) for edge in edges),
        key=lambda one: (-RiskLevel[one.risk_level.upper()], -one.risk_score, one.agent_id),
    )
    worst = agents[0]
    return PrincipalRiskOut(
        principal_id=principal_id,
        tenant=tenant,
        issuer=issuer,
        risk_level=worst.risk_level,
        risk_score=worst.risk_score,
        agents=agents,
    )


async def _find_intervention(
    parts: ApplicationContext, caller: AuthenticatedCaller, intervention_id: str, kind: str
) -> Intervention:
    tenants = visible_tenants(caller, None)
    found = await parts.call_store(parts.runtime.store.intervention, intervention_id, tenants)
    if found is None or found.kind != kind:
        raise not_found_error(kind)
    return found


def resolve_agent_name(
    parts: ApplicationContext, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None
) -> AgentName:
    """The agent that is meant; one that was never seen has to be named in full."""
    entry = find_agent_entry(parts.runtime.risk_view, caller, agent_id, tenant, issuer)
    if entry is not None:
        return entry.summary.name
    tenant = tenant if tenant is not None else caller.binding.default_tenant
    issuer = issuer if issuer is not None else caller.binding.default_issuer
    if tenant is None or issuer is None:
        raise not_found_error("agent")
    return AgentName(agent_key(tenant, issuer, agent_id), tenant, issuer, agent_id)


def _measured_level(parts: ApplicationContext, name: AgentName) -> RiskLevel | None:
    entry = parts.runtime.risk_view.get(name.tenant, name.issuer, name.agent_id)
    return None if entry is None else RiskLevel(entry.summary.level)


def _acting_agent_out(parts: ApplicationContext, edge: AgentEdge) -> ActingAgentOut:
    entry = parts.runtime.risk_view.get(edge.tenant, edge.issuer, edge.source)
    level = RiskLevel.UNKNOWN if entry is None else RiskLevel(entry.summary.level)
    score = 0.0 if entry is None else round(entry.summary.risk_score, 4)
    return ActingAgentOut(
        agent_id=edge.source,
        risk_level=_level_word(level),
        risk_score=score,
        last_seen_at=format_rfc3339(edge.last_ms),
        pair_risk_score=_decayed_risk(parts, edge.risk, edge.risk_ms),
    )


def _decayed_risk(parts: ApplicationContext, risk: float, at_ms: int) -> float:
    """Risk of a pair as of now: it decays as that of agents does."""
    half_life_ms = parts.runtime.settings.risk.half_life_s * 1000
    age_ms = max(0, parts.runtime.now_ms() - at_ms)
    return round(float(risk * 0.5 ** min(age_ms / half_life_ms, 1000.0)), 4)


# Actuations: what is lowered at which server, what was there before, and a look at all of it on demand.


actuations_router = APIRouter(tags=["actuations"])


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


@router.get("/v1/policy", summary="Token policy of every level")
async def get_policy(parts: ContextDep, caller: ReaderDep) -> TokenPoliciesOut:  # noqa: ARG001 (the scope is what counts)
    """Scope `trust.score:read`."""
    book = parts.runtime.live_policy.book
    levels = {level.label: TokenPolicyOut(**msgspec.to_builtins(book.table[level])) for level in RiskLevel}
    return TokenPoliciesOut(version=book.version, levels=levels)

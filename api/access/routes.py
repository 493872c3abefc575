"""Routes of containment: approvals, pins, blast radius, actuations, and the risk of principals."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.described import DecisionId, IssuerName, PrincipalId, RiskScore, TenantName, member
from trustwatch.scoring.delivery.actuators.desired_state import DesiredState, UnreadableAction, decode_desired_state
from trustwatch.scoring.records.agents import AgentEdge, LevelName
from trustwatch.scoring.records.containment import Actuation, Intervention, InterventionStatus
from trustwatch.scoring.store.blast_radius import MAX_DEPTH, ReachedAgent
from trustwatch.scoring.store.database import Page
from trustwatch_client.risk_answers import CallVerdict

from ..http.agent_lookup import AGENT_PATH, PRINCIPAL_PATH, AgentSelector
from ..http.dependencies import AdministratorDep, AgentDep, ReaderDep, ReviewerDep, provided
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    UNKNOWN_AGENT_RESPONSES,
    AgentParam,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from ..http.separation_of_duties import MAX_REASON_LENGTH
from ..http.wire import TimeText, Wire, level_word
from .call_evaluation import CallEvaluator
from .service import DEFAULT_VALID_S, MAX_VALID_S, MIN_VALID_S, ActingAgent, BlastRadiusReport, ContainmentService

_SEEN: Final = {"first_ms": "first_seen_at", "last_ms": "last_seen_at"}
_CALL_QUESTION: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/CallQuestion"}}}
_FORBIDDEN = ConfigDict(extra="forbid")

ReasonText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_REASON_LENGTH,
        description="reason; it is stored and audited",
        examples=["CHG-1234"],
    ),
]
ValidityPeriod = Annotated[float, Field(ge=MIN_VALID_S, le=MAX_VALID_S, description="how long it is valid, s")]


class ApprovalIn(BaseModel):
    """Approves the scopes for a limited time."""

    model_config = _FORBIDDEN

    why: ReasonText
    valid_s: ValidityPeriod = DEFAULT_VALID_S
    trust_path: bool = Field(
        False, description="for a scope `path:…`: also treat the access path of the call as known for that time"
    )
    one_use: bool = Field(False, description="the first permit that uses the approval spends it")


class JustificationIn(BaseModel):
    """Reason why something is rejected or ended."""

    model_config = _FORBIDDEN

    why: ReasonText


class PinIn(BaseModel):
    """Pins the level that the policy uses."""

    model_config = _FORBIDDEN

    level: Literal["low", "medium", "high", "critical"] = Field(description="level that policy acts on")
    why: ReasonText
    valid_s: ValidityPeriod = DEFAULT_VALID_S


class InterventionOut(Wire, of=Intervention):
    """A pin or an approval."""


class CallVerdictOut(Wire, of=CallVerdict):
    """The verdict on a call before it is made."""

    would_allow: bool
    mode: Literal["shadow", "enforce"]
    risk_level: LevelName
    basis: Literal["model", "level"]


class ReachedAgentOut(
    Wire,
    of=ReachedAgent,
    omit=("name.tenant", "name.issuer"),
    rename={**_SEEN, "level": "risk_level", "risk": "edge_risk_score"},
):
    """An agent that was reached."""

    kind: Literal["delegated", "called"]


class ReachedPrincipalOut(
    Wire,
    of=AgentEdge,
    only=("target", "first_ms", "last_ms", "risk"),
    rename={**_SEEN, "target": "principal_id", "risk": "pair_risk_score"},
):
    """A principal on whose behalf the agent acted."""

    principal_id: PrincipalId
    first_seen_at: TimeText
    last_seen_at: TimeText
    pair_risk_score: Annotated[RiskScore, member("risk while it acted for this principal, decayed")]


class BlastRadiusOut(
    Wire, of=BlastRadiusReport, rename={"level": "risk_level", "descendants_level": "descendants_policy"}
):
    """Agents and principals that an agent reached."""


class ActingAgentOut(
    Wire,
    of=ActingAgent,
    rename={"level": "risk_level", "last_ms": "last_seen_at", "pair_risk": "pair_risk_score"},
):
    """An agent that acts for a principal."""


class PrincipalRiskOut(Wire):
    """Risk of a principal: that of the riskiest agent that acted for it."""

    principal_id: PrincipalId
    tenant: TenantName
    issuer: IssuerName
    risk_level: Annotated[LevelName, member("level of the riskiest agent", "high")]
    risk_score: RiskScore
    agents: list[ActingAgentOut] = Field(description="agents, the riskiest first")


class DesiredStateOut(Wire, of=DesiredState, rename={"level": "risk_level"}):
    """The desired state of the agent's client at an authorization server."""

    risk_level: LevelName


class ActuationOut(Wire, of=Actuation):
    """The state of one agent at one actuator."""

    desired: DesiredStateOut | None = Field(
        description="desired state; null if another version of the service wrote it"
    )
    original: Any
    decision_id: DecisionId | None


class ReconciliationOut(BaseModel):
    """Number of agents that a reconciliation looks at."""

    agents: int = Field(description="number of agents that are looked at", examples=[12])


def interventions_out(page: Page[Intervention]) -> PageOut[InterventionOut]:
    """Return a page of pins and approvals in the format of the API."""
    return PageOut(items=[InterventionOut.of(one) for one in page.items], next_cursor=page.next_cursor)


def actuation_out(actuation: Actuation) -> ActuationOut:
    """Return an actuation in the format of the API; values that another version wrote are null."""
    desired, original = None, None
    with suppress(UnreadableAction):
        desired = decode_desired_state(actuation.desired)
    with suppress(msgspec.DecodeError):
        original = msgspec.json.decode(actuation.original) if actuation.original else None
    return ActuationOut.of(
        actuation,
        desired=None if desired is None else DesiredStateOut.of(desired),
        original=original,
        decision_id=None if desired is None else desired.decision_id or None,
    )


ENDED_RESPONSES = problem_responses(
    {404: "The intervention does not exist.", 409: "The intervention was already decided, or has expired."}
)

router = APIRouter(tags=["containment"], responses=COMMON_PROBLEMS)

CallEvaluatorDep = Annotated[CallEvaluator, Depends(provided(CallEvaluator))]
ContainmentServiceDep = Annotated[ContainmentService, Depends(provided(ContainmentService))]
InterventionId = Annotated[str, Path(description="id of the approval")]
StatusParam = Annotated[InterventionStatus | None, Query(description="Only those with this status.")]
DaysParam = Annotated[float, Query(ge=0.04, le=3650, description="Only interactions of the last so many days.")]


@router.get("/v1/interventions", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List pins and approvals")
async def list_interventions(
    caller: ReaderDep,
    containment: ContainmentServiceDep,
    kind: Annotated[Literal["pin", "approval"] | None, Query(description="Only those of this kind.")] = None,
    status: StatusParam = None,
    agent_id: AgentParam = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[InterventionOut]:
    """Newest first."""
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    return interventions_out(await containment.list(caller, kind, status, agent, tenant, limit, cursor))


@router.get("/v1/approvals", summary="List approvals")
async def list_approvals(
    caller: ReaderDep,
    containment: ContainmentServiceDep,
    status: StatusParam = None,
    tenant: TenantParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[InterventionOut]:
    """Newest first. `?status=pending` lists the requests that wait for a decision."""
    return interventions_out(await containment.list(caller, "approval", status, None, tenant, limit, cursor))


@router.get(
    "/v1/approvals/{intervention_id}",
    responses=problem_responses({404: "The approval does not exist."}),
    summary="Retrieve an approval",
)
async def get_approval(
    intervention_id: InterventionId, caller: ReaderDep, containment: ContainmentServiceDep
) -> InterventionOut:
    """Returns an approval."""
    return InterventionOut.of(await containment.get(caller, intervention_id))


@router.post("/v1/approvals/{intervention_id}/approve", responses=ENDED_RESPONSES, summary="Approve a request")
async def approve_request(
    intervention_id: InterventionId, caller: ReviewerDep, containment: ContainmentServiceDep, approval: ApprovalIn
) -> InterventionOut:
    """Allows the scopes for this agent for `valid_s` seconds, or for one permit with `one_use`."""
    return InterventionOut.of(
        await containment.approve(
            caller,
            intervention_id,
            approval.why,
            approval.valid_s,
            trust_path=approval.trust_path,
            one_use=approval.one_use,
        )
    )


@router.post("/v1/approvals/{intervention_id}/reject", responses=ENDED_RESPONSES, summary="Reject a request")
async def reject_request(
    intervention_id: InterventionId,
    caller: ReviewerDep,
    containment: ContainmentServiceDep,
    justification: JustificationIn,
) -> InterventionOut:
    """The next request that needs an approval creates a new one."""
    return InterventionOut.of(await containment.reject(caller, intervention_id, justification.why))


@router.post("/v1/approvals/{intervention_id}/withdraw", responses=ENDED_RESPONSES, summary="Withdraw an approval")
async def withdraw_approval(
    intervention_id: InterventionId,
    caller: ReviewerDep,
    containment: ContainmentServiceDep,
    justification: JustificationIn,
) -> InterventionOut:
    """Ends an approval before it expires."""
    return InterventionOut.of(await containment.withdraw(caller, intervention_id, justification.why))


@router.post(
    AGENT_PATH + "/pin",
    status_code=201,
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="Pin an agent's level",
)
async def pin_agent(
    agent: AgentDep, caller: ReviewerDep, containment: ContainmentServiceDep, pin: PinIn
) -> InterventionOut:
    """The policy uses this level until the pin expires. The measured risk continues to be shown.

    An agent that was never seen can be pinned if tenant and issuer are given.
    """
    return InterventionOut.of(await containment.pin(caller, agent, pin.level, pin.why, pin.valid_s))


@router.post(AGENT_PATH + "/unpin", responses={**AMBIGUOUS_AGENT_RESPONSES, **ENDED_RESPONSES}, summary="End a pin")
async def unpin_agent(
    agent: AgentDep, caller: ReviewerDep, containment: ContainmentServiceDep, justification: JustificationIn
) -> InterventionOut:
    """The policy uses the measured level again."""
    return InterventionOut.of(await containment.unpin(caller, agent, justification.why))


@router.post(
    AGENT_PATH + "/calls/evaluate",
    response_model=CallVerdictOut,
    responses=AMBIGUOUS_AGENT_RESPONSES,
    openapi_extra={"requestBody": {"required": True, "content": _CALL_QUESTION}},
    summary="Evaluate a call before it is made",
)
async def evaluate_call(agent: AgentDep, caller: ReaderDep, calls: CallEvaluatorDep, request: Request) -> Response:
    """Returns allow, step up or deny, from memory. Nothing is learned from the request. The body has the members of an
    event.

    If a person approves `approval_id`, this exact call is allowed until the approval expires.
    """
    # Reached only if a server provides no `raw_path`: `FastCallRoute` answers before FastAPI does.
    body = await calls.answer(caller, *agent, await request.body())
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get(
    AGENT_PATH + "/blast-radius",
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="Retrieve the blast radius of an agent",
)
async def get_blast_radius(
    agent: AgentDep,
    caller: ReaderDep,
    containment: ContainmentServiceDep,
    days: DaysParam = 7.0,
    depth: Annotated[int, Query(ge=1, le=MAX_DEPTH, description="Maximum number of steps from the agent.")] = MAX_DEPTH,
) -> BlastRadiusOut:
    """Returns the agents that it delegated to or called, directly or through others, with their own risk."""
    return BlastRadiusOut.of(await containment.blast_radius(caller, agent, days, depth))


@router.get(
    PRINCIPAL_PATH + "/risk",
    responses=problem_responses({404: "The principal does not exist, or the caller may not see it."}),
    summary="Retrieve the risk of a principal",
)
async def get_principal_risk(
    principal_id: Annotated[str, Path(description="id of the principal, percent-encoded once")],
    caller: ReaderDep,
    containment: ContainmentServiceDep,
    tenant: Annotated[str, Query(description="tenant of the principal; one of the caller's own")],
    issuer: Annotated[str, Query(description="issuer under which the principal's agents are known")],
    days: DaysParam = 7.0,
) -> PrincipalRiskOut:
    """Returns the risk of the riskiest agent that acted for the principal, and of each other one."""
    agents = await containment.principal_risk(caller, principal_id, tenant, issuer, days)
    acting = [ActingAgentOut.of(agent) for agent in agents]
    level, score = level_word(agents[0].level), agents[0].risk_score
    return PrincipalRiskOut(
        principal_id=principal_id, tenant=tenant, issuer=issuer, risk_level=level, risk_score=score, agents=acting
    )


actuations_router = APIRouter(tags=["actuations"], responses=COMMON_PROBLEMS)


@actuations_router.get(
    "/v1/actuations",
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="List actuations",
)
async def list_actuations(
    caller: ReaderDep,
    containment: ContainmentServiceDep,
    target: Annotated[str | None, Query(max_length=64, description="Name of the actuator.")] = None,
    agent_id: AgentParam = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[ActuationOut]:
    """Most recently changed first. An agent that was never above `low` has none. To name an agent that was never
    seen, give its tenant and issuer.
    """
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    page = await containment.actuations(caller, target, agent, tenant, limit, cursor)
    return PageOut(items=[actuation_out(actuation) for actuation in page.items], next_cursor=page.next_cursor)


@actuations_router.post(
    "/v1/actuations/{target}/reconcile",
    status_code=202,
    responses=problem_responses({404: "The actuator does not exist."}),
    summary="Reconcile an authorization server",
)
async def reconcile_actuator(
    target: Annotated[str, Path(description="name of the authorization server in the settings")],
    caller: AdministratorDep,
    containment: ContainmentServiceDep,
    tenant: TenantParam = None,
) -> ReconciliationOut:
    """Compares every agent that is restricted, or should be, with the server, and corrects the differences.

    Runs in the background, as it does at the start of the service and every hour.
    """
    return ReconciliationOut(agents=await containment.reconcile(caller, target, tenant))

"""Routes of containment: approvals, pins, blast radius, actuations, and the risk of principals."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from trustwatch.scoring.records.containment import InterventionStatus
from trustwatch.scoring.store.blast_radius import MAX_DEPTH

from ..http.agent_lookup import AgentSelector
from ..http.agent_paths import AGENT_PATH, PRINCIPAL_PATH
from ..http.dependencies import AdministratorDep, AgentDep, ReaderDep, ReviewerDep, provided
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    UNKNOWN_AGENT_RESPONSES,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from .call_answers import CallAnswers
from .schemas import (
    CALL_QUESTION_CONTENT,
    ActuationOut,
    ApprovalIn,
    BlastRadiusOut,
    CallVerdictOut,
    InterventionOut,
    JustificationIn,
    PinIn,
    PrincipalRiskOut,
    ReconciliationOut,
    actuation_out,
    blast_radius_out,
    intervention_out,
    interventions_out,
    principal_risk_out,
)
from .service import ContainmentService

ENDED_RESPONSES = problem_responses({404: "no such intervention", 409: "somebody decided already, or its time is over"})

router = APIRouter(tags=["containment"], responses=COMMON_PROBLEMS)

CallAnswersDep = Annotated[CallAnswers, Depends(provided(CallAnswers))]
ContainmentServiceDep = Annotated[ContainmentService, Depends(provided(ContainmentService))]
DaysParam = Annotated[float, Query(ge=0.04, le=3650, description="edges seen in the last so many days")]


@router.get("/v1/interventions", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List pins and approvals")
async def list_interventions(
    caller: ReaderDep,
    containment: ContainmentServiceDep,
    kind: Literal["pin", "approval"] | None = None,
    status: InterventionStatus | None = None,
    agent_id: Annotated[str | None, Query(max_length=2048)] = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[InterventionOut]:
    """Newest first. Scope `trust.score:read`."""
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    return interventions_out(await containment.list(caller, kind, status, agent, tenant, limit, cursor))


@router.get("/v1/approvals", summary="List approvals")
async def list_approvals(
    caller: ReaderDep,
    containment: ContainmentServiceDep,
    status: InterventionStatus | None = None,
    tenant: TenantParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[InterventionOut]:
    """Requests for approval, newest first; `?status=pending` lists those that wait. Scope `trust.score:read`."""
    return interventions_out(await containment.list(caller, "approval", status, None, tenant, limit, cursor))


@router.get(
    "/v1/approvals/{intervention_id}", responses=problem_responses({404: "no such approval"}), summary="One approval"
)
async def get_approval(intervention_id: str, caller: ReaderDep, containment: ContainmentServiceDep) -> InterventionOut:
    """Scope `trust.score:read`."""
    return intervention_out(await containment.get(caller, intervention_id))


@router.post("/v1/approvals/{intervention_id}/approve", responses=ENDED_RESPONSES, summary="Approve")
async def approve_request(
    intervention_id: str, caller: ReviewerDep, containment: ContainmentServiceDep, approval: ApprovalIn
) -> InterventionOut:
    """The scopes pass from now on, for this agent alone and until `valid_s` is over, or one permit before with
    `one_use`. Scope `trust.feedback`."""
    return intervention_out(
        await containment.approve(
            caller,
            intervention_id,
            approval.why,
            approval.valid_s,
            trust_path=approval.trust_path,
            one_use=approval.one_use,
        )
    )


@router.post("/v1/approvals/{intervention_id}/reject", responses=ENDED_RESPONSES, summary="Reject")
async def reject_request(
    intervention_id: str, caller: ReviewerDep, containment: ContainmentServiceDep, justification: JustificationIn
) -> InterventionOut:
    """The next request that needs a person asks anew. Scope `trust.feedback`."""
    return intervention_out(await containment.reject(caller, intervention_id, justification.why))


@router.post("/v1/approvals/{intervention_id}/withdraw", responses=ENDED_RESPONSES, summary="Withdraw an approval")
async def withdraw_approval(
    intervention_id: str, caller: ReviewerDep, containment: ContainmentServiceDep, justification: JustificationIn
) -> InterventionOut:
    """End an approval before its time. Scope `trust.feedback`."""
    return intervention_out(await containment.withdraw(caller, intervention_id, justification.why))


@router.post(
    AGENT_PATH + "/pin",
    status_code=201,
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="Pin an agent's level",
)
async def pin_agent(
    agent: AgentDep, caller: ReviewerDep, containment: ContainmentServiceDep, pin: PinIn
) -> InterventionOut:
    """Policy acts on this level until it expires, whatever is measured; a measured risk goes on being shown.

    Also for an agent that was never seen, where tenant and issuer are named. Scope `trust.feedback`.
    """
    return intervention_out(await containment.pin(caller, agent, pin.level, pin.why, pin.valid_s))


@router.post(AGENT_PATH + "/unpin", responses={**AMBIGUOUS_AGENT_RESPONSES, **ENDED_RESPONSES}, summary="End a pin")
async def unpin_agent(
    agent: AgentDep, caller: ReviewerDep, containment: ContainmentServiceDep, justification: JustificationIn
) -> InterventionOut:
    """The measured level is acted on again. Scope `trust.feedback`."""
    return intervention_out(await containment.unpin(caller, agent, justification.why))


@router.post(
    AGENT_PATH + "/calls/evaluate",
    response_model=CallVerdictOut,
    responses=AMBIGUOUS_AGENT_RESPONSES,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": CALL_QUESTION_CONTENT}}},
    summary="Verdict on a call before it is made",
)
async def evaluate_call(agent: AgentDep, caller: ReaderDep, answers: CallAnswersDep, request: Request) -> Response:
    """Allow, step up or deny, from memory; nothing is learned by asking. The body has members of an event.

    A person's yes to `approval_id` holds for this very call until it expires. Scope `trust.score:read`.
    """
    # Reached only where a server gives no `raw_path`: `FastCallRoute` answers before FastAPI does.
    body = await answers.answer(caller, *agent, await request.body())
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get(
    AGENT_PATH + "/blast-radius",
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="Whom an agent reached",
)
async def get_blast_radius(
    agent: AgentDep,
    caller: ReaderDep,
    containment: ContainmentServiceDep,
    days: DaysParam = 7.0,
    depth: Annotated[int, Query(ge=1, le=MAX_DEPTH)] = MAX_DEPTH,
) -> BlastRadiusOut:
    """Agents it delegated to or called, and theirs, with their own risk. Scope `trust.score:read`."""
    return blast_radius_out(await containment.blast_radius(caller, agent, days, depth))


@router.get(
    PRINCIPAL_PATH + "/risk",
    responses=problem_responses({404: "no such principal, or none that the caller may see"}),
    summary="Risk of a principal",
)
async def get_principal_risk(
    principal_id: str,
    caller: ReaderDep,
    containment: ContainmentServiceDep,
    tenant: str,
    issuer: str,
    days: DaysParam = 7.0,
) -> PrincipalRiskOut:
    """Risk of a principal: that of its riskiest agent, and of each that acted for it. Scope `trust.score:read`."""
    agents = await containment.principal_risk(caller, principal_id, tenant, issuer, days)
    return principal_risk_out(principal_id, tenant, issuer, agents)


actuations_router = APIRouter(tags=["actuations"], responses=COMMON_PROBLEMS)


@actuations_router.get(
    "/v1/actuations",
    responses=UNKNOWN_AGENT_RESPONSES | AMBIGUOUS_AGENT_RESPONSES,
    summary="What actuators did and are to do",
)
async def list_actuations(
    caller: ReaderDep,
    containment: ContainmentServiceDep,
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
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    page = await containment.actuations(caller, target, agent, tenant, limit, cursor)
    return PageOut(items=[actuation_out(actuation) for actuation in page.items], next_cursor=page.next_cursor)


@actuations_router.post(
    "/v1/actuations/{target}/reconcile",
    status_code=202,
    responses=problem_responses({404: "no such actuator"}),
    summary="Look at a server anew",
)
async def reconcile_actuator(
    target: str, caller: AdministratorDep, containment: ContainmentServiceDep, tenant: TenantParam = None
) -> ReconciliationOut:
    """Compare every agent that is, or ought to be, lowered with the server, and put right what differs.

    It is done in the background, as at the start of the service and every hour. Scope `trust.admin`.
    """
    return ReconciliationOut(agents=await containment.reconcile(caller, target, tenant))

"""Feedback on decisions: preview, adopt, list, revoke."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from trustwatch.scoring.records.feedback import FeedbackState, FeedbackVerdict

from ..http.agent_lookup import AgentSelector
from ..http.dependencies import ReaderDep, ReviewerDep, provided
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from .schemas import (
    FeedbackIn,
    FeedbackOut,
    PreviewOut,
    PreviewStartedOut,
    draft_from_body,
    feedback_out,
    preview_out,
)
from .service import FeedbackService

router = APIRouter(tags=["feedback"], responses=COMMON_PROBLEMS)

FeedbackServiceDep = Annotated[FeedbackService, Depends(provided(FeedbackService))]
ADOPTION_RESPONSES = problem_responses(
    {404: "no such decision", 409: "no finished preview of this draft, or too many rules"}
)
PREVIEW_RESPONSES = problem_responses({404: "no such decision", 429: "too many previews run or wait"})


@router.post(
    "/v1/decisions/{decision_id}/feedback", status_code=201, responses=ADOPTION_RESPONSES, summary="Give feedback"
)
async def adopt_feedback(
    decision_id: str, caller: ReviewerDep, feedback: FeedbackServiceDep, draft: FeedbackIn
) -> FeedbackOut:
    """A false positive needs the finished preview of the same draft, acts at once, in its scope alone, and expires.

    A true positive keeps its window out of future training and changes nothing else. Scope `trust.feedback`.
    """
    return feedback_out(await feedback.adopt(caller, decision_id, draft_from_body(draft)))


@router.post(
    "/v1/decisions/{decision_id}/feedback/preview",
    status_code=202,
    responses=PREVIEW_RESPONSES,
    summary="Preview feedback",
)
async def start_feedback_preview(
    decision_id: str, caller: ReviewerDep, feedback: FeedbackServiceDep, draft: FeedbackIn
) -> PreviewStartedOut:
    """Replay the last days without the rule and with it, in the background. Scope `trust.feedback`."""
    preview = await feedback.start_preview(caller, decision_id, draft_from_body(draft))
    return PreviewStartedOut(preview_id=preview.preview_id, status=preview.status)


@router.get(
    "/v1/feedback/previews/{preview_id}", responses=problem_responses({404: "no such preview"}), summary="One preview"
)
async def get_feedback_preview(preview_id: str, caller: ReaderDep, feedback: FeedbackServiceDep) -> PreviewOut:
    """Progress and result of a preview. Scope `trust.score:read`."""
    return preview_out(await feedback.get_preview(caller, preview_id))


@router.get("/v1/feedback", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List feedback")
async def list_feedback(
    caller: ReaderDep,
    feedback: FeedbackServiceDep,
    status: FeedbackState | None = None,
    verdict: FeedbackVerdict | None = None,
    agent_id: Annotated[str | None, Query(max_length=2048)] = None,
    decision_id: Annotated[str | None, Query(max_length=100)] = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[FeedbackOut]:
    """Newest first, with what each rule did. Scope `trust.score:read`."""
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    page = await feedback.list(caller, status, verdict, agent, decision_id, tenant, limit, cursor)
    return PageOut(items=[feedback_out(entry) for entry in page.items], next_cursor=page.next_cursor)


@router.get(
    "/v1/feedback/{feedback_id}", responses=problem_responses({404: "no such feedback"}), summary="One feedback"
)
async def get_feedback(feedback_id: str, caller: ReaderDep, feedback: FeedbackServiceDep) -> FeedbackOut:
    """One feedback with every step of its life. Scope `trust.score:read`."""
    return feedback_out(await feedback.get(caller, feedback_id))


@router.delete(
    "/v1/feedback/{feedback_id}",
    responses=problem_responses({404: "no such feedback", 409: "it is revoked already"}),
    summary="Revoke feedback",
)
async def revoke_feedback(
    feedback_id: str,
    caller: ReviewerDep,
    feedback: FeedbackServiceDep,
    reason: Annotated[str, Query(min_length=1, max_length=1000, description="why; kept with it")],
) -> FeedbackOut:
    """The rule ends at once; what was learned while it held stays learned. Scope `trust.feedback`."""
    return feedback_out(await feedback.revoke(caller, feedback_id, reason))

"""Feedback on decisions: preview, adopt, list, revoke."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.described import AgentId, EventId, IssuerName, TenantName
from trustwatch.scoring.records.agents import LevelName
from trustwatch.scoring.records.feedback import Feedback, FeedbackPreview, FeedbackState, FeedbackVerdict

from ..http.agent_lookup import AgentSelector
from ..http.dependencies import ReaderDep, ReviewerDep, provided
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    AgentParam,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from ..http.slice import Slice
from ..http.wire import TimeText, Wire
from .drafts import FeedbackDraft
from .service import FeedbackService, FeedbackStatus

FeedbackText = Annotated[str, Field(max_length=1000)]


class FeedbackScopeIn(BaseModel):
    """Scope of a rule: agents and features that it is about."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["agent", "peer_group"] = Field("agent", description="the decision's agent, or all of its type")
    features: list[Annotated[str, Field(max_length=100)]] | None = Field(
        None, max_length=60, description="features or codes of reasons; null for all except hard signals"
    )
    resource: Annotated[str, Field(max_length=2048)] | None = Field(
        None, description="target or resource id of events; null for any"
    )


class FeedbackIn(BaseModel):
    """Verdict of a person on a decision."""

    model_config = ConfigDict(extra="forbid")

    verdict: FeedbackVerdict = Field(description="whether the decision was right", examples=["false_positive"])
    scope: FeedbackScopeIn = Field(FeedbackScopeIn(), description="agents and features that the rule is about")  # type: ignore[call-arg]  # pydantic's defaults
    reason: FeedbackText = Field(description="reason; it is stored, and part of the audit event")
    expires_in_s: int = Field(0, ge=0, le=31_622_400, description="for a false positive: how long its rule applies, s")
    preview_id: str | None = Field(None, max_length=100, description="id of the finished preview of the same draft")
    accept_unseen: bool = Field(False, description="adopt the rule even though there was no history for a preview")


class FeedbackScopeOut(Wire, of=Feedback, only=("kind", "agent", "agent_type", "features", "resource")):
    """Scope of a rule: agents and features that it is about."""


class FeedbackOut(
    Wire,
    of=FeedbackStatus,
    omit=[f"feedback.{name}" for name in ("kind", "agent", "agent_type", "features", "resource")],
    rename={
        "feedback.from_ms": "label_from",
        "feedback.until_ms": "label_until",
        "matched": "events_matched",
        "last_ms": "last_matched_at",
    },
):
    """Feedback, and what became of it."""

    scope: FeedbackScopeOut = Field(description="agents and features that the rule is about")


class PreviewStartedOut(Wire, of=FeedbackPreview, only=("preview_id", "status")):
    """A preview that has begun."""


class PreviewWindowOut(Wire):
    """Events that a preview replayed."""

    model_config = ConfigDict(populate_by_name=True)

    from_: TimeText = Field(alias="from", serialization_alias="from", description="time of the first event")
    to: TimeText = Field(description="time of the last event")
    events: int = Field(description="number of events")
    source: str = Field(description="log, archive and log, or kafka")


class PreviewAlertOut(Wire):
    """A rise of an agent's level in the replay."""

    agent_id: AgentId
    tenant: TenantName
    issuer: IssuerName
    time: TimeText
    event_id: EventId
    level: LevelName = Field(description="level without the rule", examples=["high"])
    level_with_rule: LevelName = Field(description="level that it would have reached under the rule", examples=["low"])
    reasons: list[str] = Field(description="why, the strongest first")
    marked: bool = Field(description="whether this is the decision that the feedback is about")
    same_rise: bool = Field(False, description="whether it is a step of the rise that led to that decision")


class LostDetectionOut(PreviewAlertOut):
    """A detection that would be lost."""

    why: Literal["confirmed", "level"] = Field(description="a person confirmed this attack, or its level was high")
    feedback_id: str | None = Field(None, description="feedback that confirmed it")


class RemainingAnomalyOut(Wire):
    """A feature outside the rule that makes the matched events anomalous."""

    feature: str = Field(description="name of the feature", examples=["rate_deviation"])
    events: int = Field(description="number of events")


class PreviewOut(Wire, of=FeedbackPreview):
    """A preview. Its results are null until it is done."""

    window: PreviewWindowOut | None = Field(None, description="events that were replayed")
    events_matched: int | None = Field(None, description="events that the rule matched", examples=[14])
    alerts_before: int | None = Field(None, description="alerts without the rule", examples=[9])
    alerts_after: int | None = Field(None, description="alerts with the rule", examples=[2])
    alerts_removed: list[PreviewAlertOut] | None = Field(None, description="at most 200")
    alerts_removed_count: int | None = Field(None, description="alerts that the rule removes", examples=[7])
    detections_lost: list[LostDetectionOut] | None = Field(None, description="at most 200, confirmed attacks first")
    detections_lost_count: int | None = Field(None, description="detections that the rule would lose", examples=[0])
    agents_affected: int | None = Field(None, description="agents whose risk it changes", examples=[3])
    still_odd: list[RemainingAnomalyOut] | None = Field(None, description="other anomalies in these events")
    unseen: str | None = Field(None, description="why there was no history for a preview; empty if there was")


def feedback_out(status: FeedbackStatus) -> FeedbackOut:
    """Feedback as it is answered."""
    return FeedbackOut.of(status, scope=FeedbackScopeOut.of(status.feedback))


def draft_from_body(body: FeedbackIn) -> FeedbackDraft:
    """Draft that a body asks for."""
    return msgspec.convert(body.model_dump(exclude={"scope"}) | body.scope.model_dump(), FeedbackDraft)


router = APIRouter(tags=["feedback"], responses=COMMON_PROBLEMS)

FeedbackIdParam = Annotated[str, Path(description="id of the feedback")]
DecisionIdParam = Annotated[str, Path(description="id of the decision")]
FeedbackServiceDep = Annotated[FeedbackService, Depends(provided(FeedbackService))]
ADOPTION_RESPONSES = problem_responses(
    {404: "The decision does not exist.", 409: "The draft has no finished preview, or there are too many rules."}
)
PREVIEW_RESPONSES = problem_responses({404: "The decision does not exist.", 429: "Too many previews run or wait."})


@router.post(
    "/v1/decisions/{decision_id}/feedback", status_code=201, responses=ADOPTION_RESPONSES, summary="Give feedback"
)
async def adopt_feedback(
    decision_id: DecisionIdParam, caller: ReviewerDep, feedback: FeedbackServiceDep, draft: FeedbackIn
) -> FeedbackOut:
    """A false positive needs a finished preview of its draft, applies at once, within its scope, and expires.

    A true positive keeps its window out of future training and changes nothing else.
    """
    return feedback_out(await feedback.adopt(caller, decision_id, draft_from_body(draft)))


@router.post(
    "/v1/decisions/{decision_id}/feedback/preview",
    status_code=202,
    responses=PREVIEW_RESPONSES,
    summary="Preview feedback",
)
async def start_feedback_preview(
    decision_id: DecisionIdParam, caller: ReviewerDep, feedback: FeedbackServiceDep, draft: FeedbackIn
) -> PreviewStartedOut:
    """Replays the last days with and without the rule, in the background."""
    preview = await feedback.start_preview(caller, decision_id, draft_from_body(draft))
    return PreviewStartedOut.of(preview)


@router.get(
    "/v1/feedback/previews/{preview_id}", responses=problem_responses({404: "no such preview"}), summary="One preview"
)
async def get_feedback_preview(
    preview_id: Annotated[str, Path(description="id of the preview")], caller: ReaderDep, feedback: FeedbackServiceDep
) -> PreviewOut:
    """Returns the progress and result of a preview."""
    preview = await feedback.get_preview(caller, preview_id)
    return PreviewOut.of(preview, **(msgspec.json.decode(preview.result) if preview.result else {}))


@router.get("/v1/feedback", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List feedback")
async def list_feedback(
    caller: ReaderDep,
    feedback: FeedbackServiceDep,
    status: Annotated[FeedbackState | None, Query(description="Only those with this status.")] = None,
    verdict: Annotated[FeedbackVerdict | None, Query(description="Only those with this verdict.")] = None,
    agent_id: AgentParam = None,
    decision_id: Annotated[str | None, Query(max_length=100, description="id of the decision")] = None,
    tenant: TenantParam = None,
    issuer: IssuerParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[FeedbackOut]:
    """Newest first, with the effect of each rule."""
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    page = await feedback.list(caller, status, verdict, agent, decision_id, tenant, limit, cursor)
    return PageOut(items=[feedback_out(entry) for entry in page.items], next_cursor=page.next_cursor)


@router.get(
    "/v1/feedback/{feedback_id}", responses=problem_responses({404: "no such feedback"}), summary="Retrieve feedback"
)
async def get_feedback(feedback_id: FeedbackIdParam, caller: ReaderDep, feedback: FeedbackServiceDep) -> FeedbackOut:
    """Returns feedback with every step of its history."""
    return feedback_out(await feedback.get(caller, feedback_id))


@router.delete(
    "/v1/feedback/{feedback_id}",
    responses=problem_responses({404: "The feedback does not exist.", 409: "The feedback is already revoked."}),
    summary="Revoke feedback",
)
async def revoke_feedback(
    feedback_id: FeedbackIdParam,
    caller: ReviewerDep,
    feedback: FeedbackServiceDep,
    reason: Annotated[str, Query(min_length=1, max_length=1000, description="why; kept with it")],
) -> FeedbackOut:
    """Ends the rule immediately. What was learned while it applied remains learned."""
    return feedback_out(await feedback.revoke(caller, feedback_id, reason))


SLICE = Slice("feedback", routers=(router,))

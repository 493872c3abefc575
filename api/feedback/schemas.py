"""Bodies of feedback."""
# No postponed annotations here: pydantic reads them.

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.feedback import FeedbackPreview

from ..http.schemas import Level, TimeText, format_rfc3339_or_none
from .drafts import FeedbackDraft
from .service import FeedbackStatus

FeedbackText = Annotated[str, Field(max_length=1000)]


class FeedbackScopeIn(BaseModel):
    """Scope of a rule: agents and features that it is about."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["agent", "peer_group"] = Field("agent", description="the decision's agent, or all of its type")
    features: list[Annotated[str, Field(max_length=100)]] | None = Field(
        None, max_length=60, description="names of features or codes of reasons; null = all but hard signals"
    )
    resource: Annotated[str, Field(max_length=2048)] | None = Field(
        None, description="target or resource id that an event must name; null = any"
    )


class FeedbackIn(BaseModel):
    """Verdict of a person on a decision."""

    model_config = ConfigDict(extra="forbid")

    verdict: Literal["false_positive", "true_positive"]
    scope: FeedbackScopeIn = FeedbackScopeIn()  # type: ignore[call-arg]  # pydantic's defaults
    reason: FeedbackText = Field(description="why; kept, and part of the audit event")
    expires_in_s: int = Field(0, ge=0, le=31_622_400, description="of a false positive: how long its rule holds, s")
    preview_id: str | None = Field(None, max_length=100, description="of the finished preview of the same draft")
    accept_unseen: bool = Field(False, description="adopt although there was no history to preview it on")


class FeedbackStepOut(BaseModel):
    """One step in the life of feedback."""

    action: Literal["adopted", "noted", "revoked", "expired"]
    at: TimeText
    by: str
    why: str


class FeedbackScopeOut(BaseModel):
    """Scope of a rule: agents and features that it is about."""

    kind: Literal["agent", "peer_group"]
    agent_id: str
    tenant: str
    issuer: str
    agent_type: str
    features: list[str] | None
    resource: str | None


class FeedbackOut(BaseModel):
    """Feedback, and what became of it."""

    feedback_id: str
    verdict: Literal["false_positive", "true_positive"]
    status: Literal["adopting", "active", "noted", "revoking", "revoked", "expired"] = Field(
        description="`adopting` and `revoking`: written, on its way to the pipeline; `noted`: a label without a rule"
    )
    decision_id: str
    level: Level
    scope: FeedbackScopeOut
    reason: str
    author: str
    created_at: TimeText
    expires_at: TimeText | None = Field(description="null = a label, which holds until it is revoked")
    preview_id: str | None
    unseen: bool = Field(description="adopted although there was no history to preview it on")
    label_from: TimeText = Field(description="events of the agent from then")
    label_until: TimeText = Field(description="until then are what the label speaks of")
    events_matched: int = Field(description="events in which the rule counted, as of the last commits")
    last_matched_at: TimeText | None
    partitions: int = Field(description="event logs that hold to the rule now")
    revoked_by: str | None
    revoked_at: TimeText | None
    revoked_why: str | None
    steps: list[FeedbackStepOut] = Field(description="its life so far; empty in lists")


class PreviewStartedOut(BaseModel):
    """A preview that has begun."""

    preview_id: str
    status: Literal["waiting", "running", "done", "failed"]


class PreviewWindowOut(BaseModel):
    """Events that a preview replayed."""

    model_config = ConfigDict(populate_by_name=True)

    from_: TimeText = Field(alias="from", serialization_alias="from")
    to: TimeText
    events: int
    source: str = Field(description="log, archive and log, or kafka")


class PreviewAlertOut(BaseModel):
    """A rise of an agent's level in the replay."""

    agent_id: str
    tenant: str
    issuer: str
    time: TimeText
    event_id: str
    level: Level
    level_with_rule: Level
    reasons: list[str]
    marked: bool = Field(description="it is the decision that the feedback is about")
    same_rise: bool = Field(
        False,
        description="it only led up to that decision, in the same rise: a step of it, and no detection of its own",
    )


class LostDetectionOut(PreviewAlertOut):
    """A detection that would be lost."""

    why: Literal["confirmed", "level"] = Field(
        description="`confirmed`: a person confirmed this attack; `level`: it was high or critical, and no `same_rise`"
    )
    feedback_id: str | None = None


class RemainingAnomalyOut(BaseModel):
    """A feature that the rule does not name and that makes events odd which it touches."""

    feature: str
    events: int


class PreviewOut(BaseModel):
    """A preview. What it found is null until it is done."""

    preview_id: str
    decision_id: str
    status: Literal["waiting", "running", "done", "failed"]
    progress: float
    window: PreviewWindowOut | None = None
    events_matched: int | None = None
    alerts_before: int | None = None
    alerts_after: int | None = None
    alerts_removed: list[PreviewAlertOut] | None = Field(None, description="at most 200")
    alerts_removed_count: int | None = None
    detections_lost: list[LostDetectionOut] | None = Field(None, description="at most 200, confirmed attacks first")
    detections_lost_count: int | None = None
    agents_affected: int | None = None
    still_odd: list[RemainingAnomalyOut] | None = Field(
        None, description="what goes on being odd in events that the rule touches: it goes on raising risk there"
    )
    unseen: str | None = Field(None, description="why there was no history to preview it on; empty where there was")
    error: str | None = None


def draft_from_body(body: FeedbackIn) -> FeedbackDraft:
    """Draft that a body asks for."""
    features = body.scope.features
    return FeedbackDraft(
        verdict=body.verdict,
        kind=body.scope.kind,
        features=None if features is None else tuple(features),
        resource=body.scope.resource,
        reason=body.reason,
        expires_in_s=body.expires_in_s,
        preview_id=body.preview_id,
        accept_unseen=body.accept_unseen,
    )


def feedback_out(status: FeedbackStatus) -> FeedbackOut:
    """Feedback as it is answered."""
    feedback, agent = status.feedback, status.feedback.agent
    features = None if feedback.features is None else list(feedback.features)
    return FeedbackOut(
        feedback_id=feedback.feedback_id,
        verdict=feedback.verdict,
        status=feedback.status,
        decision_id=feedback.decision_id,
        level=_level_word(feedback.level),
        reason=feedback.reason,
        author=feedback.author,
        created_at=format_rfc3339(feedback.created_ms),
        scope=FeedbackScopeOut(
            kind=feedback.kind,
            agent_id=agent.agent_id,
            tenant=agent.tenant,
            issuer=agent.issuer,
            agent_type=feedback.agent_type,
            features=features,
            resource=feedback.resource,
        ),
        expires_at=format_rfc3339_or_none(feedback.expires_ms),
        preview_id=feedback.preview_id or None,
        unseen=feedback.unseen,
        label_from=format_rfc3339(feedback.from_ms),
        label_until=format_rfc3339(feedback.until_ms),
        events_matched=status.matched,
        last_matched_at=format_rfc3339_or_none(status.last_ms),
        partitions=status.partitions,
        revoked_by=feedback.revoked_by or None,
        revoked_at=format_rfc3339_or_none(feedback.revoked_ms),
        revoked_why=feedback.revoked_why or None,
        steps=[
            FeedbackStepOut(action=step.action, at=format_rfc3339(step.at_ms), by=step.by, why=step.why)
            for step in status.steps
        ],
    )


def preview_out(row: FeedbackPreview) -> PreviewOut:
    """A preview as it is answered."""
    result = msgspec.json.decode(row.result) if row.result else {}
    return PreviewOut(
        preview_id=row.preview_id,
        decision_id=row.decision_id,
        status=row.status,
        progress=row.progress,
        error=row.error or None,
        **result,
    )


def _level_word(level: int) -> Any:
    return RiskLevel(level).label

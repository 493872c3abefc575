"""Feedback on decisions: preview, adopt, list, revoke."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query

from ...scoring.feedback.values import PreviewRow
from ...scoring.records import RiskLevel
from ..feedback import Draft, FeedbackDesk, Told, author_of
from ..problems import Problem, ProblemError
from .feedback_schemas import (
    FeedbackIn,
    FeedbackOut,
    PreviewOut,
    PreviewStartedOut,
    ScopeOut,
    StepOut,
)
from .finding import visible_tenants
from .gate import Judge, Part, Parts, Reader
from .route_agents import Cursor, Issuer, Limit, Tenant
from .route_decisions import key_of
from .schemas import PageOut, problems
from .times import iso_ms, iso_or_none

router = APIRouter(tags=["feedback"])

Status = Literal["adopting", "active", "noted", "revoking", "revoked", "expired"]
Verdict = Literal["false_positive", "true_positive"]
UNKNOWN = problems({404: "no such decision"})
ADOPTED = problems({404: "no such decision", 409: "no finished preview of this draft, or too many rules"})
BUSY = problems({404: "no such decision", 429: "too many previews run or wait"})


@router.post("/v1/decisions/{decision_id}/feedback", status_code=201, responses=ADOPTED, summary="Give feedback")
async def adopt(decision_id: str, parts: Part, caller: Judge, wish: FeedbackIn) -> FeedbackOut:
    """A false positive needs the finished preview of the same draft, acts at once, in its scope alone, and expires.

    A true positive keeps its window out of future training and changes nothing else. Scope `trust.feedback`.
    """
    return feedback_out(await desk_of(parts).adopt(decision_id, draft_of(wish), author_of(caller)))


@router.post(
    "/v1/decisions/{decision_id}/feedback/preview", status_code=202, responses=BUSY, summary="Preview feedback"
)
async def start_preview(decision_id: str, parts: Part, caller: Judge, wish: FeedbackIn) -> PreviewStartedOut:
    """Replay the last days without the rule and with it, in the background. Scope `trust.feedback`."""
    row = await desk_of(parts).start_preview(decision_id, draft_of(wish), author_of(caller))
    return PreviewStartedOut(preview_id=row.preview_id, status=row.status)


@router.get("/v1/feedback/previews/{preview_id}", responses=problems({404: "no such preview"}), summary="One preview")
async def preview(preview_id: str, parts: Part, caller: Reader) -> PreviewOut:
    """How far it is, and what it found. Scope `trust.score:read`."""
    return preview_out(await desk_of(parts).preview(preview_id, visible_tenants(caller, None)))


@router.get("/v1/feedback", summary="List feedback")
async def feedback(
    parts: Part,
    caller: Reader,
    status: Status | None = None,
    verdict: Verdict | None = None,
    agent_id: Annotated[str | None, Query(max_length=2048)] = None,
    decision_id: Annotated[str | None, Query(max_length=100)] = None,
    tenant: Tenant = None,
    issuer: Issuer = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOut[FeedbackOut]:
    """Newest first, with what each rule did. Scope `trust.score:read`."""
    tenants, key = visible_tenants(caller, tenant), None
    if agent_id is not None:
        key = await key_of(parts, caller, agent_id, tenant, issuer)
        if key is None:
            return PageOut(items=[], next_cursor=None)
    page = await desk_of(parts).list(tenants, status, verdict, key, decision_id, limit, cursor)
    return PageOut(items=[feedback_out(one) for one in page.items], next_cursor=page.next_cursor)


@router.get("/v1/feedback/{feedback_id}", responses=problems({404: "no such feedback"}), summary="One feedback")
async def one_feedback(feedback_id: str, parts: Part, caller: Reader) -> FeedbackOut:
    """With every step of its life. Scope `trust.score:read`."""
    return feedback_out(await desk_of(parts).get(feedback_id, visible_tenants(caller, None)))


@router.delete(
    "/v1/feedback/{feedback_id}",
    responses=problems({404: "no such feedback", 409: "it is revoked already"}),
    summary="Revoke feedback",
)
async def revoke(
    feedback_id: str,
    parts: Part,
    caller: Judge,
    reason: Annotated[str, Query(min_length=1, max_length=1000, description="why; kept with it")],
) -> FeedbackOut:
    """The rule ends at once; what was learned while it held stays learned. Scope `trust.feedback`."""
    return feedback_out(await desk_of(parts).revoke(feedback_id, author_of(caller), reason))


def desk_of(parts: Parts) -> FeedbackDesk:
    """The desk of this service. Raises ProblemError (503) where it has none."""
    desk = parts.services.feedback
    if desk is None:
        raise ProblemError(Problem(503, "unavailable", "Unavailable", "this process takes no feedback"))
    return desk


def draft_of(wish: FeedbackIn) -> Draft:
    """What a body asks for."""
    features = wish.scope.features
    return Draft(
        verdict=wish.verdict,
        kind=wish.scope.kind,
        features=None if features is None else tuple(features),
        resource=wish.scope.resource,
        reason=wish.reason,
        expires_in_s=wish.expires_in_s,
        preview_id=wish.preview_id,
        accept_unseen=wish.accept_unseen,
    )


def feedback_out(told: Told) -> FeedbackOut:
    """Feedback as it is answered."""
    made, agent = told.feedback, told.feedback.agent
    features = None if made.features is None else list(made.features)
    return FeedbackOut(
        feedback_id=made.feedback_id,
        verdict=made.verdict,
        status=made.status,
        decision_id=made.decision_id,
        level=_word(made.level),
        reason=made.reason,
        author=made.author,
        created_at=iso_ms(made.created_ms),
        scope=ScopeOut(
            kind=made.kind,
            agent_id=agent.agent_id,
            tenant=agent.tenant,
            issuer=agent.issuer,
            agent_type=made.agent_type,
            features=features,
            resource=made.resource,
        ),
        expires_at=iso_or_none(made.expires_ms),
        preview_id=made.preview_id or None,
        unseen=made.unseen,
        label_from=iso_ms(made.from_ms),
        label_until=iso_ms(made.until_ms),
        events_matched=told.matched,
        last_matched_at=iso_or_none(told.last_ms),
        partitions=told.partitions,
        revoked_by=made.revoked_by or None,
        revoked_at=iso_or_none(made.revoked_ms),
        revoked_why=made.revoked_why or None,
        steps=[StepOut(action=step.action, at=iso_ms(step.at_ms), by=step.by, why=step.why) for step in told.steps],
    )


def preview_out(row: PreviewRow) -> PreviewOut:
    """A preview as it is answered."""
    found = msgspec.json.decode(row.result) if row.result else {}
    return PreviewOut(
        preview_id=row.preview_id,
        decision_id=row.decision_id,
        status=row.status,
        progress=row.progress,
        error=row.error or None,
        **found,
    )


def _word(level: int) -> Any:
    return RiskLevel(level).label

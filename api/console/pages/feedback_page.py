"""Feedback: a verdict on a decision, what it would have changed, its adoption; active rules, and their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, cast, get_args

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.features.feature_declaration import label_of
from trustwatch.ingest.features.feature_table import FEATURE_NAMES, FEATURES
from trustwatch.ingest.timestamps import DAY_S
from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import Feedback, FeedbackPreview, FeedbackState, FeedbackVerdict

from ...decisions.service import DecisionService
from ...feedback.drafts import MAX_BROAD_RULE_HOURS, FeedbackDraft
from ...feedback.preview_runner import PREVIEW_DAYS
from ...feedback.service import FeedbackService, FeedbackStatus
from ...http.auth.callers import SCOPE_FEEDBACK
from ...http.problems import ProblemError, invalid_value_error
from ..page_dependencies import Cursor, FormDep, PageReaderDep, PageRequest, PageReviewerDep
from ..rendering import url_with_query
from .decisions_page import read_evidence

OPEN_STATUSES: Final[tuple[FeedbackState, ...]] = ("adopting", "active", "revoking")
PERIODS: Final = ((DAY_S, "1 day"), (7 * DAY_S, "7 days"), (30 * DAY_S, "30 days"), (90 * DAY_S, "90 days"))
FEATURE_FIELD_PREFIX: Final = "feature."  # Prefix in the names of the features' check boxes; the feature's name follows
_LABELS: Final = {feature.name: label_of(feature) for feature in FEATURES}

router = APIRouter()

Id = Annotated[str, Query(max_length=200)]


@router.get("/feedback")
async def list_feedback(visit: PageReaderDep, done: Id = "", cursor: Cursor = "") -> Response:
    """Active rules, then all feedback."""
    return await _feedback_page(visit, done=done, cursor=cursor or None)


async def _feedback_page(
    visit: PageRequest, *, done: str = "", cursor: str | None = None, trouble: str = "", status: int = 200
) -> Response:
    feedback, open_feedback = visit.get(FeedbackService), list[FeedbackStatus]()
    for state in OPEN_STATUSES:
        open_feedback += (await feedback.list(visit.caller, state, limit=200)).items
    page = await feedback.list(visit.caller, limit=50, cursor=cursor)
    changed = next((entry for entry in (*open_feedback, *page.items) if entry.feedback.feedback_id == done), None)
    return visit.render(
        "feedback.html",
        status,
        active_rules=sorted(open_feedback, key=lambda entry: entry.feedback.expires_ms),
        ended=[entry for entry in page.items if entry.feedback.status not in OPEN_STATUSES],
        next_cursor=page.next_cursor,
        first_page=cursor is None,
        changed=changed,
        trouble=trouble,
        may_judge=visit.has(SCOPE_FEEDBACK),
        scope=describe_scope,
    )


@router.post("/feedback/{feedback_id}/revoke")
async def revoke_feedback(feedback_id: str, visit: PageReviewerDep, form: FormDep) -> Response:
    """End a rule, or revoke a label."""
    try:
        await visit.get(FeedbackService).revoke(visit.caller, feedback_id, form.get("reason", ""))
    except ProblemError as error:
        return await _feedback_page(visit, trouble=f"Nothing was done: {error}.", status=error.problem.status)
    return RedirectResponse(url_with_query("/console/feedback", done=feedback_id), 303)


@router.get("/decisions/{decision_id}/feedback")
async def show_feedback_form(decision_id: str, visit: PageReviewerDep, verdict: Id = "") -> Response:
    """The form about one decision."""
    return await _feedback_form_page(visit, decision_id, verdict)


async def _feedback_form_page(
    visit: PageRequest, decision_id: str, verdict: str, trouble: str = "", status: int = 200
) -> Response:
    decisions = visit.get(DecisionService)
    decision = await decisions.get(visit.caller, decision_id)
    rise = await decisions.escalation(visit.caller, decision)
    return visit.render(
        "feedback_form.html",
        status,
        decision=decision,
        rise=rise,
        choices=feature_choices(rise),
        things=_named_resources(rise),
        signals=read_evidence(decision.evidence)["signals"],
        verdict=verdict,
        trouble=trouble,
        broad_hours=MAX_BROAD_RULE_HOURS,
        preview_days=PREVIEW_DAYS,
        periods=PERIODS,
    )


@router.post("/decisions/{decision_id}/feedback/preview")
async def start_preview(decision_id: str, visit: PageReviewerDep, form: FormDep) -> Response:
    """Start a preview; the answer is a part of a page that asks for its progress until it is over."""
    return _preview_part(
        visit, await visit.get(FeedbackService).start_preview(visit.caller, decision_id, draft_from_form(form))
    )


@router.get("/feedback/previews/{preview_id}")
async def show_preview(preview_id: str, visit: PageReviewerDep) -> Response:
    """A preview as it is now."""
    return _preview_part(visit, await visit.get(FeedbackService).get_preview(visit.caller, preview_id))


def _preview_part(visit: PageRequest, preview: FeedbackPreview) -> Response:
    return visit.render("feedback_preview.html", **preview_values(preview))


@router.post("/decisions/{decision_id}/feedback")
async def adopt_feedback(decision_id: str, visit: PageReviewerDep, form: FormDep) -> Response:
    """Adopt the feedback of the form."""
    draft = draft_from_form(form)
    try:
        adopted = await visit.get(FeedbackService).adopt(visit.caller, decision_id, draft)
    except ProblemError as error:
        trouble = f"No feedback was saved: {error}."
        return await _feedback_form_page(visit, decision_id, draft.verdict, trouble, error.problem.status)
    return RedirectResponse(url_with_query("/console/feedback", done=adopted.feedback.feedback_id), 303)


class FeatureChoice(NamedTuple):
    """A feature that a rule may name. *leading* ones moved the decision and are chosen at first."""

    name: str
    label: str
    meaning: str
    leading: bool


def feature_choices(rise: Sequence[Decision]) -> list[FeatureChoice]:
    """Features that a rule may name, those of the reasons of a rise first; hard signals are none."""
    leading = {reason.feature for decision in rise for reason in decision.reasons}
    choices = [
        FeatureChoice(feature.name, describe_feature(feature.name), feature.meaning, feature.name in leading)
        for feature in FEATURES
        if feature.name not in PROTECTED_FEATURES
    ]
    return sorted(choices, key=lambda choice: not choice.leading)


def _named_resources(rise: Sequence[Decision]) -> list[str]:
    """Resources and targets that the reasons of a rise name: what a rule is likely to be about."""
    named = [
        reason.observed
        for decision in rise
        for reason in decision.reasons
        if reason.feature in ("resource_surprise", "target_surprise")
    ]
    return list(dict.fromkeys(named))


def describe_feature(name: str) -> str:
    """A feature as people call it.

    >>> describe_feature("target_surprise"), describe_feature("pace_4h")
    ('target', 'pace, 4 h')
    """
    return _LABELS.get(name, name)


def describe_scope(feedback: Feedback) -> str:
    """Describe the agents and features of a rule."""
    who = (
        feedback.agent.agent_id
        if feedback.kind == "agent"
        else f"every {feedback.agent_type} of {feedback.agent.tenant}"
    )
    what = "all features" if feedback.features is None else "; ".join(map(describe_feature, feedback.features))
    return f"{who}: {what}" + (f", on {feedback.resource}" if feedback.resource else "")


def draft_from_form(form: Mapping[str, str]) -> FeedbackDraft:
    """Return the draft of the form; the service validates it.

    Raises ProblemError (422).
    """
    verdict = form.get("verdict", "")
    if verdict not in get_args(FeedbackVerdict):
        raise invalid_value_error("verdict", "must be a false or a true positive")
    named = tuple(name for name in FEATURE_NAMES if f"{FEATURE_FIELD_PREFIX}{name}" in form)
    try:
        lasts_s = int(form.get("expires_in_s", "0"))
    except ValueError:
        lasts_s = 0
    return FeedbackDraft(
        verdict=cast(FeedbackVerdict, verdict),
        kind="peer_group" if form.get("kind") == "peer_group" else "agent",
        features=None if form.get("which") == "all" else named,
        resource=form.get("resource", "").strip() or None,
        reason=form.get("reason", ""),
        expires_in_s=lasts_s,
        preview_id=form.get("preview_id") or None,
        accept_unseen=form.get("accept_unseen") == "yes",
    )


def preview_values(preview: FeedbackPreview) -> dict[str, Any]:
    """Values of a preview for its part of the page.

    `result` has the members that the API names, and is empty until the preview is over. `marked` is the alert that is
    spoken of, if the rule would have changed it; `lowered` counts listed alerts that would still have been ones, of a
    lower level; `still_odd` are features that keep events anomalous, with their number.
    """
    result = msgspec.json.decode(preview.result) if preview.result else {}
    removed = result.get("alerts_removed", ())
    return {
        "preview": preview,
        "percent": round(100 * preview.progress),
        "is_over": preview.status in ("done", "failed"),
        "result": result,
        "marked": next((alert for alert in removed if alert["marked"]), None),
        "lowered": sum(alert["level_with_rule"] in ("medium", "high") for alert in removed),
        "still_odd": [
            (
                describe_feature(one["feature"])
                + (", which no rule may name" if one["feature"] in PROTECTED_FEATURES else ""),
                one["events"],
            )
            for one in result.get("still_odd", ())
        ],
    }

"""Decisions: the list, one with what led to it and what followed, and feedback on them with its rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, cast, get_args

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.features.feature_declaration import UNIT_WORDS, Feature, label_of
from trustwatch.ingest.features.feature_table import FEATURE_NAMES, FEATURES
from trustwatch.ingest.timestamps import DAY_S, format_rfc3339
from trustwatch.scoring.engine.feedback_rules import PROTECTED_FEATURES
from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.records.feedback import Feedback, FeedbackPreview, FeedbackState, FeedbackVerdict
from trustwatch.scoring.store.searches import FilteredPage

from ...cases.service import CaseService
from ...decisions.service import CHOICES, DecisionFilters, DecisionService, parse_time_range
from ...feedback.drafts import MAX_BROAD_RULE_HOURS, FeedbackDraft
from ...feedback.preview_runner import PREVIEW_DAYS
from ...feedback.service import FeedbackService, FeedbackStatus
from ...http.agent_lookup import AgentSelector
from ...http.auth.callers import SCOPE_ADMIN, SCOPE_FEEDBACK
from ...http.problems import ProblemError, invalid_value_error
from ...http.store_executor import BulkWork
from ..lists import list_columns, list_file, optional_time, text_filters
from ..page_dependencies import Cursor, FormDep, PageReaderDep, PageRequest, PageReviewerDep
from ..rendering import url_with_query
from .alerts_page import delivery_words

COLUMNS: Final = {
    "decided": "Decided",
    "event": "Event",
    "agent": "Agent",
    "level": "Level",
    "reason": "Leading reason",
    "risk": "Risk",
    "mode": "Mode",
}
CAUSES: Final = {
    "event": "an event",
    "tick": "time: the risk decayed without an event",
    "release": "a person released the agent",
}
CONCERNS: Final = {
    "compromise": "another party controls it",
    "malfunction": "it malfunctions",
    "overreach": "it does, or may do, more than before",
}
_FEATURES: Final[Mapping[str, Feature]] = {feature.name: feature for feature in FEATURES}

router = APIRouter()

AskedDep = Annotated[
    dict[str, str], Depends(text_filters("tenant", "agent", "level", "change", "issuer", "since", "until", "indicator"))
]


def _filters_of(asked: dict[str, str], now_ms: int) -> DecisionFilters:
    """Raises ProblemError (422) if a time cannot be parsed."""
    times = parse_time_range(asked["since"], asked["until"], now_ms)
    tenant, agent_id = asked["tenant"] or None, asked["agent"]
    agent = AgentSelector(agent_id, tenant, asked["issuer"] or None) if agent_id else None
    return DecisionFilters(tenant, agent, asked["level"], asked["change"], *times, asked["indicator"])


@router.get("/decisions")
async def list_decisions(visit: PageReaderDep, asked: AskedDep, cursor: Cursor = "") -> Response:
    """Show changes of level, newest first. If several agents have the id, one must be chosen."""
    trouble, page, among = "", FilteredPage[Decision]([], None, 0), []
    try:
        filters = _filters_of(asked, visit.runtime.now_ms())
        page = await visit.get(DecisionService).list(visit.caller, filters, cursor=cursor or None)
    except TrustwatchError as error:
        trouble = str(error)
        if isinstance(error, ProblemError):
            among = [asked | name for name in error.problem.members.get("candidates", ())]
    return visit.render(
        "decisions.html",
        400 if trouble else 200,
        listing=list_columns(visit.request, COLUMNS, "decided"),
        filters=asked,
        choices=CHOICES,
        page=page,
        trouble=trouble,
        among=among,
        first_page=not cursor,
    )


@router.get("/decisions/file.{form}")
async def download_decisions(form: str, visit: PageReaderDep, asked: AskedDep) -> Response:
    decisions, filters = visit.get(DecisionService), _filters_of(asked, visit.runtime.now_ms())
    return await list_file(
        form,
        "decisions",
        lambda cursor: decisions.list(visit.caller, filters, cursor=cursor),
        decision_row,
        visit.runtime.monotonic,
        visit.get(BulkWork),
        visit.caller,
    )


def decision_row(decision: Decision) -> dict[str, Any]:
    """Return a change of level as a file row: names as in the API, reasons and indicators as text."""
    name = decision.agent
    return {
        "decided_at": format_rfc3339(decision.decided_ms),
        "event_time": optional_time(decision.event_time_ms),
        "agent_id": name.agent_id,
        "tenant": name.tenant,
        "issuer": name.issuer,
        "agent_type": decision.agent_type,
        "previous_level": RiskLevel(decision.previous_level).label,
        "level": RiskLevel(decision.level).label,
        "concern": decision.concern or None,
        "risk_score": decision.risk_score,
        "cause": decision.cause,
        "mode": decision.mode,
        "reasons": [reason.text for reason in decision.reasons],
        "indicators": [f"{one.kind} {one.value}" for one in decision.indicators],
        "decision_id": decision.decision_id,
        "event_id": decision.event_id or None,
        "model_version": decision.model_version,
        "policy_version": decision.policy_version,
    }


@router.get("/decisions/{decision_id}")
async def show_decision(decision_id: str, visit: PageReaderDep) -> Response:
    """Show one decision; its policy is that of the current policy book for its level."""
    runtime, caller, decisions = visit.runtime, visit.caller, visit.get(DecisionService)
    decision = await decisions.get(caller, decision_id)
    consequences = await decisions.consequences(caller, decision)
    cases, book = visit.find(CaseService), runtime.live_policy.book
    policy = book.effective_policy(*decision.agent.identity, decision.agent_type, decision.concern)
    return visit.render(
        "decision.html",
        one=decision,
        cause=CAUSES.get(decision.cause, decision.cause),
        odds=describe_odds(decision.p_value) if decision.cause == "event" else "",
        shares=reason_shares(decision.reasons),
        noun=feature_noun,
        ev=read_evidence(decision.evidence),
        features=feature_rows(decision.feature_vector),
        policy=describe_policy(policy.table[RiskLevel(decision.level)]),
        rule=policy.rule,
        policy_holds=book.version == decision.policy_version,
        followed=consequences,
        case_id=None if cases is None else await cases.case_of_decision(caller, decision_id),
        state_words=delivery_words,
        may_see_alerts=visit.has(SCOPE_ADMIN),
        may_judge=visit.find(FeedbackService) is not None and decisions.may_give_feedback(caller, decision),
        has_targets=bool(runtime.settings.webhooks),
        has_actuators=bool(runtime.settings.actuators),
    )


def describe_odds(p_value: float) -> str:
    """Return a p-value as text.

    >>> describe_odds(0.0001)
    'about 1 in 10,000 normal events looks at least this anomalous'
    """
    if not 0.0 < p_value <= 1.0:
        return ""
    return f"about 1 in {max(1, round(1.0 / p_value)):,} normal events looks at least this anomalous"


def reason_shares(reasons: Sequence[RiskReason]) -> list[int]:
    """Return the percentage of the total that each reason contributes."""
    total = sum(max(reason.contribution, 0.0) for reason in reasons)
    return [round(100.0 * max(reason.contribution, 0.0) / total) if total > 0 else 0 for reason in reasons]


def feature_noun(name: str) -> str:
    """Return a feature as text; a feature that is no longer in the table keeps its name."""
    return _FEATURES[name].noun if name in _FEATURES else name.replace("_", " ")


def feature_rows(vector: Mapping[str, float]) -> list[tuple[str, float, str, str, int]]:
    """Return name, value, unit, meaning and percentage of its range for each feature, the highest percentage first."""
    rows = []
    for name, value in vector.items():
        unit, meaning, percent = "", "of another version of the feature table", 0
        if (feature := _FEATURES.get(name)) is not None:
            percent = min(max(round(100.0 * (value - feature.low) / (feature.high - feature.low)), 0), 100)
            unit, meaning = UNIT_WORDS[feature.unit], feature.meaning
        rows.append((name, value, unit, meaning, percent))
    return sorted(rows, key=lambda row: (-row[4], row[0]))


def read_evidence(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evidence of the risk kernel (natural logs) in a decision, whichever version wrote it.

    Members: `statistic` after the event, `prior` before it, `gain` of it, `events` of the agent so far; None = not
    stored. `signals` that fired; `thresholds` as (level, evidence at which it begins, whether it was reached);
    `left_aside`, anomalies that had counted before, as text; `concerns` as (name, meaning, odds), the strongest first.
    """
    numbers = _known_numbers(evidence, ("statistic", "prior", "gain", "events"))
    begins = _known_numbers(evidence.get("thresholds"), [level.label for level in RiskLevel])
    p_values = _known_numbers(evidence.get("concerns"), CONCERNS)
    return {
        **{name: numbers.get(name) for name in ("statistic", "prior", "gain", "events")},
        "signals": _texts(evidence.get("signals")),
        "thresholds": [(level, at, numbers.get("statistic", -math.inf) >= at) for level, at in begins.items()],
        "left_aside": list(dict.fromkeys(map(feature_noun, _texts(evidence.get("left_aside"))))),
        "concerns": [
            (name, CONCERNS[name], describe_odds(p_values[name])) for name in sorted(p_values, key=p_values.__getitem__)
        ],
    }


def _texts(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list | tuple) else []


def _known_numbers(values: Any, names: Iterable[str]) -> dict[str, float]:
    """Return those of the named members of a mapping that are numbers."""
    found = {name: values.get(name) for name in names} if isinstance(values, Mapping) else {}
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def describe_policy(policy: LevelTokenPolicy) -> list[str]:
    """Describe a token policy, with one line for each rule.

    >>> describe_policy(LevelTokenPolicy(False, 0, (), False, False, True))
    ['no token is issued', 'issued tokens are revoked']
    """
    revoked = ["issued tokens are revoked"] if policy.revoke else []
    if not policy.allow:
        return ["no token is issued", *revoked]
    lines = [f"tokens live at most {policy.max_token_lifetime_s:,} s"]
    if policy.allowed_scopes is not None:
        lines.append(f"only these scopes: {', '.join(policy.allowed_scopes) or 'none'}")
    lines.append("refresh is allowed" if policy.refresh_allowed else "no refresh")
    if policy.step_up:
        scopes = "every scope" if "*" in policy.step_up_scopes else ", ".join(policy.step_up_scopes)
        lines.append(f"a person must approve {scopes}")
    return [*lines, *revoked]


OPEN_STATUSES: Final[tuple[FeedbackState, ...]] = ("adopting", "active", "revoking")
PERIODS: Final = ((DAY_S, "1 day"), (7 * DAY_S, "7 days"), (30 * DAY_S, "30 days"), (90 * DAY_S, "90 days"))
FEATURE_FIELD_PREFIX: Final = "feature."  # Prefix in the names of the features' check boxes; the feature's name follows

Id = Annotated[str, Query(max_length=200)]


@router.get("/feedback")
async def list_feedback(visit: PageReaderDep, done: Id = "", cursor: Cursor = "") -> Response:
    """Show active rules, then all feedback."""
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
    return await _feedback_form_page(visit, decision_id, verdict)


async def _feedback_form_page(
    visit: PageRequest, decision_id: str, verdict: str, trouble: str = "", status: int = 200
) -> Response:
    decisions = visit.get(DecisionService)
    decision = await decisions.get(visit.caller, decision_id)
    rise = await decisions.escalation(visit.caller, decision)
    reasons = [reason for step in rise for reason in step.reasons]
    # A rule is likely to be about the resources and targets in the reasons.
    named = [one.observed for one in reasons if one.feature in ("resource_surprise", "target_surprise")]
    return visit.render(
        "feedback_form.html",
        status,
        decision=decision,
        rise=rise,
        choices=feature_choices(rise),
        things=list(dict.fromkeys(named)),
        signals=read_evidence(decision.evidence)["signals"],
        verdict=verdict,
        trouble=trouble,
        broad_hours=MAX_BROAD_RULE_HOURS,
        preview_days=PREVIEW_DAYS,
        periods=PERIODS,
    )


@router.post("/decisions/{decision_id}/feedback/preview")
async def start_preview(decision_id: str, visit: PageReviewerDep, form: FormDep) -> Response:
    """Start a preview. The answer is a page part that polls until the preview has finished."""
    draft = draft_from_form(form)
    return _preview_part(visit, await visit.get(FeedbackService).start_preview(visit.caller, decision_id, draft))


@router.get("/feedback/previews/{preview_id}")
async def show_preview(preview_id: str, visit: PageReviewerDep) -> Response:
    return _preview_part(visit, await visit.get(FeedbackService).get_preview(visit.caller, preview_id))


@router.post("/decisions/{decision_id}/feedback")
async def adopt_feedback(decision_id: str, visit: PageReviewerDep, form: FormDep) -> Response:
    draft = draft_from_form(form)
    try:
        adopted = await visit.get(FeedbackService).adopt(visit.caller, decision_id, draft)
    except ProblemError as error:
        trouble = f"No feedback was saved: {error}."
        return await _feedback_form_page(visit, decision_id, draft.verdict, trouble, error.problem.status)
    return RedirectResponse(url_with_query("/console/feedback", done=adopted.feedback.feedback_id), 303)


class FeatureChoice(NamedTuple):
    """A feature that a rule may name. *leading* features contributed to the decision and are preselected."""

    name: str
    label: str
    meaning: str
    leading: bool


def feature_choices(rise: Sequence[Decision]) -> list[FeatureChoice]:
    """Return the features that a rule may name, those in the reasons of a rise first, without hard signals."""
    leading = {reason.feature for decision in rise for reason in decision.reasons}
    choices = [
        FeatureChoice(feature.name, describe_feature(feature.name), feature.meaning, feature.name in leading)
        for feature in FEATURES
        if feature.name not in PROTECTED_FEATURES
    ]
    return sorted(choices, key=lambda choice: not choice.leading)


def describe_feature(name: str) -> str:
    """Return the display name of a feature.

    >>> describe_feature("target_surprise"), describe_feature("pace_4h")
    ('target', 'pace, 4 h')
    """
    return label_of(_FEATURES[name]) if name in _FEATURES else name


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


def _preview_part(visit: PageRequest, preview: FeedbackPreview) -> Response:
    """Render a preview as a part of the page.

    `result` has the members of the API, and is empty until the preview has finished. `marked` is the alert in question,
    if the rule would have changed it; `lowered` counts listed alerts that would have remained at a lower level;
    `still_odd` are features that keep events anomalous, with their number.
    """
    result = msgspec.json.decode(preview.result) if preview.result else {}
    removed = result.get("alerts_removed", ())
    protected = {name: ", which no rule may name" for name in PROTECTED_FEATURES}
    return visit.render(
        "feedback_preview.html",
        preview=preview,
        percent=round(100 * preview.progress),
        is_over=preview.status in ("done", "failed"),
        result=result,
        marked=next((alert for alert in removed if alert["marked"]), None),
        lowered=sum(alert["level_with_rule"] in ("medium", "high") for alert in removed),
        still_odd=[
            (describe_feature(one["feature"]) + protected.get(one["feature"], ""), one["events"])
            for one in result.get("still_odd", ())
        ],
    )

"""Decisions: the list, and one of them with what led to it and what followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.features.feature_declaration import UNIT_WORDS, Feature
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import Decision, RiskReason

from ...cases.service import CaseService
from ...decisions.service import CHOICES, DecisionFilters, DecisionService, parse_time_range
from ...feedback.service import FeedbackService
from ...http.agent_lookup import AgentSelector
from ...http.auth.callers import SCOPE_ADMIN
from ...http.problems import ProblemError
from ...http.store_executor import FilteredPage
from ..lists import list_columns, list_file, optional_time, text_filters
from ..page_dependencies import Cursor, PageReaderDep
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
    """Changes of level, newest first. If several agents have the id, one must be chosen."""
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
    """Changes of level that fit as a file."""
    decisions, filters = visit.get(DecisionService), _filters_of(asked, visit.runtime.now_ms())
    return await list_file(
        form,
        "decisions",
        lambda cursor: decisions.list(visit.caller, filters, cursor=cursor),
        decision_row,
        visit.runtime.monotonic,
    )


def decision_row(decision: Decision) -> dict[str, Any]:
    """A change of level as files have it: names as in the API, reasons and indicators as texts."""
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
    """One decision; its policy is that of the current policy book for its level."""
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
    """A p-value as text.

    >>> describe_odds(0.0001)
    'about 1 in 10,000 normal events looks at least this anomalous'
    """
    if not 0.0 < p_value <= 1.0:
        return ""
    return f"about 1 in {max(1, round(1.0 / p_value)):,} normal events looks at least this anomalous"


def reason_shares(reasons: Sequence[RiskReason]) -> list[int]:
    """Percent of all that each reason contributes."""
    total = sum(max(reason.contribution, 0.0) for reason in reasons)
    return [round(100.0 * max(reason.contribution, 0.0) / total) if total > 0 else 0 for reason in reasons]


def feature_noun(name: str) -> str:
    """A feature as text; a feature that the table no longer has keeps its name."""
    return _FEATURES[name].noun if name in _FEATURES else name.replace("_", " ")


def feature_rows(vector: Mapping[str, float]) -> list[tuple[str, float, str, str, int]]:
    """Name, value, unit, meaning and percent of its range of each feature, the highest of its range first."""
    rows = []
    for name, value in vector.items():
        unit, meaning, percent = "", "of another version of the feature table", 0
        if (feature := _FEATURES.get(name)) is not None:
            percent = min(max(round(100.0 * (value - feature.low) / (feature.high - feature.low)), 0), 100)
            unit, meaning = UNIT_WORDS[feature.unit], feature.meaning
        rows.append((name, value, unit, meaning, percent))
    return sorted(rows, key=lambda row: (-row[4], row[0]))


def read_evidence(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence of the risk kernel (natural logs) that a decision keeps, whichever version wrote it.

    Members: `statistic` after the event, `prior` before it, `gain` of it, `events` of the agent so far; None = not
    kept. `signals` that fired; `thresholds` as (level, evidence at which it begins, whether it was reached);
    `left_aside`, anomalies that had counted before, as text; `concerns` as (name, meaning, odds), the strongest first.
    """
    numbers = {name: _number_or_none(evidence.get(name)) for name in ("statistic", "prior", "gain", "events")}
    limits, p_values, statistic = (evidence.get("thresholds"), evidence.get("concerns"), numbers["statistic"])
    begins = {
        level.label: at
        for level in RiskLevel
        if isinstance(limits, Mapping) and (at := _number_or_none(limits.get(level.label))) is not None
    }
    odd = {
        name: p_value
        for name in CONCERNS
        if isinstance(p_values, Mapping) and (p_value := _number_or_none(p_values.get(name))) is not None
    }
    return {
        **numbers,
        "signals": _texts(evidence.get("signals")),
        "thresholds": [(level, at, statistic is not None and statistic >= at) for level, at in begins.items()],
        "left_aside": list(dict.fromkeys(map(feature_noun, _texts(evidence.get("left_aside"))))),
        "concerns": [(name, CONCERNS[name], describe_odds(odd[name])) for name in sorted(odd, key=odd.__getitem__)],
    }


def _texts(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list | tuple) else []


def _number_or_none(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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

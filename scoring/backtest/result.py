"""The result of a back-test, as one value that is printed as JSON and drawn as a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from trustwatch.ingest.events import EFFECTS
from trustwatch.ingest.timestamps import HOUR_MS, format_rfc3339_seconds
from trustwatch.models.call_challenges import EVERY_EFFECT
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.input_checks import VOUCHING_ADVICE

from ..engine.agent_paces import is_haste
from ..engine.settings import AlertBudget
from ..policy.book import PolicyBook
from ..records.agents import ALERTING_LEVELS, AgentIdentity, RiskLevel
from .challenge_counts import CallChallengeReport, challenge_report
from .counts import SUMS, BacktestCounts, MalformedRecord
from .label_evaluation import LabelEvaluation, evaluate_labels
from .plan import BacktestPlan, EventLabels
from .policy_simulation import (
    OUTCOMES,
    REQUEST_TYPES,
    BudgetExcess,
    PolicySimulationResult,
    budget_excesses,
)

_SEPARATION_FIGURES = {
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "recall_at_1_percent": "recall at 1 % false",
    "recall_at_5_percent": "recall at 5 % false",
}
MAX_LISTED_AGENTS = 1000
"""Most agents in one list; the figures count all."""

_NOTED_SHARE = 0.02
"""Of self-asserted work among events, or of agents that do no other, from which on a back-test explains it."""


class LevelAlerts(msgspec.Struct, frozen=True):
    """Alerts of one level at one budget. Rates and budgets are per 1,000 agent-days, before any cool-down."""

    level: str
    budget: float
    alerts: int
    rate: float


class LevelChangeCount(msgspec.Struct, frozen=True):
    """Number of changes from one level to another, because of events or of time (`tick`)."""

    before: str
    after: str
    cause: str
    times: int


class ConcernRises(msgspec.Struct, frozen=True):
    """Rises of agents' levels that were about one concern, by the level reached."""

    concern: str
    rises: dict[str, int]


class TimeBin(msgspec.Struct, frozen=True):
    """A span of time in a chart."""

    start: str
    events: int
    rises: dict[str, int]


class RequestOutcomes(msgspec.Struct, frozen=True):
    """Outcomes of the requests of one type at one level."""

    type: str
    level: str
    outcomes: dict[str, int]


class AgentOutcomes(msgspec.Struct, frozen=True):
    """Outcomes of one agent's requests."""

    tenant: str
    issuer: str
    agent_id: str
    outcomes: dict[str, int]


class RevocationReport(msgspec.Struct, frozen=True):
    """An agent whose tokens would have been revoked; see `policy_simulation.SimulatedRevocation`."""

    tenant: str
    issuer: str
    agent_id: str
    agent_type: str
    at: str
    until: str | None
    event_id: str
    level: str
    risk_score: float
    reasons: Sequence[str]
    enforced: bool
    later_events: int


class AlertReport(msgspec.Struct, frozen=True):
    """One alert; see `alert_list.BacktestAlert`."""

    tenant: str
    issuer: str
    agent_id: str
    agent_type: str
    at: str
    event_id: str
    before: str
    level: str
    concern: str
    risk_score: float
    p_value: float
    newcomer: bool


class PolicyOutcome(msgspec.Struct, frozen=True):
    """Outcomes under one policy. *totals* are requests by outcome; lists are cut at `MAX_LISTED_AGENTS`."""

    version: str
    totals: dict[str, int]
    enforced: int
    asked: list[RequestOutcomes]
    agents_touched: int
    agents: list[AgentOutcomes]
    agents_revoked: int
    revoked: list[RevocationReport]


class BacktestSide(msgspec.Struct, frozen=True):
    """One model under one policy. *alert_list* is cut at `MAX_LISTED_AGENTS`, those of the highest levels first.

    *hasty_agents* did days of their usual work within an hour of event time; *self_asserted* are unauthenticated events
    of work that count; for *claimed_agents* that is all work.
    """

    name: str
    model: str
    model_version: str
    events: int
    counted: int
    duplicates: int
    malformed: int
    mended: int
    late: int
    hasty_agents: int
    self_asserted: int
    claimed_agents: int
    agents: int
    agent_days: int
    peaks: dict[str, int]
    changes: list[LevelChangeCount]
    alerts: list[LevelAlerts]
    alert_list: list[AlertReport]
    over_budget: list[BudgetExcess]
    concerns: list[ConcernRises]
    sweep: list[list[LevelAlerts]]
    bins: list[TimeBin]
    policy: PolicyOutcome | None
    calls: CallChallengeReport
    evaluation: LabelEvaluation | None

    @property
    def haste_words(self) -> str:
        """Return advice if most agents were in haste, since their times may have been compressed; else ""."""
        if not is_haste(self.hasty_agents, self.agents):
            return ""
        return (
            f"{self.hasty_agents:,} of {self.agents:,} agents did days of their usual work within an hour: were event "
            "times compressed? The levels rest on a haste that may never have happened"
        )

    @property
    def asserted_words(self) -> str:
        """Explain the levels of self-asserted agents and how to change that; "" if there are few."""
        is_much = self.self_asserted >= _NOTED_SHARE * self.counted or self.claimed_agents >= _NOTED_SHARE * self.agents
        if not self.self_asserted or not is_much:
            return ""
        return (
            f"{self.self_asserted:,} of {self.counted:,} events are authenticated by no token: nothing is learned from "
            "them, so what they report stays new, and raises their agents to high at most; all work of "
            f"{self.claimed_agents:,} of {self.agents:,} agents is of this kind. {VOUCHING_ADVICE}"
        )


class FigureDifference(msgspec.Struct, frozen=True):
    """A figure of both sides."""

    figure: str
    a: float | None
    b: float | None


class BacktestComparison(msgspec.Struct, frozen=True):
    """Differences between two sides. Agents are `tenant issuer agent`, without empty parts."""

    figures: list[FigureDifference]
    revoked_only_by_a: list[str]
    revoked_only_by_b: list[str]
    peaks: list[tuple[str, str, str]]  # agent, highest level in a, in b


class BacktestResult(msgspec.Struct, frozen=True):
    """Result of a back-test: every side, and their differences."""

    files: list[str]
    since: str | None
    before: str | None
    learn: bool
    labels: str | None
    problems: list[str]
    sides: list[BacktestSide]
    comparison: BacktestComparison | None


def build_result(
    plan: BacktestPlan,
    counts: Sequence[BacktestCounts],
    problems: Sequence[MalformedRecord],
    labels: EventLabels | None,
) -> BacktestResult:
    """Build the result of a plan that ran: one side for its model and policy, and another if it names two of either."""
    pairs = [(0, 0)]
    if len(plan.models) > 1 or len(plan.books) > 1:
        pairs.append((len(plan.models) - 1, len(plan.books) - 1))
    evaluations = [None if labels is None else evaluate_labels(model_counts.rows, labels) for model_counts in counts]
    sides = [
        _build_side(name, plan, counts[model], model, book, evaluations[model])
        for name, (model, book) in zip("AB", pairs, strict=False)
    ]
    comparison = None
    if len(sides) == 2:
        a, b = ({_agent_text(who): level for who, level in counts[m].peaks.items()} for m, _ in pairs)
        differing = sorted(who for who in a.keys() | b.keys() if a.get(who) != b.get(who))
        ours, theirs = (
            {_agent_text(entry.agent.identity) for entry in counts[m].policed[book].revoked} if plan.books else set()
            for m, book in pairs
        )
        comparison = BacktestComparison(
            _figure_differences(*sides),
            sorted(ours - theirs)[:MAX_LISTED_AGENTS],
            sorted(theirs - ours)[:MAX_LISTED_AGENTS],
            [(who, _level_text(a.get(who)), _level_text(b.get(who))) for who in differing[:MAX_LISTED_AGENTS]],
        )
    return BacktestResult(
        [str(path) for path in plan.paths],
        _iso_time(plan.since),
        _iso_time(plan.before),
        plan.settings.learn,
        None if plan.labels is None else str(plan.labels),
        [f"record {offset + 1}: {reason} - at `{path}`" for offset, path, reason in problems],
        sides,
        comparison,
    )


def _build_side(
    name: str, plan: BacktestPlan, counts: BacktestCounts, model: int, book: int, evaluation: LabelEvaluation | None
) -> BacktestSide:
    days = max(counts.agent_days, 1)
    budget, tried = plan.settings.risk.budget, list(zip(plan.budgets, counts.sweep.tolist(), strict=True))
    peaks = Counter(counts.peaks.values())
    worst = sorted(counts.alerts, key=lambda alert: (-alert.level, alert))[:MAX_LISTED_AGENTS]
    return BacktestSide(
        name,
        str(plan.models[model]),
        counts.model_version,
        **{figure: getattr(counts, figure) for figure in SUMS},
        peaks={level.label: peaks[level] for level in ALERTING_LEVELS},
        changes=[
            LevelChangeCount(RiskLevel(before).label, RiskLevel(after).label, cause, times)
            for (before, after, cause), times in sorted(counts.changes.items())
        ],
        alerts=_level_alerts(budget, counts.rises.tolist(), days),
        alert_list=[
            AlertReport(
                *alert.agent,
                alert.agent_type,
                format_rfc3339_seconds(alert.at_ms),
                alert.event_id,
                RiskLevel(alert.before).label,
                RiskLevel(alert.level).label,
                alert.concern,
                alert.risk_score,
                alert.p_value,
                alert.newcomer,
            )
            for alert in worst
        ],
        over_budget=budget_excesses(budget, counts.rises.tolist(), counts.agent_days, counts.alerts, tried),
        concerns=[
            ConcernRises(concern, {level.label: counts.rises_by_concern[concern, level] for level in ALERTING_LEVELS})
            for concern in CONCERNS
        ],
        sweep=[_level_alerts(other, rises, days) for other, rises in tried],
        bins=_time_bins(counts),
        policy=_policy_outcome(plan.books[book], counts.policed[book]) if plan.books else None,
        calls=challenge_report(
            counts.challenges, plan.settings.risk.challenge_budget, honest_only=plan.labels is not None
        ),
        evaluation=evaluation,
    )


def _level_alerts(budget: AlertBudget, rises: Sequence[int], days: int) -> list[LevelAlerts]:
    return [
        LevelAlerts(level.label, allowed, number, number * 1000.0 / days)
        for level, allowed, number in zip(ALERTING_LEVELS, budget.by_level().values(), rises, strict=True)
    ]


def _time_bins(counts: BacktestCounts, most: int = 60) -> list[TimeBin]:
    """Divide the time from the first event to the last into about *most* equal spans of hours or days."""
    if not counts.hours:
        return []
    first, last = min(counts.hours), max(counts.hours)
    span = last - first + 1
    wide = next((hours for hours in (1, 3, 6, 12, 24, 168) if span <= hours * most), -(-span // most))
    bins: dict[int, tuple[int, Counter[str]]] = {
        start: (0, Counter()) for start in range(first // wide, last // wide + 1)
    }
    for hour, events in counts.hours.items():
        number, rises = bins[hour // wide]
        bins[hour // wide] = number + events, rises
    for (hour, level), times in counts.rises_by_hour.items():
        bins[hour // wide][1][RiskLevel(level).label] += times
    return [
        TimeBin(format_rfc3339_seconds(start * wide * HOUR_MS), events, dict(rises))
        for start, (events, rises) in bins.items()
    ]


def _policy_outcome(book: PolicyBook, policed: PolicySimulationResult) -> PolicyOutcome:
    totals: Counter[str] = Counter()
    asked: dict[tuple[str, int], Counter[str]] = {}
    for (kind, level, outcome), number in policed.counts.items():
        totals[outcome] += number
        asked.setdefault((kind, level), Counter())[outcome] += number
    rows = [
        RequestOutcomes(kind, RiskLevel(level).label, _ordered_outcomes(asked[kind, level]))
        for kind, level in sorted(asked, key=lambda key: (REQUEST_TYPES.index(key[0]), key[1]))
    ]
    worst = sorted(policed.agents.items(), key=lambda item: (-item[1].total(), item[0]))
    revoked = [
        RevocationReport(
            *entry.agent.identity,
            entry.agent_type,
            format_rfc3339_seconds(entry.at_ms),
            format_rfc3339_seconds(entry.until_ms) if entry.until_ms else None,
            entry.event_id,
            RiskLevel(entry.level).label,
            entry.risk_score,
            entry.reasons,
            entry.enforced,
            entry.later_events,
        )
        for entry in policed.revoked[:MAX_LISTED_AGENTS]
    ]
    return PolicyOutcome(
        book.version,
        {outcome: totals[outcome] for outcome in OUTCOMES},
        policed.enforced,
        rows,
        len(policed.agents),
        [AgentOutcomes(*who, _ordered_outcomes(outcomes)) for who, outcomes in worst[:MAX_LISTED_AGENTS]],
        len({entry.agent.key for entry in policed.revoked}),
        revoked,
    )


def _ordered_outcomes(outcomes: Counter[str]) -> dict[str, int]:
    return {outcome: outcomes[outcome] for outcome in OUTCOMES if outcomes[outcome]}


def _figure_differences(a: BacktestSide, b: BacktestSide) -> list[FigureDifference]:
    rows = [
        FigureDifference(f"alerts at {x.level}", x.alerts, y.alerts) for x, y in zip(a.alerts, b.alerts, strict=True)
    ]
    rows += [
        FigureDifference(f"{x.level} per 1,000 agent-days", x.rate, y.rate)
        for x, y in zip(a.alerts, b.alerts, strict=True)
    ]
    if a.policy is not None and b.policy is not None:
        left, right = a.policy.totals, b.policy.totals
        rows += [FigureDifference(f"requests {outcome}", left[outcome], right[outcome]) for outcome in OUTCOMES]
        rows.append(FigureDifference("agents revoked", a.policy.agents_revoked, b.policy.agents_revoked))
    rows += _challenge_differences(a.calls, b.calls)
    if a.evaluation is not None and b.evaluation is not None:
        rows += _separation_differences(a.evaluation, b.evaluation)
    return rows


def _challenge_differences(a: CallChallengeReport, b: CallChallengeReport) -> list[FigureDifference]:
    """Return the rows of both sides. A side without evaluated calls has no figure."""
    if a.missing_because and b.missing_because:
        return []
    ours, theirs = ({row.effect: row.per_1000 for row in side.effects} for side in (a, b))
    rows = [
        FigureDifference(f"challenged of 1,000 calls, {effect}", ours.get(effect), theirs.get(effect))
        for effect in (*EFFECTS, EVERY_EFFECT)
        if effect in ours or effect in theirs
    ]
    for name in ("sessions", "agents"):
        figures = [None if side.missing_because else getattr(side, f"{name}_challenged") for side in (a, b)]
        rows.append(FigureDifference(f"{name} challenged", *figures))
    return rows


def _separation_differences(a: LabelEvaluation, b: LabelEvaluation) -> list[FigureDifference]:
    rows = [
        FigureDifference(f"{words} of {unit}", getattr(x, figure), getattr(y, figure))
        for unit, x, y in (("events", a.by_event, b.by_event), ("sessions", a.by_session, b.by_session))
        for figure, words in _SEPARATION_FIGURES.items()
    ]
    for x, y in zip(a.levels, b.levels, strict=True):
        rows.append(FigureDifference(f"bad sessions detected at {x.level}", x.detected, y.detected))
        rows.append(FigureDifference(f"false alerts at {x.level}", x.false_alerts, y.false_alerts))
    if a.calls is not None and b.calls is not None:
        rows.append(FigureDifference("bad sessions stopped by a challenge", a.calls.stopped, b.calls.stopped))
    return rows


def _agent_text(who: AgentIdentity) -> str:
    return " ".join(part for part in who if part)


def _level_text(level: int | None) -> str:
    return "below medium" if level is None else RiskLevel(level).label


def _iso_time(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

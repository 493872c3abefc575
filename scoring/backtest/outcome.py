"""What a back-test found, as one value that is printed as JSON and drawn as a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from ..policy import PolicyBook
from ..records import RiskLevel
from .evaluation import Evaluation, evaluate
from .labels import Labels
from .plan import Plan
from .policing import ASKED, OUTCOMES, Policed, Revoked
from .run import Problem
from .sweep import ALERTING
from .tally import Counts, Who

_HOUR_S = 3600
_FIGURES = {
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "recall_at_1_percent": "recall at 1 % false",
    "recall_at_5_percent": "recall at 5 % false",
}
MOST_AGENTS = 1000
"""Agents of one list that are told; the figures count all."""


class Alerts(msgspec.Struct, frozen=True):
    """One level at one budget. Rates and budgets are per 1,000 agent-days; alerts are before any cool-down."""

    level: str
    budget: float
    alerts: int
    rate: float


class Change(msgspec.Struct, frozen=True):
    """How often agents went from one level to another, because of events or of time (`tick`)."""

    before: str
    after: str
    cause: str
    times: int


class Bin(msgspec.Struct, frozen=True):
    """A stretch of time, for a chart."""

    start: str
    events: int
    rises: dict[str, int]


class Asked(msgspec.Struct, frozen=True):
    """What became of requests of one type at one level."""

    type: str
    level: str
    outcomes: dict[str, int]


class Agent(msgspec.Struct, frozen=True):
    """An agent, and what became of its requests."""

    tenant: str
    issuer: str
    agent_id: str
    outcomes: dict[str, int]


class Revocation(msgspec.Struct, frozen=True):
    """An agent whose tokens would have been revoked; see `policing.Revoked`."""

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


class PolicyOutcome(msgspec.Struct, frozen=True):
    """What a policy would have done. *totals* are requests by outcome; lists are cut at `MOST_AGENTS`."""

    version: str
    totals: dict[str, int]
    enforced: int
    asked: list[Asked]
    agents_touched: int
    agents: list[Agent]
    agents_revoked: int
    revoked: list[Revocation]


class Side(msgspec.Struct, frozen=True):
    """One model under one policy."""

    name: str
    model: str
    model_version: str
    events: int
    counted: int
    duplicates: int
    malformed: int
    mended: int
    late: int
    agents: int
    agent_days: int
    peaks: dict[str, int]
    changes: list[Change]
    alerts: list[Alerts]
    sweep: list[list[Alerts]]
    bins: list[Bin]
    policy: PolicyOutcome | None
    evaluation: Evaluation | None


class Difference(msgspec.Struct, frozen=True):
    """A figure of both sides."""

    figure: str
    a: float | None
    b: float | None


class Comparison(msgspec.Struct, frozen=True):
    """Where two sides differ. Agents are `tenant issuer agent`, parts that are empty left out."""

    figures: list[Difference]
    revoked_only_by_a: list[str]
    revoked_only_by_b: list[str]
    peaks: list[tuple[str, str, str]]  # agent, highest level in a, in b


class Outcome(msgspec.Struct, frozen=True):
    """All of it."""

    files: list[str]
    since: str | None
    before: str | None
    learn: bool
    labels: str | None
    problems: list[str]
    sides: list[Side]
    comparison: Comparison | None


def conclude(plan: Plan, counts: Sequence[Counts], problems: Sequence[Problem], labels: Labels | None) -> Outcome:
    """The outcome of a plan that ran: a side for its model and policy, and one more where it names two of either."""
    pairs = [(0, 0)]
    if len(plan.models) > 1 or len(plan.books) > 1:
        pairs.append((len(plan.models) - 1, len(plan.books) - 1))
    evaluations = [None if labels is None else evaluate(one.rows, labels) for one in counts]
    sides = [
        _side(name, plan, counts[model], model, book, evaluations[model])
        for name, (model, book) in zip("AB", pairs, strict=False)
    ]
    comparison = None
    if len(sides) == 2:
        policed = [counts[m].policed[b] if plan.books else None for m, b in pairs]
        comparison = _compare(sides, [counts[0].peaks, counts[pairs[1][0]].peaks], policed)
    return Outcome(
        [str(path) for path in plan.paths],
        _told_time(plan.since),
        _told_time(plan.before),
        plan.settings.learn,
        None if plan.labels is None else str(plan.labels),
        [f"record {offset + 1}: {reason} - at `{path}`" for offset, path, reason in problems],
        sides,
        comparison,
    )


def _side(name: str, plan: Plan, counts: Counts, model: int, book: int, evaluation: Evaluation | None) -> Side:
    days = max(counts.agent_days, 1)
    budgets = [_alerts(budget, rises, days) for budget, rises in zip(plan.budgets, counts.sweep.tolist(), strict=True)]
    peaks = Counter(counts.peaks.values())
    return Side(
        name,
        str(plan.models[model]),
        counts.model_version,
        counts.events,
        counts.counted,
        counts.duplicates,
        counts.malformed,
        counts.mended,
        counts.late,
        counts.agents,
        counts.agent_days,
        {level.label: peaks[level] for level in ALERTING},
        [
            Change(RiskLevel(before).label, RiskLevel(after).label, cause, times)
            for (before, after, cause), times in sorted(counts.changes.items())
        ],
        _alerts(plan.settings.budget, counts.rises.tolist(), days),
        budgets,
        _bins(counts),
        _policy(plan.books[book], counts.policed[book]) if plan.books else None,
        evaluation,
    )


def _alerts(budget: Sequence[float], rises: Sequence[int], days: int) -> list[Alerts]:
    return [
        Alerts(level.label, allowed, number, number * 1000.0 / days)
        for level, allowed, number in zip(ALERTING, budget, rises, strict=True)
    ]


def _bins(counts: Counts, most: int = 60) -> list[Bin]:
    """Equal stretches of hours or days, at most about *most* of them, from the first event to the last."""
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
        Bin(_told_ms(start * wide * _HOUR_S * 1000), events, dict(rises)) for start, (events, rises) in bins.items()
    ]


def _policy(book: PolicyBook, policed: Policed) -> PolicyOutcome:
    totals: Counter[str] = Counter()
    asked: dict[tuple[str, int], Counter[str]] = {}
    for (kind, level, outcome), number in policed.counts.items():
        totals[outcome] += number
        asked.setdefault((kind, level), Counter())[outcome] += number
    rows = [
        Asked(kind, RiskLevel(level).label, _ordered(asked[kind, level]))
        for kind, level in sorted(asked, key=lambda key: (ASKED.index(key[0]), key[1]))
    ]
    worst = sorted(policed.agents.items(), key=lambda item: (-item[1].total(), item[0]))
    revoked = [_revocation(entry) for entry in policed.revoked[:MOST_AGENTS]]
    return PolicyOutcome(
        book.version,
        {outcome: totals[outcome] for outcome in OUTCOMES},
        policed.enforced,
        rows,
        len(policed.agents),
        [Agent(*who, _ordered(outcomes)) for who, outcomes in worst[:MOST_AGENTS]],
        len({entry.agent.key for entry in policed.revoked}),
        revoked,
    )


def _ordered(outcomes: Counter[str]) -> dict[str, int]:
    return {outcome: outcomes[outcome] for outcome in OUTCOMES if outcomes[outcome]}


def _revocation(entry: Revoked) -> Revocation:
    name = entry.agent
    return Revocation(
        name.tenant,
        name.issuer,
        name.agent_id,
        entry.agent_type,
        _told_ms(entry.at_ms),
        _told_ms(entry.until_ms) if entry.until_ms else None,
        entry.event_id,
        RiskLevel(entry.level).label,
        entry.risk_score,
        entry.reasons,
        entry.enforced,
        entry.later_events,
    )


def _compare(sides: Sequence[Side], peaks: Sequence[dict[Who, int]], policed: Sequence[Policed | None]) -> Comparison:
    a, b = ({_named(who): level for who, level in side.items()} for side in peaks)
    differing = sorted(who for who in a.keys() | b.keys() if a.get(who) != b.get(who))
    ours, theirs = (_revoked_names(one) for one in policed)
    return Comparison(
        _figures(*sides),
        sorted(ours - theirs)[:MOST_AGENTS],
        sorted(theirs - ours)[:MOST_AGENTS],
        [(who, _label(a.get(who)), _label(b.get(who))) for who in differing[:MOST_AGENTS]],
    )


def _figures(a: Side, b: Side) -> list[Difference]:
    rows = [Difference(f"alerts at {x.level}", x.alerts, y.alerts) for x, y in zip(a.alerts, b.alerts, strict=True)]
    rows += [
        Difference(f"{x.level} per 1,000 agent-days", x.rate, y.rate) for x, y in zip(a.alerts, b.alerts, strict=True)
    ]
    if a.policy is not None and b.policy is not None:
        left, right = a.policy.totals, b.policy.totals
        rows += [Difference(f"requests {outcome}", left[outcome], right[outcome]) for outcome in OUTCOMES]
        rows.append(Difference("agents revoked", a.policy.agents_revoked, b.policy.agents_revoked))
    if a.evaluation is not None and b.evaluation is not None:
        rows += _separations(a.evaluation, b.evaluation)
    return rows


def _separations(a: Evaluation, b: Evaluation) -> list[Difference]:
    rows = [
        Difference(f"{words} of {unit}", getattr(x, figure), getattr(y, figure))
        for unit, x, y in (("events", a.by_event, b.by_event), ("sessions", a.by_session, b.by_session))
        for figure, words in _FIGURES.items()
    ]
    for x, y in zip(a.levels, b.levels, strict=True):
        rows.append(Difference(f"bad sessions detected at {x.level}", x.detected, y.detected))
        rows.append(Difference(f"false alerts at {x.level}", x.false_alerts, y.false_alerts))
    return rows


def _revoked_names(policed: Policed | None) -> set[str]:
    if policed is None:
        return set()
    return {_named((one.agent.tenant, one.agent.issuer, one.agent.agent_id)) for one in policed.revoked}


def _named(who: Who) -> str:
    return " ".join(part for part in who if part)


def _label(level: int | None) -> str:
    return "below medium" if level is None else RiskLevel(level).label


def _told_ms(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _told_time(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

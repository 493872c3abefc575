"""Back-tests as frames: history through the live path, at other budgets, under other policies, with other models.

`run_backtest` gives an outcome, `backtest_…` a frame of it. Its sides are A and, if two are compared, B.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from trustwatch.api import clock
from trustwatch.api.backtest.report import render_report
from trustwatch.api.composition import policy_book
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.backtest import runner
from trustwatch.scoring.backtest.counts import BacktestCounts
from trustwatch.scoring.backtest.label_evaluation import ScoreSeparation
from trustwatch.scoring.backtest.plan import BUDGET_FACTORS, BacktestPlan, default_budgets, read_labels
from trustwatch.scoring.backtest.result import BacktestResult, BacktestSide, PolicyOutcome, build_result
from trustwatch.scoring.policy.book import PolicyBook
from trustwatch.scoring.policy.policy_file import read_policy_book

from .event_frames import label_file, raw_events
from .event_frames import labels as labels_frame
from .event_history import EventFilter, EventHistory, build_event_filter, parse_time_ms, timestamp_of
from .frame_builder import build_frame
from .score_frames import events_to_replay
from .session import LabError, LabModel, LabSession

PolicyChoice = str | Path | Mapping[str, Any] | None
"""A policy file, or what one would hold; None = the policy of the settings."""


def run_backtest(
    session: LabSession,
    events: pd.DataFrame | None = None,
    *,
    models: Sequence[LabModel] = (),
    policies: Sequence[PolicyChoice] = (None,),
    since: Any = None,
    until: Any = None,
    labels: str | Path | None = None,
    budget: float = 1.0,
    learn: bool = True,
    jobs: int = 1,
) -> BacktestResult:
    """History through the live path: alerts, requests, revocations; two models or two policies side by side.

    *budget* is a multiple of the one set. Labels default to `labels.jsonl` of the data directory.
    """
    if len(models) > 2 or not 1 <= len(policies) <= 2:
        raise LabError("a back-test compares two models or two policies at most; `frames.what_if` takes any number")
    plan = _plan_backtest(session, events, models, since, until, labels=labels, jobs=jobs)
    settings = plan.settings.with_budget(plan.settings.risk.alert_budget.scaled(budget))._replace(learn=learn)
    return _run_plan(
        plan._replace(
            settings=settings,
            books=[_policy_book(session, policy, f"policy {policy}") for policy in policies],
            budgets=default_budgets(settings.risk.alert_budget),
        )
    )


def backtest_alerts(outcome: BacktestResult) -> pd.DataFrame:
    """Rises to each level against the budget."""
    return build_frame(
        "backtest_alerts",
        [
            (side.name, alerts.level, alerts.budget, alerts.alerts, alerts.rate)
            for side in outcome.sides
            for alerts in side.alerts
        ],
    )


def backtest_sweep(outcome: BacktestResult) -> pd.DataFrame:
    """Alerts at other budgets (docs/backtest.md says what is approximate about them)."""
    return build_frame(
        "backtest_sweep",
        [
            (side.name, factor, alerts.level, alerts.budget, alerts.alerts, alerts.rate)
            for side in outcome.sides
            for factor, levels in zip(BUDGET_FACTORS, side.sweep, strict=True)
            for alerts in levels
        ],
    )


def backtest_requests(outcome: BacktestResult) -> pd.DataFrame:
    """Requests by type, level and the token policy's answer."""
    return build_frame(
        "backtest_requests",
        [
            (side.name, requests.type, requests.level, answer, number)
            for side, policy in _policy_sides(outcome)
            for requests in policy.asked
            for answer, number in requests.outcomes.items()
        ],
    )


def backtest_revoked(outcome: BacktestResult) -> pd.DataFrame:
    """Agents whose tokens would have been revoked, in the order in which that happens."""
    return build_frame(
        "backtest_revoked",
        [
            (
                side.name,
                revoked.tenant,
                revoked.agent_id,
                revoked.agent_type,
                parse_time_ms(revoked.at),
                parse_time_ms(revoked.until),
                revoked.level,
                revoked.risk_score,
                revoked.later_events,
                revoked.enforced,
                revoked.reasons[0] if revoked.reasons else "",
                revoked.event_id,
            )
            for side, policy in _policy_sides(outcome)
            for revoked in policy.revoked
        ],
    )


def backtest_touched(outcome: BacktestResult) -> pd.DataFrame:
    """Agents with requests that were not simply allowed."""
    return build_frame(
        "backtest_touched",
        [
            (side.name, agent.tenant, agent.agent_id, answer, number)
            for side, policy in _policy_sides(outcome)
            for agent in policy.agents
            for answer, number in agent.outcomes.items()
        ],
    )


def backtest_detection(outcome: BacktestResult) -> pd.DataFrame:
    """Bad sessions found at each level, and how soon. Empty without labels."""
    return build_frame(
        "backtest_detection",
        [
            (
                side.name,
                level.level,
                level.sessions,
                level.detected,
                level.already,
                None if level.delay_seconds is None else level.delay_seconds[0],
                level.true_alerts,
                level.false_alerts,
            )
            for side in outcome.sides
            if side.evaluation is not None
            for level in side.evaluation.levels
        ],
    )


def backtest_separation(outcome: BacktestResult) -> pd.DataFrame:
    """Separation of bad from good by scores. Empty without labels."""
    return build_frame(
        "backtest_separation",
        [
            (
                side.name,
                unit,
                separation.units,
                separation.bad,
                separation.roc_auc,
                separation.average_precision,
                separation.recall_at_1_percent,
                separation.recall_at_5_percent,
            )
            for side, unit, separation in _separations(outcome)
        ],
    )


def backtest_curves(outcome: BacktestResult) -> pd.DataFrame:
    """ROC and precision-recall curves. Empty without labels."""
    return build_frame(
        "backtest_curves",
        [
            (side.name, unit, curve, x, y)
            for side, unit, separation in _separations(outcome)
            for curve, points in (("roc", separation.roc), ("precision_recall", separation.precision_recall))
            for x, y in points
        ],
    )


def backtest_comparison(outcome: BacktestResult) -> pd.DataFrame:
    """Figures of both sides. Empty where nothing was compared."""
    figures = () if outcome.comparison is None else outcome.comparison.figures
    return build_frame(
        "backtest_comparison",
        [
            (figure.figure, figure.a, figure.b, None if figure.a is None or figure.b is None else figure.b - figure.a)
            for figure in figures
        ],
    )


def write_backtest_report(outcome: BacktestResult, path: str | Path) -> Path:
    """Write the HTML report of `trustwatch backtest --report`."""
    path = Path(path)
    path.write_text(render_report(outcome, clock.utc_now()), encoding="utf-8")
    return path


def budgets(
    session: LabSession,
    events: pd.DataFrame | None = None,
    *,
    factors: Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0, 20.0),
    model: LabModel | None = None,
    since: Any = None,
    until: Any = None,
    labels: str | Path | None = None,
    jobs: int = 1,
) -> pd.DataFrame:
    """The same history at several alert budgets (multiples of the one set), each run in full."""
    models = () if model is None else (model,)
    plan = _plan_backtest(session, events, models, since, until, labels=labels, jobs=jobs)
    rows: list[tuple[Any, ...]] = []
    for factor in factors:
        side = _run_plan(_at_budget(plan, factor)).sides[0]
        levels = [None] * len(side.alerts) if side.evaluation is None else side.evaluation.levels
        for alerts, detection in zip(side.alerts, levels, strict=True):
            sessions = (
                (None,) * 4
                if detection is None
                else (detection.sessions, detection.detected, detection.already, detection.false_alerts)
            )
            rows.append((factor, alerts.level, alerts.budget, alerts.alerts, alerts.rate, *sessions))
    return build_frame("budgets", rows)


def what_if(
    session: LabSession,
    policies: Mapping[str, PolicyChoice],
    *,
    events: pd.DataFrame | None = None,
    factors: Sequence[float] = (1.0,),
    model: LabModel | None = None,
    since: Any = None,
    until: Any = None,
    jobs: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Policies tried on the same history, by name: None for that of the settings, a file, or what one would hold.

    Gives the frame `what_if`, and the frame `backtest_revoked` with columns `policy` and `factor` before it.
    """
    plan = _plan_backtest(session, events, () if model is None else (model,), since, until, jobs=jobs)
    books = {name: _policy_book(session, policy, name) for name, policy in policies.items()}
    rows: list[tuple[Any, ...]] = []
    revoked: list[pd.DataFrame] = []
    for factor in factors:
        for name, outcome in _policy_outcomes(_at_budget(plan, factor), books):
            policy = outcome.sides[0].policy
            assert policy is not None
            answers = (policy.totals[answer] for answer in ("denied", "held", "narrowed", "shortened", "allowed"))
            rows.append((name, factor, policy.agents_revoked, policy.agents_touched, *answers))
            part = backtest_revoked(outcome).drop(columns="side")
            part.insert(0, "factor", factor)
            part.insert(0, "policy", name)
            revoked.append(part)
    return build_frame("what_if", rows), pd.concat(revoked, ignore_index=True)


def labelled_revocations(session: LabSession, revoked: pd.DataFrame, labels: str | Path | None = None) -> pd.DataFrame:
    """Agents of a frame `backtest_revoked` that the labels call bad, and how long after their first bad event."""
    file = label_file(session, labels, required=False)
    first_bad_ms = None if file is None else _first_bad_events(session, labels_frame(session, file), revoked)
    rows = []
    for row in revoked.itertuples():
        at_ms = parse_time_ms(row.at) or 0
        bad_ms = None if first_bad_ms is None else first_bad_ms.get((row.tenant, row.agent_id))
        attacked = None if first_bad_ms is None else bad_ms is not None
        delay_s = None if bad_ms is None else (at_ms - bad_ms) / 1000.0
        policy = getattr(row, "policy", None)
        rows.append((policy, row.tenant, row.agent_id, at_ms, row.level, attacked, bad_ms, delay_s))
    return build_frame("labelled_revocations", rows)


def _first_bad_events(session: LabSession, labels: pd.DataFrame, revoked: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Tenant and agent -> time of its first bad event, from a day before the first revocation on."""
    bad = labels[labels["bad_event"]]
    agents = {row.id: (row.tenant, row.agent_id) for row in bad.itertuples()}
    revoked_ms = parse_time_ms(revoked["at"].min())
    since_ms = None if revoked_ms is None else revoked_ms - DAY_MS
    first_ms: dict[tuple[str, str], int] = {}
    for record in EventHistory(session.settings).events(EventFilter(since_ms=since_ms, tenants=session.tenants)):
        agent = agents.get(record.event.id)
        if agent is not None:
            first_ms[agent] = min(record.time_ms, first_ms.get(agent, record.time_ms))
    return first_ms


def _plan_backtest(
    session: LabSession,
    events: pd.DataFrame | None,
    models: Sequence[LabModel],
    since: Any,
    until: Any,
    *,
    labels: str | Path | None = None,
    jobs: int,
) -> BacktestPlan:
    """A back-test of the settings' policy at the budget set, on events that are written to a file of the session."""
    chosen = list(models) or [session.model()]
    event_filter = build_event_filter(session, None, None, since, until)
    lines = events_to_replay(session, chosen[0], event_filter) if events is None else raw_events(events)
    path = session.work_path("events", ".jsonl")
    with path.open("wb") as file:
        file.writelines(line.replace(b"\n", b" ") + b"\n" for line in lines)
    since_ms, until_ms = event_filter.since_ms, event_filter.until_ms
    return BacktestPlan(
        [path],
        [model.directory for model in chosen],
        session.engine_settings,
        [policy_book(session.settings)],
        (),
        session.settings.domains(),
        None if since_ms is None else timestamp_of(since_ms).to_pydatetime(),
        None if until_ms is None else timestamp_of(until_ms).to_pydatetime(),
        label_file(session, labels, required=False),
        (),
        jobs,
    )


def _at_budget(plan: BacktestPlan, factor: float) -> BacktestPlan:
    """A plan at a multiple of its alert budget, without a sweep of others."""
    budget = plan.settings.risk.alert_budget.scaled(factor)
    return plan._replace(settings=plan.settings.with_budget(budget), budgets=())


def _policy_book(session: LabSession, policy: PolicyChoice, name: str) -> PolicyBook:
    """The policy book of a file, of a file's content, or of the settings. Raises ConfigError where it is wrong."""
    if policy is None:
        return policy_book(session.settings)
    if isinstance(policy, str | Path):
        return read_policy_book(Path(policy))
    path = session.work_path("policy", ".yaml")
    path.write_text(json.dumps({"version": name, **policy}))  # JSON is YAML
    return read_policy_book(path)


def _run_plan(plan: BacktestPlan) -> BacktestResult:
    """Run a plan, model after model; with `jobs` of 1 in this process."""
    labels = None if plan.labels is None else read_labels(plan.labels, plan.leave_out)
    counts, problems = _count(plan)
    return build_result(plan, counts, problems, labels)


def _count(plan: BacktestPlan) -> tuple[list[BacktestCounts], Sequence[Any]]:
    by_model = [runner.run_backtest(plan._replace(models=[model])) for model in plan.models]
    return [counts[0] for counts, _ in by_model], by_model[0][1]


def _policy_outcomes(plan: BacktestPlan, books: Mapping[str, PolicyBook]) -> Iterator[tuple[str, BacktestResult]]:
    """The outcome under each policy, of one run under all of them."""
    plan = plan._replace(books=list(books.values()), models=plan.models[:1])
    (counts,), problems = _count(plan)
    for at, (name, book) in enumerate(books.items()):
        alone = msgspec.structs.replace(counts, policed=[counts.policed[at]])
        yield name, build_result(plan._replace(books=[book]), [alone], problems, None)


def _policy_sides(outcome: BacktestResult) -> Iterator[tuple[BacktestSide, PolicyOutcome]]:
    for side in outcome.sides:
        if side.policy is not None:
            yield side, side.policy


def _separations(outcome: BacktestResult) -> Iterator[tuple[BacktestSide, str, ScoreSeparation]]:
    for side in outcome.sides:
        if side.evaluation is not None:
            yield side, "event", side.evaluation.by_event
            yield side, "session", side.evaluation.by_session

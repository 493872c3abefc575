"""Back-tests as frames: history through the live path, at other budgets, under other policies, with other models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from ..api import clock
from ..api.backtest.report import render_report
from ..scoring.backtest.counts import BacktestCounts
from ..scoring.backtest.plan import BUDGET_FACTORS, BacktestPlan, read_labels
from ..scoring.backtest.result import BacktestResult, BacktestSide, build_result
from ..scoring.backtest.runner import run_backtest
from ..scoring.policy.book import PolicyBook
from ..scoring.policy.policy_file import read_policy_book
from .event_history import parse_time_ms
from .frame_builder import build_frame

PolicyChoice = str | Path | Mapping[str, Any] | None
"""A policy file, or what one would hold; None = the policy of the settings."""


class BacktestFrames:
    """What a back-test found. Every method gives a frame of its name (`backtest_…`); sides are A and, if compared, B.

    Attributes:
        outcome: everything, as `trustwatch backtest --json` tells it.
    """

    def __init__(self, outcome: BacktestResult) -> None:
        self.outcome = outcome

    def __repr__(self) -> str:
        sides = "; ".join(
            f"{side.name}: model {side.model_version}, {side.counted} events of {side.agents} agents on "
            f"{side.agent_days} agent-days"
            for side in self.outcome.sides
        )
        return f"<back-test {sides}>"

    def alerts(self) -> Any:
        """Rises to each level against the budget."""
        return build_frame(
            "backtest_alerts",
            [(side.name, one.level, one.budget, one.alerts, one.rate) for side in self._sides for one in side.alerts],
        )

    def sweep(self) -> Any:
        """Alerts at other budgets (docs/backtest.md says what is approximate about them)."""
        return build_frame(
            "backtest_sweep",
            [
                (side.name, factor, one.level, one.budget, one.alerts, one.rate)
                for side in self._sides
                for factor, tried in zip(BUDGET_FACTORS, side.sweep, strict=True)
                for one in tried
            ],
        )

    def requests(self) -> Any:
        """What the token policy would have said, by type and level."""
        return build_frame(
            "backtest_requests",
            [
                (side.name, asked.type, asked.level, outcome, number)
                for side in self._sides
                if side.policy is not None
                for asked in side.policy.asked
                for outcome, number in asked.outcomes.items()
            ],
        )

    def revoked(self) -> Any:
        """Agents whose tokens would have been revoked, in the order in which that happens."""
        return build_frame(
            "backtest_revoked",
            [
                (
                    side.name,
                    one.tenant,
                    one.agent_id,
                    one.agent_type,
                    parse_time_ms(one.at),
                    parse_time_ms(one.until),
                    one.level,
                    one.risk_score,
                    one.later_events,
                    one.enforced,
                    one.reasons[0] if one.reasons else "",
                    one.event_id,
                )
                for side in self._sides
                if side.policy is not None
                for one in side.policy.revoked
            ],
        )

    def touched(self) -> Any:
        """Agents with requests that were not simply allowed."""
        return build_frame(
            "backtest_touched",
            [
                (side.name, one.tenant, one.agent_id, outcome, number)
                for side in self._sides
                if side.policy is not None
                for one in side.policy.agents
                for outcome, number in one.outcomes.items()
            ],
        )

    def detection(self) -> Any:
        """Bad sessions found at each level, and how soon. Empty without labels."""
        return build_frame(
            "backtest_detection",
            [
                (
                    side.name,
                    one.level,
                    one.sessions,
                    one.detected,
                    one.already,
                    None if one.delay_seconds is None else one.delay_seconds[0],
                    one.true_alerts,
                    one.false_alerts,
                )
                for side in self._sides
                if side.evaluation is not None
                for one in side.evaluation.levels
            ],
        )

    def separation(self) -> Any:
        """How well scores tell bad from good. Empty without labels."""
        return build_frame(
            "backtest_separation",
            [
                (
                    side.name,
                    unit,
                    one.units,
                    one.bad,
                    one.roc_auc,
                    one.average_precision,
                    one.recall_at_1_percent,
                    one.recall_at_5_percent,
                )
                for side, unit, one in self._label_separations()
            ],
        )

    def curves(self) -> Any:
        """ROC and precision-recall curves. Empty without labels."""
        return build_frame(
            "backtest_curves",
            [
                (side.name, unit, name, x, y)
                for side, unit, one in self._label_separations()
                for name, points in (("roc", one.roc), ("precision_recall", one.precision_recall))
                for x, y in points
            ],
        )

    def comparison(self) -> Any:
        """Figures of both sides. Empty where nothing was compared."""
        compared = self.outcome.comparison
        return build_frame(
            "backtest_comparison",
            [
                (one.figure, one.a, one.b, None if one.a is None or one.b is None else one.b - one.a)
                for one in (() if compared is None else compared.figures)
            ],
        )

    def report(self, path: str | Path) -> Path:
        """Write the HTML report of `trustwatch backtest --report`."""
        path = Path(path)
        path.write_text(render_report(self.outcome, clock.utc_now()), encoding="utf-8")
        return path

    @property
    def _sides(self) -> Sequence[BacktestSide]:
        return self.outcome.sides

    def _label_separations(self) -> Iterator[tuple[BacktestSide, str, Any]]:
        for side in self._sides:
            if side.evaluation is not None:
                yield side, "event", side.evaluation.by_event
                yield side, "session", side.evaluation.by_session


def run_plan(plan: BacktestPlan) -> BacktestFrames:
    """Run a plan, model after model; with `jobs` of 1 in this process."""
    known = None if plan.labels is None else read_labels(plan.labels, plan.leave_out)
    counts, problems = _count_outcomes(plan)
    return BacktestFrames(build_result(plan, counts, problems, known))


def _count_outcomes(plan: BacktestPlan) -> tuple[list[BacktestCounts], Sequence[Any]]:
    told = [run_backtest(plan._replace(models=[model])) for model in plan.models]
    return [counts[0] for counts, _ in told], told[0][1]


def budgets_frame(plan: BacktestPlan, factors: Sequence[float]) -> Any:
    """The frame `budgets`: the plan run in full at each multiple of its budget."""
    rows: list[tuple[Any, ...]] = []
    for factor in factors:
        budget = plan.settings.risk.alert_budget.scaled(factor)
        side = run_plan(plan._replace(settings=plan.settings.with_budget(budget), budgets=())).outcome.sides[0]
        found = [None] * len(side.alerts) if side.evaluation is None else side.evaluation.levels
        rows += [
            (
                factor,
                one.level,
                one.budget,
                one.alerts,
                one.rate,
                *((None,) * 4 if seen is None else (seen.sessions, seen.detected, seen.already, seen.false_alerts)),
            )
            for one, seen in zip(side.alerts, found, strict=True)
        ]
    return build_frame("budgets", rows)


def what_if_frames(plan: BacktestPlan, policies: Mapping[str, PolicyBook], factors: Sequence[float]) -> tuple[Any, Any]:
    """The frame `what_if`, and the revocations of each cell: `backtest_revoked` with policy and factor before it."""
    rows: list[tuple[Any, ...]] = []
    revoked: list[Any] = []
    for factor in factors:
        settings = plan.settings.with_budget(plan.settings.risk.alert_budget.scaled(factor))
        tried = plan._replace(settings=settings, books=list(policies.values()), budgets=(), models=plan.models[:1])
        (counts,), problems = _count_outcomes(tried)
        for at, (name, book) in enumerate(policies.items()):
            alone = msgspec.structs.replace(counts, policed=[counts.policed[at]])
            found = BacktestFrames(build_result(tried._replace(books=[book]), [alone], problems, None))
            policy = found.outcome.sides[0].policy
            assert policy is not None
            rows.append(
                (
                    name,
                    factor,
                    policy.agents_revoked,
                    policy.agents_touched,
                    *(policy.totals[outcome] for outcome in ("denied", "held", "narrowed", "shortened", "allowed")),
                )
            )
            part = found.revoked().drop(columns="side")
            part.insert(0, "factor", factor)
            part.insert(0, "policy", name)
            revoked.append(part)
    return build_frame("what_if", rows), pd.concat(revoked, ignore_index=True)


def load_policy_book(policy: PolicyChoice, ours: PolicyBook, folder: Path, name: str) -> PolicyBook:
    """The policy book of a file, of what one would hold, or of the settings. Raises ConfigError where it is wrong."""
    if policy is None:
        return ours
    if isinstance(policy, str | Path):
        return read_policy_book(Path(policy))
    path = folder / f"policy-{len(list(folder.glob('policy-*')))}.yaml"
    path.write_text(json.dumps({"version": name, **policy}))  # JSON is YAML
    return read_policy_book(path)

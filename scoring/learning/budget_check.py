"""Promised against observed: what the alert budget says, and what it would have let through on the model's own history.

Every event of a training history has an honest p-value, from a detector that had not seen it. Run through the risk
kernel in order, they show how often normal agents would have reached each level. Hard signals that they set off are
included where training rehearsed the history's end, and left out elsewhere. The thresholds come from the same history,
so that the truth is a little worse.

A budget of one alert in a thousand agent-days can not be checked on a hundred of them; then the answer is that nobody
knows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.printable_text import number_text
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.trained_model import TrainedModel

from ..engine import level_thresholds, risk, risk_levels
from ..engine.hard_signals import COUNTS
from ..engine.settings import AlertBudget, RiskEvaluationSettings
from ..engine.usual_oddness import USUAL
from ..records.agents import ALERTING_LEVELS, RiskLevel
from .budget_chart import BREACH_PROBABILITY, upper_control_limit


class LevelBudgetReport(NamedTuple):
    """One level. Rates are per 1,000 agent-days."""

    level: str
    budget: float
    alerts: int  # times that an agent of the history came from below the level to it or above
    observed: float
    enough_data: bool  # whether the history is long enough to tell that the budget is kept


class BudgetReport(NamedTuple):
    """Alerts that the thresholds of a model allow, and those that they would have raised on its history.

    Attributes:
        agent_days: days on which an agent was active, summed over agents.
        levels: medium, high, critical.
        groups_of_their_own: peer groups that have history enough for a calibration of their own.
        groups_of_the_fleet: peer groups that are judged by the fleet's.
    """

    agent_days: int
    levels: tuple[LevelBudgetReport, ...]
    groups_of_their_own: int
    groups_of_the_fleet: int

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        return {**self._asdict(), "levels": [level._asdict() for level in self.levels]}

    def describe(self) -> list[str]:
        """The promise in words, one line each."""
        lines = [
            f"held-out history of {self.agent_days} agent-days, alerts per 1,000 agent-days (hard signals included, "
            "where it was long enough to rehearse):"
        ]
        for report in self.levels:
            lines.append(
                f"  {report.level}: {number_text(report.observed)} observed, budget {number_text(report.budget)}"
                f"{self._verdict(report)}"
            )
        if self.groups_of_the_fleet:
            lines.append(
                f"{self.groups_of_the_fleet} of {self.groups_of_the_fleet + self.groups_of_their_own} peer groups have "
                "too little history of their own: they are judged by the fleet's calibration"
            )
        return lines

    @property
    def broken_levels(self) -> list[str]:
        """Levels that the history reached more often than chance explains, if their budget were kept."""
        return [report.level for report in self.levels if report.alerts > self._most_by_chance(report)]

    def _most_by_chance(self, report: LevelBudgetReport) -> int:
        return upper_control_limit(report.budget * self.agent_days / 1000.0, BREACH_PROBABILITY)

    def _verdict(self, report: LevelBudgetReport) -> str:
        if report.level in self.broken_levels:
            return (
                f"; NOT KEPT: {report.alerts} alerts, {self._most_by_chance(report)} are still chance; look at these "
                "agents, or set a larger `risk.alert_budget`, before you enforce this level"
            )
        return "" if report.enough_data else "; too little history to tell"


def check_budget(
    model: TrainedModel,
    columns: EventColumns,
    p_values: npt.NDArray[np.float64],
    settings: RiskEvaluationSettings,
    habits: npt.NDArray[np.int8] | None = None,
    signals: npt.NDArray[np.float64] | None = None,
) -> BudgetReport:
    """Run the held-out p-values of a history through the risk kernel.

    Args:
        columns: the history, in order, with n events.
        p_values: float64 (n, 3), held-out p-values of each by concern, see `train_with_held_out`.
        settings: budget and risk that are asked about.
        habits: int8 (n,), see `risk.update`; None = all are usual.
        signals: float64 (n, COUNTS), evidence of hard signals, likewise; None leaves them out.
    """
    keys, slots = np.unique(columns.names[:, event_columns.AGENT], return_inverse=True)
    n, groups = len(columns), columns.names[:, event_columns.GROUP]
    levels, outputs = np.zeros((n, 2), np.int8), np.zeros((n, risk.OUTPUTS))
    state = risk_levels.allocate(len(keys))
    state["events"] = _events_before(model, keys, np.bincount(slots, minlength=len(keys)))
    risk.update(
        np.arange(n),
        slots,
        state,
        columns.time_ms,
        p_values,
        np.ones(n),
        np.zeros(n),
        model.coverage(groups),
        np.zeros((n, COUNTS)) if signals is None else signals,
        level_thresholds.model_thresholds(model, settings.budget),
        model.group_rows(groups),
        columns.codes[:, event_columns.SELF_ASSERTED],
        columns.codes[:, event_columns.OWN_DENIAL],
        np.full(n, USUAL, np.int8) if habits is None else habits,
        risk_levels.kernel_parameters(settings),
        levels,
        outputs,
        np.zeros((n, len(CONCERNS), risk.CONCERN_OUTPUTS)),
    )
    days = len(np.unique(np.stack([slots, columns.time_ms // DAY_MS]), axis=1).T)
    own = sum(model.detector.covers(int(group)) for group in model.groups[1:].tolist())
    rises = risk_levels.count_rises(levels[:, 0], levels[:, 1])
    budget = settings.budget
    reports = [
        _check_level(level, int(alerts), days, budget) for level, alerts in zip(ALERTING_LEVELS, rises, strict=True)
    ]
    return BudgetReport(days, tuple(reports), own, len(model.groups) - 1 - own)


def _events_before(
    model: TrainedModel, keys: npt.NDArray[np.uint64], judged: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Events that each agent had shown before its *judged* (a,) ones."""
    if not len(model.seeds.keys):
        return np.zeros(len(keys), np.int64)
    seed_of = np.minimum(np.searchsorted(model.seeds.keys, keys), len(model.seeds.keys) - 1)
    shown = np.where(model.seeds.keys[seed_of] == keys, model.seeds.events[seed_of], 0)
    return np.asarray(np.maximum(shown - judged, 0))


def _check_level(level: RiskLevel, alerts: int, days: int, budget: AlertBudget) -> LevelBudgetReport:
    allowed = budget.by_level()[level.label]
    enough = allowed / 1000.0 * days >= level_thresholds.MIN_EXPECTED_ALERTS
    return LevelBudgetReport(level.label, allowed, alerts, alerts * 1000.0 / max(days, 1), enough)

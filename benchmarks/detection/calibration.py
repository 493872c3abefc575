"""What p-values promise and what is observed on days to come: uniformity per peer group, alerts per budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, kstest

from trustwatch.scoring.engine import risk_levels
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.settings import AlertBudget, RiskEvaluationSettings

from ..attacks.attacked_enterprise import AttackedEnterprise, replay_scores
from . import traces
from .fitted_trace import FittedTrace
from .report import FigureTable

PROMISED = (0.05, 0.01, 0.001)
BUDGETS = (5.0, 20.0, 100.0, 500.0)
_EXPECTED = 5.0
"""Fewest events expected below a promise for its share to say anything."""
_UNIFORM_COLUMNS = ("events of", "normal events", "p <= 5 %", "p <= 1 %", "p <= 0.1 %", "KS distance", "KS p-value")


class _Agent(msgspec.Struct):
    type: str = ""


class _Event(msgspec.Struct):
    agent: _Agent


def _kinds(events: list[bytes]) -> NDArray[np.str_]:
    """Agent type of each event."""
    decode = msgspec.json.Decoder(_Event).decode
    return np.array([decode(event).agent.type for event in events])


def row(name: str, p: NDArray[np.float64]) -> tuple[Any, ...]:
    """Shares at or below each promise, and the distance from uniform; too few events are said to be so."""
    shares = [f"{(p <= at).mean():.2%}" if len(p) * at >= _EXPECTED else "too few" for at in PROMISED]
    test = kstest(p, "uniform")
    return (name, f"{len(p):,}", *shares, float(test.statistic), f"{test.pvalue:.1g}")


def of_traces(labs: list[FittedTrace]) -> list[FigureTable]:
    """Normal sessions of the test parts, per agent type."""
    return [FigureTable("p-values of normal sessions of the traces", _UNIFORM_COLUMNS, list(_trace_rows(labs)))]


def _trace_rows(labs: list[FittedTrace]) -> Iterator[tuple[Any, ...]]:
    for lab in labs:
        normal = np.array([not label["session_label"] and label["class"] != "resisted" for label in lab.trace.labels])
        kinds = _kinds(lab.trace.test)
        for learn in (False, True):
            p = np.array([line.p_value for line in traces.replay(lab.model, lab.trace.test, learn)])
            for kind in np.unique(kinds[normal]):
                yield row(f"{lab.trace.name} {kind}, {'learning' if learn else 'frozen'}", p[normal & (kinds == kind)])


def of_world(world: AttackedEnterprise) -> list[FigureTable]:
    """Agents without any attack in the simulated days behind the history, learning on."""
    calm, kinds = world.unattacked_rows, _kinds(world.events)
    rows = [row("all", world.trail["p"][calm])]
    rows += [row(str(kind), world.trail["p"][calm & (kinds == kind)]) for kind in np.unique(kinds[calm])]
    note = "Events of one session are not independent, so that the KS p-value is small even for a small distance."
    budgets = FigureTable(
        "Promised and observed false alerts, agents without attacks",
        (
            "budget per 1,000 agent-days (medium)",
            "alerts",
            "agent-days",
            "observed per 1,000",
            "95 % interval",
            "agents",
        ),
        [_chart(world, budget) for budget in BUDGETS],
        "Intervals are Poisson's; alerts of one agent come in groups, so that the truth is wider.",
    )
    return [FigureTable("p-values of the simulated days", _UNIFORM_COLUMNS, rows, note), budgets]


def _chart(world: AttackedEnterprise, budget: float) -> tuple[Any, ...]:
    """One replay of the calm agents at one budget."""
    rows = np.flatnonzero(world.unattacked_rows)
    settings = EngineSettings(
        RiskEvaluationSettings(alert_budget=AlertBudget(budget, budget / 4, budget / 20).by_level())
    )
    trail = replay_scores(world.model, [world.events[at] for at in rows], settings)
    raised = (trail["after"] >= risk_levels.MEDIUM) & (trail["after"] > trail["before"])
    alerts, days = int(raised.sum()), world.agent_days(world.unattacked_rows)
    low, high = chi2.ppf(0.025, 2 * alerts) / 2 if alerts else 0.0, chi2.ppf(0.975, 2 * alerts + 2) / 2
    agents = len(np.unique(world.agent[rows][raised]))
    per = 1000 / days
    return (f"{budget:.0f}", alerts, days, f"{alerts * per:.0f}", f"{low * per:.0f} to {high * per:.0f}", agents)

"""Fleets without any attack: does the alert budget hold, at every level and for every concern, and is anybody stuck?"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.concerns import CONCERNS
from trustwatch.scoring.engine import risk, risk_levels
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.engine.settings import AlertBudget
from trustwatch.scoring.learning.budget_check import check_budget
from trustwatch.scoring.learning.walkforward import train_walk_forward
from trustwatch.scoring.pipeline.replay import HistoryReplay
from trustwatch.scoring.records.agents import ALERTING_LEVELS
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import SimulationSettings

from ..attacks.attacked_enterprise import SALT, START, TENANTS, domains, raise_malformed
from .report import FigureTable

JUDGED_DAYS = 7
MOST_DAYS = 2
"""Days above low from which an agent is stuck."""


class FleetSize(NamedTuple):
    """How large and how busy a fleet is, and how many days of it are learned."""

    agents: int
    events_per_agent_day: float
    learned_days: int = 28


FLEETS = (
    *(FleetSize(40, 120.0) for _ in range(8)),
    *(FleetSize(200, 40.0) for _ in range(6)),
    *(FleetSize(40, 400.0) for _ in range(2)),
    *(FleetSize(200, 120.0) for _ in range(3)),
    FleetSize(1000, 40.0),
)
FIRST_SEED = 421
"""Seeds from here on chose nothing; smaller ones were looked at while rules were made."""
SHORT_HISTORIES = tuple(FleetSize(40, 120.0, days) for days in (3, 7, 14) for _ in range(3))
FIRST_SHORT_SEED = 461


class FleetWeek(NamedTuple):
    """What happened to honest agents in a week.

    Attributes:
        rises: (3, 3), by concern and level, times that an agent came from below the level to it or above.
        agent_days: days on which an agent was active, summed.
        stuck: agents above low on more than `MOST_DAYS` days.
        agents: that were active.
        broken: levels whose budget training itself found not kept.
    """

    rises: NDArray[np.int64]
    agent_days: int
    stuck: int
    agents: int
    broken: int


class _LevelReplay(HistoryReplay):
    """A replay that keeps levels instead of words."""

    def _events_of(self, scored: ScoredBatch) -> Iterator[Any]:
        concern, before = scored.risk[:, risk.CONCERN].copy(), scored.risk[:, risk.LEVEL_BEFORE].copy()
        yield scored.columns.time_ms, scored.slots.copy(), concern, before, scored.levels[:, 1].copy()


def split_fleet(size: FleetSize, seed: int, tenants: tuple[str, ...] = TENANTS) -> tuple[list[bytes], list[bytes]]:
    """Events of the days of a fleet that are learned, and of the week behind them."""
    settings = SimulationSettings(
        START,
        timedelta(days=size.learned_days + JUDGED_DAYS),
        seed,
        size.agents,
        tenants,
        events_per_agent_day=size.events_per_agent_day,
    )
    cut = settings.start_ms + size.learned_days * DAY_MS
    history: list[bytes] = []
    judged: list[bytes] = []
    for one in simulate(settings):
        (history if one.at_ms < cut else judged).append(one.event)
    return history, judged


def live_one_week(size: FleetSize, seed: int) -> FleetWeek:
    """Learn the first days of a fleet, and judge the week behind them."""
    history, judged = split_fleet(size, seed)
    columns = ColumnEncoder(SALT, domains()).encode([decode_history_event(event)[0] for event in history])
    engine = EngineSettings(capacity=4 * size.agents)
    trained = train_walk_forward(columns, SALT, "fleet")
    report = check_budget(
        trained.model, trained.validation_events, trained.p_values, engine.risk, trained.habits, trained.signals
    )
    run = _LevelReplay(trained.model, engine, domains())
    source = FileSource(io.BytesIO(b"\n".join(judged) + b"\n"))
    parts = list(run.replayed_events(source, raise_malformed))
    time_ms, agent, concern, before, after = (np.concatenate(part) for part in zip(*parts, strict=True))
    rises = np.array(
        [
            [((before < level) & (after >= level) & (concern == one)).sum() for level in ALERTING_LEVELS]
            for one in range(3)
        ]
    )
    days = np.unique(np.stack([agent, time_ms // DAY_MS]), axis=1)
    above = np.unique(np.stack([agent, time_ms // DAY_MS])[:, after >= risk_levels.MEDIUM], axis=1)
    stuck = int((np.unique(above[0], return_counts=True)[1] > MOST_DAYS).sum())
    return FleetWeek(rises, days.shape[1], stuck, len(np.unique(days[0])), len(report.broken_levels))


def run(fleets: Sequence[FleetSize] = FLEETS) -> list[FigureTable]:
    """Rises of honest agents beside the budget, pooled over fleets."""
    weeks = [live_one_week(size, FIRST_SEED + at) for at, size in enumerate(fleets)]
    days = sum(week.agent_days for week in weeks)
    by_concern = np.sum([week.rises for week in weeks], axis=0)
    rows = [_row("all", by_concern.sum(axis=0), days)]
    rows += [_row(name, by_concern[at], days) for at, name in enumerate(CONCERNS)]
    allowed = AlertBudget()
    note = (
        f"{_described(fleets)}, {fleets[0].learned_days} days learned, {JUDGED_DAYS} judged without any attack: "
        f"{days:,} agent-days. Rises per 1,000 agent-days and their upper 95 % bound; budgets are {allowed.medium:g}, "
        f"{allowed.high:g} and {allowed.critical:g}. {_found(weeks)}"
    )
    return [FigureTable("Honest fleets", ("concern", "medium", "high", "critical"), rows, note)]


def behind_short_histories(fleets: Sequence[FleetSize] = SHORT_HISTORIES) -> list[FigureTable]:
    """Rises of honest agents by the days that were learned."""
    weeks = [live_one_week(size, FIRST_SHORT_SEED + at) for at, size in enumerate(fleets)]
    rows = []
    for learned in sorted({size.learned_days for size in fleets}):
        behind = [week for week, size in zip(weeks, fleets, strict=True) if size.learned_days == learned]
        rises = np.sum([week.rises for week in behind], axis=(0, 1))
        rows.append(_row(str(learned), rises, sum(week.agent_days for week in behind)))
    note = f"{_described(fleets)}, {JUDGED_DAYS} days judged, as above. {_found(weeks)}"
    columns = ("days learned", "medium", "high", "critical")
    return [FigureTable("Honest fleets behind short histories", columns, rows, note)]


def _described(fleets: Sequence[FleetSize]) -> str:
    sizes = sorted({size.agents for size in fleets})
    span = f"{sizes[0]} agents" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]:,} agents"
    return f"{len(fleets)} fleets of {span}"


def _found(weeks: Sequence[FleetWeek]) -> str:
    """Agents that were stuck, and fleets whose training says that it can not keep its promise."""
    agents, stuck, broken = (sum(getattr(week, name) for week in weeks) for name in ("agents", "stuck", "broken"))
    return (
        f"{stuck} of {agents:,} agents were above low on more than {MOST_DAYS} days. Training called {broken} of "
        f"{3 * len(weeks)} budgets of levels not kept."
    )


def _row(name: str, rises: NDArray[np.int64], days: int) -> tuple[Any, ...]:
    per = 1000.0 / days
    return (
        name,
        *(f"{count} ({count * per:.1f}; at most {chi2.ppf(0.95, 2 * count + 2) / 2 * per:.1f})" for count in rises),
    )

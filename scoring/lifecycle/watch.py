"""What peer groups did day by day while a model ran in shadow: agent-days, alerts, p-values, drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from ...ingest import columns as c
from ...models.bundle import TrainedModel
from ...models.calibration import FLEET_GROUP
from ..engine import ResidentAgents, ScoredBatch
from ..records import RiskLevel
from .budget import ALERT_LEVEL_NAMES
from .drift import (
    MIN_AGENT_DAYS,
    SCORES_KEY,
    DaySketchBuilder,
    DistributionSketch,
    learnable_events,
    measure_drift,
    sketch_from_json,
)
from .records import DAY_MS, P_VALUE_EDGES, PeerGroupDay

MAX_GROUPS_PER_DAY = 200
"""Peer groups of one day that are kept apart; the others are one."""
DAY_CLOSES_AFTER_MS = 3_600_000
"""A day is over when events of so much later have come: those that were late are in it."""

PeerGroup = tuple[str, str]
FLEET_PEER_GROUP: PeerGroup = ("*", "*")
"""The fleet: also where its groups are too small to be measured each."""
OTHER_GROUPS: PeerGroup = ("*", "(other)")
_ALERT_LEVELS = tuple(RiskLevel[name.upper()] for name in ALERT_LEVEL_NAMES)


class DriftThresholds(NamedTuple):
    """From which index on something has drifted, and when a day is judged."""

    features: float
    scores: float
    min_events: int
    reference_days: int  # the first days of a group, which later ones are measured against


class _PeerGroupDayCounts:
    """One group on one day."""

    def __init__(self, features: int, group: int) -> None:
        self.group = group
        self.sketch = DaySketchBuilder(features)
        self.events = 0
        self.agents: set[int] = set()
        self.alerts: Counter[str] = Counter()
        self.p_values = np.zeros(len(P_VALUE_EDGES), np.int64)


class PeerGroupMonitor:
    """Watches one model in shadow.

    Attributes:
        newest_ms: event time of the newest event so far.
        complete_ms: event time up to which everything was seen, where partitions are read at different speeds; None =
            events come in the order of one log, and that is `newest_ms`.

    Args:
        model: whose events are seen.
        thresholds: of drift.
        known: days of the model that were noted before, to go on from.
    """

    def __init__(self, model: TrainedModel, thresholds: DriftThresholds, known: Iterable[PeerGroupDay] = ()) -> None:
        self._model = model
        self._thresholds = thresholds
        self._features = len(model.detector.feature_names)
        self._references: dict[PeerGroup, dict[int, DistributionSketch]] = {}
        for day in known:
            sketch = sketch_from_json(day.drift.get("reference", {}), self._features)
            if sketch is not None:
                self._references.setdefault((day.tenant, day.agent_type), {})[day.day] = sketch
        self._days: dict[tuple[int, PeerGroup], _PeerGroupDayCounts] = {}
        self._groups: dict[int, PeerGroup] = {}
        self.newest_ms = 0
        self.complete_ms: int | None = None
        self._changed: set[tuple[int, PeerGroup]] = set()

    def observe(self, scored: ScoredBatch, agents: ResidentAgents) -> None:
        """Events as the model scored them; *agents* are those of the engine that did."""
        columns = scored.columns
        days = columns.time_ms // DAY_MS
        u = self._model.detector.score(scored.vectors, columns.names[:, c.GROUP]).feature_evidence
        fine = learnable_events(columns)
        for day in np.unique(days).tolist():
            for group in np.unique(columns.names[days == day, c.GROUP]).tolist():
                rows = np.flatnonzero((days == day) & (columns.names[:, c.GROUP] == np.uint64(group)))
                name = self._group_name(day, group, int(scored.slots[rows[0]]), agents)
                self._count_events(
                    (day, name), FLEET_GROUP if name == OTHER_GROUPS else group, scored, rows, rows[fine[rows]], u
                )
            rows = np.flatnonzero(days == day)
            self._count_events((day, FLEET_PEER_GROUP), FLEET_GROUP, scored, rows, rows[fine[rows]], u)
        self.newest_ms = max(self.newest_ms, int(columns.time_ms.max()))

    def _count_events(
        self, place: tuple[int, PeerGroup], group: int, scored: ScoredBatch, rows: Any, taught_rows: Any, u: Any
    ) -> None:
        found = self._days.get(place)
        if found is None:
            if self._is_over(place[0]):
                return
            found = self._days[place] = _PeerGroupDayCounts(u.shape[1], group)
        self._changed.add(place)
        found.events += len(rows)
        found.agents.update(scored.columns.names[rows, c.AGENT].tolist())
        before, after = scored.levels[rows, 0], scored.levels[rows, 1]
        for name, level in zip(ALERT_LEVEL_NAMES, _ALERT_LEVELS, strict=True):
            found.alerts[name] += int(((before < level) & (after >= level)).sum())
        p_values = scored.p_values[taught_rows]
        found.p_values += np.bincount(np.searchsorted(P_VALUE_EDGES, p_values - 1e-12), minlength=len(P_VALUE_EDGES))[
            : len(P_VALUE_EDGES)
        ]
        if len(taught_rows):
            agents, time_ms = scored.columns.names[taught_rows, c.AGENT], scored.columns.time_ms[taught_rows]
            found.sketch.add_events(u[taught_rows], p_values, agents.tolist(), time_ms.tolist())

    def _group_name(self, day: int, group: int, slot: int, agents: ResidentAgents) -> PeerGroup:
        known = self._groups.get(group)
        if known is None:
            name = agents.names[slot]
            known = OTHER_GROUPS if name is None else (name.tenant, agents.types[slot])
            if len(self._groups) > 10 * MAX_GROUPS_PER_DAY:
                self._groups.clear()
            self._groups[group] = known
        if (day, known) not in self._days and sum(at == day for at, _ in self._days) >= MAX_GROUPS_PER_DAY:
            return OTHER_GROUPS
        return known

    def drain_changed_days(self) -> list[PeerGroupDay]:
        """Days that changed since this was asked; those that are over are judged, and forgotten."""
        told = []
        for place in sorted(self._changed | {place for place in self._days if self._is_over(place[0])}):
            told.append(self._day_record(place))
            if self._is_over(place[0]):
                del self._days[place]
        self._changed.clear()
        return told

    def _is_over(self, day: int) -> bool:
        seen_ms = self.newest_ms if self.complete_ms is None else self.complete_ms
        return (day + 1) * DAY_MS + DAY_CLOSES_AFTER_MS <= seen_ms

    def _day_record(self, place: tuple[int, PeerGroup]) -> PeerGroupDay:
        (day, (tenant, agent_type)), found = place, self._days[place]
        alerts = tuple(found.alerts[name] for name in ALERT_LEVEL_NAMES)
        p_values = tuple(found.p_values.tolist())
        return PeerGroupDay(
            self._model.version,
            day,
            tenant,
            agent_type,
            found.events,
            len(found.agents),
            (alerts[0], alerts[1], alerts[2]),
            p_values,
            self._measure_day(place, found),
        )

    def _measure_day(self, place: tuple[int, PeerGroup], found: _PeerGroupDayCounts) -> dict[str, Any]:
        (day, group), sketch, bounds = place, found.sketch.sketch, self._thresholds
        if sketch.blocks < MIN_AGENT_DAYS or found.sketch.events < bounds.min_events:
            return {}
        usual = self._references.setdefault(group, {})
        if day in usual or len(usual) < bounds.reference_days:
            if not self._is_over(day):
                return {}
            usual[day] = sketch
            return {"judged": False, "reference": sketch.as_json()}
        alike = [sketch for at, sketch in usual.items() if _is_weekend(at) == _is_weekend(day)]
        if not alike:
            return {}
        total = reduce(DistributionSketch.merged, alike)
        scores, features = measure_drift(sketch, total, self._model.detector.feature_names)
        judged = self._is_over(day)
        drifted = [SCORES_KEY] if scores > bounds.scores else []
        drifted += [name for name, index in features.items() if index > bounds.features]
        return {"judged": judged, "scores": scores, "features": features, "drifted": drifted if judged else []}


def _is_weekend(day: int) -> bool:
    """A Saturday or Sunday is measured against those, other days against others: agents follow people's hours."""
    return (day + 3) % 7 >= 5  # day 0 was a Thursday

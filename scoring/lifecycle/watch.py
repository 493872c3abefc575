"""What peer groups did day by day while a model ran in shadow: agent-days, alerts, p-values, drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from ...ingest import columns as c
from ...models.bundle import TrainedModel
from ...models.calibration import FLEET
from ..engine import Agents, Scored
from ..records import RiskLevel
from .budget import LEVELS
from .drift import LEAST_BLOCKS, SCORES, DaySketch, Sketch, measure, sketch_from, taught
from .records import DAY_MS, P_EDGES, GroupDay

MOST_GROUPS = 200
"""Peer groups of one day that are kept apart; the others are one."""
CLOSED_AFTER_MS = 3_600_000
"""A day is over when events of so much later have come: those that were late are in it."""

Group = tuple[str, str]
WHOLE: Group = ("*", "*")
"""The fleet: also where its groups are too small to be measured each."""
OTHERS: Group = ("*", "(other)")
_RISE = tuple(RiskLevel[name.upper()] for name in LEVELS)


class Thresholds(NamedTuple):
    """From which index on something has drifted, and when a day is judged."""

    features: float
    scores: float
    min_events: int
    reference_days: int  # the first days of a group, which later ones are measured against


class _Day:
    """One group on one day."""

    def __init__(self, features: int, group: int) -> None:
        self.group = group
        self.sketch = DaySketch(features)
        self.events = 0
        self.agents: set[int] = set()
        self.alerts: Counter[str] = Counter()
        self.p_values = np.zeros(len(P_EDGES), np.int64)


class GroupWatch:
    """Watches one model in shadow.

    Attributes:
        newest_ms: event time of the newest event so far.
        settled_ms: event time up to which everything was seen, where partitions are read at different speeds; None =
            events come in the order of one log, and that is `newest_ms`.

    Args:
        model: whose events are seen.
        thresholds: of drift.
        known: days of the model that were noted before, to go on from.
    """

    def __init__(self, model: TrainedModel, thresholds: Thresholds, known: Iterable[GroupDay] = ()) -> None:
        self._model = model
        self._thresholds = thresholds
        self._features = len(model.detector.feature_names)
        self._usual: dict[Group, dict[int, Sketch]] = {}
        for day in known:
            sketch = sketch_from(day.drift.get("reference", {}), self._features)
            if sketch is not None:
                self._usual.setdefault((day.tenant, day.agent_type), {})[day.day] = sketch
        self._days: dict[tuple[int, Group], _Day] = {}
        self._groups: dict[int, Group] = {}
        self.newest_ms = 0
        self.settled_ms: int | None = None
        self._changed: set[tuple[int, Group]] = set()

    def see(self, scored: Scored, agents: Agents) -> None:
        """Events as the model scored them; *agents* are those of the engine that did."""
        columns = scored.columns
        days = columns.time_ms // DAY_MS
        u = self._model.detector.score(scored.vectors, columns.names[:, c.GROUP]).u
        fine = taught(columns)
        for day in np.unique(days).tolist():
            for group in np.unique(columns.names[days == day, c.GROUP]).tolist():
                rows = np.flatnonzero((days == day) & (columns.names[:, c.GROUP] == np.uint64(group)))
                name = self._named(day, group, int(scored.slots[rows[0]]), agents)
                self._add((day, name), FLEET if name == OTHERS else group, scored, rows, rows[fine[rows]], u)
            rows = np.flatnonzero(days == day)
            self._add((day, WHOLE), FLEET, scored, rows, rows[fine[rows]], u)
        self.newest_ms = max(self.newest_ms, int(columns.time_ms.max()))

    def _add(self, place: tuple[int, Group], group: int, scored: Scored, rows: Any, taught_rows: Any, u: Any) -> None:
        found = self._days.get(place)
        if found is None:
            if self._over(place[0]):
                return
            found = self._days[place] = _Day(u.shape[1], group)
        self._changed.add(place)
        found.events += len(rows)
        found.agents.update(scored.columns.names[rows, c.AGENT].tolist())
        before, after = scored.levels[rows, 0], scored.levels[rows, 1]
        for name, level in zip(LEVELS, _RISE, strict=True):
            found.alerts[name] += int(((before < level) & (after >= level)).sum())
        p_values = scored.p_values[taught_rows]
        found.p_values += np.bincount(np.searchsorted(P_EDGES, p_values - 1e-12), minlength=len(P_EDGES))[
            : len(P_EDGES)
        ]
        if len(taught_rows):
            agents, time_ms = scored.columns.names[taught_rows, c.AGENT], scored.columns.time_ms[taught_rows]
            found.sketch.see(u[taught_rows], p_values, agents.tolist(), time_ms.tolist())

    def _named(self, day: int, group: int, slot: int, agents: Agents) -> Group:
        known = self._groups.get(group)
        if known is None:
            name = agents.names[slot]
            known = OTHERS if name is None else (name.tenant, agents.types[slot])
            if len(self._groups) > 10 * MOST_GROUPS:
                self._groups.clear()
            self._groups[group] = known
        if (day, known) not in self._days and sum(at == day for at, _ in self._days) >= MOST_GROUPS:
            return OTHERS
        return known

    def changed(self) -> list[GroupDay]:
        """Days that changed since this was asked; those that are over are judged, and forgotten."""
        told = []
        for place in sorted(self._changed | {place for place in self._days if self._over(place[0])}):
            told.append(self._told(place))
            if self._over(place[0]):
                del self._days[place]
        self._changed.clear()
        return told

    def _over(self, day: int) -> bool:
        seen_ms = self.newest_ms if self.settled_ms is None else self.settled_ms
        return (day + 1) * DAY_MS + CLOSED_AFTER_MS <= seen_ms

    def _told(self, place: tuple[int, Group]) -> GroupDay:
        (day, (tenant, agent_type)), found = place, self._days[place]
        alerts = tuple(found.alerts[name] for name in LEVELS)
        p_values = tuple(found.p_values.tolist())
        return GroupDay(
            self._model.version,
            day,
            tenant,
            agent_type,
            found.events,
            len(found.agents),
            (alerts[0], alerts[1], alerts[2]),
            p_values,
            self._drift(place, found),
        )

    def _drift(self, place: tuple[int, Group], found: _Day) -> dict[str, Any]:
        (day, group), sketch, bounds = place, found.sketch.sketch, self._thresholds
        if sketch.blocks < LEAST_BLOCKS or found.sketch.events < bounds.min_events:
            return {}
        usual = self._usual.setdefault(group, {})
        if day in usual or len(usual) < bounds.reference_days:
            if not self._over(day):
                return {}
            usual[day] = sketch
            return {"judged": False, "reference": sketch.plain()}
        alike = [sketch for at, sketch in usual.items() if _weekend(at) == _weekend(day)]
        if not alike:
            return {}
        total = reduce(Sketch.plus, alike)
        scores, features = measure(sketch, total, self._model.detector.feature_names)
        judged = self._over(day)
        drifted = [SCORES] if scores > bounds.scores else []
        drifted += [name for name, index in features.items() if index > bounds.features]
        return {"judged": judged, "scores": scores, "features": features, "drifted": drifted if judged else []}


def _weekend(day: int) -> bool:
    """A Saturday or Sunday is measured against those, other days against others: agents follow people's hours."""
    return (day + 3) % 7 >= 5  # day 0 was a Thursday

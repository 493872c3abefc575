"""Drift of a peer group: one day against its first days under the model that judges it.

Each feature's evidence, in decades of rarity, is cut into bins, and so are p-values. The population stability index of
two distributions, `sum (p - q) ln(p / q)`, does not grow with the number of events; what chance alone makes of it is
taken off, given how few independent pieces there are: an agent's day is one. By convention 0.1 is a shift that
one can see, 0.25 one that one should act on.

The first days are measured as all later ones. The held-out history of the training is not: agents have longer
histories later, and evidence that depends on them moves without anybody's doing (measured: indices above 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import msgspec
import numpy as np

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS, format_day, format_rfc3339
from trustwatch.models.input_checks import Floats, Ints
from trustwatch.models.model_training import learnable_events
from trustwatch.models.trained_model import TrainedModel

from ..delivery.notifiers.alert_events import ALERT_ROW_KIND, DRIFT_ALERT_TYPE
from ..engine import risk_levels
from ..engine.resident_agents import ResidentAgents
from ..engine.scored_batch import ScoredBatch
from ..records.agents import ALERTING_LEVELS, RiskLevel
from ..records.commits import OutboxRow
from ..records.models import FLEET_PEER_GROUP, P_VALUE_EDGES, PeerGroup, PeerGroupDay
from .promotion import DRIFTED_FEATURES, DRIFTED_SCORES, DriftSettings

EVIDENCE_EDGES = np.array([0.5, 1.0, 2.0, 3.0])
"""Edges of the bins of evidence, decades: finer cuts see differences that no alert would ever follow from."""
EVIDENCE_BINS = len(EVIDENCE_EDGES) + 1
P_VALUE_BINS = 10
MAX_REPORTED_FEATURES = 8
"""Most features that are reported, the largest first."""
MIN_GROUP_EVENTS = 500
"""Events of a group on one day from which it is judged: fewer fill no histogram."""
ALERT_AGAIN_DAYS = 7
"""An ongoing drift is reported again after this many days."""
MIN_AGENT_DAYS = 10
"""Agents of a day from which its index means anything."""
SCORES_KEY = "scores"
_SMOOTH = 0.5


class DistributionSketch(NamedTuple):
    """Distributions of one or several days of a group."""

    features: Ints  # int64 (F, EVIDENCE_BINS), events by evidence of each feature
    p_values: Ints  # int64 (P_VALUE_BINS,), events by p-value, tenths
    blocks: int  # agent-days that they come from

    @staticmethod
    def empty(features: int) -> DistributionSketch:
        """Return a sketch of no events."""
        return DistributionSketch(np.zeros((features, EVIDENCE_BINS), np.int64), np.zeros(P_VALUE_BINS, np.int64), 0)

    def merged(self, other: DistributionSketch) -> DistributionSketch:
        """Return the sum of this sketch and *other*."""
        return DistributionSketch(
            self.features + other.features, self.p_values + other.p_values, self.blocks + other.blocks
        )

    def as_json(self) -> dict[str, Any]:
        return {"features": self.features.tolist(), "p_values": self.p_values.tolist(), "blocks": self.blocks}


def sketch_from_json(plain: Mapping[str, Any], features: int) -> DistributionSketch | None:
    """Read a sketch from JSON; return None if it was written by another program or for another number of features."""
    try:
        sketch = DistributionSketch(
            np.array(plain["features"], np.int64), np.array(plain["p_values"], np.int64), int(plain["blocks"])
        )
    except (KeyError, TypeError, ValueError):
        return None
    fits = sketch.features.shape == (features, EVIDENCE_BINS) and sketch.p_values.shape == (P_VALUE_BINS,)
    return sketch if fits else None


def population_stability_index(counts: Ints, expected: Ints, blocks: int, expected_blocks: int) -> Floats:
    """Return the population stability index per row, (F,), at least 0, minus what chance explains.

    Args:
        counts: int64 (F, B), of the day.
        expected: int64 (F, B), of the days that it is measured against.
        blocks, expected_blocks: independent pieces of both.
    """
    bins = counts.shape[1]
    n, m = (np.maximum(histogram.sum(axis=1, keepdims=True), 1) for histogram in (counts, expected))
    p = (counts + _SMOOTH) / (n + _SMOOTH * bins)
    q = (expected * (n / m) + _SMOOTH) / (n + _SMOOTH * bins)
    index = ((p - q) * np.log(p / q)).sum(axis=1)
    used = ((expected > 0) | (counts > 0)).sum(axis=1)
    chance = np.maximum(used - 1, 0) * (1.0 / max(blocks, 1) + 1.0 / max(expected_blocks, 1))
    excess: Floats = np.maximum(index - 2.0 * chance, 0.0)  # twice its mean is seldom exceeded
    return excess


MAX_GROUPS_PER_DAY = 200
"""Peer groups of one day that are kept apart; the others are one."""
DAY_CLOSES_AFTER_MS = HOUR_MS
"""A day is over when events of so much later have come: those that were late are in it."""

OTHER_GROUPS: PeerGroup = ("*", "(other)")


class GroupDay:
    """The events of one peer group on one day."""

    def __init__(self, features: int) -> None:
        self.events = 0
        self.agents: set[int] = set()
        self.alerts: Counter[str] = Counter()
        self.p_values = np.zeros(len(P_VALUE_EDGES), np.int64)
        self.sketch = DistributionSketch.empty(features)
        self.learnable = 0
        """Events in the sketch."""
        self._last: dict[int, int] = {}

    def add_to_sketch(self, u: Floats, p_values: Floats, agents: Iterable[int], time_ms: Iterable[int]) -> None:
        """Add events that may be learned: evidence (n, F), p-values, agents and times (n,)."""
        tenths = np.minimum((p_values * P_VALUE_BINS - 1e-12).astype(np.int64), P_VALUE_BINS - 1)
        blocks = 0
        for agent, at in zip(agents, time_ms, strict=True):
            block = at // DAY_MS
            if self._last.get(agent, -1) < block:
                self._last[agent] = block
                blocks += 1
        places = np.searchsorted(EVIDENCE_EDGES, u, side="right")
        features = np.stack([(places == at).sum(axis=0) for at in range(EVIDENCE_BINS)], axis=1).astype(np.int64)
        added = DistributionSketch(features, np.bincount(tenths, minlength=P_VALUE_BINS), blocks)
        self.sketch = self.sketch.merged(added)
        self.learnable += len(u)


class PeerGroupMonitor:
    """Monitors the peer groups of one model.

    Attributes:
        newest_ms: event time of the newest event so far.
        complete_ms: event time up to which everything was seen, where partitions are read at different speeds; None =
            events come in the order of one log, and that is `newest_ms`.
    """

    def __init__(self, model: TrainedModel, settings: DriftSettings, stored_days: Iterable[PeerGroupDay] = ()) -> None:
        self._model = model
        self._settings = settings
        self._features = len(model.detector.feature_names)
        self._references: dict[PeerGroup, dict[int, DistributionSketch]] = {}
        for day in stored_days:
            sketch = sketch_from_json(day.drift.get("reference", {}), self._features)
            if sketch is not None:
                self._references.setdefault((day.tenant, day.agent_type), {})[day.day] = sketch
        self._days: dict[tuple[int, PeerGroup], GroupDay] = {}
        self._groups: dict[int, PeerGroup] = {}
        self.newest_ms = 0
        self.complete_ms: int | None = None
        self._changed: set[tuple[int, PeerGroup]] = set()

    def observe(self, scored: ScoredBatch, agents: ResidentAgents) -> None:
        """Add events as the model scored them; *agents* are those of its engine."""
        columns = scored.columns
        days = columns.time_ms // DAY_MS
        u = self._model.detector.evidence(scored.vectors).feature_evidence
        fine = learnable_events(columns)
        for day in np.unique(days).tolist():
            for group in np.unique(columns.names[days == day, event_columns.GROUP]).tolist():
                rows = np.flatnonzero((days == day) & (columns.names[:, event_columns.GROUP] == np.uint64(group)))
                name = self._group_name(day, group, scored, int(rows[0]), agents)
                self._count_events((day, name), scored, rows, rows[fine[rows]], u)
            rows = np.flatnonzero(days == day)
            self._count_events((day, FLEET_PEER_GROUP), scored, rows, rows[fine[rows]], u)
        self.newest_ms = max(self.newest_ms, int(columns.time_ms.max()))

    def _count_events(
        self, group_day: tuple[int, PeerGroup], scored: ScoredBatch, rows: Any, learnable_rows: Any, u: Any
    ) -> None:
        counts = self._days.get(group_day)
        if counts is None:
            if self._is_over(group_day[0]):
                return
            counts = self._days[group_day] = GroupDay(u.shape[1])
        self._changed.add(group_day)
        counts.events += len(rows)
        counts.agents.update(scored.columns.names[rows, event_columns.AGENT].tolist())
        before, after = scored.levels[rows, 0], scored.levels[rows, 1]
        for level, rises in zip(ALERTING_LEVELS, risk_levels.count_rises(before, after), strict=True):
            counts.alerts[level.label] += int(rises)
        p_values = scored.p_values[learnable_rows]
        counts.p_values += np.bincount(np.searchsorted(P_VALUE_EDGES, p_values - 1e-12), minlength=len(P_VALUE_EDGES))[
            : len(P_VALUE_EDGES)
        ]
        if len(learnable_rows):
            agents = scored.columns.names[learnable_rows, event_columns.AGENT]
            time_ms = scored.columns.time_ms[learnable_rows]
            counts.add_to_sketch(u[learnable_rows], p_values, agents.tolist(), time_ms.tolist())

    def _group_name(self, day: int, group: int, scored: ScoredBatch, row: int, agents: ResidentAgents) -> PeerGroup:
        """Return the name of a row's group. The agent may have another type by the end of the batch."""
        peer_group = self._groups.get(group)
        if peer_group is None:
            name, stated = agents.names[int(scored.slots[row])], scored.columns.events[row].agent.type
            peer_group = OTHER_GROUPS if name is None else (name.tenant, stated or scored.type_at(row, agents.types))
            if len(self._groups) > 10 * MAX_GROUPS_PER_DAY:
                self._groups.clear()
            self._groups[group] = peer_group
        if (day, peer_group) not in self._days and sum(at == day for at, _ in self._days) >= MAX_GROUPS_PER_DAY:
            return OTHER_GROUPS
        return peer_group

    def drain_changed_days(self) -> list[PeerGroupDay]:
        """Return days that changed since the last call. Days that have ended are judged and removed."""
        records = []
        for group_day in sorted(self._changed | {group_day for group_day in self._days if self._is_over(group_day[0])}):
            (day, (tenant, agent_type)), counts = group_day, self._days[group_day]
            medium, high, critical = (counts.alerts[level.label] for level in ALERTING_LEVELS)
            records.append(
                PeerGroupDay(
                    self._model.version,
                    day,
                    tenant,
                    agent_type,
                    counts.events,
                    len(counts.agents),
                    (medium, high, critical),
                    tuple(counts.p_values.tolist()),
                    self._measure_day(group_day, counts),
                )
            )
            if self._is_over(day):
                del self._days[group_day]
        self._changed.clear()
        return records

    def _is_over(self, day: int) -> bool:
        seen_ms = self.newest_ms if self.complete_ms is None else self.complete_ms
        return (day + 1) * DAY_MS + DAY_CLOSES_AFTER_MS <= seen_ms

    def _measure_day(self, group_day: tuple[int, PeerGroup], counts: GroupDay) -> dict[str, Any]:
        (day, group), sketch = group_day, counts.sketch
        if sketch.blocks < MIN_AGENT_DAYS or counts.learnable < MIN_GROUP_EVENTS:
            return {}
        usual = self._references.setdefault(group, {})
        if day in usual or len(usual) < self._settings.reference_days:
            if not self._is_over(day):
                return {}
            usual[day] = sketch
            return {"judged": False, "reference": sketch.as_json()}
        alike = [sketch for at, sketch in usual.items() if _is_weekend(at) == _is_weekend(day)]
        if not alike:
            return {}
        total = reduce(DistributionSketch.merged, alike)
        blocks, names = (sketch.blocks, total.blocks), self._model.detector.feature_names
        indices = population_stability_index(sketch.features, total.features, *blocks)
        (of_p_values,) = population_stability_index(sketch.p_values[None, :], total.p_values[None, :], *blocks)
        largest = np.argsort(-indices, kind="stable")[:MAX_REPORTED_FEATURES].tolist()
        scores = round(float(of_p_values), 4)
        features = {names[at]: round(float(indices[at]), 4) for at in largest if indices[at] > 0}
        judged = self._is_over(day)
        drifted = [SCORES_KEY] if scores > DRIFTED_SCORES else []
        drifted += [name for name, index in features.items() if index > DRIFTED_FEATURES]
        return {"judged": judged, "scores": scores, "features": features, "drifted": drifted if judged else []}


def _is_weekend(day: int) -> bool:
    """Return whether a day is a Saturday or Sunday. Weekends are compared with weekends, since agents follow people's
    hours."""
    return (day + 3) % 7 >= 5  # day 0 was a Thursday


def with_drift_start(day: PeerGroupDay, before: PeerGroupDay | None) -> PeerGroupDay:
    """Set the day on which the drift of *day* began: that of *before*, the group's last judged day, if it continues."""
    if not day.drift.get("drifted"):
        return day
    since = day.day
    if before is not None and before.drift.get("drifted") and before.version == day.version:
        since = int(before.drift.get("since", before.day))
    return msgspec.structs.replace(day, drift={**day.drift, "since": since})


def drift_alert_row(day: PeerGroupDay, now_ms: int, source: str) -> OutboxRow:
    """Return the outbox row of a drift alert. Its key names the drift and the repetition, so each is sent once."""
    since, repetition = int(day.drift["since"]), (day.day - int(day.drift["since"])) // ALERT_AGAIN_DAYS
    key = f"drift-{day.version}-{day.tenant}-{day.agent_type}-{since}-{repetition}"
    group = f"{day.tenant or '(no tenant)'}/{day.agent_type or '(no type)'}"
    data = {
        "message": f"{group} no longer behaves as in the history that model {day.version} learned from: "
        f"{', '.join(day.drift['drifted'])}; look whether work has changed, and retrain or investigate",
        "tenant": day.tenant,
        "agent_type": day.agent_type,
        "model_version": day.version,
        "day": format_day(day.day),
        "events": day.events,
        "drifted": day.drift["drifted"],
        "scores": day.drift["scores"],
        "features": day.drift["features"],
        "since": format_day(since),
        "risk_level": RiskLevel.MEDIUM.label,
        "suppressed_before": 0,
    }
    event = {
        "specversion": "1.0",
        "id": key,
        "type": DRIFT_ALERT_TYPE,
        "source": source,
        "subject": group,
        "time": format_rfc3339(now_ms),
        "datacontenttype": "application/json",
        "data": data,
    }
    return OutboxRow(
        key=key,
        kind=ALERT_ROW_KIND,
        target="",
        payload=msgspec.json.encode(event),
        created_ms=now_ms,
        level=RiskLevel.MEDIUM,
        tenant="" if day.tenant == "*" else day.tenant,
    )

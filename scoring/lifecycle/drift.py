"""Drift: what peer groups did on one day against the held-out training history of the model that judges them.

Each feature's evidence is cut at the deciles of the history; p-values are cut at deciles, where each should hold a
tenth. The population stability index of the two distributions, `sum (p - q) ln(p / q)`, does not grow with the number
of events; what chance alone makes of it, given how few agent-hours there are, is taken off. By convention 0.1 is a
shift that one can see, 0.25 one that one should act on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ingest import columns as c
from ...ingest.columns import EventColumns
from ...models.calibration import FLEET, group_index

BINS = 10
TOLD = 8
"""Features that are told, the largest first."""
LEAST_HOURS = 30
"""Agent-hours of a day from which its index means anything."""
_HOUR_MS = 3_600_000
_LEAST_GROUP = 500
_SMOOTH = 0.5
SCORES = "scores"
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class Reference(NamedTuple):
    """Distribution of each feature's evidence over the held-out history; saved with the model, group `reference`.

    Attributes:
        edges: float64 (F, BINS - 1), deciles of the fleet.
        groups: uint64 (g,), ascending, the first is the fleet.
        shares: float64 (g, F, BINS), how much of each group lies in each bin.
        hours: int64 (g,), agent-hours behind them.
    """

    edges: Floats
    groups: npt.NDArray[np.uint64]
    shares: Floats
    hours: Counts

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """To be saved."""
        return dict(self._asdict())


def reference_from(arrays: Mapping[str, npt.NDArray[Any]] | None) -> Reference | None:
    """What was saved; None for models of before, and what does not fit together."""
    if arrays is None or set(arrays) != set(Reference._fields):
        return None
    found = Reference(**arrays)
    features, groups = len(found.edges), len(found.groups)
    fits = found.edges.shape == (features, BINS - 1) and found.shares.shape == (groups, features, BINS)
    return found if fits and found.hours.shape == (groups,) and groups and int(found.groups[0]) == FLEET else None


def fit_reference(columns: EventColumns, u: Floats) -> Reference:
    """The reference of a history.

    Args:
        columns: the history, n events.
        u: float64 (n, F), held-out evidence of each feature, see `detector.Scores`.
    """
    rows = np.flatnonzero(taught(columns))
    u, names, time_ms = u[rows], columns.names[rows], columns.time_ms[rows]
    edges = np.quantile(u, np.arange(1, BINS) / BINS, axis=0).T.copy()
    ids, sizes = np.unique(names[:, c.GROUP], return_counts=True)
    groups = np.concatenate([[np.uint64(FLEET)], ids[(sizes >= _LEAST_GROUP) & (ids != FLEET)]]).astype(np.uint64)
    shares = np.zeros((len(groups), u.shape[1], BINS))
    hours = np.zeros(len(groups), np.int64)
    for at, group in enumerate(groups.tolist()):
        mine = np.ones(len(u), np.bool_) if group == FLEET else names[:, c.GROUP] == np.uint64(group)
        counts = binned(edges, u[mine])
        shares[at] = counts / max(1, int(mine.sum()))
        hours[at] = agent_hours(names[mine, c.AGENT], time_ms[mine])
    return Reference(edges, groups, shares, hours)


def taught(columns: EventColumns) -> npt.NDArray[np.bool_]:
    """Events that are behaviour, and vouched for."""
    found: npt.NDArray[np.bool_] = (columns.codes[:, c.SELF_ASSERTED] == 0) & (columns.codes[:, c.OWN_DENIAL] == 0)
    return found


def agent_hours(agents: npt.NDArray[np.uint64], time_ms: npt.NDArray[np.int64]) -> int:
    """Different agents in different hours."""
    return len(np.unique(np.stack([agents, (time_ms // _HOUR_MS).astype(np.uint64)]), axis=1).T)


def binned(edges: Floats, u: Floats) -> Counts:
    """How many rows (n, F) lie in each bin, int64 (F, BINS)."""
    counts = np.empty((len(edges), BINS), np.int64)
    for feature, cuts in enumerate(edges):
        counts[feature] = np.bincount(np.searchsorted(cuts, u[:, feature], side="left"), minlength=BINS)
    return counts


def stability(counts: Counts, shares: Floats, hours: int, reference_hours: float) -> Floats:
    """Population stability index per feature, (F,), at least 0; what chance explains is taken off.

    Args:
        counts: int64 (F, B), of the day.
        shares: float64 (F, B), expected; rows sum to 1.
        hours: agent-hours of the day: events of one agent in one hour are no independent ones.
        reference_hours: of the history.
    """
    bins = counts.shape[1]
    n = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    p = (counts + _SMOOTH) / (n + _SMOOTH * bins)
    q = (shares * n + _SMOOTH) / (n + _SMOOTH * bins)
    index: Floats = ((p - q) * np.log(p / q)).sum(axis=1)
    used = ((shares > 0) | (counts > 0)).sum(axis=1)
    chance = np.maximum(used - 1, 0) * (1.0 / max(hours, 1) + 1.0 / max(reference_hours, 1.0))
    found: Floats = np.maximum(index - 2.0 * chance, 0.0)
    return found


class GroupSketch:
    """What one peer group did on one day.

    Args:
        features: number of them.
    """

    def __init__(self, features: int) -> None:
        self.counts = np.zeros((features, BINS), np.int64)
        self.p_values = np.zeros(BINS, np.int64)
        self.events = 0
        self.hours = 0
        self._last: dict[int, int] = {}

    def see(
        self, edges: Floats | None, u: Floats, p_values: Floats, agents: list[int], time_ms: list[int]
    ) -> None:  # fmt: skip
        """Add events, rows (n, F); without *edges* p-values alone."""
        if edges is not None:
            self.counts += binned(edges, u)
        self.p_values += np.bincount(np.minimum((p_values * BINS - 1e-12).astype(np.int64), BINS - 1), minlength=BINS)
        self.events += len(u)
        for agent, at in zip(agents, time_ms, strict=True):
            hour = at // _HOUR_MS
            if self._last.get(agent) != hour:
                self._last[agent] = hour
                self.hours += 1

    def measure(
        self, reference: Reference | None, group: int, names: tuple[str, ...]
    ) -> tuple[float, dict[str, float]]:  # fmt: skip
        """Index of p-values, and of the features that differ most, the largest first; none without a reference."""
        if reference is None:
            return self._scores(np.inf), {}
        entry = int(group_index(reference.groups, np.uint64(group)))
        found = stability(self.counts, reference.shares[entry], self.hours, float(reference.hours[entry]))
        order = np.argsort(-found, kind="stable")[:TOLD].tolist()
        return self._scores(float(reference.hours[entry])), {
            names[at]: round(float(found[at]), 4) for at in order if found[at] > 0
        }

    def _scores(self, reference_hours: float) -> float:
        even = np.full((1, BINS), 1.0 / BINS)
        return round(float(stability(self.p_values[None, :], even, self.hours, reference_hours)[0]), 4)

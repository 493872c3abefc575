"""Drift: what a peer group does on one day against its first days under the model that judges it.

Each feature's evidence, in decades of rarity, is cut into bins, and so are p-values. The population stability index of
two distributions, `sum (p - q) ln(p / q)`, does not grow with the number of events; what chance alone makes of it is
taken off, given how few independent pieces there are: an agent's day is one. By convention 0.1 is a shift that
one can see, 0.25 one that one should act on.

The first days are measured as all later ones. The held-out history of the training is not: agents have longer
histories later, and evidence that depends on them moves without anybody's doing (measured: indices above 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ingest import columns as c
from ...ingest.columns import EventColumns

EVIDENCE_EDGES = np.array([0.5, 1.0, 2.0, 3.0])
"""Where evidence is cut, decades: finer cuts see differences that no alert would ever follow from."""
EVIDENCE_BINS = len(EVIDENCE_EDGES) + 1
P_VALUE_BINS = 10
MAX_REPORTED_FEATURES = 8
"""Features that are told, the largest first."""
MIN_AGENT_DAYS = 10
"""Agents of a day from which its index means anything."""
DAY_MS = 86_400_000
SCORES_KEY = "scores"
_SMOOTH = 0.5
FloatArray = npt.NDArray[np.float64]
CountArray = npt.NDArray[np.int64]


class DistributionSketch(NamedTuple):
    """Distributions of one group and day, or of several.

    Attributes:
        features: int64 (F, BINS), events by evidence of each feature.
        p_values: int64 (P_BINS,), events by p-value, tenths.
        blocks: agent-days that they come from.
    """

    features: CountArray
    p_values: CountArray
    blocks: int

    @staticmethod
    def empty(features: int) -> DistributionSketch:
        """Of nothing."""
        return DistributionSketch(np.zeros((features, EVIDENCE_BINS), np.int64), np.zeros(P_VALUE_BINS, np.int64), 0)

    def merged(self, other: DistributionSketch) -> DistributionSketch:
        """Both together."""
        return DistributionSketch(
            self.features + other.features, self.p_values + other.p_values, self.blocks + other.blocks
        )

    def as_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"features": self.features.tolist(), "p_values": self.p_values.tolist(), "blocks": self.blocks}


def sketch_from_json(plain: Mapping[str, Any], features: int) -> DistributionSketch | None:
    """What `plain` gave; None where it is of another program or another number of features."""
    try:
        found = DistributionSketch(
            np.array(plain["features"], np.int64), np.array(plain["p_values"], np.int64), int(plain["blocks"])
        )
    except (KeyError, TypeError, ValueError):
        return None
    return (
        found if found.features.shape == (features, EVIDENCE_BINS) and found.p_values.shape == (P_VALUE_BINS,) else None
    )


def learnable_events(columns: EventColumns) -> npt.NDArray[np.bool_]:
    """Events that are behaviour, and vouched for."""
    found: npt.NDArray[np.bool_] = (columns.codes[:, c.SELF_ASSERTED] == 0) & (columns.codes[:, c.OWN_DENIAL] == 0)
    return found


def bin_evidence(u: FloatArray) -> CountArray:
    """How many rows of evidence (n, F) lie in each bin, int64 (F, BINS)."""
    places = np.searchsorted(EVIDENCE_EDGES, u, side="right")
    return np.stack([(places == at).sum(axis=0) for at in range(EVIDENCE_BINS)], axis=1).astype(np.int64)


def population_stability_index(
    counts: CountArray, expected: CountArray, blocks: int, expected_blocks: int
) -> FloatArray:
    """Population stability index per row, (F,), at least 0; what chance explains is taken off.

    Args:
        counts: int64 (F, B), of the day.
        expected: int64 (F, B), of the days that it is measured against.
        blocks, expected_blocks: independent pieces of both.
    """
    bins = counts.shape[1]
    n, m = (np.maximum(one.sum(axis=1, keepdims=True), 1) for one in (counts, expected))
    p = (counts + _SMOOTH) / (n + _SMOOTH * bins)
    q = (expected * (n / m) + _SMOOTH) / (n + _SMOOTH * bins)
    index = ((p - q) * np.log(p / q)).sum(axis=1)
    used = ((expected > 0) | (counts > 0)).sum(axis=1)
    chance = np.maximum(used - 1, 0) * (1.0 / max(blocks, 1) + 1.0 / max(expected_blocks, 1))
    found: FloatArray = np.maximum(index - 2.0 * chance, 0.0)  # twice its mean is seldom exceeded
    return found


class DaySketchBuilder:
    """Gathers what one peer group does on one day.

    Args:
        features: number of them.
    """

    def __init__(self, features: int) -> None:
        self._sketch = DistributionSketch.empty(features)
        self._last: dict[int, int] = {}
        self.events = 0

    def add_events(self, u: FloatArray, p_values: FloatArray, agents: Iterable[int], time_ms: Iterable[int]) -> None:
        """Add events: evidence (n, F), p-values, agents and times (n,)."""
        tenths = np.minimum((p_values * P_VALUE_BINS - 1e-12).astype(np.int64), P_VALUE_BINS - 1)
        blocks = 0
        for agent, at in zip(agents, time_ms, strict=True):
            block = at // DAY_MS
            if self._last.get(agent, -1) < block:
                self._last[agent] = block
                blocks += 1
        self._sketch = self._sketch.merged(
            DistributionSketch(bin_evidence(u), np.bincount(tenths, minlength=P_VALUE_BINS), blocks)
        )
        self.events += len(u)

    @property
    def sketch(self) -> DistributionSketch:
        """What was gathered."""
        return self._sketch


def measure_drift(
    day: DistributionSketch, usual: DistributionSketch, names: tuple[str, ...]
) -> tuple[float, dict[str, float]]:
    """Index of p-values, and of the features that differ most, the largest first."""
    found = population_stability_index(day.features, usual.features, day.blocks, usual.blocks)
    scores = population_stability_index(day.p_values[None, :], usual.p_values[None, :], day.blocks, usual.blocks)
    order = np.argsort(-found, kind="stable")[:MAX_REPORTED_FEATURES].tolist()
    return round(float(scores[0]), 4), {names[at]: round(float(found[at]), 4) for at in order if found[at] > 0}

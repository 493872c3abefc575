"""One scale for all peer groups: what is usual in a group maps to the same anomaly score in each.

Of the held-out statistic T a group's median is its location, and the way from there to its 99th percentile its scale;
both are shrunk to the fleet's where the group has little history. The anomaly score is a fixed, strictly increasing
function of `z = (T - location) / scale`: 0.5 at the median, 0.75 at the 99th percentile, and it never saturates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .calibration import FLEET_GROUP, group_index
from .compiled import compiled, inlined

UPPER_QUANTILE = 0.99
MIN_SCALE = 0.05
"""Smallest scale, in decades of T: a group whose T hardly moves does not turn noise into anomalies."""


class PeerScales(NamedTuple):
    """Location and scale of T for G groups; entry 0 is the fleet, used for every group not listed.

    Attributes:
        groups: uint64 (G,), ascending, the first is `FLEET`.
        location: float64 (G,), decades.
        scale: float64 (G,), decades, at least `MIN_SCALE`.
    """

    groups: NDArray[np.uint64]
    location: NDArray[np.float64]
    scale: NDArray[np.float64]


def fit_peer_scales(statistic: NDArray[np.float64], groups: NDArray[np.uint64], minimum: int) -> PeerScales:
    """Learn location and scale per group.

    Args:
        statistic: float64 (n,), held-out T.
        groups: uint64 (n,), peer group of each row.
        minimum: rows at which a group's own history weighs as much as the fleet's.
    """
    fleet = _location_and_scale(statistic)
    ids = [FLEET_GROUP]
    rows = [fleet]
    for group in np.unique(groups[groups != FLEET_GROUP]):
        own = statistic[groups == group]
        weight = len(own) / (len(own) + minimum)
        ids.append(int(group))
        rows.append(weight * _location_and_scale(own) + (1.0 - weight) * fleet)
    table = np.array(rows)
    return PeerScales(np.array(ids, np.uint64), table[:, 0].copy(), np.maximum(table[:, 1], MIN_SCALE))


def _location_and_scale(statistic: NDArray[np.float64]) -> NDArray[np.float64]:
    median, upper = np.quantile(statistic, [0.5, UPPER_QUANTILE])
    return np.array([median, upper - median])


@inlined
def squash_to_unit(z: float) -> float:
    """[0, 1], strictly increasing, 0.5 at 0 and 0.75 at 1; each rounded step keeps the order, so ranks never turn
    round."""
    return 1.0 - 0.5 / (1.0 + z) if z >= 0.0 else 0.5 / (1.0 - z)


def anomaly_scores(
    scales: PeerScales, statistic: NDArray[np.float64], groups: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """Anomaly scores float64 (n,) in [0, 1] of statistics (n,) of agents in groups (n,)."""
    out = np.empty(len(statistic))
    _anomaly_rows(statistic, groups, scales.groups, scales.location, scales.scale, out)
    return out


@compiled
def _anomaly_rows(
    statistic: NDArray[np.float64],
    groups: NDArray[np.uint64],
    ids: NDArray[np.uint64],
    location: NDArray[np.float64],
    scale: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    for row in range(len(statistic)):
        entry = group_index(ids, groups[row])
        out[row] = squash_to_unit((statistic[row] - location[entry]) / scale[entry])

"""The calibration of a model as points to draw, and what happened against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple

import numpy as np

from trustwatch.ingest.described import AgentType, PValue, TenantName, member
from trustwatch.models.calibration import FLEET_GROUP, Calibration, group_index

from ..records.models import FLEET_PEER_GROUP, P_VALUE_EDGES, PeerGroup, PeerGroupDay

CURVE_POINTS = 40
"""Points of one curve, evenly spaced in the logarithm of the p-value."""


class CalibrationPoint(NamedTuple):
    """A share `p_value` of normal behavior has a score of at least `score`."""

    score: Annotated[float, member("anomaly score", 0.62)]
    p_value: PValue


class CalibrationCurve(NamedTuple):
    """Calibration of one peer group.

    Attributes:
        events: held-out events that it rests on.
        own: whether they are the group's own; if not, they are the fleet's.
    """

    tenant: TenantName
    agent_type: AgentType
    events: Annotated[int, member("held-out events that it is based on", 4210)]
    own: bool
    points: Annotated[tuple[CalibrationPoint, ...], member("points of the curve, by score")]


class ObservedShare(NamedTuple):
    """Of the events in shadow, *share* had a p-value of at most *p_value*; calibration holds where the two agree."""

    p_value: PValue
    share: Annotated[float, member("share of the events", 0.011)]
    events: Annotated[int, member("number of events", 4210)]


def calibration_curves(calibration: Calibration, groups: Mapping[PeerGroup, int]) -> list[CalibrationCurve]:
    """Curve of the fleet, and of each group that has one of its own; empty for a calibration of nobody."""
    if not len(calibration.groups):
        return []
    curves = [_calibration_curve(calibration, FLEET_PEER_GROUP, FLEET_GROUP)]
    curves += [
        _calibration_curve(calibration, name, key)
        for name, key in sorted(groups.items())
        if key != FLEET_GROUP and calibration.covers(key)
    ]
    return curves


def _calibration_curve(calibration: Calibration, name: PeerGroup, key: int) -> CalibrationCurve:
    entry = int(group_index(calibration.groups, np.uint64(key)))
    begin, end, size = int(calibration.start[entry]), int(calibration.start[entry + 1]), int(calibration.sizes[entry])
    values, above = calibration.values[begin:end], calibration.above[begin:end]
    p_values = (1.0 + np.append(size, above[:-1])) / (1.0 + size)  # of a score equal to the value, which counts itself
    targets = np.geomspace(p_values[-1], 1.0, CURVE_POINTS)
    at = np.unique(np.clip(np.searchsorted(-p_values, -targets), 0, len(values) - 1))
    points = tuple(CalibrationPoint(float(values[i]), float(p_values[i])) for i in at.tolist())
    return CalibrationCurve(*name, size, True, points)


def observed_shares(days: Iterable[PeerGroupDay]) -> list[ObservedShare]:
    """Shares of events with p-values up to each edge, over all *days*; empty where none was counted."""
    total = np.zeros(len(P_VALUE_EDGES), np.int64)
    for day in days:
        if (
            len(day.p_values) == len(P_VALUE_EDGES) and (day.tenant, day.agent_type) != FLEET_PEER_GROUP
        ):  # groups add up to it
            total += np.array(day.p_values, np.int64)
    events = int(total.sum())
    if not events:
        return []
    shares = np.cumsum(total) / events
    return [ObservedShare(edge, float(share), events) for edge, share in zip(P_VALUE_EDGES, shares, strict=True)]

"""Calibration, from scores to probabilities: conformal p-values on held-out normal behavior, per peer group or fleet.

`p = (1 + #{held-out scores >= s}) / (n + 1)`: if normal behavior stays what it was, at most a share *a* of normal
events gets p <= a, whatever the scores are. A group with fewer than *minimum* held-out scores uses those of the fleet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trustwatch.ingest.compilation import allocation_free, inlined, inlined_and_callable

from .input_checks import Flags, Floats, Ids, Ints, NotEnoughHistory, WrongShape

FLEET_GROUP = 0
"""Group id of the fleet: all agents together."""
EXACT_RANKS = 4096
"""Number of a group's highest scores that are kept individually; below them, neighboring ranks are less than 0.1 %
apart."""


_ADDABLE = np.uint64(0x9E3779B97F4A7C15)
"""Bits that distinguish the id of a group's rows to which evidence can be added from that of its other rows; alone,
they are the fleet's id."""


class ScoresBeforeAdding(NamedTuple):
    """Held-out scores (n,) without added evidence, and flags (n,) of the rows to which evidence can be added."""

    scores: Floats
    addable: Flags


class Calibration(NamedTuple):
    """Sorted held-out scores of G groups; entry 0 is the fleet."""

    groups: Ids  # uint64 (G,), ascending ids, the first is `FLEET_GROUP`
    start: Ints  # int64 (G + 1,), where a group's values begin in `values`
    sizes: Ints  # int64 (G,), held-out scores that the group's values stand for
    values: Floats  # float64 (m,), ascending within a group
    above: Ints  # int64 (m,), how many of the group's scores are greater than the value

    @staticmethod
    def empty() -> Calibration:
        """Return a calibration without scores, which promises nothing."""
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        return Calibration(np.zeros(0, np.uint64), np.zeros(1, np.int64), whole, real, whole)

    @staticmethod
    def fit(
        scores: Floats, groups: Ids, minimum: int = 200, before_adding: ScoresBeforeAdding | None = None
    ) -> Calibration:
        """Keep the held-out scores of the fleet and of each group with at least *minimum* of them.

        Up to 4,096 scores are kept exactly. Of more, the highest 4,096 are; the rest is thinned, which can only raise a
        p-value, by less than 0.1 %.

        Args:
            scores: float64 (n,), held-out, higher is more anomalous.
            groups: uint64 (n,), peer group of each; `FLEET_GROUP` for none.
            minimum: held-out scores that a group needs for a separate calibration.
            before_adding: scores without added evidence, if evidence is added to some. They judge rows to which
                none can be added; other rows are judged among themselves if there are enough. None = none is added.

        Raises:
            NotEnoughHistory: there are no scores.
            WrongShape: scores and groups differ in length.
        """
        if scores.shape != groups.shape or scores.ndim != 1:
            raise WrongShape(f"{scores.shape} scores for {groups.shape} groups")
        if not len(scores):
            raise NotEnoughHistory("no held-out score to calibrate on")
        if before_adding is not None:
            addable = before_adding.addable
            quiet = Calibration.fit(before_adding.scores, groups, minimum)
            if int(addable.sum()) < minimum:
                return quiet
            return quiet._beside(Calibration.fit(scores[addable], groups[addable], minimum))
        ids, counts = np.unique(groups, return_counts=True)
        own = ids[(counts >= minimum) & (ids != FLEET_GROUP)]
        parts = [_thin_scores(np.sort(scores)), *(_thin_scores(np.sort(scores[groups == group])) for group in own)]
        return Calibration(
            groups=np.concatenate([np.array([FLEET_GROUP], np.uint64), own]),
            start=np.cumsum([0, *(len(values) for values, _, _ in parts)], dtype=np.int64),
            sizes=np.array([size for _, _, size in parts], np.int64),
            values=np.concatenate([values for values, _, _ in parts]),
            above=np.concatenate([above for _, above, _ in parts]),
        )

    def _beside(self, addable: Calibration) -> Calibration:
        """Join this calibration with that of rows to which evidence can be added, under separate ids."""
        ids = np.concatenate([self.groups, addable.groups ^ _ADDABLE])
        order = np.argsort(ids)
        sizes = np.concatenate([np.diff(self.start), np.diff(addable.start)])
        values, above = np.concatenate([self.values, addable.values]), np.concatenate([self.above, addable.above])
        first = np.cumsum(sizes) - sizes
        places = np.concatenate([np.arange(first[at], first[at] + sizes[at]) for at in order])
        return Calibration(
            groups=ids[order],
            start=np.concatenate([[0], np.cumsum(sizes[order])]).astype(np.int64),
            sizes=np.concatenate([self.sizes, addable.sizes])[order],
            values=values[places],
            above=above[places],
        )

    def covers(self, group: int) -> bool:
        """Return whether the p-values of a group come from its scores; otherwise they come from the fleet's."""
        return group_index(self.groups, np.uint64(group)) != 0 or group == FLEET_GROUP

    def p_values(self, scores: Floats, groups: Ids, addable: Flags | None = None) -> Floats:
        """Return conformal p-values, float64 (n,) in (0, 1], of scores (n,) of agents in groups (n,).

        *addable*, bool (n,), are those to which evidence can be added; None = to none.
        """
        if scores.shape != groups.shape or scores.ndim != 1:
            raise WrongShape(f"{scores.shape} scores for {groups.shape} groups")
        out = np.empty(len(scores))
        if addable is None or not has_addable_entries(self):
            addable = np.zeros(len(scores), np.bool_)
        _p_values(scores, groups, addable, self, out)
        return out


def _thin_scores(ordered: Floats) -> tuple[Floats, Ints, int]:
    """Thin out ascending scores; return the kept values, how many scores are above each, and the number of scores."""
    n = len(ordered)
    values, counts = np.unique(ordered, return_counts=True)
    above = n - np.cumsum(counts)
    if n > EXACT_RANKS:
        points = int(EXACT_RANKS * np.log(n / EXACT_RANKS)) + 2
        ranks = np.concatenate([np.arange(EXACT_RANKS), np.geomspace(EXACT_RANKS, n, points).astype(np.int64)])
        # `above` descends. Around each target rank both neighbors are kept, so that a value shared by many stays
        # exact.
        rising = above[::-1]
        places = np.concatenate([np.searchsorted(rising, ranks), np.searchsorted(rising, ranks, side="right") - 1])
        kept = np.unique(len(above) - 1 - np.clip(places, 0, len(above) - 1))
        values, above = values[kept], above[kept]
    return values, above.astype(np.int64), n


@allocation_free
def group_index(ids: Ids, group: np.uint64) -> int:
    """Return the position of a group among ascending ids; 0, the fleet, if it is missing."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) >> 1
        if ids[middle] < group:
            low = middle + 1
        else:
            high = middle
    return low if low < len(ids) and ids[low] == group else 0


def has_addable_entries(calibration: Calibration) -> bool:
    """Return whether rows to which evidence can be added have separate entries."""
    return bool(calibration.groups[group_index(calibration.groups, _ADDABLE)] == _ADDABLE)


@inlined_and_callable
def calibrated_entry(ids: Ids, group: np.uint64, addable: bool) -> int:
    """Return the calibration entry for a row of a group; *addable* states whether evidence can be added to it."""
    if not addable:
        return group_index(ids, group)
    entry = group_index(ids, group ^ _ADDABLE)
    return group_index(ids, _ADDABLE) if entry == 0 else entry


@inlined
def count_below(score: float, values: Floats, first: int, end: int) -> int:
    """Count the ascending values from *first* to *end* that are less than a score.

    No step branches on a value: every second branch would be mispredicted, at the price of ten steps.
    """
    at, length = first, end - first
    while length > 1:
        half = length >> 1
        at += half if values[at + half - 1] < score else 0
        length -= half
    return at - first + (1 if length == 1 and values[at] < score else 0)


@allocation_free
def _p_values(scores: Floats, groups: Ids, addable: Flags, calibration: Calibration, out: Floats) -> None:
    start, sizes = calibration.start, calibration.sizes
    for row in range(len(scores)):
        entry = calibrated_entry(calibration.groups, groups[row], addable[row])
        below = count_below(scores[row], calibration.values, start[entry], start[entry + 1])
        at_least = sizes[entry] if below == 0 else calibration.above[start[entry] + below - 1]
        out[row] = (1.0 + at_least) / (1.0 + sizes[entry])


class PackedCalibrations(NamedTuple):
    """Calibrations that share one look-up of the peer group.

    A kernel pays for every array that it is called with, and for every look-up of a row's group in each calibration.
    """

    # uint64 (G,), ascending ids of all that any of them tells from the fleet; the first is `FLEET_GROUP`
    groups: Ids
    # int64 (G, c, 2, 2), entry of a group in each calibration, of a row of an unfamiliar agent or a familiar one, to
    # which evidence cannot be added or can
    entries: Ints
    start: Ints  # int64 (E + 1,), where an entry's values begin
    values: Floats  # float64 (m,), ascending within an entry
    # float64 (m,), p-value of a score that is greater than the value and not than the next one; 1 for a score that is
    # greater than none
    p_values: Floats

    @staticmethod
    def pack(
        calibrations: Sequence[Calibration], familiar: Sequence[Calibration], others: Sequence[Ids]
    ) -> PackedCalibrations:
        """Pack calibrations, each with that of *familiar* agents, which may be empty.

        *others* are ids that have to be among the groups, too. Values are copied: some megabytes a model.
        """
        ids = np.concatenate([*(part.groups for part in (*calibrations, *familiar)), *others])
        groups = np.unique(np.concatenate([ids, ids ^ _ADDABLE]))
        entries = np.empty((len(groups), len(calibrations), 2, 2), np.int64)
        parts = [*calibrations, *familiar]
        first = np.cumsum([0, *(len(part.sizes) for part in parts)])
        for at, of_all in enumerate(calibrations):
            addable = has_addable_entries(of_all)
            for row, group in enumerate(groups):
                entries[row, at] = first[at] + np.array(
                    [group_index(of_all.groups, group), calibrated_entry(of_all.groups, group, addable)]
                )
                if len(familiar[at].groups):
                    entries[row, at, 1] = first[len(calibrations) + at] + group_index(familiar[at].groups, group)
        return PackedCalibrations(
            groups,
            entries,
            np.cumsum([0, *(size for part in parts for size in np.diff(part.start))], dtype=np.int64),
            np.concatenate([part.values for part in parts]),
            np.concatenate([(1.0 + part.above) / (1.0 + np.repeat(part.sizes, np.diff(part.start))) for part in parts]),
        )


# One scale holds for all peer groups: an event that is usual in its group has the same anomaly score in each. Of the
# held-out statistic T a group's median is its location, and the way from there to its 99th percentile its scale;
# both are shrunk to the fleet's if the group has little history. The anomaly score is a fixed, strictly increasing
# function of `z = (T - location) / scale`: 0.5 at the median, 0.75 at the 99th percentile, and it never saturates.


UPPER_QUANTILE = 0.99
MIN_SCALE = 0.05
"""Minimum scale, in decades of T: a group whose T hardly varies does not turn noise into anomalies."""


class PeerScales(NamedTuple):
    """Location and scale of T for G groups; entry 0 is the fleet, used for every group not listed."""

    groups: Ids  # uint64 (G,), ascending, the first is `FLEET_GROUP`
    location: Floats  # float64 (G,), decades
    scale: Floats  # float64 (G,), decades, at least `MIN_SCALE`


def fit_peer_scales(statistic: Floats, groups: Ids, minimum: int) -> PeerScales:
    """Fit location and scale of each group.

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


def _location_and_scale(statistic: Floats) -> Floats:
    median, upper = np.quantile(statistic, [0.5, UPPER_QUANTILE])
    return np.array([median, upper - median])


@inlined
def squash_to_unit(z: float) -> float:
    """Map to [0, 1], strictly increasing, with 0 to 0.5 and 1 to 0.75. Each rounded step keeps the order, so ranks
    never swap."""
    return 1.0 - 0.5 / (1.0 + z) if z >= 0.0 else 0.5 / (1.0 - z)


DECADES_OF_SCALE = float(np.log10((1.0 - 0.5) / (1.0 - UPPER_QUANTILE)))
"""Decades of probability from a group's median to its 99th percentile, which is one scale."""


def anomaly_scores(
    scales: PeerScales, statistic: Floats, groups: Ids, added: Floats | None = None, most: Floats | None = None
) -> Floats:
    """Return anomaly scores, float64 (n,) in [0, 1], of statistics (n,) of agents in groups (n,).

    Args:
        added: (n,), decades of probability that are added to the statistic; None = none.
        most: (n,), what `z` counts at most before that; None = no bound.
    """
    n = len(statistic)
    out = np.empty(n)
    _anomaly_rows(
        statistic,
        groups,
        scales,
        np.zeros(n) if added is None else added / DECADES_OF_SCALE,
        np.full(n, np.inf) if most is None else most,
        out,
    )
    return out


@inlined
def anomaly_score(statistic: float, location: float, scale: float, added: float, most: float) -> float:
    """Return the anomaly score of one statistic of a group; *added* in scales, *most* as for `anomaly_scores`."""
    return squash_to_unit(min((statistic - location) / scale, most) + added)


@allocation_free
def _anomaly_rows(statistic: Floats, groups: Ids, scales: PeerScales, added: Floats, most: Floats, out: Floats) -> None:
    for row in range(len(statistic)):
        entry = group_index(scales.groups, groups[row])
        out[row] = anomaly_score(statistic[row], scales.location[entry], scales.scale[entry], added[row], most[row])

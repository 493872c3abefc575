"""How well scores tell bad from good. Plain numpy; a test holds it to scikit-learn."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FALSE_POSITIVE_SHARES = (0.01, 0.05)
"""Shares of false positives at which recall is told."""


class DetectionCurve(NamedTuple):
    """A score against the truth at each of its thresholds, strictest first, shape (t,) each.

    Attributes:
        recall: share of bad units at or above the threshold (recall).
        false_positive_rate: share of good units at or above it.
        precision: share of bad ones among all at or above it.
    """

    recall: npt.NDArray[np.float64]
    false_positive_rate: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]

    @property
    def area(self) -> float:
        """ROC-AUC: the probability that a bad unit scores above a good one, ties half."""
        found, false = np.r_[0.0, self.recall], np.r_[0.0, self.false_positive_rate]
        return float((np.diff(false) * (found[1:] + found[:-1]) / 2).sum())

    @property
    def average_precision(self) -> float:
        """Mean precision over the bad units."""
        return float((np.diff(np.r_[0.0, self.recall]) * self.precision).sum())

    def recall_at(self, share: float) -> float:
        """Largest recall with at most that share of false positives."""
        return float(np.where(self.false_positive_rate <= share, self.recall, 0.0).max(initial=0.0))

    def thinned(self, points: int = 200) -> DetectionCurve:
        """At most about *points* thresholds with the shape kept, for a chart."""
        if len(self.recall) <= points:
            return self
        steps = np.linspace(0.0, 1.0, points // 2)
        last = len(self.recall) - 1
        by_false = np.searchsorted(self.false_positive_rate, steps, side="right") - 1
        by_found = np.minimum(np.searchsorted(self.recall, steps), last)
        kept = np.unique(np.concatenate([[0, last], np.maximum(by_false, 0), by_found]))
        return DetectionCurve(self.recall[kept], self.false_positive_rate[kept], self.precision[kept])


def detection_curve(bad: npt.ArrayLike, scores: npt.ArrayLike) -> DetectionCurve | None:
    """The curve of a score; None where there is no bad or no good unit, and nothing can be told.

    Args:
        bad: bool (n,).
        scores: float (n,), higher is more anomalous; ties move together.
    """
    y, s = np.asarray(bad, bool), np.asarray(scores, np.float64)
    if not y.any() or y.all():
        return None
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    last = np.r_[np.flatnonzero(np.diff(s)), len(s) - 1]
    hits, alarms = np.cumsum(y)[last], np.cumsum(~y)[last]
    return DetectionCurve(hits / hits[-1], alarms / alarms[-1], hits / (hits + alarms))


RESAMPLES, CONFIDENCE, BOOTSTRAP_SEED = 200, 0.95, 1
_FEW_UNITS = 20_000
CURVE_GRID = np.linspace(0.0, 1.0, 51)


class ConfidenceBands(NamedTuple):
    """Where a curve lies in most resamples of its units; lower and upper bound each.

    Attributes:
        area, average_precision: of these figures.
        recall: recall at each share of `CURVE_GRID` of false positives, shapes (g,).
        precision: precision at each recall of `CURVE_GRID`, shapes (g,).
    """

    area: tuple[float, float]
    average_precision: tuple[float, float]
    recall: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    precision: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def bootstrap_bands(
    bad: npt.ArrayLike, scores: npt.ArrayLike, dice: np.random.Generator | None = None
) -> ConfidenceBands | None:
    """Bootstrap of `curve`: 95 % of resamples of units that are independent of each other lie within.

    None where fewer than five units are bad or good: resamples of so few say nothing.

    Args:
        bad, scores: as for `curve`.
        dice: draws how often a unit counts; default: the same each time.
    """
    y, s = np.asarray(bad, bool), np.asarray(scores, np.float64)
    if min(y.sum(), (~y).sum()) < 5:
        return None
    dice = dice or np.random.default_rng(BOOTSTRAP_SEED)
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    last = np.r_[np.flatnonzero(np.diff(s)), len(s) - 1]
    rounds = RESAMPLES if len(y) <= _FEW_UNITS else RESAMPLES // 2  # of many units, fewer resamples say as much
    drawn = [one for _ in range(rounds) if (one := _resampled_curve(y, last, dice)) is not None]
    figures = np.array([(one.area, one.average_precision) for one in drawn])
    found = np.array(
        [np.interp(CURVE_GRID, np.r_[0.0, one.false_positive_rate], np.r_[0.0, one.recall]) for one in drawn]
    )
    precision = np.array(
        [one.precision[np.searchsorted(one.recall, np.minimum(CURVE_GRID, 1.0 - 1e-12))] for one in drawn]
    )
    edges = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    (area, average), lower_upper = np.quantile(figures, edges, axis=0).T, partial(np.quantile, q=edges, axis=0)
    return ConfidenceBands(
        (float(area[0]), float(area[1])),
        (float(average[0]), float(average[1])),
        tuple(lower_upper(found)),
        tuple(lower_upper(precision)),
    )


def _resampled_curve(
    y: npt.NDArray[np.bool_], last: npt.NDArray[np.int64], dice: np.random.Generator
) -> DetectionCurve | None:
    weights = dice.poisson(1.0, len(y))
    hits, alarms = np.cumsum(weights * y)[last], np.cumsum(weights * ~y)[last]
    if not hits[-1] or not alarms[-1]:
        return None
    return DetectionCurve(hits / hits[-1], alarms / alarms[-1], hits / np.maximum(hits + alarms, 1))

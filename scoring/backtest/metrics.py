"""How well scores tell bad from good. Plain numpy; a test holds it to scikit-learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FALSE_SHARES = (0.01, 0.05)
"""Shares of false positives at which recall is told."""


class Curve(NamedTuple):
    """A score against the truth at each of its thresholds, strictest first, shape (t,) each.

    Attributes:
        found: share of bad units at or above the threshold (recall).
        false: share of good units at or above it.
        precision: share of bad ones among all at or above it.
    """

    found: npt.NDArray[np.float64]
    false: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]

    @property
    def area(self) -> float:
        """ROC-AUC: the probability that a bad unit scores above a good one, ties half."""
        found, false = np.r_[0.0, self.found], np.r_[0.0, self.false]
        return float((np.diff(false) * (found[1:] + found[:-1]) / 2).sum())

    @property
    def average_precision(self) -> float:
        """Mean precision over the bad units."""
        return float((np.diff(np.r_[0.0, self.found]) * self.precision).sum())

    def recall_at(self, share: float) -> float:
        """Largest recall with at most that share of false positives."""
        return float(np.where(self.false <= share, self.found, 0.0).max(initial=0.0))

    def thinned(self, points: int = 200) -> Curve:
        """At most about *points* thresholds with the shape kept, for a chart."""
        if len(self.found) <= points:
            return self
        steps = np.linspace(0.0, 1.0, points // 2)
        last = len(self.found) - 1
        by_false = np.searchsorted(self.false, steps, side="right") - 1
        by_found = np.minimum(np.searchsorted(self.found, steps), last)
        kept = np.unique(np.concatenate([[0, last], np.maximum(by_false, 0), by_found]))
        return Curve(self.found[kept], self.false[kept], self.precision[kept])


def curve(bad: npt.ArrayLike, scores: npt.ArrayLike) -> Curve | None:
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
    return Curve(hits / hits[-1], alarms / alarms[-1], hits / (hits + alarms))

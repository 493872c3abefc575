"""How well scores tell bad from good: ROC-AUC, average precision, recall at few false positives, with intervals.

Intervals are bootstrapped over sessions: events of one session are alike, so drawing events would claim too much.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

AUC, AP, R1, R5 = range(4)
NAMES = ("ROC-AUC", "average precision", "recall at 1 % FP", "recall at 5 % FP")
_COVERED = (0.025, 0.975)


class MeasuredFigures(NamedTuple):
    """Figures of one score: value float64 (4,) in the order of `NAMES`, low and high of their 95 % intervals."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def cell(self, which: int) -> str:
        """The figure with its interval, for a table."""
        return f"{self.value[which]:.3f} ({self.low[which]:.2f} to {self.high[which]:.2f})"


def figures(bad: ArrayLike, scores: ArrayLike, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The four figures for each row of weights.

    Args:
        bad: bool (n,).
        scores: float (n,), higher is more anomalous; ties move together.
        weights: float64 (b, n), how often each unit counts; None counts each once.

    Returns:
        float64 (b, 4), NaN where a row has no bad or no good unit.
    """
    y, s = np.asarray(bad, bool), np.asarray(scores, float)
    w = np.ones((1, len(y))) if weights is None else weights
    order = np.argsort(-s, kind="stable")
    y, s, w = y[order], s[order], w[:, order]
    last = np.r_[np.flatnonzero(np.diff(s)), len(s) - 1]
    zero = np.zeros((len(w), 1))
    hits = np.concatenate([zero, np.cumsum(w * y, axis=1)[:, last]], axis=1)
    alarms = np.concatenate([zero, np.cumsum(w * ~y, axis=1)[:, last]], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found, false = hits / hits[:, -1:], alarms / alarms[:, -1:]
        precision = np.nan_to_num(hits[:, 1:] / (hits[:, 1:] + alarms[:, 1:]))
    area = (np.diff(false, axis=1) * (found[:, 1:] + found[:, :-1]) / 2).sum(axis=1)
    average = (np.diff(found, axis=1) * precision).sum(axis=1)
    recall = [np.where(false <= share, found, 0.0).max(axis=1) for share in (0.01, 0.05)]
    return np.stack([area, average, *recall], axis=1)


def measure(bad: ArrayLike, scores: ArrayLike, blocks: ArrayLike, draws: int, seed: int = 0) -> MeasuredFigures:
    """Figures with 95 % intervals, bootstrapped over blocks.

    Args:
        blocks: (n,), the session of each unit; blocks are drawn with replacement, units go with theirs.
        draws: resamples; those without any bad or good unit are left out.
    """
    _, block = np.unique(np.asarray(blocks), return_inverse=True)
    number = int(block.max()) + 1
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(number, np.full(number, 1.0 / number), size=draws).astype(float)
    drawn = figures(bad, scores, counts[:, block])
    drawn = drawn[~np.isnan(drawn[:, AUC])]
    low, high = np.quantile(drawn, _COVERED, axis=0)
    return MeasuredFigures(figures(bad, scores)[0], low, high)

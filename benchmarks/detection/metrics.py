"""How well scores tell bad from good: ROC-AUC, average precision, recall at few false positives, with intervals.

Intervals are bootstrapped over groups (sessions, users' tasks): what is of one group is alike, so drawing events would
claim too much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap

AUC, AP, R1, R5 = range(4)
NAMES = ("ROC-AUC", "average precision", "recall at 1 % FP", "recall at 5 % FP")
SHARES = (0.01, 0.05)
"""Shares of false positives at which recall is told."""
_COVERED = (0.025, 0.975)
_BATCH = 100
"""Resamples that are measured at once: memory is this many times the units."""


class MeasuredFigures(NamedTuple):
    """Figures of one score: value float64 (4,) in the order of `NAMES`, low and high of their 95 % intervals."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def cell(self, which: int) -> str:
        """The figure with its interval, for a table."""
        return f"{self.value[which]:.3f} ({self.low[which]:.2f} to {self.high[which]:.2f})"


def figures(
    bad: ArrayLike,
    scores: ArrayLike,
    weights: NDArray[np.float64] | None = None,
    shares: tuple[float, ...] = SHARES,
) -> NDArray[np.float64]:
    """ROC-AUC, average precision and a recall for each of *shares*, for each row of weights.

    Args:
        bad: bool (n,).
        scores: float (n,), higher is more anomalous; ties move together.
        weights: float64 (b, n), how often each unit counts; None counts each once.
        shares: shares of false positives.

    Returns:
        float64 (b, 2 + len(shares)), NaN where a row has no bad or no good unit.
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
    recall = [np.where(false <= share, found, 0.0).max(axis=1) for share in shares]
    return np.stack([area, average, *recall], axis=1)


def measure(bad: ArrayLike, scores: ArrayLike, blocks: ArrayLike, draws: int, seed: int = 0) -> MeasuredFigures:
    """Figures with 95 % intervals, bootstrapped over blocks.

    Args:
        blocks: (n,), the session of each unit; blocks are drawn with replacement, units go with theirs.
        draws: resamples; those without any bad or good unit are left out.
    """
    low, high = group_interval(blocks, lambda counts: figures(bad, scores, counts), draws, seed)
    return MeasuredFigures(figures(bad, scores)[0], low, high)


def group_interval(
    groups: ArrayLike, figures_of: Callable[[NDArray[np.float64]], NDArray[np.float64]], draws: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high (k,) of the 95 % intervals of k figures, bootstrapped over groups.

    Args:
        groups: (n,), the group of each unit; groups are drawn with replacement, units go with theirs.
        figures_of: from counts float64 (b, n), how often each unit is drawn, to figures (b, k).
        draws: resamples; those with a figure that is NaN (no bad or no good unit) are left out.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    number = int(group.max()) + 1

    def statistic(drawn: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        assert axis == -1
        flat = drawn.reshape(-1, number)
        places = flat + number * np.arange(len(flat))[:, None]
        counts = np.bincount(places.ravel(), minlength=number * len(flat)).reshape(len(flat), number)
        return figures_of(counts[:, group].astype(float)).T

    found: Any = bootstrap(
        (np.arange(number),),
        statistic,
        n_resamples=draws,
        batch=_BATCH,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    drawn = found.bootstrap_distribution
    low, high = np.quantile(drawn[:, ~np.isnan(drawn).any(axis=0)], _COVERED, axis=1)
    return low, high


def expected_recall(bad: ArrayLike, scores: ArrayLike, share: float) -> float:
    """Recall at a share of false positives where units of one score come in a random order, the mean over all orders.

    `figures` lets units of one score pass together or not at all: where many share a score, a recall can be far below
    what an operator finds who takes them one by one. Without units that share a score the two are equal.
    """
    y, s = np.asarray(bad, bool), np.asarray(scores, float)
    good = np.sort(s[~y])[::-1]
    allowed = int(share * len(good) + 1e-9)
    if allowed >= len(good):
        return 1.0
    stop = good[allowed]  # the first good unit too many ends it
    above, tied = int((s[y] > stop).sum()), int((s[y] == stop).sum())
    left = allowed - int((good > stop).sum())
    return float((above + tied * (left + 1) / (int((good == stop).sum()) + 1)) / y.sum())

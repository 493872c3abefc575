"""What each feature did to a forest's score: the walk of a row, step by step.

At every inner node a tree expects some path length, the mean over the training samples that came there. A step to a
child changes it, and the change belongs to the feature that the node compares. Over a walk the changes add up to the
row's path length less the expectation at the root, exactly; and the path length is the score's logarithm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .errors import WrongShape
from .evaluator import ForestArrays


def path_shortenings(forest: ForestArrays, X: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each feature shortened the path of each row, below what the forest expects before it looks.

    Args:
        forest: the forest.
        X: float64 (n, F), finite.

    Returns:
        float64 (n, F), in units of `-log2(score)`: `log2(score) = sum over features + log2(2**-expected)` with
        `expected` from `expectation`. Positive where the feature made the row more anomalous.

    Raises:
        WrongShape: X is not (n, F).
    """
    X = np.ascontiguousarray(X, dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != forest.n_features:
        raise WrongShape(f"the forest has {forest.n_features} features, the rows have shape {X.shape}")
    out = np.zeros_like(X)
    if forest.normaliser > 0.0:
        _attribute_paths(X.astype(np.float32), forest.features, forest.thresholds, forest.leaves, forest.expected, out)
        out /= forest.normaliser
    return out


def expectation(forest: ForestArrays) -> float:
    """Expected `-log2(score)` before any feature is looked at."""
    return float(forest.expected[:, 1].sum() / forest.normaliser) if forest.normaliser > 0.0 else 1.0


@compiled
def _attribute_paths(
    x: NDArray[np.float32],
    features: NDArray[np.uint16],
    thresholds: NDArray[np.float32],
    leaves: NDArray[np.float64],
    expected: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    slots = features.shape[1]
    for tree in range(features.shape[0]):  # tree by tree, so that a tree stays in the first-level cache
        for row in range(x.shape[0]):
            slot, before = 1, expected[tree, 1]
            while slot < slots:
                feature = features[tree, slot]
                slot = 2 * slot + int(x[row, feature] > thresholds[tree, slot])
                after = expected[tree, slot] if slot < slots else leaves[tree, slot - slots]
                out[row, feature] += before - after
                before = after

"""The forest as plain arrays, and its compiled evaluator: equal to scikit-learn's `score_samples` to 1e-9.

Every tree is a complete binary tree in heap order: node `i` has the children `2i` and `2i + 1`, the root is 1, slot 0
is unused, all leaves are at the same depth. Branches that end early are filled with nodes that always go left, so a
walk is a fixed number of steps without a test for a leaf, and several walks can be interleaved to hide the latency of
memory.

scikit-learn compares `float32(x) <= threshold` with a float64 threshold. Rounding the threshold *down* to float32 gives
the same answer for every float32, so thresholds take half the room.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.compilation import allocation_free, compiled, inlined

from .input_checks import Floats, NotFinite, WrongShape

LANES = 8  # walks in flight at once: enough to hide load latency, few enough for the registers


class ForestArrays(NamedTuple):
    """An isolation forest of T trees with S = 2**depth slots each, over F features."""

    features: NDArray[np.uint16]  # uint16 (T, S), the feature that a node compares
    # float32 (T, S), right if the float32 value is greater; +inf if the tree ended earlier
    thresholds: NDArray[np.float32]
    leaves: Floats  # float64 (T, S), path length of a leaf: its depth plus c(samples in it)
    expected: Floats  # float64 (T, S), mean path length of the training samples that reached an inner node
    # T * c(max_samples), the sum of path lengths at which the score is 0.5; 0 if trained on one sample
    normaliser: float
    n_features: int  # F

    @property
    def trees(self) -> int:
        return int(self.features.shape[0])

    @property
    def depth(self) -> int:
        """Number of steps of a walk."""
        return int(self.features.shape[1]).bit_length() - 1


def forest_scores(forest: ForestArrays, X: Floats) -> Floats:
    """Return the anomaly scores of rows.

    Args:
        forest: the forest.
        X: float64 (n, F), finite.

    Returns:
        float64 (n,) in (0, 1]; **higher is more anomalous**: this is `-IsolationForest.score_samples(X)`.

    Raises:
        NotFinite: a value is NaN or infinite.
        WrongShape: X is not (n, F).
    """
    X = _checked_rows(forest, X)
    finite = np.isfinite(X)
    if not finite.all():
        row, feature = np.argwhere(~finite)[0].tolist()
        raise NotFinite(row, feature)
    out = np.empty(len(X))
    with np.errstate(over="ignore"):  # as scikit-learn does
        rows = X.astype(np.float32)
    tree_slots = forest.features.shape[1]
    arrays = forest.features.ravel(), forest.thresholds.ravel(), forest.leaves.ravel()
    score_float32_rows(rows, *arrays, tree_slots, forest.normaliser, out)
    return out


def _checked_rows(forest: ForestArrays, X: Floats) -> Floats:
    X = np.ascontiguousarray(X, dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != forest.n_features:
        raise WrongShape(f"the forest has {forest.n_features} features, the rows have shape {X.shape}")
    return X


@inlined
def _score(path: float, normaliser: float) -> float:
    """Turn a path length into a score. Only this function decides the direction: short paths have high scores."""
    return float(2.0 ** (-path / normaliser)) if normaliser > 0.0 else 0.5


# The two walks below keep their lanes in scalars, not in a small array: that is what lets the compiler hold them in
# registers (measured: 2x). Indices are unsigned, because signed ones carry wrap-around code (measured: 2x).


@allocation_free
def _path_of_row(
    x: NDArray[np.float32],
    features: NDArray[np.uint16],
    thresholds: NDArray[np.float32],
    leaves: Floats,
    tree_slots: int,
) -> float:
    """Sum the path lengths of one row, eight trees at a time, in the order of `_paths_of_rows`, so that bits are
    equal."""
    trees = len(features) // tree_slots
    slots, f, t, v = np.uint64(tree_slots), features, thresholds, leaves
    one = np.uint64(1)
    total = 0.0
    tree = 0
    while tree + LANES <= trees:
        b0 = np.uint64(tree) * slots
        b1 = b0 + slots
        b2 = b1 + slots
        b3 = b2 + slots
        b4 = b3 + slots
        b5 = b4 + slots
        b6 = b5 + slots
        b7 = b6 + slots
        i0 = i1 = i2 = i3 = i4 = i5 = i6 = i7 = one
        while i0 < slots:
            i0 = (i0 << one) + np.uint64(x[f[b0 + i0]] > t[b0 + i0])
            i1 = (i1 << one) + np.uint64(x[f[b1 + i1]] > t[b1 + i1])
            i2 = (i2 << one) + np.uint64(x[f[b2 + i2]] > t[b2 + i2])
            i3 = (i3 << one) + np.uint64(x[f[b3 + i3]] > t[b3 + i3])
            i4 = (i4 << one) + np.uint64(x[f[b4 + i4]] > t[b4 + i4])
            i5 = (i5 << one) + np.uint64(x[f[b5 + i5]] > t[b5 + i5])
            i6 = (i6 << one) + np.uint64(x[f[b6 + i6]] > t[b6 + i6])
            i7 = (i7 << one) + np.uint64(x[f[b7 + i7]] > t[b7 + i7])
        total += v[b0 + i0 - slots]
        total += v[b1 + i1 - slots]
        total += v[b2 + i2 - slots]
        total += v[b3 + i3 - slots]
        total += v[b4 + i4 - slots]
        total += v[b5 + i5 - slots]
        total += v[b6 + i6 - slots]
        total += v[b7 + i7 - slots]
        tree += LANES
    while tree < trees:
        b0 = np.uint64(tree) * slots
        i0 = one
        while i0 < slots:
            i0 = (i0 << one) + np.uint64(x[f[b0 + i0]] > t[b0 + i0])
        total += v[b0 + i0 - slots]
        tree += 1
    return total


@allocation_free
def _paths_of_rows(
    block: NDArray[np.float32],
    features: NDArray[np.uint16],
    thresholds: NDArray[np.float32],
    leaves: Floats,
    tree_slots: int,
    paths: Floats,
) -> None:
    """Sum the path lengths of eight rows, tree by tree, so that a tree stays in the first-level cache."""
    slots, f, t, v = np.uint64(tree_slots), features, thresholds, leaves
    x0, x1, x2, x3 = block[0], block[1], block[2], block[3]
    x4, x5, x6, x7 = block[4], block[5], block[6], block[7]
    one = np.uint64(1)
    p0 = p1 = p2 = p3 = p4 = p5 = p6 = p7 = 0.0
    for tree in range(len(features) // tree_slots):
        b = np.uint64(tree) * slots
        i0 = i1 = i2 = i3 = i4 = i5 = i6 = i7 = one
        while i0 < slots:
            i0 = (i0 << one) + np.uint64(x0[f[b + i0]] > t[b + i0])
            i1 = (i1 << one) + np.uint64(x1[f[b + i1]] > t[b + i1])
            i2 = (i2 << one) + np.uint64(x2[f[b + i2]] > t[b + i2])
            i3 = (i3 << one) + np.uint64(x3[f[b + i3]] > t[b + i3])
            i4 = (i4 << one) + np.uint64(x4[f[b + i4]] > t[b + i4])
            i5 = (i5 << one) + np.uint64(x5[f[b + i5]] > t[b + i5])
            i6 = (i6 << one) + np.uint64(x6[f[b + i6]] > t[b + i6])
            i7 = (i7 << one) + np.uint64(x7[f[b + i7]] > t[b + i7])
        b -= slots
        p0 += v[b + i0]
        p1 += v[b + i1]
        p2 += v[b + i2]
        p3 += v[b + i3]
        p4 += v[b + i4]
        p5 += v[b + i5]
        p6 += v[b + i6]
        p7 += v[b + i7]
    paths[0], paths[1], paths[2], paths[3] = p0, p1, p2, p3
    paths[4], paths[5], paths[6], paths[7] = p4, p5, p6, p7


@allocation_free
def score_float32_rows(
    X: NDArray[np.float32],
    features: NDArray[np.uint16],
    thresholds: NDArray[np.float32],
    leaves: Floats,
    tree_slots: int,
    normaliser: float,
    out: Floats,
) -> None:
    """Score finite rows into `out`; the arrays are those of `ForestArrays`, raveled, with *tree_slots* per tree."""
    row = 0
    while row + LANES <= len(X):
        _paths_of_rows(X[row : row + LANES], features, thresholds, leaves, tree_slots, out[row : row + LANES])
        row += LANES
    while row < len(X):
        out[row] = _path_of_row(X[row], features, thresholds, leaves, tree_slots)
        row += 1
    for row in range(len(X)):
        out[row] = _score(out[row], normaliser)


# The contribution of each feature to a forest's score follows from the walk of a row. At every inner node a tree
# expects some path length, the mean over the training samples that came there. A step to a child changes it, and the
# change belongs to the feature that the node compares. Over a walk the changes add up to the row's path length less the
# expectation at the root, exactly; and the path length is the score's logarithm.


def path_shortenings(forest: ForestArrays, X: Floats) -> Floats:
    """Return by how many steps each feature shortened the path of each row, relative to the forest's expectation.

    Args:
        forest: the forest.
        X: float64 (n, F), finite.

    Returns:
        float64 (n, F), in units of `-log2(score)`: `log2(score) = sum over features - expected`, with the
        forest's expectation before any feature is looked at. Positive if the feature made the row more anomalous.

    Raises:
        WrongShape: X is not (n, F).
    """
    X = _checked_rows(forest, X)
    out = np.zeros_like(X)
    if forest.normaliser > 0.0:
        _attribute_paths(X.astype(np.float32), forest.features, forest.thresholds, forest.leaves, forest.expected, out)
        out /= forest.normaliser
    return out


@compiled
def _attribute_paths(
    x: NDArray[np.float32],
    features: NDArray[np.uint16],
    thresholds: NDArray[np.float32],
    leaves: Floats,
    expected: Floats,
    out: Floats,
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

"""Fits scikit-learn's `IsolationForest` and takes it apart into plain arrays. The only importer of scikit-learn's
forest.

Scoring needs the arrays alone (`evaluator.py`): a process that only scores never pays for importing scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..ingest.errors import ModelError
from .checking import finite_float32
from .evaluator import ForestArrays

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

# A complete tree has 2**depth slots; scikit-learn limits the depth to ceil(log2(max_samples)). 12 levels are 57 kB a
# tree. Isolation forests gain nothing from larger samples (the paper's own figure is 256), so deeper forests are
# refused.
MAX_TREE_DEPTH = 12
MAX_TREE_SAMPLES = 2**MAX_TREE_DEPTH
MAX_FEATURES = 65_535


def fit_forest(X: NDArray[np.float64], *, trees: int = 100, max_samples: int = 256, seed: int) -> ForestArrays:
    """Fit an isolation forest on rows of normal behaviour.

    Args:
        X: float64 (n, F), finite, within the range of float32.
        trees: number of trees.
        max_samples: rows drawn for each tree, at most 4,096; fewer rows than that use all of them.
        seed: seed of scikit-learn's generator; equal seeds give equal forests.

    Raises:
        NotFinite: a value is NaN, infinite or beyond the range of float32.
        ModelError: the forest would be too deep or too wide for the arrays.
    """
    from sklearn.ensemble import IsolationForest  # takes a second, which every command and every start would pay

    if not 1 <= max_samples <= MAX_TREE_SAMPLES:
        raise ModelError(f"max_samples is {max_samples}; it must be from 1 to {MAX_TREE_SAMPLES}")
    X = finite_float32(X)
    if X.shape[1] > MAX_FEATURES:
        raise ModelError(f"{X.shape[1]} features; at most {MAX_FEATURES} fit the arrays")
    model = IsolationForest(n_estimators=trees, max_samples=min(max_samples, X.shape[0]), random_state=seed)
    return flatten_forest(model.fit(X))


def flatten_forest(model: IsolationForest) -> ForestArrays:
    """The arrays of a fitted forest that used all features in each tree.

    Raises:
        ModelError: a tree is deeper than 12 levels, or the forest draws features per tree.
    """
    if model.estimators_[0].n_features_in_ != model.n_features_in_:
        raise ModelError("forests with max_features below 1.0 are not supported")
    trees = [estimator.tree_ for estimator in model.estimators_]
    depth = max(1, *(int(tree.max_depth) for tree in trees))
    if depth > MAX_TREE_DEPTH:
        raise ModelError(
            f"a tree has {depth} levels; at most {MAX_TREE_DEPTH} (max_samples {MAX_TREE_SAMPLES}) are supported"
        )
    shape = (len(trees), 2**depth)
    features = np.zeros(shape, np.uint16)
    thresholds = np.full(shape, np.inf, np.float32)
    leaves, means = np.zeros(shape, np.float64), np.zeros(shape, np.float64)
    for position, tree in enumerate(trees):
        _fill_heap(tree, depth, features[position], thresholds[position], leaves[position], means[position])
    expected = float(average_path_length(np.array([model.max_samples_]))[0])
    return ForestArrays(features, thresholds, leaves, means, len(trees) * expected, int(model.n_features_in_))


def _fill_heap(
    tree: Any,
    depth: int,
    features: NDArray[np.uint16],
    thresholds: NDArray[np.float32],
    leaves: NDArray[np.float64],
    means: NDArray[np.float64],
) -> None:
    """Lay one scikit-learn tree into heap order; what ends early is continued to the left."""
    left, right = tree.children_left, tree.children_right
    rounded = round_down_to_float32(tree.threshold)
    beyond = average_path_length(tree.n_node_samples)
    expected = _expected_paths(tree, beyond)
    pending = [(0, 1, 0)]  # node of scikit-learn, slot, level
    while pending:
        node, slot, level = pending.pop()
        if left[node] >= 0:
            features[slot], thresholds[slot], means[slot] = tree.feature[node], rounded[node], expected[node]
            pending += [(left[node], 2 * slot, level + 1), (right[node], 2 * slot + 1, level + 1)]
        else:
            leaves[(slot << (depth - level)) - len(leaves)] = expected[node]
            for below in range(depth - level):
                means[slot << below] = expected[node]


def _expected_paths(tree: Any, beyond: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean path length of the samples of each node; in scikit-learn children have higher numbers than their parent."""
    expected = tree.compute_node_depths() - 1.0 + beyond
    count = tree.n_node_samples
    for node in range(tree.node_count - 1, -1, -1):
        left, right = tree.children_left[node], tree.children_right[node]
        if left >= 0:
            expected[node] = (count[left] * expected[left] + count[right] * expected[right]) / count[node]
    return np.asarray(expected, np.float64)


def round_down_to_float32(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 at or below each float64 (n,): `float32(x) <= t` holds for both or for neither."""
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def average_path_length(samples: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """c(n) of the isolation forest paper: the expected path length in a tree of n samples; (k,) to (k,), >= 0."""
    n = np.maximum(np.asarray(samples, np.float64), 2.0)
    long = 2.0 * (np.log(np.maximum(n - 1.0, 1.0)) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, long))

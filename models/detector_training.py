"""Train a detector: fit scikit-learn's `IsolationForest` and convert it to plain arrays.

Only this module imports scikit-learn's forest. Scoring needs only arrays (`forest_evaluator.py`), so a process that
only scores does not pay for importing scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trustwatch.ingest.errors import ConfigError, ModelError

from .calibration import Calibration, ScoresBeforeAdding, anomaly_scores, fit_peer_scales
from .concerns import ConcernScores, FeatureRoles, fit_concerns
from .detector import DetectorSettings, ForestDetector, Scores, fit_usual_evidence
from .evidence_combination import (
    CombinedEvidence,
    EvidenceCombination,
    combined_evidence,
    fit_tails,
    forest_input,
    set_excess_tail,
    set_rate_tail,
    weighted_evidence,
)
from .forest_evaluator import ForestArrays, forest_scores
from .input_checks import Flags, Floats, Ids, Ints, NotEnoughHistory, WrongShape, finite_float32

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

# A complete tree has 2**depth slots; scikit-learn limits the depth to ceil(log2(max_samples)). 12 levels are 57 kB a
# tree. Isolation forests gain nothing from larger samples (the paper's own figure is 256), so deeper forests are
# refused.
MAX_TREE_DEPTH = 12
MAX_TREE_SAMPLES = 2**MAX_TREE_DEPTH
MAX_FEATURES = 65_535


def fit_forest(X: Floats, *, trees: int = 100, max_samples: int = 256, seed: int) -> ForestArrays:
    """Fit an isolation forest on rows of normal behavior.

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
    """Return the arrays of a fitted forest that used all features in each tree.

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
    tree: Any, depth: int, features: NDArray[np.uint16], thresholds: NDArray[np.float32], leaves: Floats, means: Floats
) -> None:
    """Lay out one scikit-learn tree in heap order. Branches that end early continue to the left."""
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


def _expected_paths(tree: Any, beyond: Floats) -> Floats:
    """Return the mean path length of the samples of each node. In scikit-learn, children have higher numbers than their
    parent."""
    expected = tree.compute_node_depths() - 1.0 + beyond
    count = tree.n_node_samples
    for node in range(tree.node_count - 1, -1, -1):
        left, right = tree.children_left[node], tree.children_right[node]
        if left >= 0:
            expected[node] = (count[left] * expected[left] + count[right] * expected[right]) / count[node]
    return np.asarray(expected, np.float64)


def round_down_to_float32(thresholds: Floats) -> NDArray[np.float32]:
    """Return the largest float32 at or below each float64 (n,), so that `float32(x) <= t` holds for both or for
    neither."""
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def average_path_length(samples: NDArray[np.integer[Any]]) -> Floats:
    """Return c(n) of the isolation forest paper, the expected path length in a tree of n samples; (k,) to (k,), >=
    0."""
    n = np.maximum(np.asarray(samples, np.float64), 2.0)
    long = 2.0 * (np.log(np.maximum(n - 1.0, 1.0)) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, long))


# The calibration is cross-conformal: the history is cut into folds along sessions, each fold is scored by a detector
# that never saw it, and the p-values and group scales come from these held-out scores alone. The final tails and forest
# are fitted on everything.


MIN_ROWS = 50
"""Minimum rows of history to learn from; with fewer, a p-value could not even show one in fifty."""
_LARGEST_FOLD = 2 / 3  # share of the rows; a larger fold would leave too little to train its detector on


class HeldOutScores(NamedTuple):
    """Scores of n training rows, over all evidence and by concern, from a detector that had not seen the rows."""

    scores: Scores
    concerns: ConcernScores


def fit_detector(
    X: Floats,
    groups: Ids,
    sessions: Ids,
    settings: DetectorSettings,
    feature_names: Sequence[str],
    *,
    resolution: ArrayLike | None = None,
    importance: ArrayLike | None = None,
    decades: ArrayLike | None = None,
    roles: FeatureRoles | None = None,
    failed: Flags | None = None,
    rate_between: ArrayLike = 1.0,
    version: str = "unsaved",
) -> tuple[ForestDetector, HeldOutScores]:
    """Fit a detector and return the honest scores of its training rows.

    Args:
        X: float64 (n, F), finite: feature vectors of normal behavior, at least 50.
        groups: uint64 (n,), peer group of each row; 0 for none.
        sessions: uint64 (n,), id of the session a row belongs to; a session never straddles folds. If there are too
            few, or one holds more than two thirds of the rows, folds are blocks of consecutive rows instead.
        settings: how to train.
        feature_names: F names.
        resolution: smallest meaningful difference per feature, see `fit_tails`.
        importance: factor in [0, 1] of each feature's evidence, see `EvidenceCombination`; None is 1 for all.
        decades: decades per unit of features that are logarithms of probabilities already, see `fit_tails`.
        roles: features that are treated apart; None = none is.
        failed: bool (n,), rows of calls that did not happen: denied, or failed; None = none is.
        rate_between: float64 (F,) or one number, rate of 1.5 of the features that are added and are ranks, see
            `set_rate_tail`; of those that are bits see `set_excess_tail`.
        version: version of the model.

    Returns:
        the detector, and the scores that each training row got from a detector that had not seen it. Callers that
        derive a threshold from the history should use these.

    Raises:
        NotFinite: a value is NaN, infinite or beyond float32.
        NotEnoughHistory: fewer than 50 rows.
        WrongShape: arguments differ in length.
    """
    X, weight = _checked_input(X, groups, sessions, feature_names, importance)
    groups = np.ascontiguousarray(groups, dtype=np.uint64)
    roles = roles or FeatureRoles.none(X.shape[1])
    failed = np.zeros(len(X), np.bool_) if failed is None else failed
    folds = assign_folds(sessions, settings.folds, settings.seed)
    between = np.broadcast_to(np.asarray(rate_between, np.float64), (X.shape[1],))
    statistic, added, u, addable = np.empty(len(X)), np.empty(len(X)), np.empty_like(X), np.zeros(len(X), np.bool_)
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        fitted = _fit_parts(X[~held_out], settings, resolution, weight, decades, roles.added, between)
        combined = combined_evidence(fitted, X[held_out])
        statistic[held_out], u[held_out] = combined.statistic, combined.feature_evidence
        added[held_out], addable[held_out] = combined.added, combined.addable
    scales = fit_peer_scales(statistic, groups, settings.group_minimum)
    anomaly = anomaly_scores(scales, statistic, groups, added)
    evidence = CombinedEvidence(statistic, statistic, statistic, u, added, addable)
    concerns, by_concern = fit_concerns(scales, evidence, groups, failed, roles, settings.group_minimum)
    before_adding = ScoresBeforeAdding(anomaly_scores(scales, statistic, groups), addable)
    calibration = Calibration.fit(anomaly, groups, settings.group_minimum, before_adding)
    parts = _fit_parts(X, settings, resolution, weight, decades, roles.added, between)
    usual = fit_usual_evidence(parts, X)
    detector = ForestDetector(
        parts, scales, calibration, Calibration.empty(), concerns, usual, settings, tuple(feature_names), version
    )
    return detector, HeldOutScores(Scores(anomaly, calibration.p_values(anomaly, groups, addable), u), by_concern)


def _checked_input(
    X: Floats, groups: Ids, sessions: Ids, names: Sequence[str], importance: ArrayLike | None
) -> tuple[Floats, Floats]:
    """Return rows and importances as arrays. Raises what `fit_detector` raises."""
    if len(X) < MIN_ROWS:
        raise NotEnoughHistory(f"{len(X)} rows of normal history, at least {MIN_ROWS} are needed: train on more")
    X = finite_float32(X)
    if groups.shape != (len(X),) or sessions.shape != (len(X),) or len(names) != X.shape[1]:
        raise WrongShape(
            f"rows {X.shape}, groups {groups.shape}, sessions {sessions.shape}, {len(names)} names: they do not fit"
        )
    weight = np.ones(X.shape[1]) if importance is None else np.asarray(importance, np.float64)
    if weight.shape != (X.shape[1],):
        raise WrongShape(f"{weight.shape} importances for {X.shape[1]} features")
    if not ((weight >= 0.0) & (weight <= 1.0)).all():
        raise ConfigError("importance of a feature must be from 0 to 1")
    return X, weight


def _fit_parts(
    X: Floats,
    settings: DetectorSettings,
    resolution: ArrayLike | None,
    importance: Floats,
    decades: ArrayLike | None,
    added: Flags,
    rate_between: Floats,
) -> EvidenceCombination:
    tails = fit_tails(X, settings.knots, resolution, decades)
    in_bits = np.broadcast_to(np.asarray(0.0 if decades is None else decades), added.shape) > 0.0
    for feature in np.flatnonzero(added & ~in_bits).tolist():
        set_rate_tail(tails, feature, X[:, feature], float(rate_between[feature]))
    for feature in np.flatnonzero(added & in_bits).tolist():
        set_excess_tail(tails, feature, X[:, feature])
    seen = forest_input(np.where(added, 0.0, weighted_evidence(tails, importance, X)), importance)
    kept = np.flatnonzero(~added)  # which features a tree draws depends on how many it is shown
    fitted = fit_forest(seen[:, kept], trees=settings.trees, max_samples=settings.max_samples, seed=settings.seed)
    forest = fitted._replace(features=kept[fitted.features].astype(np.uint16), n_features=X.shape[1])
    score_tail = fit_tails(forest_scores(forest, seen)[:, None], settings.knots)
    return EvidenceCombination(tails, forest, score_tail, settings.forest_weight, settings.norm, importance, added)


def assign_folds(sessions: Ids, folds: int, seed: int) -> Ints:
    """Assign a fold to each row, int64 (n,) in [0, folds): whole sessions, in a seeded hash order, with about equal
    numbers of rows.

    With fewer than two sessions, or one that holds more than two thirds of the rows, folds are blocks of
    consecutive rows: neighbors then share a session, and the p-values are a little too bold.
    """
    rows = len(sessions)
    ids, position, counts = np.unique(np.asarray(sessions, np.uint64), return_inverse=True, return_counts=True)
    if len(ids) >= 2 and counts.max() <= _LARGEST_FOLD * rows:
        order = np.argsort(_mix_session_ids(ids, seed), kind="stable")
        middle = np.cumsum(counts[order]) - counts[order] / 2.0
        fold_of = np.empty(len(ids), np.int64)
        fold_of[order] = np.minimum((middle * folds / rows).astype(np.int64), folds - 1)
        assigned = np.unique(fold_of[position], return_inverse=True)[1]
        if np.bincount(assigned).max() <= _LARGEST_FOLD * rows:
            return assigned
    return np.arange(rows) * folds // rows


def _mix_session_ids(ids: Ids, seed: int) -> Ids:
    """Shuffle session ids stably, whatever their pattern (the finalizer of SplitMix64)."""
    z = ids + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

"""The compiled evaluator against scikit-learn, the oracle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest

from trustwatch.ingest.errors import ModelError
from trustwatch.models.detector_training import fit_forest, flatten_forest, round_down_to_float32
from trustwatch.models.forest_evaluator import forest_scores
from trustwatch.models.input_checks import NotFinite

TOLERANCE = 1e-9


def oracle(model: IsolationForest, X: np.ndarray) -> np.ndarray:
    """scikit-learn's anomaly scores, higher more anomalous; huge float64 values become float32 infinity, as in ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
        return -model.score_samples(X)


def training_data(kind: str, rng: np.random.Generator, rows: int, features: int) -> np.ndarray:
    """Data of one kind, finite in float32."""
    X = rng.normal(size=(rows, features))
    if kind == "ties":
        return np.round(X)
    if kind == "constant":
        X[:, ::2] = 3.25
    if kind == "huge":
        X *= 1e30
    if kind == "tiny":
        X *= 1e-38
    if kind == "float32-neighbours":
        X = 1.0 + rng.integers(-3, 4, size=X.shape) * 2.0**-23
    if kind == "large-offset":
        X = 16_777_216.0 + rng.integers(0, 50, size=X.shape)
    return X


def probes(model: IsolationForest, X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Training rows, rows at and next to the thresholds, and rows far outside."""
    at_thresholds = X[rng.integers(0, len(X), 40)].copy()
    for row in at_thresholds:
        tree = model.estimators_[rng.integers(len(model.estimators_))].tree_
        for node in np.flatnonzero(tree.children_left >= 0):
            threshold = tree.threshold[node]
            near = (threshold, np.nextafter(threshold, np.inf), np.nextafter(threshold, -np.inf))
            near += (float(np.float32(threshold)), float(np.nextafter(np.float32(threshold), np.float32(np.inf))))
            row[tree.feature[node]] = near[rng.integers(len(near))]
    outside = np.concatenate([X[:4] * 1e6, np.full((1, X.shape[1]), 1e300), np.full((1, X.shape[1]), -1e300)])
    return np.concatenate([X, at_thresholds, outside, np.full((1, X.shape[1]), 5e-324)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["normal", "ties", "constant", "huge", "tiny", "float32-neighbours", "large-offset"]),
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([1, 2, 3, 17, 64, 300]),
    features=st.integers(1, 9),
    trees=st.sampled_from([1, 7, 8, 19]),
    max_samples=st.sampled_from([1, 2, 30, 256]),
)
def test_scores_equal_scikit_learn(kind, seed, rows, features, trees, max_samples):
    """Scores equal `-score_samples` to 1e-9 for any forest and data, at, next to and far from the thresholds."""
    rng = np.random.default_rng(seed)
    X = training_data(kind, rng, rows, features)
    model = IsolationForest(n_estimators=trees, max_samples=min(max_samples, rows), random_state=seed).fit(X)
    rows_to_score = probes(model, X, rng)

    scores = forest_scores(flatten_forest(model), rows_to_score)

    np.testing.assert_allclose(scores, oracle(model, rows_to_score), rtol=0, atol=TOLERANCE)
    assert ((scores > 0) & (scores <= 1)).all()


def test_scores_equal_scikit_learn_at_the_size_in_production():
    """100 trees of 256 samples on 40 features agree on 5,000 rows; the trees are 8 levels deep."""
    X = np.random.default_rng(5).normal(size=(5000, 40))
    model = IsolationForest(n_estimators=100, max_samples=256, random_state=5).fit(X)
    forest = flatten_forest(model)

    assert forest.depth == 8
    np.testing.assert_allclose(forest_scores(forest, X), oracle(model, X), rtol=0, atol=TOLERANCE)


def test_fit_forest_is_scikit_learns_forest():
    """`fit_forest` gives the scores of `IsolationForest` with the same parameters and seed."""
    X = np.random.default_rng(2).normal(size=(700, 5))
    model = IsolationForest(n_estimators=30, max_samples=128, random_state=9).fit(X)

    scores = forest_scores(fit_forest(X, trees=30, max_samples=128, seed=9), X)

    np.testing.assert_allclose(scores, oracle(model, X), rtol=0, atol=TOLERANCE)


def test_forests_that_draw_features_are_refused():
    """A forest with max_features below 1.0 can not be represented and says so."""
    X = np.random.default_rng(3).normal(size=(300, 4))
    with pytest.raises(ModelError, match="max_features"):
        flatten_forest(IsolationForest(n_estimators=2, max_features=0.5, random_state=1).fit(X))


def test_values_beyond_float32_are_refused_in_training():
    """scikit-learn would train on infinity after its cast to float32; we refuse."""
    with pytest.raises(NotFinite, match=r"row 1, feature 0 .*float32"):
        fit_forest(np.array([[0.0], [1e39]]), seed=0)


@given(st.floats(-1e38, 1e38), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_rounding_a_threshold_down_keeps_every_comparison(threshold, value):
    """`float32(x) <= t` has the same answer for the float64 threshold and the float32 one below it."""
    rounded = round_down_to_float32(np.array([threshold]))[0]
    for x in (np.float32(value), np.float32(threshold), rounded, np.nextafter(rounded, np.float32(np.inf))):
        assert (float(x) <= threshold) == bool(x <= rounded)

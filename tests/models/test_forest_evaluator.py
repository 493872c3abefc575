"""The compiled evaluator against scikit-learn, the oracle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest

from trustwatch.ingest.errors import ModelError, TrustwatchError
from trustwatch.models.detector_training import average_path_length, fit_forest, flatten_forest, round_down_to_float32
from trustwatch.models.forest_evaluator import forest_scores
from trustwatch.models.input_checks import NotFinite, WrongShape

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


def test_deeper_forests_are_held_up_to_twelve_levels():
    """4,096 samples a tree (12 levels) still equal scikit-learn; 4,097 are refused by name."""
    X = np.random.default_rng(3).normal(size=(5000, 3))
    model = IsolationForest(n_estimators=3, max_samples=4096, random_state=1).fit(X)
    forest = flatten_forest(model)

    assert forest.depth == 12
    np.testing.assert_allclose(forest_scores(forest, X[:500]), oracle(model, X[:500]), rtol=0, atol=TOLERANCE)
    with pytest.raises(ModelError, match="max_samples is 4097"):
        fit_forest(X, max_samples=4097, seed=1)
    with pytest.raises(ModelError, match="13 levels"):
        flatten_forest(IsolationForest(n_estimators=2, max_samples=5000, random_state=1).fit(X))


def test_forests_that_draw_features_are_refused():
    """A forest with max_features below 1.0 cannot be represented and says so."""
    X = np.random.default_rng(3).normal(size=(300, 4))
    with pytest.raises(ModelError, match="max_features"):
        flatten_forest(IsolationForest(n_estimators=2, max_features=0.5, random_state=1).fit(X))


def test_one_row_scores_as_in_a_batch():
    """A row gets the same bits alone, in a block of eight and in the rest: replays may cut batches anyhow."""
    X = np.random.default_rng(4).normal(size=(21, 6))
    forest = fit_forest(X, trees=11, seed=0)

    alone = np.concatenate([forest_scores(forest, row[None, :]) for row in X])

    np.testing.assert_array_equal(alone, forest_scores(forest, X))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 3, 9, 10])
def test_not_finite_is_refused_wherever_it_stands(bad, row):
    """NaN and infinity are refused with row and feature, in whole blocks and in the rest, by scoring and by fitting."""
    X = np.random.default_rng(4).normal(size=(11, 3))
    forest = fit_forest(X, trees=4, seed=0)
    X[row, 2] = bad

    for attempt in (lambda: forest_scores(forest, X), lambda: fit_forest(X, seed=0)):
        with pytest.raises(NotFinite) as caught:
            attempt()
        assert (caught.value.row, caught.value.feature) == (row, 2)
        assert isinstance(caught.value, TrustwatchError)
        assert isinstance(caught.value, ValueError)


def test_values_beyond_float32_are_refused_in_training():
    """scikit-learn would train on infinity after its cast to float32; we refuse."""
    with pytest.raises(NotFinite, match=r"row 1, feature 0 .*float32"):
        fit_forest(np.array([[0.0], [1e39]]), seed=0)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 4), (1, 3, 1)])
def test_wrong_shapes_are_refused(shape):
    """Rows that do not have the forest's number of features never reach compiled code."""
    forest = fit_forest(np.random.default_rng(0).normal(size=(50, 3)), trees=2, seed=0)
    with pytest.raises(WrongShape):
        forest_scores(forest, np.zeros(shape))


def test_no_rows_give_no_scores():
    """An empty batch is no error."""
    forest = fit_forest(np.random.default_rng(0).normal(size=(50, 3)), trees=2, seed=0)
    assert forest_scores(forest, np.empty((0, 3))).shape == (0,)


@given(st.floats(-1e38, 1e38), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_rounding_a_threshold_down_keeps_every_comparison(threshold, value):
    """`float32(x) <= t` has the same answer for the float64 threshold and the float32 one below it."""
    rounded = round_down_to_float32(np.array([threshold]))[0]
    for x in (np.float32(value), np.float32(threshold), rounded, np.nextafter(rounded, np.float32(np.inf))):
        assert (float(x) <= threshold) == bool(x <= rounded)


def test_average_path_length_is_the_papers():
    """c(0) = c(1) = 0, c(2) = 1, c(256) = 10.2448 (isolation forest paper, equation 1)."""
    np.testing.assert_allclose(average_path_length(np.array([0, 1, 2, 256])), [0, 0, 1, 10.244770920], atol=1e-9)

"""Attribution: a row's walk adds up to its score, and speaks of the features that the trees compare."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.models.detector_training import fit_forest
from trustwatch.models.forest_evaluator import ForestArrays, forest_scores, path_shortenings
from trustwatch.models.input_checks import WrongShape


def stump() -> ForestArrays:
    """One tree of one step over two features, by hand: three samples left of 0.5 on feature 1, one right of it."""
    return ForestArrays(
        features=np.array([[0, 1]], np.uint16),
        thresholds=np.array([[np.inf, 0.5]], np.float32),
        leaves=np.array([[3.0, 1.0]]),
        expected=np.array([[0.0, 2.5]]),
        normaliser=2.0,
        n_features=2,
    )


def expectation(forest: ForestArrays) -> float:
    """Expected `-log2(score)` before any feature is looked at."""
    return float(forest.expected[:, 1].sum() / forest.normaliser)


def test_a_step_belongs_to_the_feature_compared() -> None:
    """2.5 was expected; to the right the path is 1, to the left 3, over a normaliser of 2."""
    assert path_shortenings(stump(), np.array([[9.0, 1.0], [9.0, 0.0]])).tolist() == [[0.0, 0.75], [0.0, -0.25]]
    assert expectation(stump()) == 1.25


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(2, 300), trees=st.integers(1, 20))
def test_the_steps_add_up_to_the_score(seed: int, rows: int, trees: int) -> None:
    """On random forests and rows, steps and expectation give the logarithm of the score to 1e-9."""
    dice = np.random.default_rng(seed)
    X = np.round(dice.normal(size=(rows, 5)), dice.integers(0, 4))
    forest = fit_forest(X, trees=trees, max_samples=64, seed=seed)
    probe = np.concatenate([X, dice.normal(size=(20, 5)) * 5.0])
    total = path_shortenings(forest, probe).sum(axis=1) - expectation(forest)
    np.testing.assert_allclose(total, np.log2(forest_scores(forest, probe)), atol=1e-9)


def test_the_training_rows_are_as_expected() -> None:
    """A forest that sees all rows in each tree expects at its root what its rows have on average."""
    X = np.random.default_rng(3).normal(size=(256, 4))
    forest = fit_forest(X, trees=1, max_samples=256, seed=1)
    assert path_shortenings(forest, X).sum(axis=1).mean() == pytest.approx(0.0, abs=1e-9)


def test_the_odd_feature_is_named() -> None:
    """A row that is odd in one feature alone has most of its shortening there; constant features have none."""
    X = np.random.default_rng(2).normal(size=(1000, 6))
    X[:, 5] = 1.0
    forest = fit_forest(X, trees=100, max_samples=256, seed=0)
    odd = np.zeros((6, 6))
    odd[np.arange(5), np.arange(5)] = 8.0
    steps = path_shortenings(forest, odd)
    assert steps[:5].argmax(axis=1).tolist() == [0, 1, 2, 3, 4]
    assert (steps[:, 5] == 0.0).all()


def test_rows_of_another_width_are_refused() -> None:
    """The message names both widths."""
    with pytest.raises(WrongShape, match="2 features"):
        path_shortenings(stump(), np.zeros((1, 3)))

"""Attribution: a row's walk adds up to its score, and speaks of the features that the trees compare."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.models.detector_training import fit_forest
from trustwatch.models.forest_evaluator import expectation, forest_scores, path_shortenings


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

"""Thresholds of call verdicts keep their budget; what a manifest holds of them is checked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trustwatch.ingest.errors import ModelError
from trustwatch.models.call_challenges import CallChallenges, ForeignValueRates, HeldOutCalls, fit_foreign_rates


@given(calls=st.integers(1, 3_000), per_1000=st.floats(0.1, 100.0), seed=st.integers(0, 99))
def test_no_more_of_the_held_out_calls_than_accepted_exceed_the_threshold(
    calls: int, per_1000: float, seed: int
) -> None:
    """Ties and thinned ranks included; there is one as soon as a single call may wait."""
    scores = np.random.default_rng(seed).integers(0, 500, calls) / 500.0
    threshold = HeldOutCalls.of(scores).threshold(per_1000)

    allowed = int((calls + 1) * per_1000 / 1000.0 + 1e-9)
    assert (threshold is None) == (allowed < 1)
    if threshold is not None:
        assert (scores > threshold).sum() < allowed


@given(calls=st.integers(1, 2_000), score=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_p_values_are_never_bolder_than_the_held_out_calls(calls: int, score: float, seed: int) -> None:
    scores = np.random.default_rng(seed).random(calls)
    exact = (1 + (scores >= score).sum()) / (calls + 1)

    assert exact <= HeldOutCalls.of(scores).p_value(score) <= 1.0
    assert HeldOutCalls.of(scores).p_value(score) <= exact * 1.06 + 2 / (calls + 1)


def test_an_action_that_often_uses_new_values_is_less_evidence() -> None:
    """None is more than acting calls together; a value that is new to the peer group alone is half."""
    keys = np.repeat(np.array([1, 2, 3], np.uint64), 200)
    effects = np.repeat(np.array([1, 1, 0], np.int8), 200)
    foreign = np.ones(600)
    foreign[:10], foreign[200:280], foreign[400:590] = 2.0, 2.0, 2.0
    rates = fit_foreign_rates(keys, effects, foreign)

    seldom, often, codes, other = rates.evidence(
        np.array([1, 2, 3, 9], np.uint64), np.array([1, 1, 0, 1], np.int8), np.full(4, 2.0)
    )
    assert seldom == pytest.approx(-np.log10(91 / 401)) == pytest.approx(other)
    assert codes < 0.1 < often < seldom
    (half,) = rates.evidence(np.array([2], np.uint64), np.array([1], np.int8), np.array([1.5]))
    assert half == pytest.approx(often / 2)


def test_a_wrong_manifest_is_refused() -> None:
    scores = HeldOutCalls.of(np.linspace(0.0, 1.0, 500))
    sound = CallChallenges(ForeignValueRates(0.1, 0.2, {"0a": 0.5}), {"all": scores}).document()

    assert CallChallenges.from_settings({"challenges": sound}) is not None
    assert CallChallenges.from_settings({}) is None
    for wrong in (
        {"by_effect": {"read": sound["by_effect"]["all"]}},
        {"by_effect": {"all": {"calls": 1, "ranks": [1], "scores": []}}},
        {"foreign": {"acting": 0.0, "reading": 0.1, "by_action": {}}},
    ):
        with pytest.raises(ModelError, match="challenges"):
            CallChallenges.from_settings({"challenges": sound | wrong})

"""Thresholds of call verdicts keep their budget; what a manifest holds of them is checked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.events import EFFECTS
from trustwatch.ingest.features.argument_flow import NEW_TO_ALL, NEW_TO_TASK
from trustwatch.models.call_challenges import (
    SCORE_RESOLUTION,
    CallChallenges,
    ChallengeThreshold,
    ForeignValueRates,
    HeldOutCalls,
    fit_foreign_rates,
)


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


def exceeded(calls: HeldOutCalls) -> float:
    """The score that the default budget lets nothing but odd calls exceed."""
    score = calls.threshold(10.0)
    assert score is not None
    return score + SCORE_RESOLUTION


def test_calls_that_are_all_alike_are_not_told_apart_by_rounding() -> None:
    """A day more of history moves all of them by less than a thousandth."""
    alike = HeldOutCalls.of(0.3 + np.random.default_rng(1).random(2_000) * 1e-5)
    challenges = CallChallenges(ForeignValueRates(0.1, 0.2, {}), {"all": alike})
    threshold = challenges.threshold("read", 10.0)

    assert threshold is not None and 0.3002 < threshold.anomaly_score < 0.302
    assert challenges.p_value("read", 0.3002) == 1.0 > 0.01 > challenges.p_value("read", 0.302)


def test_a_threshold_holds_for_held_out_and_rehearsed_calls() -> None:
    """The higher of the two; where either has too few calls of the effect, those of all calls stand in."""
    low, high = (HeldOutCalls.of(np.linspace(0.0, top, 1_000)) for top in (0.5, 0.9))
    few, none = HeldOutCalls.of(np.linspace(0.0, 0.1, 20)), HeldOutCalls.of(np.zeros(0))
    rates = ForeignValueRates(0.1, 0.2, {})

    for one, other in ((low, high), (high, low)):
        both = CallChallenges(rates, {"write": one, "all": one}, {"write": other, "all": other})
        assert both.threshold("write", 10.0) == ChallengeThreshold(exceeded(high), "write")
        assert both.p_value("write", 0.401) == max(low.p_value(0.4), high.p_value(0.4))
    rare = CallChallenges(rates, {"write": low, "all": low}, {"write": few, "all": high})
    assert rare.threshold("write", 10.0) == ChallengeThreshold(exceeded(high), "all")
    unseen = CallChallenges(rates, {"write": low, "all": low}, {"write": none, "all": high})
    assert unseen.p_value("write", 0.401) == high.p_value(0.4)
    assert rare.threshold("write", 0.0) is None
    assert CallChallenges(rates, {"all": low}, {"all": few}).threshold("all", 10.0) is None
    assert CallChallenges(rates, {"write": low, "all": low}).threshold("write", 10.0) is not None


def test_a_value_that_no_task_used_says_more() -> None:
    """Also by action: where honest calls of a tool use such values all the time, they say as little as ever."""
    write, read = EFFECTS.index("write"), EFFECTS.index("read")
    keys, foreign = np.repeat(np.array([1, 2, 3], np.uint64), 300), np.ones(900)
    effects = np.repeat(np.array([write, read, read], np.int8), 300)
    foreign[:10], foreign[:4], foreign[300:600], foreign[600:700] = NEW_TO_TASK, NEW_TO_ALL, NEW_TO_ALL, NEW_TO_TASK

    rates = fit_foreign_rates(keys, effects, foreign)
    new = np.array([NEW_TO_TASK, NEW_TO_ALL])
    writes, codes, pages = (rates.evidence(keys[at : at + 2], effects[at : at + 2], new) for at in (0, 300, 600))

    assert writes == pytest.approx([-np.log10(11 / 301), -np.log10(5 / 301)])
    assert codes.max() < 0.02 and pages[0] < 0.5 < pages[1]
    before = ForeignValueRates(0.1, 0.2, {}).evidence(keys[:2], effects[:2], new)
    assert before == pytest.approx([1.0, 1.0])


def test_a_wrong_manifest_is_refused() -> None:
    scores = HeldOutCalls.of(np.linspace(0.0, 1.0, 500))
    sound = CallChallenges(ForeignValueRates(0.1, 0.2, {"0a": 0.5}), {"all": scores}).document()

    assert CallChallenges.from_settings({"challenges": sound}) is not None
    assert CallChallenges.from_settings({}) is None
    for wrong in (
        {"by_effect": {"read": sound["by_effect"]["all"]}},
        {"by_effect": {"all": {"calls": 1, "ranks": [1], "scores": []}}},
        {"rehearsed": {"read": sound["by_effect"]["all"]}},
        {"foreign": {"acting": 0.0, "reading": 0.1, "by_action": {}}},
        {"foreign": {"acting": 0.1, "reading": 0.1, "by_action": {}, "to_all": {"acting": 0.1}}},
    ):
        with pytest.raises(ModelError, match="challenges"):
            CallChallenges.from_settings({"challenges": sound | wrong})

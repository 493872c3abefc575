"""Conformal p-values and the common scale of peer groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.models.calibration import FLEET_GROUP, Calibration, anomaly_scores, fit_peer_scales

A, B, SMALL, UNKNOWN = 11, 2**64 - 1, 77, 123_456


def ids(*parts):
    """Group ids, each repeated."""
    return np.concatenate([np.full(count, group, np.uint64) for group, count in parts])


def counted(held_out, score):
    """The definition of a conformal p-value, written plainly."""
    return (1 + np.sum(held_out >= score)) / (len(held_out) + 1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), decimals=st.integers(0, 6))
def test_p_values_are_the_counted_ones(seed, decimals):
    """With and without ties, a group's p-values are counted among its own scores, others' among the whole fleet's."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=900), decimals)
    groups = ids((A, 400), (B, 300), (SMALL, 199), (FLEET_GROUP, 1))
    calibration = Calibration.fit(scores, groups, minimum=200)
    values = np.concatenate([scores[::50], rng.normal(size=20), [-100.0, 100.0]])
    for group, held_out in (
        (A, scores[groups == A]),
        (B, scores[groups == B]),
        (SMALL, scores),
        (UNKNOWN, scores),
        (FLEET_GROUP, scores),
    ):
        got = calibration.p_values(values, ids((group, len(values))))
        np.testing.assert_allclose(got, [counted(held_out, value) for value in values], rtol=1e-12)


def test_the_promise_says_what_it_rests_on():
    """A group's own scores carry its p-values from the minimum on, the fleet's below; `covers` says which."""
    calibration = Calibration.fit(np.arange(700.0), ids((A, 400), (B, 200), (SMALL, 100)), minimum=200)
    smallest = [calibration.p_values(np.array([1e9]), ids((group, 1)))[0] for group in (A, B, SMALL, UNKNOWN)]
    np.testing.assert_allclose(smallest, [1 / 401, 1 / 201, 1 / 701, 1 / 701])
    assert [calibration.covers(group) for group in (A, B, SMALL, UNKNOWN, FLEET_GROUP)] == [
        True,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("tie_share", [0.0, 0.4])
def test_many_scores_are_thinned_on_the_safe_side(tie_share):
    """Of 60,000 scores a part is kept; p-values are never too small, at most 0.1 % too large, exact at the top."""
    rng = np.random.default_rng(3)
    shared = np.linspace(-1, 1, 17)
    scores = np.where(rng.random(60_000) < tie_share, rng.choice(shared, 60_000), rng.normal(size=60_000))
    calibration = Calibration.fit(scores, np.zeros(60_000, np.uint64))
    values = np.concatenate(
        [rng.normal(size=3000), scores[:500], shared, np.nextafter(shared, 9), np.nextafter(shared, -9)]
    )
    ordered = np.sort(scores)
    exact = (1 + len(scores) - np.searchsorted(ordered, values)) / (len(scores) + 1)

    got = calibration.p_values(values, np.zeros(len(values), np.uint64))

    assert len(calibration.values) < 20_000
    assert (got >= exact - 1e-15).all()
    assert (got <= exact * 1.001).all()
    top = exact * 60_001 <= 4000
    assert top.any()
    np.testing.assert_allclose(got[top], exact[top], rtol=1e-12)


def test_p_values_of_exchangeable_scores_are_valid():
    """Averaged over 300 calibrations on 99 scores, a share of 10 % of fresh scores gets p <= 0.1 (+- 2 %)."""
    rng = np.random.default_rng(8)
    hits = [
        Calibration.fit(rng.normal(size=99), np.zeros(99, np.uint64)).p_values(
            rng.normal(size=50), np.zeros(50, np.uint64)
        )
        for _ in range(300)
    ]
    assert np.mean(np.concatenate(hits) <= 0.1) == pytest.approx(0.1, abs=0.02)


@given(st.lists(st.floats(0, 6), min_size=2, max_size=50))
def test_the_anomaly_score_keeps_the_order_of_the_statistic(values):
    """In [0, 1], never falling, and strictly rising for statistics that differ by more than rounding."""
    scales = fit_peer_scales(
        np.full(100, 0.3), np.zeros(100, np.uint64), minimum=1
    )  # the smallest scale: the worst case
    ordered = np.sort(np.array(values))
    scores = anomaly_scores(scales, ordered, np.zeros(len(ordered), np.uint64))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores) >= 0).all()
    assert (np.diff(scores)[np.diff(ordered) > 1e-9] > 0).all()

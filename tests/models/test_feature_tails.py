"""Upper tails of single features."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trustwatch.models.feature_tails import (
    EVIDENCE_CAP,
    SURPRISE_CAP,
    fit_tails,
    set_rate_tail,
    tail_evidence,
)
from trustwatch.models.input_checks import NotFinite


def evidence(training, values, **options):
    """Evidence of *values* after training on one feature."""
    tails = fit_tails(np.asarray(training, float)[:, None], **options)
    return tail_evidence(tails, np.asarray(values, float)[:, None])[:, 0]


def counted(training, value):
    """-log10 of the smoothed share of training values at or above *value*: the definition, written plainly."""
    return -np.log10((1 + np.sum(np.asarray(training) >= value)) / (len(training) + 1))


def test_a_common_value_has_no_evidence_and_above_it_counts_the_true_share():
    """0 in 99 % of 10,000 rows: evidence 0; anything above 0: 2 decades; below 0: nothing."""
    training = np.concatenate([np.zeros(9900), np.linspace(5, 10, 100)])

    u = evidence(training, [-3, 0, 0.2, 1, 4.9])

    np.testing.assert_allclose(u, [0, 0, counted(training, 1), counted(training, 1), counted(training, 1)], atol=0.01)
    assert u[2] == pytest.approx(2.0, abs=0.01)


@settings(max_examples=150, deadline=None)
@given(
    training=hnp.arrays(
        np.float64,
        st.integers(1, 400),
        elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-1e30, 1e30), st.floats(0, 1e-300)),
    ),
    values=hnp.arrays(np.float64, 60, elements=st.floats(allow_nan=False, allow_infinity=False)),
)
def test_evidence_is_in_range_and_never_falls(training, values):
    """For any training data, evidence lies in [0, 6] and is non-decreasing in the value, also at the knots."""
    around = np.concatenate([values, training, np.nextafter(training, np.inf), np.nextafter(training, -np.inf)])
    u = evidence(training, np.sort(around))
    assert (u >= 0).all()
    assert (u <= EVIDENCE_CAP).all()
    assert (np.diff(u) >= 0).all()


def test_beyond_the_maximum_evidence_still_grows_up_to_the_cap():
    """Strictly increasing past the largest training value until 6, where it stays."""
    training = np.random.default_rng(1).exponential(size=5000)
    top = training.max()
    u = evidence(training, top + np.array([0, 0.5, 1, 2, 3, 1e3, 1e300]))
    assert (np.diff(u[:5]) > 0).all()
    assert u[4] < EVIDENCE_CAP
    np.testing.assert_array_equal(u[5:], [EVIDENCE_CAP, EVIDENCE_CAP])


def test_values_a_float_apart_are_kept_apart():
    """Shared values with no room for a second knot between them neither break the order nor give NaN."""
    low = 1.0
    high = np.nextafter(low, 2)
    u = evidence(np.repeat([low, high], [900, 100]), [low, high, np.nextafter(high, 2)])
    assert u[0] == 0
    assert u[1] == pytest.approx(np.log10(1001 / 101))
    assert u[2] > u[1]


def test_logarithms_of_probabilities_are_evidence_themselves():
    """A feature with 0.3 decades per unit says 0.3 decades per unit from 0 to its cap, whatever training showed."""
    training = np.column_stack([np.random.default_rng(3).exponential(size=1000)] * 2)
    tails = fit_tails(training, decades=[0.3, 0.0])
    values = np.array([-1.0, 0.0, 1e-3, 1.0, 20.0, 39.0, 40.0, 41.0, 64.0, 1e300])

    known, counted_ = tail_evidence(tails, np.column_stack([values, values])).T

    np.testing.assert_allclose(known, np.clip(0.3 * values, 0.0, SURPRISE_CAP), rtol=1e-12)
    assert (known[:2] == 0.0).all()
    assert known[-2:].tolist() == [SURPRISE_CAP] * 2
    np.testing.assert_array_equal(counted_, tail_evidence(fit_tails(training[:, 1:]), values[:, None])[:, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_values_are_refused(bad):
    """NaN and infinity name row and feature, in training and in scoring."""
    X = np.zeros((5, 3))
    tails = fit_tails(X)
    X[4, 1] = bad
    for attempt in (lambda: fit_tails(X), lambda: tail_evidence(tails, X)):
        with pytest.raises(NotFinite, match="row 4, feature 1"):
            attempt()


def test_a_rate_is_counted_for_each_rank():
    """Among rows that tell origins; a rank that training never showed is as rare as the next lower one, or rarer."""
    values = np.repeat([0.0, 1.0, 2.0, 3.0], [500, 90, 7, 2])
    tables = fit_tails(values[:, None])

    set_rate_tail(tables, 0, values, 0.5)
    u = tail_evidence(tables, np.array([[0.0], [1.0], [1.5], [2.0], [2.9], [3.0], [5.0]]))[:, 0]

    assert u == pytest.approx([0.0, 0.0, -np.log10(0.5), 1.0, 1.0, -np.log10(0.03), -np.log10(0.03)])
    set_rate_tail(tables, 0, np.minimum(values, 1.0), 0.5)
    assert tail_evidence(tables, np.array([[2.0], [3.0]]))[:, 0] == pytest.approx([2.0, 2.0])

"""Upper tails of single features."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trustwatch.ingest.errors import ConfigError
from trustwatch.models.evidence_combination import (
    EVIDENCE_CAP,
    SURPRISE_CAP,
    TRAINING_RANGE_CAP,
    fit_tails,
    set_rate_tail,
    tail_evidence,
)
from trustwatch.models.input_checks import NotFinite, WrongShape


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


def test_few_values_are_counted_exactly():
    """A feature with a handful of shared values gets the counted share at each and between them."""
    training = np.repeat([0.0, 1.0, 2.0, 7.0], [500, 300, 150, 50])
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 6.9, 7.0]
    np.testing.assert_allclose(evidence(training, values), [counted(training, v) for v in values], atol=1e-12)


def test_a_continuous_feature_follows_the_counted_share():
    """On 20,000 normal values the grid is within 0.05 decades of the count, and exact at its end."""
    training = np.random.default_rng(0).normal(size=20_000)
    values = np.quantile(training, np.linspace(0, 0.9995, 500))
    np.testing.assert_allclose(evidence(training, values), [counted(training, v) for v in values], atol=0.05)
    assert evidence(training, [training.max()])[0] == pytest.approx(counted(training, training.max()), abs=1e-9)


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


def test_the_exponential_tail_has_the_scale_of_the_data():
    """After an exponential of scale 2, two more units beyond the maximum are about 0.43 decades."""
    training = np.random.default_rng(2).exponential(scale=2.0, size=50_000)
    top = training.max()
    step = np.diff(evidence(training, [top, top + 2.0]))[0]
    assert step == pytest.approx(np.log10(np.e), rel=0.15)


def test_even_a_million_rows_leave_room_beyond_the_maximum():
    """Values seen in training have at most 5 decades, so that leaving the range always shows."""
    training = np.arange(300_000.0)
    inside, outside = evidence(training, [training[-1], training[-1] + 3000])
    assert inside <= TRAINING_RANGE_CAP < outside


def test_a_constant_feature_does_not_explode():
    """One resolution above a constant adds at most 0.43 decades to 'never seen in n'; the constant itself has none."""
    never_seen = np.log10(1001)
    u = evidence(np.full(1000, 4.0), [4.0, 5.0, 6.0], resolution=1.0)
    np.testing.assert_allclose(u, [0, never_seen, never_seen + np.log10(np.e)], atol=1e-9)
    coarse = evidence(np.full(1000, 4.0), [6.0], resolution=10.0)[0]
    assert coarse < u[2]


def test_resolution_is_per_feature():
    """Each feature uses its own resolution."""
    tails = fit_tails(np.zeros((500, 2)), resolution=[0.1, 100.0])
    u = tail_evidence(tails, np.array([[0.3, 0.3]]))
    assert u[0, 0] > np.log10(501)
    assert u[0, 1] < 0.1


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


@given(values=hnp.arrays(np.float64, 60, elements=st.floats(-1e300, 1e300)))
def test_evidence_of_logarithms_never_falls(values):
    """In range and non-decreasing for any values, also where two of them are neighbours."""
    tails = fit_tails(np.zeros((10, 1)), decades=np.log10(2.0))
    around = np.sort(np.concatenate([values, np.nextafter(values, np.inf)]))
    u = tail_evidence(tails, around[:, None])[:, 0]
    assert (u >= 0).all() and (u <= SURPRISE_CAP).all()
    assert (np.diff(u) >= 0).all()


@pytest.mark.parametrize("knots", [0, 64, 200, -256])
def test_knots_must_be_a_power_of_two(knots):
    """The compiled search halves the grid; other sizes are refused."""
    with pytest.raises(ConfigError, match=f"knots is {knots}"):
        fit_tails(np.zeros((10, 1)), knots=knots)


@pytest.mark.parametrize("resolution", [0.0, -1.0, np.nan, [1.0, np.inf]])
def test_resolution_must_be_positive(resolution):
    """A resolution of zero would divide by zero later."""
    with pytest.raises(ConfigError, match="resolution"):
        fit_tails(np.zeros((10, 2)), resolution=resolution)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_values_are_refused(bad):
    """NaN and infinity name row and feature, in training and in scoring."""
    X = np.zeros((5, 3))
    tails = fit_tails(X)
    X[4, 1] = bad
    for attempt in (lambda: fit_tails(X), lambda: tail_evidence(tails, X)):
        with pytest.raises(NotFinite, match="row 4, feature 1"):
            attempt()


def test_other_widths_are_refused():
    """Rows with another number of features never reach compiled code."""
    with pytest.raises(WrongShape, match="3 features"):
        tail_evidence(fit_tails(np.zeros((5, 3))), np.zeros((5, 2)))


def test_a_rate_is_counted_for_each_rank():
    """Among rows that tell origins; a rank that training never showed is as rare as the next lower one, or rarer."""
    values = np.repeat([0.0, 1.0, 2.0, 3.0], [500, 90, 7, 2])
    tables = fit_tails(values[:, None])

    set_rate_tail(tables, 0, values, 0.5)
    u = tail_evidence(tables, np.array([[0.0], [1.0], [1.5], [2.0], [2.9], [3.0], [5.0]]))[:, 0]

    assert u == pytest.approx([0.0, 0.0, -np.log10(0.5), 1.0, 1.0, -np.log10(0.03), -np.log10(0.03)])
    set_rate_tail(tables, 0, np.minimum(values, 1.0), 0.5)
    assert tail_evidence(tables, np.array([[2.0], [3.0]]))[:, 0] == pytest.approx([2.0, 2.0])

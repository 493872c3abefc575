"""The kernel of all scores: equal bits to the functions for whole columns, and their errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.models.calibration import Calibration, anomaly_scores
from trustwatch.models.concerns import FeatureRoles, calibrated, concern_anomaly, fit_calibrations
from trustwatch.models.detector import DetectorSettings, ForestDetector
from trustwatch.models.detector_training import fit_detector
from trustwatch.models.input_checks import NotFinite, WrongShape

NAMES = ("who", "where", "size", "pace", "outcome", "foreign", "route", "told")
ADDED, COMPROMISE, OVERREACH = (5, 6, 7), (0, 1, 5), (2, 3, 4)
ROLES = FeatureRoles(*(np.array([at in of for at in range(len(NAMES))]) for of in (ADDED, COMPROMISE, OVERREACH)))


def rows_of(rng: np.random.Generator, n: int) -> np.ndarray:
    """Amounts, and three ranks that say nothing, could speak, or do."""
    return np.column_stack([rng.exponential(size=(n, 5)), rng.choice([0.0, 1.0, 1.0, 2.0], (n, 3))])


@pytest.fixture(scope="module", params=["with familiar agents", "without"])
def detector(request: pytest.FixtureRequest) -> ForestDetector:
    """Two peer groups have scales and calibrations of their own; some features are unimportant to the forest."""
    rng, n = np.random.default_rng(11), 3_000
    X, groups, failed = rows_of(rng, n), rng.integers(1, 3, n).astype(np.uint64), rng.random(n) < 0.2
    quick = DetectorSettings(trees=19, max_samples=64, folds=3, group_minimum=150, knots=128)
    importance = np.array([1.0, 0.9, 0.4, 0.7, 0.5, 1.0, 1.0, 1.0])
    sessions = np.arange(n, dtype=np.uint64) // 10
    fitted = fit_detector(X, groups, sessions, quick, NAMES, roles=ROLES, failed=failed, importance=importance)[0]
    if request.param == "without":
        return fitted
    scores, concerns = fitted.assess(X, groups, failed)
    familiar = Calibration.fit(0.8 * scores.anomaly_score, groups, 150)
    calmer = fit_calibrations(list(0.8 * concerns.anomaly_score.T), groups, 150)
    return replace(fitted, familiar=familiar, by_concern=fitted.by_concern._replace(familiar=calmer))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40), scale=st.sampled_from([0.0, 1.0, 5.0, 1e6]))
@settings(max_examples=60, deadline=None)
def test_the_kernel_gives_the_bits_of_the_functions_for_whole_columns(
    detector: ForestDetector, seed: int, n: int, scale: float
) -> None:
    """Evidence, anomaly scores and p-values, of all evidence and by concern, of groups that are known and not."""
    rng = np.random.default_rng(seed)
    X = rows_of(rng, n)
    X[:, :5] *= scale
    ids = np.concatenate([np.arange(4, dtype=np.uint64), detector.calibration.groups])  # those of addable rows, too
    groups, failed, familiar = rng.choice(ids, n), rng.random(n) < 0.3, rng.random(n) < 0.5
    raising = np.where(rng.random(n) < 0.3, rng.exponential(size=n), 0.0)
    scores, by_concern = detector.assess(X, groups, failed, familiar, raising)

    combined = detector.evidence(X)
    by_column = concern_anomaly(detector.by_concern, detector.scales, combined, groups, failed, raising)
    concerns = (
        np.stack(by_column, axis=1),
        calibrated(detector.by_concern, by_column, groups, familiar, combined.addable),
    )
    anomaly = anomaly_scores(detector.scales, combined.statistic, groups, combined.added + raising)
    p_values = detector.calibration.p_values(anomaly, groups, combined.addable)
    if len(detector.familiar.groups):
        p_values[familiar] = detector.familiar.p_values(anomaly[familiar], groups[familiar])
    for given_bits, wanted in zip(
        (*scores, *by_concern), (anomaly, p_values, combined.feature_evidence, *concerns), strict=True
    ):
        np.testing.assert_array_equal(given_bits, wanted)


def test_the_kernel_says_which_value_is_not_finite(detector: ForestDetector) -> None:
    """By row and name of the feature, as the functions for whole columns do; nothing is scored then."""
    X, groups, failed = np.zeros((3, 8)), np.zeros(3, np.uint64), np.zeros(3, np.bool_)
    X[1, 3] = np.nan
    X[2, 0] = np.inf

    with pytest.raises(NotFinite, match="row 1, feature 'pace'"):
        detector.assess(X, groups, failed)
    with pytest.raises(WrongShape, match="8 features"):
        detector.assess(X[:, :7], groups, failed)
    with pytest.raises(WrongShape, match=r"familiar of shape \(1,\)"):
        detector.assess(np.zeros((3, 8)), groups, failed, familiar=np.ones(1, np.bool_))
    with pytest.raises(WrongShape, match=r"raising of shape \(2,\)"):
        detector.assess(np.zeros((3, 8)), groups, failed, raising=np.zeros(2))

"""The check suite of detectors: what every detector promises, whatever is inside.

A check takes a `Subject`. To put another detector under the suite, add its subject in `test_detector_checks.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from trustwatch.models.detector import ForestDetector
from trustwatch.models.input_checks import NotFinite, WrongShape


@dataclass(frozen=True)
class Subject:
    """A detector under test.

    Attributes:
        detector: a fitted one.
        refit: fits it again on the same data with the same seed.
        reload: saves and loads it.
        X: rows like those it was trained on, (n, F).
        groups: their peer groups, (n,), with one that training never saw.
        statistic: the value that the anomaly score orders, (n,), before calibration.
        monotone_statistic: whether that value itself never falls along an outlier ray; with a forest in it, it may.
        cap: most evidence of one feature.
    """

    detector: ForestDetector
    refit: Callable[[], ForestDetector]
    reload: Callable[[], ForestDetector]
    X: np.ndarray
    groups: np.ndarray
    statistic: Callable[[np.ndarray], np.ndarray]
    monotone_statistic: bool
    cap: float


def assert_equal_scores(left, right) -> None:
    """Equal to the last bit, all three parts."""
    for ours, theirs in zip(left, right, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def check_range(subject: Subject) -> None:
    """anomaly_score in [0, 1], p_value in (0, 1], u from 0 to its cap; shapes and types as promised."""
    scores = subject.detector.assess(subject.X, subject.groups)[0]
    n, features = subject.X.shape
    assert features == len(subject.detector.feature_names)
    assert [part.shape for part in scores] == [(n,), (n,), (n, features)]
    assert {part.dtype for part in scores} == {np.dtype(np.float64)}
    for part, low, high in zip(scores, (0, 0, 0), (1, 1, subject.cap), strict=True):
        assert ((part >= low) & (part <= high)).all()
    assert (scores.p_value > 0).all()


def check_direction(subject: Subject) -> None:
    """Rows far above everything seen score higher, and get smaller p-values, than nine in ten ordinary rows."""
    far = subject.detector.assess(subject.X + 50 * subject.X.std(axis=0) + 50, subject.groups)[0]
    near = subject.detector.assess(subject.X, subject.groups)[0]
    assert far.anomaly_score.min() > np.quantile(near.anomaly_score, 0.9)
    assert far.p_value.max() < np.quantile(near.p_value, 0.1)


def check_p_values_order_as_scores(subject: Subject) -> None:
    """Within a peer group a higher anomaly score never has a larger p-value."""
    scores = subject.detector.assess(subject.X, subject.groups)[0]
    for group in np.unique(subject.groups):
        own = subject.groups == group
        order = np.argsort(scores.anomaly_score[own])
        assert (np.diff(scores.p_value[own][order]) <= 0).all()


def check_ranking_does_not_saturate(subject: Subject) -> None:
    """Within a peer group, different statistics give different anomaly scores, however extreme both are."""
    X = np.concatenate([subject.X, subject.X * 3, subject.X * 30])
    groups = np.full(len(X), subject.groups[0])
    statistic, scores = subject.statistic(X), subject.detector.assess(X, groups)[0].anomaly_score
    order = np.argsort(statistic)
    rises = np.diff(statistic[order]) > 1e-9
    assert rises.sum() > len(subject.X)
    assert (np.diff(scores[order])[rises] > 0).all()


def check_same_seed_same_scores(subject: Subject) -> None:
    """Fitted again with the same seed on the same rows, it gives equal bits."""
    assert_equal_scores(
        subject.detector.assess(subject.X, subject.groups)[0], subject.refit().assess(subject.X, subject.groups)[0]
    )


def check_input_unchanged(subject: Subject) -> None:
    """Scoring and explaining leave rows and groups as they were, and a second call gives equal bits."""
    X, groups = subject.X.copy(), subject.groups.copy()
    first = subject.detector.assess(X, groups)[0]
    subject.detector.explain(X)
    np.testing.assert_array_equal(X, subject.X)
    np.testing.assert_array_equal(groups, subject.groups)
    assert_equal_scores(first, subject.detector.assess(X, groups)[0])


def check_not_finite_refused(subject: Subject) -> None:
    """NaN and infinity anywhere are refused by score and explain, naming the row and the feature."""
    for bad in (np.nan, np.inf, -np.inf):
        for row in (0, len(subject.X) - 1):
            X = subject.X.copy()
            X[row, -1] = bad
            for attempt in (
                lambda X=X: subject.detector.assess(X, subject.groups)[0],
                lambda X=X: subject.detector.explain(X),
            ):
                with pytest.raises(NotFinite) as caught:
                    attempt()
                assert (caught.value.row, caught.value.feature) == (row, subject.detector.feature_names[-1])


def check_wrong_shape_refused(subject: Subject) -> None:
    """Too few features, or rows and groups of unequal number, are refused."""
    for X, groups in ((subject.X[:, 1:], subject.groups), (subject.X, subject.groups[1:])):
        with pytest.raises(WrongShape):
            subject.detector.assess(X, groups)[0]


def check_save_load_equal(subject: Subject) -> None:
    """After saving and loading, scores and explanations are equal to the last bit."""
    loaded = subject.reload()
    assert_equal_scores(
        subject.detector.assess(subject.X, subject.groups)[0], loaded.assess(subject.X, subject.groups)[0]
    )
    np.testing.assert_array_equal(subject.detector.explain(subject.X), loaded.explain(subject.X))
    assert loaded.version == subject.detector.version
    assert loaded.feature_names == subject.detector.feature_names


def check_outlier_ray(subject: Subject) -> None:
    """Along a ray of growing values, no feature's evidence ever falls; where promised, neither does the statistic."""
    steps = np.linspace(0, 40, 60)[:, None]
    for start in subject.X[:5]:
        for direction in np.random.default_rng(1).exponential(size=(4, subject.X.shape[1])):
            ray = start + steps * direction
            scores = subject.detector.assess(ray, np.full(60, subject.groups[0]))[0]
            assert (np.diff(scores.feature_evidence, axis=0) >= 0).all()
            if subject.monotone_statistic:
                assert (np.diff(subject.statistic(ray)) >= -1e-12).all()
                assert (np.diff(scores.anomaly_score) >= -1e-12).all()


def check_one_row_as_in_batch(subject: Subject) -> None:
    """A row gets the same bits alone and in a batch of any size: a replay may cut batches differently."""
    whole = subject.detector.assess(subject.X, subject.groups)[0]
    for size in (1, 7, 8, 33):
        cuts = range(0, len(subject.X), size)
        parts = [subject.detector.assess(subject.X[i : i + size], subject.groups[i : i + size])[0] for i in cuts]
        assert_equal_scores([np.concatenate(columns) for columns in zip(*parts, strict=True)], whole)


def check_explanations(subject: Subject) -> None:
    """Contributions are >= 0 and sum to 1, or are all zero; one wild feature in an ordinary row gets most of it."""
    contributions = subject.detector.explain(subject.X)
    assert contributions.shape == subject.X.shape
    assert (contributions >= 0).all()
    sums = contributions.sum(axis=1)
    assert ((np.abs(sums - 1) < 1e-9) | (sums == 0)).all()
    ordinary = np.median(subject.X, axis=0)
    for feature in range(subject.X.shape[1]):
        row = ordinary.copy()
        row[feature] = subject.X[:, feature].max() + 100
        assert subject.detector.explain(row[None, :])[0, feature] > 0.5


def check_empty_batch(subject: Subject) -> None:
    """No rows, no scores, no error."""
    scores = subject.detector.assess(subject.X[:0], subject.groups[:0])[0]
    assert [len(part) for part in scores] == [0, 0, 0]
    assert subject.detector.explain(subject.X[:0]).shape == (0, subject.X.shape[1])


CHECKS = [check for name, check in sorted(globals().items()) if name.startswith("check_")]

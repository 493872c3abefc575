"""Concerns: each answers its own question, and each is calibrated by itself."""

from __future__ import annotations

import numpy as np
import pytest

from trustwatch.models.concerns import CONCERNS, PROBE_P_VALUE, FeatureRoles
from trustwatch.models.detector import DetectorSettings, ForestDetector
from trustwatch.models.detector_training import fit_detector
from trustwatch.models.input_checks import WrongShape

WHO, SIZE, PACE, FOREIGN = range(4)
NAMES = ("who", "size", "pace", "foreign")
ROLES = FeatureRoles(*(np.array([at in of for at in range(4)]) for of in ((FOREIGN,), (WHO,), (PACE,))))
QUICK = DetectorSettings(trees=20, max_samples=64, folds=4)
COMPROMISE, MALFUNCTION, OVERREACH = (CONCERNS.index(name) for name in ("compromise", "malfunction", "overreach"))


def history(rows: int, seed: int) -> tuple[np.ndarray, ...]:
    """Ordinary rows: three amounts, and what a call says of its arguments; sessions of ten; some calls fail."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.exponential(size=(rows, 3)), 1.0 + (rng.random(rows) < 0.01)])
    return X, np.zeros(rows, np.uint64), np.arange(rows, dtype=np.uint64) // 10, rng.random(rows) < 0.2


@pytest.fixture(scope="module")
def detector() -> ForestDetector:
    X, groups, sessions, failed = history(4_000, 1)
    return fit_detector(X, groups, sessions, QUICK, NAMES, roles=ROLES, failed=failed)[0]


def p_values(detector: ForestDetector, *row: float, failed: bool = False) -> np.ndarray:
    """p-values of one row by concern."""
    one = np.array([row])
    return detector.assess(one, np.zeros(1, np.uint64), np.array([failed]))[1].p_value[0]


def test_each_concern_sees_its_own_features(detector: ForestDetector) -> None:
    """A large answer is no theft, a burst is neither, and who calls is no question of pace."""
    who = p_values(detector, 20.0, 0.5, 0.5, 1.0)
    size = p_values(detector, 0.5, 20.0, 0.5, 1.0)
    pace = p_values(detector, 0.5, 0.5, 20.0, 1.0)

    assert who[COMPROMISE] < 0.01 < 0.2 < who[OVERREACH]
    assert size[MALFUNCTION] < 0.01 and size[COMPROMISE] > 0.2 < size[OVERREACH]
    assert pace[OVERREACH] < 0.01 < 0.2 < pace[COMPROMISE]
    assert max(who[MALFUNCTION], pace[MALFUNCTION]) < 0.01  # one loud oddity of any kind


def test_a_foreign_value_is_evidence_of_compromise_alone(detector: ForestDetector) -> None:
    """It is added: beside what is odd already it still counts, by the rate at which history shows it."""
    quiet, odd = (0.5, 0.5, 0.5), (4.0, 0.5, 0.5)
    told, foreign = p_values(detector, *quiet, 1.0), p_values(detector, *quiet, 2.0)

    assert foreign[COMPROMISE] < 0.1 * told[COMPROMISE]
    assert p_values(detector, *odd, 2.0)[COMPROMISE] < p_values(detector, *odd, 1.0)[COMPROMISE]
    assert foreign[MALFUNCTION] == told[MALFUNCTION] and foreign[OVERREACH] == told[OVERREACH]
    scores = [detector.assess(np.array([[*quiet, value]]), np.zeros(1, np.uint64))[0] for value in (0.0, 1.0, 2.0)]
    assert (
        scores[0].p_value[0] == pytest.approx(scores[1].p_value[0], rel=0.01) and scores[1].p_value > scores[2].p_value
    )
    rate = 10.0 ** -scores[2].feature_evidence[0, FOREIGN]
    assert rate == pytest.approx(0.01, rel=0.5)


def test_evidence_that_is_no_feature_raises_compromise_and_all_evidence_alone(detector: ForestDetector) -> None:
    """As a feature of the same rate that is added does, for calls that failed, too; the reason is what it is about."""
    X, groups = np.array([[4.0, 0.5, 0.5, 1.0]] * 2), np.zeros(2, np.uint64)
    failed, raising = np.array([False, True]), np.full(2, 1.5)
    before, without = detector.assess(X, groups, failed)
    after, with_it = detector.assess(X, groups, failed, raising=raising)

    assert (after.anomaly_score > before.anomaly_score).all() and (after.p_value < before.p_value).all()
    assert (with_it.p_value[:, COMPROMISE] < 0.2 * without.p_value[:, COMPROMISE]).all()
    assert (with_it.p_value[:, 1:] == without.p_value[:, 1:]).all()
    about = np.zeros(X.shape)
    about[:, SIZE] = 5.0
    assert detector.explain(X)[0].argmax() == WHO and detector.explain(X, about)[0].argmax() == SIZE


def test_a_value_between_has_the_rate_that_was_counted_elsewhere() -> None:
    """Never more evidence than one that is new where its task is known."""
    X, groups, sessions, failed = history(1_000, 4)

    def evidence(rate: float, value: float) -> float:
        more = {"roles": ROLES, "failed": failed, "rate_between": rate}
        made = fit_detector(X, groups, sessions, QUICK, NAMES, **more)[0]
        one = np.array([[0.5, 0.5, 0.5, value]])
        return float(made.assess(one, np.zeros(1, np.uint64))[0].feature_evidence[0, FOREIGN])

    assert evidence(0.1, 1.5) == pytest.approx(1.0)
    assert evidence(1e-9, 1.5) == evidence(1e-9, 2.0) == evidence(0.1, 2.0)
    assert evidence(0.1, 1.0) == evidence(1.0, 1.5) == 0.0


def test_a_call_that_did_not_happen_is_a_probe_at_most(detector: ForestDetector) -> None:
    """Towards compromise; how well the agent works is told by just that."""
    happened, failed = p_values(detector, 20.0, 0.5, 0.5, 1.0), p_values(detector, 20.0, 0.5, 0.5, 1.0, failed=True)

    assert happened[COMPROMISE] < 0.01 and failed[COMPROMISE] == pytest.approx(PROBE_P_VALUE, rel=0.5)
    assert happened[MALFUNCTION] == failed[MALFUNCTION]


def test_each_concern_is_calibrated(detector: ForestDetector) -> None:
    """Of other honest rows a share of about *a* has a p-value of *a* at most, failed calls among them."""
    X, groups, _, failed = history(4_000, 2)
    _, scores = detector.assess(X, groups, failed)

    for share in (0.01, 0.05, 0.2):
        assert ((scores.p_value <= share).mean(axis=0) < 1.5 * share + 0.005).all()
    assert ((scores.anomaly_score >= 0.0) & (scores.anomaly_score <= 1.0)).all()


def test_reasons_and_the_forest_leave_added_evidence_to_itself(detector: ForestDetector) -> None:
    """A foreign value is named with its full share, and no tree asks for it."""
    shares = detector.explain(np.array([[0.1, 0.1, 0.1, 2.0], [20.0, 0.1, 0.1, 1.0]]))

    assert shares[0, FOREIGN] > 0.9 and shares[1, FOREIGN] == 0.0
    assert FOREIGN not in detector.parts.forest.features[np.isfinite(detector.parts.forest.thresholds)]


def test_without_any_told_origin_the_feature_has_no_evidence() -> None:
    """Nothing is known of a rate that could not be counted."""
    X, groups, sessions, failed = history(400, 3)
    X[:, FOREIGN] = 0.0
    made = fit_detector(X, groups, sessions, QUICK, NAMES, roles=ROLES, failed=failed)[0]

    assert made.assess(np.array([[0.5, 0.5, 0.5, 2.0]]), np.zeros(1, np.uint64))[0].feature_evidence[0, FOREIGN] == 0.0


def test_shapes_must_agree(detector: ForestDetector) -> None:
    with pytest.raises(WrongShape, match="failed of shape"):
        detector.assess(np.zeros((2, 4)), np.zeros(2, np.uint64), np.zeros(3, np.bool_))

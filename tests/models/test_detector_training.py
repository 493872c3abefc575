"""Fitting a detector: folds, held-out calibration, small data."""

from __future__ import annotations

import numpy as np
import pytest

from trustwatch.ingest.errors import ConfigError, ModelError
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.detector_training import assign_folds, fit_detector
from trustwatch.models.evidence_combination import combine_evidence
from trustwatch.models.input_checks import NotEnoughHistory, NotFinite, WrongShape
from trustwatch.models.model_training import train_model

QUICK = DetectorSettings(trees=20, max_samples=64, folds=4)


def normal(rows: int, seed: int, features: int = 5):
    """Ordinary rows in one of two groups, ten rows a session."""
    rng = np.random.default_rng(seed)
    return (
        rng.exponential(size=(rows, features)),
        rng.integers(1, 3, rows).astype(np.uint64),
        np.arange(rows, dtype=np.uint64) // 10,
    )


def names(X):
    """As many names as features."""
    return [f"f{i}" for i in range(X.shape[1])]


def test_a_session_never_straddles_folds():
    """Every session has one fold, every fold has rows, and folds are about equal."""
    sessions = np.random.default_rng(0).integers(0, 200, 5000).astype(np.uint64)
    folds = assign_folds(sessions, 5, seed=3)
    for session in np.unique(sessions):
        assert len(np.unique(folds[sessions == session])) == 1
    assert np.bincount(folds).min() > 800


def test_folds_depend_on_the_seed_alone():
    """The same seed gives the same folds, whatever the order of the rows; another seed gives others."""
    sessions = np.repeat(np.arange(100, dtype=np.uint64), 7)
    shuffled = np.random.default_rng(1).permutation(len(sessions))
    folds = assign_folds(sessions, 5, seed=3)
    np.testing.assert_array_equal(assign_folds(sessions[shuffled], 5, seed=3), folds[shuffled])
    assert (assign_folds(sessions, 5, seed=4) != folds).any()


@pytest.mark.parametrize(
    ("sizes", "by_session"), [((100,), False), ((90, 10), False), ((50, 50), True), ((40, 30, 30), True)]
)
def test_few_sessions(sizes, by_session):
    """Few sessions are the cut if none holds more than two thirds; else folds are blocks of consecutive rows."""
    sessions = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    folds = assign_folds(sessions, 5, seed=0)
    straddles = any(len(np.unique(folds[sessions == session])) > 1 for session in np.unique(sessions))
    assert straddles is not by_session
    assert len(np.unique(folds)) >= 2
    assert np.bincount(folds).max() <= 70
    if not by_session:
        assert (np.diff(folds) >= 0).all()


def test_held_out_scores_come_from_detectors_that_never_saw_the_row():
    """A row that is repeated through one session looks new when held out, and ordinary to the final detector."""
    X, groups, sessions = normal(600, 0)
    X[:60], sessions[:60] = 30.0, 10_000  # one strange session
    detector, (held_out, _) = fit_detector(X, groups, sessions, QUICK, names(X))
    assert held_out.feature_evidence[:60].min() > 2.0
    assert detector.assess(X, groups)[0].feature_evidence[:60].max() < 1.1
    assert held_out.p_value[:60].max() < 0.15


def test_p_values_hold_on_fresh_rows():
    """Of 20,000 fresh normal rows about 10 % get p <= 0.1 and 1 % get p <= 0.01, in both peer groups."""
    X, groups, sessions = normal(8000, 1)
    detector = fit_detector(X, groups, sessions, QUICK, names(X))[0]
    fresh, fresh_groups, _ = normal(20_000, 2)
    p = detector.assess(fresh, fresh_groups)[0].p_value
    for group in (1, 2):
        own = p[fresh_groups == group]
        assert np.mean(own <= 0.1) == pytest.approx(0.1, abs=0.02)
        assert np.mean(own <= 0.01) == pytest.approx(0.01, abs=0.006)


def test_held_out_p_values_are_uniform_by_construction():
    """The held-out p-values of the training rows themselves have the shares that they state."""
    X, groups, sessions = normal(3000, 1)
    _, (held_out, _) = fit_detector(X, groups, sessions, QUICK, names(X))
    for share in (0.01, 0.1, 0.5):
        assert np.mean(held_out.p_value <= share) == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize(("rows", "sessions"), [(50, 1), (50, 50), (60, 2), (300, 3)])
def test_small_histories_work(rows, sessions):
    """From 50 rows on, with any number of sessions, a detector finds the row that stands out."""
    X = np.random.default_rng(rows).exponential(size=(rows, 3))
    ids = np.arange(rows, dtype=np.uint64) * np.uint64(sessions) // np.uint64(rows)
    detector = fit_detector(X, np.zeros(rows, np.uint64), ids, DetectorSettings(trees=10), names(X))[0]
    scores = detector.assess(np.array([[1.0, 1.0, 1.0], [40.0, 40.0, 40.0]]), np.zeros(2, np.uint64))[0]
    assert scores.p_value[1] == pytest.approx(1 / (rows + 1))
    assert scores.anomaly_score[1] > scores.anomaly_score[0]
    assert scores.p_value[0] > 0.05


def test_constant_features_work():
    """Rows that are all equal can be learned; an equal row is ordinary, another is not."""
    X = np.zeros((80, 4))
    detector = fit_detector(X, np.zeros(80, np.uint64), np.arange(80, dtype=np.uint64), QUICK, names(X))[0]
    scores = detector.assess(np.array([[0.0] * 4, [0.0, 0.0, 1.0, 0.0]]), np.zeros(2, np.uint64))[0]
    assert scores.p_value[0] == 1.0
    assert scores.p_value[1] == pytest.approx(1 / 81)


def test_too_little_history_is_refused():
    """Below 50 rows a ModelError says how many are needed."""
    X, groups, sessions = normal(49, 0)
    with pytest.raises(NotEnoughHistory, match=r"49 rows.*at least 50") as caught:
        fit_detector(X, groups, sessions, QUICK, names(X))[0]
    assert isinstance(caught.value, ModelError)


def test_not_finite_rows_are_refused():
    """Training data with NaN is refused with row and feature."""
    X, groups, sessions = normal(100, 0)
    X[17, 3] = np.nan
    with pytest.raises(NotFinite, match="row 17, feature 3"):
        fit_detector(X, groups, sessions, QUICK, names(X))[0]


def test_columns_of_unequal_length_are_refused():
    """Groups, sessions and names must fit the rows."""
    X, groups, sessions = normal(100, 0)
    for arguments in (
        (X, groups[1:], sessions, QUICK, names(X)),
        (X, groups, sessions[1:], QUICK, names(X)),
        (X, groups, sessions, QUICK, ["a"]),
    ):
        with pytest.raises(WrongShape):
            fit_detector(*arguments)[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("trees", 0), ("max_samples", 5000), ("forest_weight", 1.1)),
        *(("norm", 0), ("norm", 128), ("norm", 6), ("folds", 1)),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    """The message names the setting, the value and the range."""
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        DetectorSettings(**{name: value})


@pytest.mark.parametrize("norm", [1, 2, 8, 64])
def test_the_statistic_is_a_norm_of_the_evidence_beside_the_forest(norm):
    """T is the weighted sum of the forest's evidence and the norm of the features' evidence, as numpy has it."""
    X, groups, sessions = normal(500, 3)
    settings = DetectorSettings(trees=10, forest_weight=0.25, norm=norm)
    detector = fit_detector(X, groups, sessions, settings, names(X))[0]
    found = detector.evidence(np.concatenate([X[:50], 30 * X[50:60]]))
    np.testing.assert_allclose(found.tails, np.linalg.norm(found.feature_evidence, norm, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.statistic, 0.25 * found.forest + 0.75 * found.tails, atol=1e-12)


@pytest.mark.parametrize("norm", [1, 8, 64])
def test_the_norm_neither_overflows_nor_underflows(norm):
    """Rows of evidence so small or large that their powers are no numbers keep their norm; a row of zeros has 0."""
    X, groups, sessions = normal(200, 3, features=4)
    parts = fit_detector(X, groups, sessions, DetectorSettings(trees=5, norm=norm), names(X))[0].parts
    u = np.array([[0.0, 0, 0, 0], [3e-30, 0, 0, 0], [1e-30] * 4, [1e30] * 4, [12.0, 12, 1e-300, 0]])
    wanted = [0.0, 3e-30, 1e-30 * 4 ** (1 / norm), 1e30 * 4 ** (1 / norm), 12 * 2 ** (1 / norm)]
    np.testing.assert_allclose(combine_evidence(parts, u).tails, wanted, rtol=1e-12)


def test_a_norm_lets_further_evidence_add_and_none_drown_the_largest():
    """Two equal ones give more than one; ten small ones give less than one that is four times as large."""
    X, groups, sessions = normal(200, 3, features=10)
    parts = fit_detector(X, groups, sessions, DetectorSettings(trees=5), names(X))[0].parts
    one, two, many = np.zeros((3, 10))
    one[0], two[:2], many[:] = 4.0, 4.0, 1.0
    single, double, crowd = combine_evidence(parts, np.stack([one, two, many])).tails
    assert crowd < single < double < 2 * single


def test_the_share_of_an_agent_in_the_baseline_goes_with_its_seed():
    """All that the seeds have learned is in the baseline, too; the feature kernel takes it out of the peers' level."""
    from trustwatch.ingest.features import layout

    from ..support.model_history import SALT, SETTINGS, history

    seeds = train_model(history(200), SALT, "x", SETTINGS).seeds
    np.testing.assert_array_equal(seeds.rows["numbers"][:, layout.N_SHARED], seeds.events)
    assert seeds.events.sum() == 200


def test_scoring_does_not_import_scikit_learn():
    """A process that only scores never pays for scikit-learn (1.5 s, 190 MB)."""
    import subprocess
    import sys

    modules = "trustwatch.models.detector, trustwatch.models.model_persistence"
    code = f"import sys, {modules}; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""Fits a detector on normal history. Imports scikit-learn (through `forest.py`); a process that only scores does not.

The calibration is cross-conformal: the history is cut into folds along sessions, each fold is scored by a detector that
never saw it, and the p-values and group scales come from these held-out scores alone. The final tails and forest are
fitted on everything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..ingest.errors import ConfigError
from .calibration import Calibration
from .checking import finite_float32
from .combination import EvidenceCombination, combined_evidence, forest_input, weighted_evidence
from .detector import DetectorSettings, ForestDetector, Scores, fit_usual_evidence
from .errors import NotEnoughHistory, WrongShape
from .evaluator import forest_scores
from .forest import fit_forest
from .peers import anomaly_scores, fit_peer_scales
from .tails import fit_tails

MIN_ROWS = 50
"""Fewest rows of history to learn from; below, a p-value could not even say one in fifty."""
_LARGEST_FOLD = 2 / 3  # share of the rows; a larger fold would leave too little to train its detector on


def fit_detector(
    X: NDArray[np.float64],
    groups: NDArray[np.uint64],
    sessions: NDArray[np.uint64],
    settings: DetectorSettings,
    feature_names: Sequence[str],
    *,
    resolution: ArrayLike | None = None,
    importance: ArrayLike | None = None,
    decades: ArrayLike | None = None,
    version: str = "unsaved",
) -> ForestDetector:
    """Fit a detector; see `fit_detector_with_held_out` for arguments and errors."""
    return fit_detector_with_held_out(
        X,
        groups,
        sessions,
        settings,
        feature_names,
        resolution=resolution,
        importance=importance,
        decades=decades,
        version=version,
    )[0]


def fit_detector_with_held_out(
    X: NDArray[np.float64],
    groups: NDArray[np.uint64],
    sessions: NDArray[np.uint64],
    settings: DetectorSettings,
    feature_names: Sequence[str],
    *,
    resolution: ArrayLike | None = None,
    importance: ArrayLike | None = None,
    decades: ArrayLike | None = None,
    version: str = "unsaved",
) -> tuple[ForestDetector, Scores]:
    """Fit a detector and give the honest scores of its own training rows.

    Args:
        X: float64 (n, F), finite: feature vectors of normal behaviour, at least 50.
        groups: uint64 (n,), peer group of each row; 0 for none.
        sessions: uint64 (n,), id of the session a row belongs to; a session never straddles folds. If there are too
            few, or one holds more than two thirds of the rows, folds are blocks of consecutive rows instead.
        settings: how to train.
        feature_names: F names.
        resolution: smallest meaningful difference per feature, see `fit_tails`.
        importance: factor in [0, 1] of each feature's evidence, see `combination`; None is 1 for all.
        decades: decades per unit of features that are logarithms of probabilities already, see `fit_tails`.
        version: version of the model.

    Returns:
        the detector, and the scores that each training row got from a detector that had not seen it; anyone who derives
        a threshold from the history should use these.

    Raises:
        NotFinite: a value is NaN, infinite or beyond float32.
        NotEnoughHistory: fewer than 50 rows.
        WrongShape: arguments differ in length.
    """
    X = _checked_rows(X, groups, sessions, feature_names)
    groups = np.ascontiguousarray(groups, dtype=np.uint64)
    weight = _checked_importance(importance, X.shape[1])
    folds = assign_folds(sessions, settings.folds, settings.seed)
    statistic, u = np.empty(len(X)), np.empty_like(X)
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        found = combined_evidence(_fit_parts(X[~held], settings, resolution, weight, decades), X[held])
        statistic[held], u[held] = found.statistic, found.feature_evidence
    scales = fit_peer_scales(statistic, groups, settings.group_minimum)
    anomaly = anomaly_scores(scales, statistic, groups)
    calibration = Calibration.fit(anomaly, groups, settings.group_minimum)
    parts = _fit_parts(X, settings, resolution, weight, decades)
    usual = fit_usual_evidence(parts, X)
    detector = ForestDetector(
        parts, scales, calibration, Calibration.empty(), usual, settings, tuple(feature_names), version
    )
    return detector, Scores(anomaly, calibration.p_values(anomaly, groups), u)


def _checked_rows(
    X: NDArray[np.float64], groups: NDArray[np.uint64], sessions: NDArray[np.uint64], names: Sequence[str]
) -> NDArray[np.float64]:
    if len(X) < MIN_ROWS:
        raise NotEnoughHistory(f"{len(X)} rows of normal history, at least {MIN_ROWS} are needed: train on more")
    X = finite_float32(X)
    if groups.shape != (len(X),) or sessions.shape != (len(X),) or len(names) != X.shape[1]:
        raise WrongShape(
            f"rows {X.shape}, groups {groups.shape}, sessions {sessions.shape}, {len(names)} names: they do not fit"
        )
    return X


def _checked_importance(given: ArrayLike | None, features: int) -> NDArray[np.float64]:
    weight = np.ones(features) if given is None else np.asarray(given, np.float64)
    if weight.shape != (features,):
        raise WrongShape(f"{weight.shape} importances for {features} features")
    if not ((weight >= 0.0) & (weight <= 1.0)).all():
        raise ConfigError("importance of a feature must be from 0 to 1")
    return weight


def _fit_parts(
    X: NDArray[np.float64],
    settings: DetectorSettings,
    resolution: ArrayLike | None,
    importance: NDArray[np.float64],
    decades: ArrayLike | None,
) -> EvidenceCombination:
    """Tails, a forest on their evidence, and the tail of the forest's scores, all on the same rows."""
    tails = fit_tails(X, settings.knots, resolution, decades)
    seen = forest_input(weighted_evidence(tails, importance, X), importance)
    forest = fit_forest(seen, trees=settings.trees, max_samples=settings.max_samples, seed=settings.seed)
    score_tail = fit_tails(forest_scores(forest, seen)[:, None], settings.knots)
    return EvidenceCombination(tails, forest, score_tail, settings.forest_weight, settings.norm, importance)


def assign_folds(sessions: NDArray[np.uint64], folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each row, int64 (n,) in [0, folds): whole sessions, in a seeded hash order, cut to about equal numbers of
    rows.

    With fewer than two sessions, or one that holds more than two thirds of the rows, folds are blocks of
    consecutive rows: neighbours then share a session, and the p-values are a little too bold.
    """
    rows = len(sessions)
    ids, position, counts = np.unique(np.asarray(sessions, np.uint64), return_inverse=True, return_counts=True)
    if len(ids) >= 2 and counts.max() <= _LARGEST_FOLD * rows:
        order = np.argsort(_mix_session_ids(ids, seed), kind="stable")
        middle = np.cumsum(counts[order]) - counts[order] / 2.0
        fold_of = np.empty(len(ids), np.int64)
        fold_of[order] = np.minimum((middle * folds / rows).astype(np.int64), folds - 1)
        assigned = np.unique(fold_of[position], return_inverse=True)[1]
        if np.bincount(assigned).max() <= _LARGEST_FOLD * rows:
            return assigned
    return np.arange(rows) * folds // rows


def _mix_session_ids(ids: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: a stable shuffle of session ids, whatever pattern they have."""
    z = ids + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

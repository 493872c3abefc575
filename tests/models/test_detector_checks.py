"""Every detector passes every check of `checks.py`."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from trustwatch.models.detector import DetectorSettings
from trustwatch.models.detector_training import fit_detector
from trustwatch.models.evidence_combination import EVIDENCE_CAP, SURPRISE_CAP
from trustwatch.models.model_directory import ModelManifest, TrainingWindow, load_model, save_model
from trustwatch.models.model_persistence import detector_from_model, detector_state

from ..support.detector_checks import CHECKS, Subject

ROWS, FEATURES, NAMES = 1500, 6, tuple("abcdef")
LOG10_2 = 0.30103
SUBJECTS = {
    "forest-and-tails": (0.5, 0.0),
    "tails-alone": (0.0, 0.0),
    "forest-alone": (1.0, 0.0),
    "surprises": (0.15, LOG10_2),
    "surprises-alone": (0.0, LOG10_2),
}
"""Weight of the forest, and decades per unit of every other feature."""


def behaviour(rows: int, seed: int):
    """Rows as features are: skewed, half of the columns mostly zero; three groups and fifty sessions."""
    rng = np.random.default_rng(seed)
    X = rng.gamma(2.0, size=(rows, FEATURES))
    X[:, ::2] *= rng.random((rows, FEATURES // 2)) < 0.2
    return X, rng.choice([5, 9, 2**63], rows).astype(np.uint64), rng.integers(0, 50, rows).astype(np.uint64)


def reloaded(detector):
    """The detector after a way through a model directory."""
    manifest = ModelManifest(
        detector.version,
        NAMES,
        "hash",
        TrainingWindow(0, 1, ROWS, 3, 50),
        {"detector": asdict(detector.settings)},
        "00",
        0,
    )
    with TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", detector_state(detector), {}, manifest)
        return detector_from_model(load_model(Path(folder) / "model", feature_names=NAMES, feature_table_hash="hash"))


@cache
def subject(name: str) -> Subject:
    """The detector of that name, fitted once."""
    weight, decades = SUBJECTS[name]
    settings = DetectorSettings(trees=25, max_samples=64, forest_weight=weight, folds=3, seed=7)

    def fit():
        return fit_detector(*behaviour(ROWS, 1), settings, NAMES, decades=[decades, 0.0] * 3, version="7.1")[0]

    detector = fit()
    X, groups, _ = behaviour(150, 2)
    groups[::10] = 424242
    return Subject(
        detector,
        refit=fit,
        reload=lambda: reloaded(detector),
        X=X,
        groups=groups,
        statistic=lambda rows: detector.evidence(rows).statistic,
        monotone_statistic=weight == 0.0,
        cap=SURPRISE_CAP if decades else EVIDENCE_CAP,
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SUBJECTS)
def test_detector(name, check):
    """The detector holds to the promise that the check's docstring states."""
    check(subject(name))

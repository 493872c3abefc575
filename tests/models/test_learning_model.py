"""The model of a service that has learned nothing yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trustwatch.ingest.features.feature_table import FEATURE_COUNT
from trustwatch.models.model_directory import read_manifest
from trustwatch.models.model_persistence import (
    LEARNING_VERSION,
    load_trained_model,
    make_learning_model,
    save_learning_model,
)


def test_nothing_is_odd_to_it() -> None:
    """Whatever a feature says: zero, its largest value, or each by itself."""
    detector = make_learning_model(b"salt").detector
    rows = np.vstack([np.zeros(FEATURE_COUNT), np.full(FEATURE_COUNT, 60.0), np.eye(FEATURE_COUNT) * 30.0])
    groups, failed = np.full(len(rows), 7, np.uint64), np.arange(len(rows)) % 2 == 0
    scores, concerns = detector.assess(rows, groups, failed, np.ones(len(rows), np.bool_))
    assert (scores.p_value == 1.0).all() and (concerns.p_value == 1.0).all()
    assert (scores.feature_evidence == 0.0).all() and (detector.explain(rows) == 0.0).all()


def test_it_is_saved_and_read_as_any_other(tmp_path: Path) -> None:
    """Each has a salt of its own; the manifest says that it learns."""
    made = [save_learning_model(tmp_path / name, 1_764_000_000_000) for name in ("a", "b")]
    model = load_trained_model(tmp_path / "a")
    assert model.learns and model.version == LEARNING_VERSION
    assert model.salt.hex() == made[0].salt_hex != made[1].salt_hex
    assert read_manifest(tmp_path / "a")[0].learns

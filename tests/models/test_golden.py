"""Models written by earlier versions: what can be read gives the scores it always gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trustwatch.ingest.errors import ModelError
from trustwatch.models.model_directory import MODEL_FORMAT_VERSION, load_model
from trustwatch.models.model_persistence import detector_from_model

GOLDEN = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if path.is_dir())
NAMES = ("pace", "novelty", "flag")
READ = [folder for folder in GOLDEN if folder.name == f"v{MODEL_FORMAT_VERSION}"]


@pytest.mark.parametrize("folder", READ, ids=lambda folder: folder.name)
def test_a_golden_model_loads_and_scores_as_ever(folder):
    """Scores equal the stored ones to 1e-12; the extras are there."""
    model = load_model(folder / "model", feature_names=NAMES, feature_table_hash="golden-table")
    rows, groups, familiar = (np.load(folder / f"{name}.npy") for name in ("rows", "groups", "familiar"))
    detector = detector_from_model(model)
    scores = detector.assess(rows, groups, None, familiar)[0]
    files = ("anomaly_score", "p_value", "feature_evidence")
    for name, array in zip(files, scores, strict=True):
        np.testing.assert_allclose(array, np.load(folder / f"{name}.npy"), rtol=0, atol=1e-12)
    _, concerns = detector.assess(rows, groups, np.load(folder / "failed.npy"), familiar)
    for name, array in concerns._asdict().items():
        np.testing.assert_allclose(array, np.load(folder / f"concern_{name}.npy"), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(model.extras["baselines"]["counts"], np.arange(5))


@pytest.mark.parametrize("folder", [folder for folder in GOLDEN if folder not in READ], ids=lambda folder: folder.name)
def test_a_golden_model_of_another_format_is_refused(folder):
    """A program reads its own version alone, and says what to do about others; it never guesses what they meant."""
    refused = rf"expected format version {MODEL_FORMAT_VERSION}, found {folder.name[1:]}.*retrain"
    with pytest.raises(ModelError, match=refused):
        load_model(folder / "model", feature_names=NAMES, feature_table_hash="golden-table")


def test_the_present_format_has_its_golden_model():
    """Raising FORMAT_VERSION without adding a golden model fails here."""
    assert [folder.name for folder in READ] == [f"v{MODEL_FORMAT_VERSION}"]

"""A detector's arrays are checked before compiled code, which checks no bounds, gets them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from msgspec.structs import replace

from trustwatch.ingest.errors import ModelError
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.detector_training import fit_detector
from trustwatch.models.model_directory import LoadedModel, ModelManifest, TrainingWindow
from trustwatch.models.model_persistence import detector_from_model, detector_state

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def loaded():
    """A model as it comes from disk."""
    rng = np.random.default_rng(0)
    settings = DetectorSettings(trees=8, max_samples=32)
    groups = rng.integers(1, 3, 600).astype(np.uint64)
    detector = fit_detector(rng.normal(size=(600, 3)), groups, np.arange(600, dtype=np.uint64), settings, NAMES)[0]
    document = {"detector": asdict(settings)}
    manifest = ModelManifest("1", NAMES, "table", TrainingWindow(0, 0, 600, 1, 600), document, "00", 0)
    return LoadedModel(manifest, detector_state(detector), {})


def changed(name, change):
    """A copy of the state with one array changed."""

    def apply(state):
        array = state[name].copy()
        return {**state, name: change(array)}

    return apply


def put(place, value):
    """Set one element."""

    def change(array):
        array[place] = value
        return array

    return change


DAMAGES = {
    "missing": (lambda state: {k: v for k, v in state.items() if k != "tail_x"}, r"missing \['tail_x'\]"),
    "unknown": (lambda state: {**state, "more": np.zeros(1)}, r"unknown \['more'\]"),
    "type": (
        changed("forest_leaves", lambda a: a.astype(np.float32)),
        "forest_leaves.*expected float64.*found float32",
    ),
    "dimensions": (changed("tail_u", np.ravel), "tail_u.*expected float64 with 2 dimensions"),
    "size": (changed("usual_median", lambda a: a[:-1]), r"usual_median.*expected a size of 3, found 2"),
    "size of a neighbour": (changed("tail_u", lambda a: a[:, :-1].copy()), "tail_u.*expected a size of 257"),
    "feature outside": (changed("forest_features", put((0, 1), 3)), "forest_features"),
    "trees not complete": (
        lambda state: {k: v[:, :-1].copy() if k.startswith("forest_") and v.ndim else v for k, v in state.items()},
        "forest_features",
    ),
    "no trees": (
        lambda state: {k: v[:0] if k.startswith("forest_") and v.ndim else v for k, v in state.items()},
        "forest_features",
    ),
    "start outside": (changed("calibration_start", put(-1, 10**9)), "calibration_start"),
    "start falls": (changed("calibration_start", put(1, 0)), "calibration_start"),
    "groups unsorted": (changed("scale_groups", lambda a: a[::-1].copy()), "scale_groups"),
    "no fleet": (changed("calibration_groups", put(0, 1)), "calibration_groups"),
    "NaN": (changed("tail_rate", put((0, 0), np.nan)), "tail_rate"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_arrays_that_do_not_fit_are_refused(loaded, case):
    """The message names the array."""
    change, message = DAMAGES[case]
    with pytest.raises(ModelError, match=message):
        detector_from_model(loaded._replace(detector_state=change(loaded.detector_state)))


@pytest.mark.parametrize("document", [{}, {"detector": {"leaves": 1}}, {"detector": {"trees": 0}}, {"detector": None}])
def test_settings_that_do_not_fit_are_refused(loaded, document):
    """A manifest without usable detector settings is refused."""
    with pytest.raises(ModelError, match=r"settings\.detector"):
        detector_from_model(loaded._replace(manifest=replace(loaded.manifest, settings=document)))


def test_an_undamaged_state_is_accepted(loaded):
    """The same arrays, untouched, give a detector with the manifest's names and version."""
    detector = detector_from_model(loaded)
    assert (detector.feature_names, detector.version) == (NAMES, "1")

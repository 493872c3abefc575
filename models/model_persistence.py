"""Models as named arrays, and back. The arrays are checked: a detector that loads is one that
scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from ..ingest.errors import ConfigError, ModelError
from ..ingest.features import layout
from ..ingest.features.baseline import baseline_arrays, baseline_from_arrays
from ..ingest.features.feature_table import FEATURE_NAMES, feature_table_hash
from .betting import AlarmTail
from .calibration import FLEET_GROUP, Calibration, PeerScales
from .detector import DetectorSettings, ForestDetector, UsualEvidence
from .evidence_combination import EvidenceCombination
from .feature_tails import TailTables
from .forest_evaluator import ForestArrays
from .model_directory import LoadedModel, ModelManifest, TrainingWindow, load_model, save_model
from .model_training import baseline_digest
from .trained_model import AgentSeeds, TrainedModel

# name -> dtype and shape; a letter is a size that must be equal wherever it occurs, "K1" is K + 1
_ARRAY_LAYOUT: dict[str, tuple[type[np.generic], tuple[str, ...]]] = {
    "forest_features": (np.uint16, ("T", "S")),
    "forest_thresholds": (np.float32, ("T", "S")),
    "forest_leaves": (np.float64, ("T", "S")),
    "forest_expected": (np.float64, ("T", "S")),
    "forest_normaliser": (np.float64, ()),
    "tail_x": (np.float64, ("F", "K")),
    "tail_u": (np.float64, ("F", "K1")),
    "tail_rate": (np.float64, ("F", "K")),
    "score_tail_x": (np.float64, ("1", "K")),
    "score_tail_u": (np.float64, ("1", "K1")),
    "score_tail_rate": (np.float64, ("1", "K")),
    "scale_groups": (np.uint64, ("P",)),
    "scale_location": (np.float64, ("P",)),
    "scale_scale": (np.float64, ("P",)),
    "calibration_groups": (np.uint64, ("G",)),
    "calibration_start": (np.int64, ("G1",)),
    "calibration_sizes": (np.int64, ("G",)),
    "calibration_values": (np.float64, ("M",)),
    "calibration_above": (np.int64, ("M",)),
    "familiar_groups": (np.uint64, ("H",)),
    "familiar_start": (np.int64, ("H1",)),
    "familiar_sizes": (np.int64, ("H",)),
    "familiar_values": (np.float64, ("N",)),
    "familiar_above": (np.int64, ("N",)),
    "importance": (np.float64, ("F",)),
    "usual_median": (np.float64, ("F",)),
    "usual_upper": (np.float64, ("F",)),
}


def detector_state(detector: ForestDetector) -> dict[str, NDArray[Any]]:
    """The arrays to save; together with the settings and feature names of the manifest they are the detector."""
    parts, calibration = detector.parts, detector.calibration
    return {
        "forest_features": parts.forest.features,
        "forest_thresholds": parts.forest.thresholds,
        "forest_leaves": parts.forest.leaves,
        "forest_expected": parts.forest.expected,
        "forest_normaliser": np.array(parts.forest.normaliser),
        **{f"tail_{name}": array for name, array in parts.tails._asdict().items()},
        **{f"score_tail_{name}": array for name, array in parts.score_tail._asdict().items()},
        **{f"scale_{name}": array for name, array in detector.scales._asdict().items()},
        **{f"calibration_{name}": array for name, array in calibration._asdict().items()},
        **{f"familiar_{name}": array for name, array in detector.familiar._asdict().items()},
        "importance": parts.importance,
        "usual_median": detector.usual.median,
        "usual_upper": detector.usual.upper,
    }


def settings_document(settings: DetectorSettings) -> dict[str, Any]:
    """The member `settings["detector"]` of the manifest."""
    return asdict(settings)


def detector_from_model(model: LoadedModel) -> ForestDetector:
    """The detector of a loaded model.

    Raises:
        ModelError: an array is missing, unknown, of another type or shape, or holds indices that lead outside.
    """
    state, features = model.detector_state, len(model.manifest.feature_names)
    sizes = _check_layout(state, features)
    _check_contents(state, sizes)
    settings = _detector_settings(model.manifest.settings)
    forest = ForestArrays(
        state["forest_features"],
        state["forest_thresholds"],
        state["forest_leaves"],
        state["forest_expected"],
        float(state["forest_normaliser"]),
        features,
    )
    return ForestDetector(
        parts=EvidenceCombination(
            TailTables(**_arrays_with_prefix(state, "tail_")),
            forest,
            TailTables(**_arrays_with_prefix(state, "score_tail_")),
            settings.forest_weight,
            settings.norm,
            state["importance"],
        ),
        scales=PeerScales(**_arrays_with_prefix(state, "scale_")),
        calibration=Calibration(**_arrays_with_prefix(state, "calibration_")),
        familiar=Calibration(**_arrays_with_prefix(state, "familiar_")),
        usual=UsualEvidence(**_arrays_with_prefix(state, "usual_")),
        settings=settings,
        feature_names=model.manifest.feature_names,
        version=model.manifest.model_version,
    )


def _arrays_with_prefix(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def _detector_settings(settings: Mapping[str, Any]) -> DetectorSettings:
    try:
        return DetectorSettings(**settings["detector"])
    except (KeyError, TypeError, ConfigError) as error:
        raise ModelError(f"manifest.json: settings.detector is missing or wrong ({error!r}); retrain") from None


def _check_layout(state: Mapping[str, NDArray[Any]], features: int) -> dict[str, int]:
    """Compare names, types and shapes with `_ARRAY_LAYOUT`; returns the sizes by letter."""
    if state.keys() != _ARRAY_LAYOUT.keys():
        missing, unknown = sorted(_ARRAY_LAYOUT.keys() - state.keys()), sorted(state.keys() - _ARRAY_LAYOUT.keys())
        raise ModelError(f"detector: arrays missing {missing}, unknown {unknown}; retrain")
    sizes = {"F": features, "1": 1}
    for name, (dtype, letters) in _ARRAY_LAYOUT.items():
        array = state[name]
        if array.dtype != dtype or array.ndim != len(letters):
            raise ModelError(
                f"detector/{name}.npy: expected {np.dtype(dtype)} with {len(letters)} dimensions, "
                f"found {array.dtype} {array.shape}; retrain"
            )
        for letter, size in zip(letters, array.shape, strict=True):
            plain = letter.removesuffix("1") if len(letter) == 2 else letter
            expected = sizes.setdefault(plain, size - (len(letter) - 1)) + (len(letter) - 1)
            if size != expected:
                raise ModelError(f"detector/{name}.npy: expected a size of {expected}, found {array.shape}; retrain")
    return sizes


def _check_contents(state: Mapping[str, NDArray[Any]], sizes: Mapping[str, int]) -> None:
    """Compiled code does not check bounds: whatever it uses as an index is checked here, once."""
    used = state["forest_features"]
    fine = {
        "forest_features": used.size > 0 and _is_power_of_two(sizes["S"]) and int(used.max()) < sizes["F"],
        "tail_x": _is_power_of_two(sizes["K"]),
        "calibration_groups": _starts_with_fleet(state["calibration_groups"]),
        "scale_groups": _starts_with_fleet(state["scale_groups"]),
        "calibration_start": _is_partition(state["calibration_start"], sizes["M"]),
        "familiar_groups": sizes["H"] == 0 or _starts_with_fleet(state["familiar_groups"]),
        "familiar_start": _is_partition(state["familiar_start"], sizes["N"]),
    }
    bad = [name for name, good in fine.items() if not good]
    bad += [name for name, array in state.items() if array.dtype.kind == "f" and np.isnan(array).any()]
    if bad:
        raise ModelError(f"detector/{bad[0]}.npy: expected values that fit the model, found others; retrain")


def _is_power_of_two(size: int) -> bool:
    return size >= 2 and size & (size - 1) == 0


def _is_partition(start: NDArray[np.int64], size: int) -> bool:
    return bool(start[0] == 0 and start[-1] == size and (np.diff(start) > 0).all())


def _starts_with_fleet(groups: NDArray[np.uint64]) -> bool:
    return len(groups) > 0 and int(groups[0]) == FLEET_GROUP and bool((groups[1:] > groups[:-1]).all())


def save_trained_model(
    path: Path, model: TrainedModel, settings: DetectorSettings, sessions: int, created_ms: int
) -> ModelManifest:
    """Write a model directory; see `model_directory.save_model` for how and what is refused.

    Args:
        settings: how the detector was trained.
        sessions: sessions in the history, for the manifest.
        created_ms: when it was trained, UTC milliseconds.
    """
    assert isinstance(model.detector, ForestDetector)
    window = TrainingWindow(*model.window_ms, int(model.group_events[0]), len(model.seeds.keys), sessions)
    manifest = ModelManifest(
        model_version=model.version,
        feature_names=FEATURE_NAMES,
        feature_table_hash=feature_table_hash(),
        window=window,
        settings={"detector": settings_document(settings)},
        salt_hex=model.salt.hex(),
        created_ms=created_ms,
    )
    extras = {
        "baseline": baseline_arrays(model.baseline),
        "seeds": {"keys": model.seeds.keys, "events": model.seeds.events, **_seed_columns(model.seeds.rows)},
        "groups": {
            "ids": model.groups,
            "rates": model.group_rates,
            "events": model.group_events,
            "exponent": np.array([model.exponent]),
        },
        "alarms": {name: np.array([float(value)]) for name, value in model.alarms._asdict().items()},
    }
    save_model(path, detector_state(model.detector), extras, manifest)
    return manifest


def load_trained_model(path: Path) -> TrainedModel:
    """Read and verify a model directory. Raises ModelError with what is wrong and what to do about it."""
    loaded = load_model(path, feature_names=FEATURE_NAMES, feature_table_hash=feature_table_hash())
    try:
        seeds, groups, arrays = (loaded.extras[name] for name in ("seeds", "groups", "baseline"))
        start, scale, share, days = (float(loaded.extras["alarms"][name][0]) for name in AlarmTail._fields)
        baseline = baseline_from_arrays(arrays)
        model = TrainedModel(
            detector=detector_from_model(loaded),
            baseline=baseline,
            seeds=AgentSeeds(seeds["keys"], _seed_rows(seeds), seeds["events"]),
            salt=bytes.fromhex(loaded.manifest.salt_hex),
            groups=groups["ids"],
            group_rates=groups["rates"],
            group_events=groups["events"],
            version=loaded.manifest.model_version,
            baseline_version=baseline_digest(baseline),
            exponent=float(groups["exponent"][0]),
            alarms=AlarmTail(start, scale, share, int(days)),
            window_ms=(loaded.manifest.window.from_ms, loaded.manifest.window.to_ms),
        )
    except KeyError as error:
        raise ModelError(f"{path} lacks {error}; copy the model again or train it again") from None
    return model


def _seed_columns(rows: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Fields of the seeds' rows as plain arrays: a model holds no structured types."""
    return {name: np.ascontiguousarray(rows[name]) for name in layout.STATE_ROW.names or ()}


def _seed_rows(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    rows = np.zeros(len(arrays["keys"]), layout.STATE_ROW)
    for name in layout.STATE_ROW.names or ():
        if arrays[name].shape != rows[name].shape:
            raise ModelError(f"the model's agents have {name} of shape {arrays[name].shape}; train the model again")
        rows[name] = arrays[name]
    return rows

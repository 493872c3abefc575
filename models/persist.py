"""A trained model on disk: the detector's arrays, the baseline and the agents' histories in one verified directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ingest.errors import ModelError
from ..ingest.features import layout
from ..ingest.features.baseline import baseline_arrays, baseline_from_arrays
from ..ingest.features.table import FEATURE_NAMES, feature_table_hash
from .alarms import AlarmTail
from .artifact import load_model, save_model
from .bundle import AgentSeeds, TrainedModel
from .detector import DetectorSettings, ForestDetector
from .learning import baseline_digest
from .manifest import ModelManifest, TrainingWindow
from .saved import detector_from_model, detector_state, settings_document


def save_trained_model(
    path: Path, model: TrainedModel, settings: DetectorSettings, sessions: int, created_ms: int
) -> ModelManifest:
    """Write a model directory; see `artifact.save_model` for how and what is refused.

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

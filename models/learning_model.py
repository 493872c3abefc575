"""The model of a service that has learned nothing yet: no event is anomalous to it, and every agent is unknown.

It is a model as any other, so that the pipeline keeps the state of agents, meets every order in the log, and continues
with the first trained model as with any later one. Its detector is one whose features have no importance.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import numpy as np

from trustwatch.ingest.features.baseline import empty_baseline
from trustwatch.ingest.features.feature_table import FEATURE_COUNT, FEATURE_NAMES

from .betting import AlarmTail
from .detector import DetectorSettings
from .detector_training import fit_detector
from .model_directory import ModelManifest
from .model_persistence import save_trained_model
from .model_training import baseline_digest
from .trained_model import AgentSeeds, TrainedModel

LEARNING_VERSION: Final = "learning"
"""Name of the model in answers and decisions until a trained one is active."""

_ROWS = 64  # all alike; a detector wants 50
_EVENTS_PER_DAY = 1_000.0
"""Unknown pace, taken to be that of a busy agent: thresholds are so high that of hard signals one that tells
of a compromise raises a level, and lesser ones do in number."""


def make_learning_model(salt: bytes) -> TrainedModel:
    """The model that knows nothing."""
    detector, _ = fit_detector(
        np.zeros((_ROWS, FEATURE_COUNT)),
        np.zeros(_ROWS, np.uint64),
        np.arange(_ROWS, dtype=np.uint64),
        DetectorSettings(),
        FEATURE_NAMES,
        importance=np.zeros(FEATURE_COUNT),
        version=LEARNING_VERSION,
    )
    baseline, nothing = empty_baseline(), AlarmTail.empty()
    return TrainedModel(
        detector=detector,
        baseline=baseline,
        seeds=AgentSeeds.empty(),
        salt=salt,
        groups=np.zeros(1, np.uint64),
        group_rates=np.array([_EVENTS_PER_DAY]),
        group_events=np.zeros(1, np.int64),
        version=LEARNING_VERSION,
        baseline_version=baseline_digest(baseline),
        exponents=(1.0, 1.0, 1.0),
        alarms=(nothing, nothing, nothing),
        window_ms=(0, 0),
    )


def save_learning_model(path: Path, created_ms: int) -> ModelManifest:
    """Writes the model that knows nothing to a model directory, under a separate salt."""
    return save_trained_model(path, make_learning_model(secrets.token_bytes(16)), DetectorSettings(), 0, created_ms)

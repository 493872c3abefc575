"""Models as frames: what one has learned, and training another from a frame of events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..ingest.columns import ColumnEncoder
from ..ingest.features.feature_table import FEATURES
from ..ingest.formats.history_decoding import decode_history_event
from ..ingest.hashing import NameHasher
from ..models.detector import DetectorSettings, ForestDetector
from ..models.model_directory import is_model
from ..models.model_persistence import load_trained_model, save_trained_model
from ..models.model_training import session_ids
from ..models.trained_model import TrainedModel
from ..scoring.engine import risk
from ..scoring.engine.engine import EngineSettings
from ..scoring.learning.budget_check import BudgetReport, check_budget
from ..scoring.learning.walkforward import train_walk_forward
from .frame_builder import build_frame, build_frame_from_columns
from .session import LabError

_SCORE_GRID = np.linspace(0.0, 1.0, 201)


@dataclass(frozen=True, eq=False)
class LabModel:
    """A model, loaded or just trained.

    Attributes:
        directory: where it is; `trustwatch serve` can be pointed at a copy of it.
        trained: what scoring uses.
        settings: of the engine, for thresholds at the alert budget.
        group_names: peer groups in words, by their hash.
        budget_report: the promise on its own held-out history; None for a model that was not trained here.
    """

    directory: Path
    trained: TrainedModel
    settings: EngineSettings
    group_names: Mapping[int, str]
    budget_report: BudgetReport | None = None

    def __repr__(self) -> str:
        first, last = self.window
        window = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
        return f"<model {self.version}: learned from {window}; {self.directory}>"

    @property
    def version(self) -> str:
        """Name that decisions carry."""
        return self.trained.version

    @property
    def window(self) -> tuple[Any, Any]:
        """First and last event time of its history."""
        first, last = self.trained.window_ms
        return pd.Timestamp(first, unit="ms", tz="UTC"), pd.Timestamp(last, unit="ms", tz="UTC")

    @property
    def detector(self) -> ForestDetector:
        """Vectors in, scores out."""
        detector = self.trained.detector
        assert isinstance(detector, ForestDetector)
        return detector

    def features(self) -> Any:
        """Frame `features`: weight of each feature, and how much of its evidence is usual."""
        usual, weights = self.detector.usual, self.detector.parts.importance
        return build_frame(
            "features",
            [
                (
                    one.name,
                    one.family,
                    one.unit,
                    float(weights[at]),
                    float(usual.median[at]),
                    float(usual.upper[at]),
                    one.meaning,
                )
                for at, one in enumerate(FEATURES)
            ],
        )

    def groups(self) -> Any:
        """Frame `groups`: peer groups, how busy they are, and the evidence at which levels begin in each."""
        model = self.trained
        bounds = risk.thresholds(model.group_rates, self.settings.risk.alert_budget, model.exponent, model.alarms)
        return build_frame(
            "groups",
            [
                (self._group(key), int(events), float(rate), self.detector.covers(key), *map(float, limits))
                for key, events, rate, limits in zip(
                    model.groups.tolist(), model.group_events, model.group_rates, bounds, strict=True
                )
            ],
        )

    def calibration(self) -> Any:
        """Frame `calibration`: from anomaly score to p-value, of known agents (if rehearsed) and of newcomers."""
        parts = []
        for agents, calibration in (("known", self.detector.familiar), ("newcomers", self.detector.calibration)):
            for key in calibration.groups.tolist():
                values = calibration.p_values(_SCORE_GRID, np.full(len(_SCORE_GRID), key, np.uint64))
                columns = {"group": self._group(key), "agents": agents, "anomaly_score": _SCORE_GRID, "p_value": values}
                parts.append(pd.DataFrame(columns))
        found = pd.concat(parts, ignore_index=True)
        return build_frame_from_columns("calibration", {name: found[name] for name in found.columns})

    def budget_report_frame(self) -> Any:
        """Frame `promise`. Raises LabError for a model that was not trained in this lab."""
        if self.budget_report is None:
            raise LabError(
                "a promise is measured while a model is trained, and this one was not trained here: train one "
                "(`lab.train(events)`), or hold this one to later events (`lab.reliability(lab.scores())`)"
            )
        days = self.budget_report.agent_days
        return build_frame(
            "promise",
            [
                (one.level, one.budget, one.observed, one.alerts, days, one.enough_data)
                for one in self.budget_report.levels
            ],
        )

    def _group(self, key: int) -> str:
        return "fleet" if key == 0 else self.group_names.get(key, f"{key:016x}")


def peer_group_names(salt: bytes, types: Iterable[tuple[str, str]]) -> dict[int, str]:
    """Hash of each peer group -> tenant and type."""
    hasher = NameHasher(salt)
    return {int(hasher(f"{tenant}\x1f{kind}")): f"{tenant} {kind}".strip() or "no type" for tenant, kind in types}


def load_lab_model(directory: Path, settings: EngineSettings, types: Iterable[tuple[str, str]]) -> LabModel:
    """The model in a directory. Raises LabError where there is none, ModelError for one that does not fit."""
    if not is_model(directory):
        raise LabError(
            f"{directory}: no model. Learn one from normal history: `trustwatch train FILES --model {directory}`, or "
            "`lab.train(lab.events(), directory=…)`"
        )
    model = load_trained_model(directory)
    return LabModel(directory, model, settings, peer_group_names(model.salt, types))


def train_lab_model(
    lines: Iterable[bytes],
    directory: Path,
    salt: bytes,
    version: str,
    detector: DetectorSettings,
    settings: EngineSettings,
    domains: Mapping[str, Sequence[str]],
    types: Iterable[tuple[str, str]],
    now_ms: int,
) -> LabModel:
    """Learn from raw events in order, and save into *directory*. Raises NotEnoughHistory, LabError."""
    decoded = [decode_history_event(line)[0] for line in lines]
    if not decoded:
        raise LabError("no events to learn from: widen since and until")
    columns = ColumnEncoder(salt, domains).encode(decoded)
    model, judged, p_values = train_walk_forward(columns, salt, version, detector)
    promise = check_budget(model, judged, p_values, settings.risk)
    save_trained_model(directory, model, detector, len(np.unique(session_ids(columns))), now_ms)
    return LabModel(directory, model, settings, peer_group_names(salt, types), promise)


def reliability_frame(scores: Any) -> Any:
    """The frame `reliability`: promised p-values against how often scored events had them."""
    p_values = np.sort(scores["p_value"].to_numpy())
    n = len(p_values)
    if not n:
        return build_frame("reliability", ())
    rows = []
    for promised in np.logspace(-3, 0, 25).tolist():
        within = int(np.searchsorted(p_values, promised * (1 + 1e-12), side="right"))
        low, high = wilson_interval(within, n)
        rows.append((promised, within / n, within, low, high))
    return build_frame("reliability", rows)


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    >>> tuple(round(end, 3) for end in wilson(5, 100))
    (0.022, 0.112)
    """
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)

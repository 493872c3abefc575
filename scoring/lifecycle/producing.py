"""A new version from a history: trained, checked against the budget, saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ...ingest.columns import EventColumns
from ...models.artifact import read_manifest
from ...models.bundle import TrainedModel
from ...models.detector import DetectorSettings
from ...models.learning import session_ids
from ...models.manifest import ModelManifest
from ...models.persist import save_trained_model
from .. import risk
from ..promise import check_budget
from ..rehearsal import train_walk_forward


class TrainedVersion(NamedTuple):
    """A version on disk. `promise` is what its thresholds promise, and what they would have done on its history."""

    model: TrainedModel
    manifest: ModelManifest
    digest: str
    budget_report: dict[str, Any]


def train_version(
    place: Path,
    columns: EventColumns,
    salt: bytes,
    version: str,
    settings: DetectorSettings,
    budget: risk.AlertRateBudget,
    rules: risk.RiskParameters,
    now_ms: int,
    progress: Callable[[str, int, int], None],
) -> TrainedVersion:
    """Train on *columns* and save to *place*, all or nothing.

    Args:
        salt: that of the model in force, so that what is known of agents carries over.
        version: its name.
        progress: told the stage and how far it is; may raise to give up.

    Raises:
        NotEnoughHistory: fewer events than a detector can be fitted on.
    """
    model, judged, p_values = train_walk_forward(columns, salt, version, settings, progress)
    promise = check_budget(model, judged, p_values, budget, rules)
    sessions = len(set(session_ids(columns).tolist()))
    manifest = save_trained_model(place, model, settings, sessions, now_ms)
    told = {**promise._asdict(), "levels": [level._asdict() for level in promise.levels]}
    return TrainedVersion(model, manifest, read_manifest(place)[1], told)

"""Models as frames: weights, calibration and budget of one, and training another from a frame of events."""

from __future__ import annotations

import math
import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from trustwatch.api import clock
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.models.detector import DetectorSettings
from trustwatch.scoring.engine import level_thresholds, risk_levels
from trustwatch.scoring.learning.training import KnownPeerGroups, train_and_save

from .event_frames import raw_events
from .frame_builder import build_frame, build_frame_from_columns
from .session import LabError, LabModel, LabSession, peer_group_names

_SCORE_GRID = np.linspace(0.0, 1.0, 201)
_PROMISED_P_VALUES = np.logspace(-3, 0, 25)


def features(model: LabModel) -> pd.DataFrame:
    """Weight of each feature, and how much of its evidence is usual."""
    usual, weights = model.detector.usual, model.detector.parts.importance
    return build_frame(
        "features",
        [
            (
                feature.name,
                feature.family,
                feature.unit,
                float(weights[at]),
                float(usual.median[at]),
                float(usual.upper[at]),
                feature.meaning,
            )
            for at, feature in enumerate(FEATURES)
        ],
    )


def groups(model: LabModel) -> pd.DataFrame:
    """Peer groups, how busy they are, and the evidence of compromise at which levels begin in each.

    Of models whose levels follow from all oddities as one question, the evidence of those.
    """
    trained = model.trained
    limits_by_concern = level_thresholds.model_thresholds(trained, model.settings.risk.alert_budget)
    thresholds = limits_by_concern[:, risk_levels.signalled_concern(limits_by_concern[0])]
    return build_frame(
        "groups",
        [
            (_group_name(model, key), int(events), float(rate), model.detector.covers(key), *map(float, limits))
            for key, events, rate, limits in zip(
                trained.groups.tolist(), trained.group_events, trained.group_rates, thresholds, strict=True
            )
        ],
    )


def calibration(model: LabModel) -> pd.DataFrame:
    """Mapping from anomaly score to p-value, of known agents (if rehearsed) and of newcomers."""
    curves = []
    for agents, curve in (("known", model.detector.familiar), ("newcomers", model.detector.calibration)):
        for key in np.intersect1d(curve.groups, model.trained.groups).tolist():
            columns = {
                "group": _group_name(model, key),
                "agents": agents,
                "anomaly_score": _SCORE_GRID,
                "p_value": curve.p_values(_SCORE_GRID, np.full(len(_SCORE_GRID), key, np.uint64)),
            }
            curves.append(pd.DataFrame(columns))
    table = pd.concat(curves, ignore_index=True)
    return build_frame_from_columns("calibration", {name: table[name] for name in table.columns})


def budget_report(model: LabModel) -> pd.DataFrame:
    """Alerts promised and observed on held-out history; of a model that was trained in this session."""
    report = model.budget_report
    if report is None:
        raise LabError(
            "a promise is measured while a model is trained, and this one was not trained here: train one "
            "(`frames.train_model(session, events)`), or hold this one to later events "
            "(`frames.reliability(frames.scores(session))`)"
        )
    return build_frame(
        "budget_report",
        [
            (level.level, level.budget, level.observed, level.alerts, report.agent_days, level.enough_data)
            for level in report.levels
        ],
    )


def reliability(scores: pd.DataFrame) -> pd.DataFrame:
    """Promised against observed: how often events of a frame `scores` had a p-value of at most so much."""
    p_values = np.sort(scores["p_value"].to_numpy())
    events = len(p_values)
    if not events:
        return build_frame("reliability", ())
    rows = []
    for promised in _PROMISED_P_VALUES.tolist():
        within = int(np.searchsorted(p_values, promised * (1 + 1e-12), side="right"))
        rows.append((promised, within / events, within, *wilson_interval(within, events)))
    return build_frame("reliability", rows)


def train_model(
    session: LabSession,
    events: pd.DataFrame,
    *,
    version: str | None = None,
    seed: int = 0,
    trees: int = 100,
    directory: str | Path | None = None,
) -> LabModel:
    """Learn a model from a frame of events, taken as normal. It goes to *directory*, or away with the session.

    Raises:
        LabError, NotEnoughHistory: no events, or fewer than a detector can be fitted on.
    """
    history = [decode_history_event(line)[0] for line in raw_events(events)]
    if not history:
        raise LabError("no events to learn from: widen since and until")
    salt = secrets.token_bytes(16)
    with suppress(LabError):
        salt = session.model().trained.salt
    path = session.work_path("model") if directory is None else Path(directory)
    trained = train_and_save(
        path,
        KnownPeerGroups().settle(ColumnEncoder(salt, session.settings.domains()).encode(history)),
        salt,
        version or clock.utc_now().strftime("lab-%Y-%m-%d.%H%M%S"),
        DetectorSettings(seed=seed, trees=trees),
        session.engine_settings,
        clock.now_ms(),
    )
    names = peer_group_names(salt, session.agent_types())
    model = LabModel(path, trained.model, session.engine_settings, names, trained.budget_report)
    session.keep_model(model)
    return model


def _group_name(model: LabModel, key: int) -> str:
    return "fleet" if key == 0 else model.group_names.get(key, f"{key:016x}")


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    >>> tuple(round(end, 3) for end in wilson_interval(5, 100))
    (0.022, 0.112)
    """
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)

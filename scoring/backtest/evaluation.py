"""Scores held against labels: how well bad events and sessions stand out, and how soon the level told of them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..records import RiskLevel
from .labels import EventLabels
from .metrics import (
    CURVE_GRID,
    FALSE_POSITIVE_SHARES,
    ConfidenceBands,
    DetectionCurve,
    bootstrap_bands,
    detection_curve,
)
from .sweep import ALERTING_LEVELS

_SLOW_QUANTILE = 0.9


class ScoreSeparation(msgspec.Struct, frozen=True):
    """How well a score tells bad units from good ones; figures are None where there is no bad or no good unit."""

    units: int
    bad: int
    roc_auc: float | None = None
    average_precision: float | None = None
    recall_at_1_percent: float | None = None
    recall_at_5_percent: float | None = None
    roc: list[tuple[float, float]] = []  # (false, found), thinned
    precision_recall: list[tuple[float, float]] = []  # (found, precision), thinned
    roc_auc_within: tuple[float, float] | None = None  # in 95 % of resamples of sessions; None for events
    average_precision_within: tuple[float, float] | None = None
    roc_band: list[tuple[float, float, float]] = []  # (false, lower, upper)
    precision_band: list[tuple[float, float, float]] = []  # (found, lower, upper)


class LevelDetection(msgspec.Struct, frozen=True):
    """How bad sessions fared at one level.

    Attributes:
        sessions: bad ones.
        detected: the level was reached at or after the first bad event, within the session.
        already: the agent was at the level before its first bad event; neither detected nor missed.
        delay_events: events of the session after the first bad one up to the one that reached the level (0: the bad
            event itself), median and 90th percentile of those detected; None = none was.
        delay_seconds: the same in seconds.
        true_alerts, false_alerts: rises to the level or above by events of bad and of good sessions.
    """

    level: str
    sessions: int
    detected: int
    already: int
    delay_events: tuple[float, float] | None
    delay_seconds: tuple[float, float] | None
    true_alerts: int
    false_alerts: int


class LabelEvaluation(msgspec.Struct, frozen=True):
    """Scores of one model against labels.

    Attributes:
        labelled: events that have a label.
        without_label: events that have none.
        without_event: labels of which no event was scored.
        by_event: by anomaly score of the single event.
        by_session: by the largest anomaly score of the session.
        levels: medium, high, critical.
        delays_seconds: of all sessions detected at medium, ascending, for a chart.
    """

    labelled: int
    without_label: int
    without_event: int
    by_event: ScoreSeparation
    by_session: ScoreSeparation
    levels: list[LevelDetection]
    delays_seconds: list[float]


class _LabelledRows(msgspec.Struct):
    """Labelled rows as arrays. *session* int64 (n,) numbers sessions; *bad_sessions* bool (s,)."""

    rows: npt.NDArray[Any]
    bad: npt.NDArray[np.bool_]
    session: npt.NDArray[np.int64]
    bad_sessions: npt.NDArray[np.bool_]


def evaluate_labels(rows: npt.NDArray[Any], labels: EventLabels) -> LabelEvaluation:
    """Hold rows of dtype `tally.ROW`, in the order of the history, against labels."""
    known = rows[rows["label"] >= 0]
    told = _labelled_rows(known, labels)
    top = np.full(len(told.bad_sessions), -np.inf)
    np.maximum.at(top, told.session, known["anomaly"])
    delays = [_detection_delays(told, level) for level in ALERTING_LEVELS]
    return LabelEvaluation(
        len(known),
        len(rows) - len(known),
        len(labels.labels) - len(np.unique(known["label"])),
        measure_separation(told.bad, known["anomaly"]),
        _with_bands(measure_separation(told.bad_sessions, top), bootstrap_bands(told.bad_sessions, top)),
        [_detection(told, level, *found) for level, found in zip(ALERTING_LEVELS, delays, strict=True)],
        sorted(seconds for _, seconds in delays[0][0]),
    )


def _labelled_rows(known: npt.NDArray[Any], labels: EventLabels) -> _LabelledRows:
    numbers: dict[tuple[str, str, str], int] = {}
    session, bad = np.zeros(len(known), np.int64), np.zeros(len(known), np.bool_)
    bad_session: list[bool] = []
    for row, at in enumerate(known["label"].tolist()):
        label = labels.labels[at]
        name = (label.tenant, label.agent_id, label.session or label.id)
        number = session[row] = numbers.setdefault(name, len(numbers))
        if number == len(bad_session):
            bad_session.append(False)
        bad[row] = label.event_label != 0
        bad_session[number] |= label.session_label != 0 or label.event_label != 0
    return _LabelledRows(known, bad, session, np.array(bad_session, np.bool_))


def _with_bands(plain: ScoreSeparation, found: ConfidenceBands | None) -> ScoreSeparation:
    """Events of a session depend on each other, sessions do not: so sessions alone are resampled."""
    if found is None:
        return plain
    grid = CURVE_GRID.tolist()
    return msgspec.structs.replace(
        plain,
        roc_auc_within=found.area,
        average_precision_within=found.average_precision,
        roc_band=list(zip(grid, *(bound.tolist() for bound in found.recall), strict=True)),
        precision_band=list(zip(grid, *(bound.tolist() for bound in found.precision), strict=True)),
    )


def measure_separation(bad: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> ScoreSeparation:
    """Figures and thinned curves of one score, both of shape (n,)."""
    found: DetectionCurve | None = detection_curve(bad, scores)
    if found is None:
        return ScoreSeparation(len(bad), int(bad.sum()))
    drawn = found.thinned()
    return ScoreSeparation(
        len(bad),
        int(bad.sum()),
        found.area,
        found.average_precision,
        found.recall_at(FALSE_POSITIVE_SHARES[0]),
        found.recall_at(FALSE_POSITIVE_SHARES[1]),
        [(0.0, 0.0), *zip(drawn.false_positive_rate.tolist(), drawn.recall.tolist(), strict=True)],
        list(zip(drawn.recall.tolist(), drawn.precision.tolist(), strict=True)),
    )


def _detection_delays(told: _LabelledRows, level: RiskLevel) -> tuple[list[tuple[int, float]], int]:
    """(events, seconds) of each bad session that reached the level, and how many were there before."""
    order = np.argsort(told.session, kind="stable")
    starts = np.searchsorted(told.session[order], np.arange(len(told.bad_sessions) + 1))
    found: list[tuple[int, float]] = []
    already = 0
    for number in np.flatnonzero(told.bad_sessions).tolist():
        at = order[starts[number] : starts[number + 1]]
        bad = np.flatnonzero(told.bad[at])
        at = at[bad[0] if len(bad) else 0 :]  # where no event is named, the session is bad from its start
        rows = told.rows[at]
        if rows["rested"][0] >= level:
            already += 1
            continue
        reached = np.flatnonzero(rows["level"] >= level)
        if len(reached):
            waited = rows["time_ms"][reached[0]] - rows["time_ms"][0]
            found.append((int(reached[0]), max(float(waited) / 1000.0, 0.0)))
    return found, already


def _detection(told: _LabelledRows, level: RiskLevel, delays: list[tuple[int, float]], already: int) -> LevelDetection:
    rose = (told.rows["rested"] < level) & (told.rows["level"] >= level)
    true = int((rose & told.bad_sessions[told.session]).sum())
    return LevelDetection(
        level.label,
        int(told.bad_sessions.sum()),
        len(delays),
        already,
        _median_and_slow([events for events, _ in delays]),
        _median_and_slow([seconds for _, seconds in delays]),
        true,
        int(rose.sum()) - true,
    )


def _median_and_slow(values: list[int] | list[float]) -> tuple[float, float] | None:
    if not values:
        return None
    return float(np.median(values)), float(np.quantile(values, _SLOW_QUANTILE))

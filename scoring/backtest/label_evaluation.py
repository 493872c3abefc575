"""Evaluation against labels: curves, and the bands in which they may lie."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.models.input_checks import Flags, Floats, Ints

from ..records.agents import ALERTING_LEVELS, AgentIdentity, RiskLevel
from .challenge_counts import NOT_ASKED
from .plan import EventLabels

FALSE_POSITIVE_SHARES = (0.01, 0.05)
"""Shares of false positives at which recall is reported."""


class DetectionCurve(NamedTuple):
    """Rates of a score against the labels at each of its thresholds, strictest first, shape (t,) each."""

    recall: Floats  # share of bad units at or above the threshold (recall)
    false_positive_rate: Floats  # share of good units at or above it
    precision: Floats  # share of bad ones among all at or above it

    @property
    def area(self) -> float:
        """ROC-AUC: the probability that a bad unit scores above a good one; ties count half."""
        return float(np.trapezoid(np.r_[0.0, self.recall], np.r_[0.0, self.false_positive_rate]))

    @property
    def average_precision(self) -> float:
        """Mean precision over the bad units."""
        return float((np.diff(np.r_[0.0, self.recall]) * self.precision).sum())

    def recall_at(self, share: float) -> float:
        """Return the largest recall with at most this share of false positives."""
        return float(np.where(self.false_positive_rate <= share, self.recall, 0.0).max(initial=0.0))

    def thinned(self, points: int = 200) -> DetectionCurve:
        """Reduce the curve to about *points* thresholds for a chart, keeping its shape."""
        if len(self.recall) <= points:
            return self
        steps = np.linspace(0.0, 1.0, points // 2)
        last = len(self.recall) - 1
        by_false = np.searchsorted(self.false_positive_rate, steps, side="right") - 1
        by_found = np.minimum(np.searchsorted(self.recall, steps), last)
        kept = np.unique(np.concatenate([[0, last], np.maximum(by_false, 0), by_found]))
        return DetectionCurve(self.recall[kept], self.false_positive_rate[kept], self.precision[kept])


def detection_curve(bad: npt.ArrayLike, scores: npt.ArrayLike) -> DetectionCurve | None:
    """Return the curve of a score, or None if there are no bad or no good units.

    Args:
        bad: bool (n,).
        scores: float (n,), higher is more anomalous; ties move together.
    """
    y, s = np.asarray(bad, bool), np.asarray(scores, np.float64)
    if not y.any() or y.all():
        return None
    # Not at the head: it takes a second to import, and a service that starts computes no curve.
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_positive_rate, recall, _ = roc_curve(y, s, drop_intermediate=False)
    precision, _, _ = precision_recall_curve(y, s)
    # The one begins with no unit at all, the other ends with it, and has the strictest threshold last.
    return DetectionCurve(recall[1:], false_positive_rate[1:], precision[-2::-1])


RESAMPLES, CONFIDENCE, BOOTSTRAP_SEED = 200, 0.95, 1
_FEW_UNITS = 20_000
CURVE_GRID = np.linspace(0.0, 1.0, 51)


class ConfidenceBands(NamedTuple):
    """Lower and upper bounds within which a curve lies in most resamples of its units."""

    # area, average_precision: of these figures
    area: tuple[float, float]
    average_precision: tuple[float, float]
    # recall at each share of `CURVE_GRID` of false positives, shapes (g,)
    recall: tuple[Floats, Floats]
    # precision at each recall of `CURVE_GRID`, shapes (g,)
    precision: tuple[Floats, Floats]


def bootstrap_bands(
    bad: npt.ArrayLike, scores: npt.ArrayLike, dice: np.random.Generator | None = None
) -> ConfidenceBands | None:
    """Bootstrap `curve`: 95 % of resamples of independent units lie within the bands.

    None where fewer than five units are bad or good: resamples of so few say nothing.
    """
    y, s = np.asarray(bad, bool), np.asarray(scores, np.float64)
    if min(y.sum(), (~y).sum()) < 5:
        return None
    dice = dice or np.random.default_rng(BOOTSTRAP_SEED)
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    last = np.r_[np.flatnonzero(np.diff(s)), len(s) - 1]
    rounds = RESAMPLES if len(y) <= _FEW_UNITS else RESAMPLES // 2  # of many units, fewer resamples say as much
    # Not scikit-learn's curves, nor scipy's bootstrap: units are sorted once for all resamples, which differ in the
    # weights alone. Those would sort, or copy, the units for each.
    drawn = []
    for _ in range(rounds):
        weights = dice.poisson(1.0, len(y))
        hits, alarms = np.cumsum(weights * y)[last], np.cumsum(weights * ~y)[last]
        if hits[-1] and alarms[-1]:
            drawn.append(DetectionCurve(hits / hits[-1], alarms / alarms[-1], hits / np.maximum(hits + alarms, 1)))
    figures = np.array([(curve.area, curve.average_precision) for curve in drawn])
    recall = np.array(
        [np.interp(CURVE_GRID, np.r_[0.0, curve.false_positive_rate], np.r_[0.0, curve.recall]) for curve in drawn]
    )
    precision = np.array(
        [curve.precision[np.searchsorted(curve.recall, np.minimum(CURVE_GRID, 1.0 - 1e-12))] for curve in drawn]
    )
    edges = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    (area, average), lower_upper = np.quantile(figures, edges, axis=0).T, partial(np.quantile, q=edges, axis=0)
    return ConfidenceBands(
        (float(area[0]), float(area[1])),
        (float(average[0]), float(average[1])),
        tuple(lower_upper(recall)),
        tuple(lower_upper(precision)),
    )


# Evaluation of scores: separation of bad events and sessions, and delay until the level showed them.


_SLOW_QUANTILE = 0.9


class ScoreSeparation(msgspec.Struct, frozen=True):
    """How well a score separates bad units from good ones. Figures are None if either kind is missing."""

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
    """Bad sessions that were detected at one level."""

    level: str
    sessions: int  # bad ones
    detected: int  # the level was reached at or after the first bad event, within the session
    already: int  # the agent was at the level before its first bad event; neither detected nor missed
    # events of the session after the first bad one up to the one that reached the level (0: the bad event itself),
    # median and 90th percentile of those detected; None = none was
    delay_events: tuple[float, float] | None
    delay_seconds: tuple[float, float] | None  # the same in seconds
    # true_alerts, false_alerts: rises to the level or above by events of bad and of good sessions
    true_alerts: int
    false_alerts: int


class StoppedSessions(msgspec.Struct, frozen=True):
    """Sessions with calls that would have needed a person's approval."""

    bad: int  # bad sessions with an evaluated call
    stopped: int  # of those, a call up to the first bad one was challenged: before harm was done
    good: int  # good sessions with an evaluated call
    challenged: int  # of those, one was challenged


class LabelEvaluation(msgspec.Struct, frozen=True):
    """Scores of one model against labels."""

    labelled: int  # events that have a label
    without_label: int  # events that have none
    without_event: int  # labels of which no event was scored
    by_event: ScoreSeparation  # by anomaly score of the single event
    by_session: ScoreSeparation  # by the largest anomaly score of the session
    levels: list[LevelDetection]  # medium, high, critical
    delays_seconds: list[float]  # of all sessions detected at medium, ascending, for a chart
    calls: StoppedSessions | None  # sessions stopped by challenges; None = no call was evaluated


class _LabelledRows(msgspec.Struct):
    """Labeled rows as arrays. *session*, int64 (n,), numbers sessions; *bad_sessions* is bool (s,)."""

    rows: npt.NDArray[Any]
    bad: Flags
    session: Ints
    bad_sessions: Flags


def evaluate_labels(rows: npt.NDArray[Any], labels: EventLabels) -> LabelEvaluation:
    """Evaluate rows of dtype `EVENT_ROW`, in the order of the history, against labels."""
    labelled_rows = rows[rows["label"] >= 0]
    labelled = _labelled_rows(labelled_rows, labels)
    top = np.full(len(labelled.bad_sessions), -np.inf)
    np.maximum.at(top, labelled.session, labelled_rows["anomaly"])
    delays = [_detection_delays(labelled, level) for level in ALERTING_LEVELS]
    by_session, bands = measure_separation(labelled.bad_sessions, top), bootstrap_bands(labelled.bad_sessions, top)
    if bands is not None:  # only of sessions, because events of a session depend on each other
        grid = CURVE_GRID.tolist()
        by_session = msgspec.structs.replace(
            by_session,
            roc_auc_within=bands.area,
            average_precision_within=bands.average_precision,
            roc_band=list(zip(grid, *(bound.tolist() for bound in bands.recall), strict=True)),
            precision_band=list(zip(grid, *(bound.tolist() for bound in bands.precision), strict=True)),
        )
    return LabelEvaluation(
        len(labelled_rows),
        len(rows) - len(labelled_rows),
        len(labels.labels) - len(np.unique(labelled_rows["label"])),
        measure_separation(labelled.bad, labelled_rows["anomaly"]),
        by_session,
        [_detection(labelled, level, *detections) for level, detections in zip(ALERTING_LEVELS, delays, strict=True)],
        sorted(seconds for _, seconds in delays[0][0]),
        _stopped_sessions(labelled),
    )


def _labelled_rows(rows: npt.NDArray[Any], labels: EventLabels) -> _LabelledRows:
    numbers: dict[AgentIdentity, int] = {}
    session, bad = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
    bad_session: list[bool] = []
    for row, at in enumerate(rows["label"].tolist()):
        label = labels.labels[at]
        name = (label.tenant, label.agent_id, label.session or label.id)
        number = session[row] = numbers.setdefault(name, len(numbers))
        if number == len(bad_session):
            bad_session.append(False)
        bad[row] = label.event_label != 0
        bad_session[number] |= label.session_label != 0 or label.event_label != 0
    return _LabelledRows(rows, bad, session, np.array(bad_session, np.bool_))


def measure_separation(bad: Flags, scores: Floats) -> ScoreSeparation:
    """Compute figures and thinned curves of one score, both of shape (n,)."""
    curve: DetectionCurve | None = detection_curve(bad, scores)
    if curve is None:
        return ScoreSeparation(len(bad), int(bad.sum()))
    drawn = curve.thinned()
    return ScoreSeparation(
        len(bad),
        int(bad.sum()),
        curve.area,
        curve.average_precision,
        curve.recall_at(FALSE_POSITIVE_SHARES[0]),
        curve.recall_at(FALSE_POSITIVE_SHARES[1]),
        [(0.0, 0.0), *zip(drawn.false_positive_rate.tolist(), drawn.recall.tolist(), strict=True)],
        list(zip(drawn.recall.tolist(), drawn.precision.tolist(), strict=True)),
    )


def _stopped_sessions(labelled: _LabelledRows) -> StoppedSessions | None:
    """Count challenges by session. If no event of a bad session is labeled, the session is bad from its start."""
    rows, number = labelled.rows, len(labelled.bad_sessions)
    if not (rows["asked"] != NOT_ASKED).any():
        return None
    at = np.arange(len(rows))
    first_bad, first_challenged = np.full(number, len(rows)), np.full(number, len(rows))
    np.minimum.at(first_bad, labelled.session[labelled.bad], at[labelled.bad])
    np.minimum.at(first_challenged, labelled.session[rows["challenged"]], at[rows["challenged"]])
    unnamed = labelled.bad_sessions & (first_bad == len(rows))
    np.minimum.at(first_bad, labelled.session[unnamed[labelled.session]], at[unnamed[labelled.session]])
    asked = np.zeros(number, np.bool_)
    asked[labelled.session[rows["asked"] != NOT_ASKED]] = True
    bad, good = asked & labelled.bad_sessions, asked & ~labelled.bad_sessions
    was_challenged = first_challenged < len(rows)
    stopped = bad & was_challenged & (first_challenged <= first_bad)
    return StoppedSessions(int(bad.sum()), int(stopped.sum()), int(good.sum()), int((good & was_challenged).sum()))


def _detection_delays(labelled: _LabelledRows, level: RiskLevel) -> tuple[list[tuple[int, float]], int]:
    """Return (events, seconds) for each bad session that reached the level, and the number that were at it before."""
    order = np.argsort(labelled.session, kind="stable")
    starts = np.searchsorted(labelled.session[order], np.arange(len(labelled.bad_sessions) + 1))
    delays: list[tuple[int, float]] = []
    already = 0
    for number in np.flatnonzero(labelled.bad_sessions).tolist():
        at = order[starts[number] : starts[number + 1]]
        bad = np.flatnonzero(labelled.bad[at])
        at = at[bad[0] if len(bad) else 0 :]  # if no event is named, the session is bad from its start
        rows = labelled.rows[at]
        if rows["rested"][0] >= level:
            already += 1
            continue
        reached = np.flatnonzero(rows["level"] >= level)
        if len(reached):
            waited = rows["time_ms"][reached[0]] - rows["time_ms"][0]
            delays.append((int(reached[0]), max(float(waited) / 1000.0, 0.0)))
    return delays, already


def _detection(
    labelled: _LabelledRows, level: RiskLevel, delays: list[tuple[int, float]], already: int
) -> LevelDetection:
    rose = (labelled.rows["rested"] < level) & (labelled.rows["level"] >= level)
    true = int((rose & labelled.bad_sessions[labelled.session]).sum())
    return LevelDetection(
        level.label,
        int(labelled.bad_sessions.sum()),
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

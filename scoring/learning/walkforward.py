"""Walk-forward calibration: the history's end is scored by a model that learned from what came before it.

Cross-fitting holds agents out, so its calibration is that of strangers (`trustwatch.models.model_training`). An agent
that the history shows is calmer, since its own past is part of what is normal, and by a stranger's calibration nothing
that it does is ever very odd. So the live path itself runs over the end: scored before learned, suspicion and all.
The scores of agents that were well known before become the calibration of familiar agents, and the highest evidence of
each of their days the tail that thresholds are read from. Both hold whatever honest change the end brought.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...ingest import columns as event_columns
from ...ingest.columns import EventColumns
from ...ingest.events import decode_event
from ...ingest.features.baseline import empty_baseline, fit_baseline
from ...ingest.features.feature_builder import FeatureBuilder
from ...ingest.features.feature_table import ADDED_FEATURES
from ...ingest.timestamps import DAY_MS, WEEK_MS
from ...models.betting import AlarmTail, fit_tail_of_maxima
from ...models.calibration import FLEET_GROUP, Calibration, ScoresBeforeAdding
from ...models.concerns import CONCERNS, ByConcern, calibrated, fit_calibrations
from ...models.detector import FAMILIAR_EVENTS, DetectorSettings, ForestDetector
from ...models.model_training import TrainingProgress, agent_event_numbers, agent_seeds, train_with_held_out
from ...models.trained_model import AgentSeeds, TrainedModel
from ..engine import risk, usual_oddness
from ..engine.engine import Engine, EngineSettings
from ..engine.hard_signals import hard_signal_codes
from ..engine.settings import RiskEvaluationSettings

MIN_VALIDATION_EVENTS = 200
"""Events of familiar agents in the judged part that walking forward needs: p-values could not go below 0.5 %."""

CALIBRATION_RUNS = 2
"""Two runs: the first judges oddness by the calibration of strangers, the second by that of the first run."""

MIN_AGENTS_OF_GROUP = 4
"""Agents from which a peer group says what a newcomer of it is like; a newcomer of a smaller one is compared with those
of the fleet. Agents are what is exchangeable here, not events."""

_BATCH = 4096
_ADDED = np.array(ADDED_FEATURES)
_PLACEHOLDER_EVENT = decode_event(
    b'{"type":"tool.call","time":"2000-01-01T00:00:00Z","action":"-","outcome":"success","tenant":"-",'
    b'"agent":{"id":"-","issuer":"-","type":"-"}}'
)


class WalkForwardResult(NamedTuple):
    """A model, and how honest events were judged that it had not seen.

    Attributes:
        model: what was learned of the whole history.
        validation_events: those events, m of them, in order.
        p_values: float64 (m, 3), of each by concern.
        familiar: bool (m,), those of agents that were well known before.
    """

    model: TrainedModel
    validation_events: EventColumns
    p_values: npt.NDArray[np.float64]
    familiar: npt.NDArray[np.bool_]


class _LivePathScores(NamedTuple):
    """Scores of n events on the live path."""

    anomaly: npt.NDArray[np.float64]  # of what was judged: names that had counted are left aside
    concerns: npt.NDArray[np.float64]  # (n, 3): the same by concern
    statistics: npt.NDArray[np.float64]  # (n, 3)
    addable: npt.NDArray[np.bool_]  # those to which evidence can be added


def train_walk_forward(
    columns: EventColumns,
    salt: bytes,
    version: str,
    settings: DetectorSettings | None = None,
    progress: TrainingProgress = lambda *_: None,
) -> WalkForwardResult:
    """Learn a model and calibrate it by walking forward; see `train_with_held_out` for arguments and errors.

    A history whose end shows too little of agents that were well known before is not rehearsed: all agents are then
    judged as strangers are.
    """
    model, held_out = train_with_held_out(columns, salt, version, settings, progress)
    taught = np.flatnonzero(
        (columns.codes[:, event_columns.SELF_ASSERTED] == 0) & (columns.codes[:, event_columns.OWN_DENIAL] == 0)
    )
    taught = taught[np.argsort(columns.time_ms[taught], kind="stable")]  # files may come one agent after the other
    split = validation_start(columns.time_ms[taught])
    before, after = columns.take(taught[:split]), columns.take(taught[split:])
    familiar = np.isin(after.names[:, event_columns.AGENT], _familiar_agents(before))
    detector = model.detector
    if int(familiar.sum()) < MIN_VALIDATION_EVENTS or not isinstance(detector, ForestDetector):
        return WalkForwardResult(model, columns, held_out.concerns.p_value, np.zeros(len(columns), np.bool_))
    growth = len(taught) / split
    first = _model_before(model, before, growth)
    groups = after.names[:, event_columns.GROUP].copy()
    for run in range(CALIBRATION_RUNS):
        progress(f"rehearsing ({run + 1} of {CALIBRATION_RUNS})", run, 2 * CALIBRATION_RUNS)
        lived = _run_live_path(dataclasses.replace(first, detector=detector), after)
        detector = _calibrated_for_familiar(detector, lived, familiar, groups)
    newcomers = _models_before_meeting(model, before, after, growth)
    unmet = None
    for run in range(CALIBRATION_RUNS if newcomers else 0):
        progress(
            f"rehearsing newcomers ({run + 1} of {CALIBRATION_RUNS})", CALIBRATION_RUNS + run, 2 * CALIBRATION_RUNS
        )
        unmet = _run_as_newcomers(newcomers, detector, after)
        detector = _calibrated_for_newcomers(detector, unmet, _groups_of_several(after))
    p_values = calibrated(detector.by_concern, list(lived.concerns.T.copy()), groups, familiar, lived.addable)
    alarms = _alarm_tails(lived.statistics[familiar], after.take(np.flatnonzero(familiar)), model.alarms)
    rehearsed = dataclasses.replace(
        model,
        seeds=_seeds_with_oddness(model.seeds, after, p_values),
        detector=detector,
        alarms=alarms,
        newcomer_alarms=alarms if unmet is None else _alarm_tails(unmet.statistics, after, alarms),
    )
    progress("done", 2 * CALIBRATION_RUNS, 2 * CALIBRATION_RUNS)
    return WalkForwardResult(rehearsed, after, p_values, familiar)


def _calibrated_for_familiar(
    detector: ForestDetector, lived: _LivePathScores, familiar: npt.NDArray[np.bool_], groups: npt.NDArray[np.uint64]
) -> ForestDetector:
    """The detector, with what familiar agents were like on the live path as their calibration."""
    minimum = detector.settings.group_minimum
    concerns = fit_calibrations(list(lived.concerns[familiar].T.copy()), groups[familiar], minimum)
    return dataclasses.replace(
        detector,
        familiar=Calibration.fit(lived.anomaly[familiar], groups[familiar], minimum),
        by_concern=detector.by_concern._replace(familiar=concerns),
    )


def _calibrated_for_newcomers(
    detector: ForestDetector, lived: _LivePathScores, groups: npt.NDArray[np.uint64]
) -> ForestDetector:
    """The detector, with what agents were like in their first days on the live path as the calibration of strangers."""
    minimum = detector.settings.group_minimum
    concerns = list(lived.concerns.T.copy())
    return dataclasses.replace(
        detector,
        calibration=Calibration.fit(lived.anomaly, groups, minimum, ScoresBeforeAdding(lived.anomaly, lived.addable)),
        by_concern=detector.by_concern._replace(
            calibrations=fit_calibrations(concerns, groups, minimum, ScoresBeforeAdding(concerns[0], lived.addable))
        ),
    )


def _alarm_tails(
    statistics: npt.NDArray[np.float64], columns: EventColumns, otherwise: ByConcern[AlarmTail]
) -> ByConcern[AlarmTail]:
    """Tails of the highest statistic (n, 3) of each agent and day; *otherwise* where there are too few of these."""
    tails = [fit_tail_of_maxima(_daily_maxima(column, columns)) for column in statistics.T]
    first, second, third = (tail if tail.usable else before for tail, before in zip(tails, otherwise, strict=True))
    return first, second, third


def walk_forward_events(model: TrainedModel) -> int:
    """Events of known agents that their calibration rests on; 0 = *model* has no such calibration."""
    detector = model.detector
    return (
        int(detector.familiar.sizes[0]) if isinstance(detector, ForestDetector) and len(detector.familiar.sizes) else 0
    )


def validation_start(time_ms: npt.NDArray[np.int64]) -> int:
    """Index at which the judged part begins in ascending times (n,).

    The more is known before it, the more it is like days to come: what is new is the odder the longer the history. It
    must also have every day of the week. So it is the last week, or eighth where that is longer, and half of a history
    that is shorter than two weeks.
    """
    if not len(time_ms) or time_ms[-1] - time_ms[0] < 2 * WEEK_MS:
        return len(time_ms) // 2
    judged_ms = max(WEEK_MS, int(time_ms[-1] - time_ms[0]) // 8)
    return int(np.searchsorted(time_ms, time_ms[-1] - judged_ms))


def _familiar_agents(before: EventColumns) -> npt.NDArray[np.uint64]:
    """Agents of which *before* shows enough that they are no strangers."""
    agents, events = np.unique(before.names[:, event_columns.AGENT], return_counts=True)
    return np.asarray(agents[events >= FAMILIAR_EVENTS])


def _model_before(model: TrainedModel, before: EventColumns, growth: float) -> TrainedModel:
    """The model as it would be with *before* alone as its history, had it been *growth* times as long."""
    agents = max(1, len(np.unique(before.names[:, event_columns.AGENT])))
    _, observations = FeatureBuilder(empty_baseline(), agents).observe_and_learn(before)
    baseline = fit_baseline(before, observations, np.ones(len(before), np.bool_))
    totals = baseline.totals.copy()
    totals[:, :, 0] *= np.float32(growth)
    baseline = baseline._replace(counts=baseline.counts * np.float32(growth), totals=totals)
    builder = FeatureBuilder(baseline, agents)
    builder.observe_and_learn(before)
    return dataclasses.replace(model, baseline=baseline, seeds=agent_seeds(builder, before))


def _seeds_with_oddness(seeds: AgentSeeds, columns: EventColumns, p_values: npt.NDArray[np.float64]) -> AgentSeeds:
    """The seeds, with how odd each agent was in *columns*, whose events had p-values (n, 3)."""
    place = np.searchsorted(seeds.keys, columns.names[:, event_columns.AGENT])
    odd, events = usual_oddness.count_by_agent(place, p_values, len(seeds.keys))
    return dataclasses.replace(seeds, odd=odd, rehearsed=events)


def _groups_of_several(columns: EventColumns) -> npt.NDArray[np.uint64]:
    """Peer group of each event (n,), the fleet where too few agents stand for what a newcomer of the group is like."""
    groups = columns.names[:, event_columns.GROUP]
    agents = np.unique(np.stack([groups, columns.names[:, event_columns.AGENT]]), axis=1)
    ids, counts = np.unique(agents[0], return_counts=True)
    return np.where(np.isin(groups, ids[counts >= MIN_AGENTS_OF_GROUP]), groups, FLEET_GROUP)


def _models_before_meeting(
    model: TrainedModel, before: EventColumns, after: EventColumns, growth: float
) -> list[tuple[TrainedModel, npt.NDArray[np.int64]]]:
    """Models that have not met one half of the agents, each with that half's rows of *after*; none of one agent.

    Agents of a peer group are dealt out in turns, so that a newcomer has peers wherever it would have them.
    """
    agents = np.concatenate([before.names[:, event_columns.AGENT], after.names[:, event_columns.AGENT]])
    groups = np.concatenate([before.names[:, event_columns.GROUP], after.names[:, event_columns.GROUP]])
    ids, first = np.unique(agents, return_index=True)
    order = np.argsort(first)
    halves = np.empty(len(ids), np.int64)
    halves[order] = agent_event_numbers(groups[first[order]]) % 2
    half_of = halves[np.searchsorted(ids, agents)]
    models = []
    for half in (0, 1):
        met = before.take(np.flatnonzero(half_of[: len(before)] != half))
        rows = np.flatnonzero(half_of[len(before) :] == half)
        if not len(met):
            return []
        if len(rows):
            models.append((_model_before(model, met, growth * len(before) / len(met)), rows))
    return models


def _run_as_newcomers(
    models: Sequence[tuple[TrainedModel, npt.NDArray[np.int64]]], detector: ForestDetector, columns: EventColumns
) -> _LivePathScores:
    """The live path over *columns*, each row on the model that has not met its agent."""
    shape = len(columns), len(CONCERNS)
    out = _LivePathScores(np.empty(len(columns)), np.empty(shape), np.empty(shape), np.zeros(len(columns), np.bool_))
    for model, rows in models:
        lived = _run_live_path(dataclasses.replace(model, detector=detector), columns.take(rows))
        for whole, part in zip(out, lived, strict=True):
            whole[rows] = part
    return out


def _run_live_path(model: TrainedModel, columns: EventColumns) -> _LivePathScores:
    """The live path over *columns*, which go on where the model's history ends."""
    agents = max(2, len(np.unique(columns.names[:, event_columns.AGENT])))
    # Behaviour alone: hard signals come on top, and an operator may have switched them off. Nothing needs the events
    # themselves here, and a history that is kept for training has none.
    settings = EngineSettings(RiskEvaluationSettings(disabled_signals=hard_signal_codes()), capacity=agents)
    engine = Engine(model, settings, None)
    stubs = [_PLACEHOLDER_EVENT] * len(columns)
    columns = EventColumns(stubs, *columns[1:])
    shape = len(columns), len(CONCERNS)
    addable = np.zeros(len(columns), np.bool_)
    lived = _LivePathScores(np.empty(len(columns)), np.empty(shape), np.empty(shape), addable)
    for start in range(0, len(columns), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(columns)))
        scored = engine.score(columns.take(rows))
        lived.anomaly[rows], lived.concerns[rows] = scored.effective_anomaly, scored.effective_concerns
        lived.statistics[rows] = scored.concern_risk[:, :, risk.CONCERN_STATISTIC]
        addable[rows] = (scored.vectors[:, _ADDED] > 0.0).any(axis=1)
    return lived


def _daily_maxima(statistic: npt.NDArray[np.float64], columns: EventColumns) -> npt.NDArray[np.float64]:
    """Highest statistic of each agent on each day, at least 0."""
    days = np.stack([columns.names[:, event_columns.AGENT], (columns.time_ms // DAY_MS).astype(np.uint64)])
    _, day = np.unique(days, axis=1, return_inverse=True)
    highest = np.zeros(int(day.max(initial=-1)) + 1)
    np.maximum.at(highest, day.ravel(), statistic)
    return highest

"""Walk-forward calibration: the history's end is scored by a model that learned from what came before it.

Cross-fitting holds agents out, so its calibration is that of strangers (`trustwatch.models.model_training`). An agent
in the history is more normal, since its own past is part of what is normal, and by a stranger's calibration none of its
actions is ever very anomalous. So the live path itself runs over the end: scored before learned, suspicion and all. The
scores of agents that were well known before become the calibration of familiar agents, and the highest evidence of each
of their days the tail that thresholds are read from. Both hold whatever honest change the end brought.

The calls of the end are also evaluated by a model of what came before. The model answers as it is: what
changed since its training (a key, a host, a person) is as new to the hundredth call as to the first, while events are
learned from. Calls that are held out at random do not show that, so the challenge budget is kept for both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.baseline import empty_baseline, fit_baseline, with_fewer_names
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import ADDED_FEATURES, FEATURE_COUNT
from trustwatch.ingest.features.layout import Baseline
from trustwatch.ingest.features.row_observations import allocate_observations
from trustwatch.ingest.hashing import NameHasher
from trustwatch.ingest.identities import AgentHash
from trustwatch.ingest.timestamps import DAY_MS, WEEK_MS
from trustwatch.models.betting import fit_tail_of_maxima
from trustwatch.models.calibration import Calibration
from trustwatch.models.call_challenges import (
    EVERY_EFFECT,
    BoundedCalls,
    HeldOutCalls,
    bounded_by_tenant,
    call_rows,
    has_neighbours,
    held_out_by_effect,
    score_asked,
)
from trustwatch.models.concerns import CONCERNS, calibrated, fit_calibrations
from trustwatch.models.detector import FAMILIAR_EVENTS, DetectorSettings
from trustwatch.models.input_checks import Flags, Floats, Ids, Ints
from trustwatch.models.model_training import TrainingProgress, agent_seeds, learnable_events, train_with_held_out
from trustwatch.models.trained_model import TrainedModel

from ..engine import risk, usual_anomalies
from ..engine.engine import Engine, EngineSettings
from ..engine.hard_signals import COUNTS
from ..engine.usual_anomalies import USUAL

MIN_VALIDATED_CALLS = 200
"""Number of calls that a validation needs; with fewer it would show less than the held-out ones."""

HALF, ASKED_FROM = 0.5, 0.75
"""Parts of a history: its last quarter is evaluated with the first half, and with all that came before. Of the
four weeks that a model learns from the last quarter is a week; a day would show little of what a week brings."""

_GROWTH = math.log(1.0 / ASKED_FROM) / math.log(ASKED_FROM / HALF)
"""From three quarters of a history to all of it a logarithm grows so much, against from the half to three quarters."""


class ValidatedScores(NamedTuple):
    """Scores of the n calls at the end of a history."""

    scores: Floats  # (n,), see `validate_calls`
    agent: Ids  # (n,), keys
    effect: NDArray[np.int8]  # (n,), codes
    tenants: int  # how many the history is of
    days: float  # from its first event to its last


class ValidatedCalls(NamedTuple):
    """Scores of the calls at the end of a history, by effect, and as they count for each tenant. Empty if there are few
    calls, or if the model evaluates none. *scores* has one per call, or is None."""

    by_effect: dict[str, HeldOutCalls]
    bounded: BoundedCalls
    scores: ValidatedScores | None = None


_NOT_VALIDATED = ValidatedCalls({}, {})


def validate_calls(model_of: Callable[[EventColumns], TrainedModel], history: EventColumns) -> ValidatedCalls:
    """Score the calls at the end of a history, by effect, as a model of all of it would evaluate them.

    What is new is more anomalous the longer the history, about as its logarithm: a new key is more anomalous to the
    model of all than to that of three quarters. How much follows from the difference between the latter and that of the
    half; what became known meanwhile stays as it is.
    """
    half, split = int(HALF * len(history)), int(ASKED_FROM * len(history))
    after = history.take(np.arange(split, len(history)))
    if not half or not len(after):
        return _NOT_VALIDATED
    earlier, later = (asked_scores(model_of(history.take(np.arange(end))), after) for end in (half, split))
    grown = np.minimum(1.0, later + _GROWTH * np.maximum(0.0, later - earlier))
    by_effect = held_out_by_effect(after, grown)
    if by_effect[EVERY_EFFECT].calls < MIN_VALIDATED_CALLS:
        return _NOT_VALIDATED
    bounded = bounded_by_tenant(after, grown) if has_neighbours(history) else {}
    rows, days = call_rows(after), float(after.time_ms[-1] - after.time_ms[0]) / DAY_MS
    agent, effect = after.names[rows, event_columns.AGENT], after.codes[rows, event_columns.EFFECT]
    tenants = len(np.unique(history.names[:, event_columns.TENANT]))
    return ValidatedCalls(by_effect, bounded, ValidatedScores(grown[rows], agent, effect, tenants, days))


def asked_scores(before: TrainedModel, after: EventColumns) -> Floats:
    """Return the scores (n,) that *before* gives to the events *after* as calls, without learning from them.

    Args:
        before: with challenges.
        after: n events that follow what it knows, in order.
    """
    challenges, detector = before.challenges, before.detector
    assert challenges is not None
    vectors, observations = np.zeros((len(after), FEATURE_COUNT)), allocate_observations(len(after), after.arguments)
    agents, first = np.unique(after.names[:, event_columns.AGENT], return_index=True)
    checks = after.names[first, event_columns.AGENT_CHECK]
    builder = FeatureBuilder(before.baseline, max(1, len(agents)))
    slots = builder.admit(agents)
    at = before.seeds.find([AgentHash(int(key), int(check)) for key, check in zip(agents, checks, strict=True)])
    builder.unpack(slots[at >= 0], before.seeds.rows[at[at >= 0]])
    slots = builder.slots.find(after.names[:, event_columns.AGENT])
    builder.observe(after, slots, np.arange(len(after)), vectors, observations)
    return score_asked(detector, challenges.foreign, before.baseline, after, vectors, observations).anomaly


MIN_VALIDATION_EVENTS = 200
"""Events of familiar agents in the judged part that walking forward needs: p-values could not go below 0.5 %."""

CALIBRATION_RUNS = 2
"""Two runs: the first judges anomalies by the calibration of strangers, the second by that of the first run."""

_BATCH = 4096
_ADDED = np.array(ADDED_FEATURES)
_PLACEHOLDER_EVENT = decode_event(
    b'{"type":"tool.call","time":"2000-01-01T00:00:00Z","action":"-","outcome":"success","tenant":"-",'
    b'"agent":{"id":"-","issuer":"-","type":"-"}}'
)


class WalkForwardResult(NamedTuple):
    """A model, and how it scored honest events that it had not seen."""

    model: TrainedModel  # what was learned of the whole history
    validation_events: EventColumns  # those events, m of them, in order
    p_values: Floats  # float64 (m, 3), of each by concern
    habits: npt.NDArray[np.int8]  # int8 (m,), what each is to the habits of its agent, see `usual_anomalies`
    # float64 (m, COUNTS), evidence of hard signals (`hard_signals`), natural log, with all of them on
    signals: Floats
    calls: ValidatedScores | None = None  # of the history's end, asked about; None = too few


class _LivePathScores(NamedTuple):
    """Scores of n events on the live path."""

    anomaly: Floats  # of what was judged: names that had counted are left aside
    concerns: Floats  # (n, 3): the same by concern
    statistics: Floats  # (n, 3)
    addable: Flags  # those to which evidence can be added
    habits: npt.NDArray[np.int8]  # see `WalkForwardResult`
    signals: Floats  # likewise


def train_walk_forward(
    columns: EventColumns,
    salt: bytes,
    version: str,
    settings: DetectorSettings | None = None,
    progress: TrainingProgress = lambda *_: None,
    sensitive_types: Sequence[str] = (),
) -> WalkForwardResult:
    """Train a model and calibrate it by walking forward; see `train_with_held_out` for arguments and errors.

    If a history's end shows too little of agents that were well known before, it is not validated: all agents are then
    judged as strangers.
    """
    model, held_out = train_with_held_out(columns, salt, version, settings, progress, sensitive_types)
    taught = np.flatnonzero(learnable_events(columns))
    taught = taught[np.argsort(columns.time_ms[taught], kind="stable")]  # files may come one agent after the other
    split = validation_start(columns.time_ms[taught])
    before, after = columns.take(taught[:split]), columns.take(taught[split:])
    agents, events = np.unique(before.names[:, event_columns.AGENT], return_counts=True)
    familiar = np.isin(after.names[:, event_columns.AGENT], agents[events >= FAMILIAR_EVENTS])
    detector = model.detector
    calls = None
    if model.challenges is not None:  # call thresholds have to hold for the end of the history, too
        validated, bounded, calls = validate_calls(partial(_model_of, model), columns.take(taught))
        challenges = msgspec.structs.replace(model.challenges, rehearsed=validated, bounded_rehearsed=bounded)
        model = dataclasses.replace(model, challenges=challenges)
    if int(familiar.sum()) < MIN_VALIDATION_EVENTS:
        nothing = np.full(len(columns), USUAL, np.int8), np.zeros((len(columns), COUNTS))
        return WalkForwardResult(model, columns, held_out.concerns.p_value, *nothing, calls)
    earlier = _model_of(model, before, as_anomalous=True)
    groups = after.names[:, event_columns.GROUP].copy()
    for run in range(CALIBRATION_RUNS):
        progress(f"validating ({run + 1} of {CALIBRATION_RUNS})", run, CALIBRATION_RUNS)
        lived = _run_live_path(dataclasses.replace(earlier, detector=detector), after)
        minimum = detector.settings.group_minimum
        by_concern = detector.by_concern._replace(
            familiar=fit_calibrations(list(lived.concerns[familiar].T.copy()), groups[familiar], minimum)
        )
        calibration = Calibration.fit(lived.anomaly[familiar], groups[familiar], minimum)
        detector = dataclasses.replace(detector, familiar=calibration, by_concern=by_concern)
    p_values = calibrated(detector.by_concern, list(lived.concerns.T.copy()), groups, familiar, lived.addable)
    familiar_events = after.take(np.flatnonzero(familiar))
    tails = [fit_tail_of_maxima(_daily_maxima(column, familiar_events)) for column in lived.statistics[familiar].T]
    first, second, third = (
        tail._replace(rehearsed=True) if tail.usable else before
        for tail, before in zip(tails, model.alarms, strict=True)
    )
    usual, seeds = lived.habits == USUAL, model.seeds
    agent_of = np.searchsorted(seeds.keys, after.names[usual, event_columns.AGENT])
    odd, numbers = usual_anomalies.count_by_agent(agent_of, p_values[usual], len(seeds.keys))
    seeds = dataclasses.replace(seeds, odd=odd, rehearsed=numbers)
    model = dataclasses.replace(model, seeds=seeds, detector=detector, alarms=(first, second, third))
    progress("done", CALIBRATION_RUNS, CALIBRATION_RUNS)
    return WalkForwardResult(model, after, p_values, lived.habits, lived.signals, calls)


def walk_forward_events(model: TrainedModel) -> int:
    """Return the number of events of known agents behind the calibration; 0 if *model* has no such calibration."""
    sizes = model.detector.familiar.sizes
    return int(sizes[0]) if len(sizes) else 0


def validation_start(time_ms: Ints) -> int:
    """Return the index at which the judged part begins in ascending times (n,).

    The more is known before it, the more it is like days to come: new items are more anomalous the longer the history.
    It must also have every day of the week. So it is the last week, or eighth if that is longer, and half of a history
    that is shorter than two weeks.
    """
    if not len(time_ms) or time_ms[-1] - time_ms[0] < 2 * WEEK_MS:
        return len(time_ms) // 2
    judged_ms = max(WEEK_MS, int(time_ms[-1] - time_ms[0]) // 8)
    return int(np.searchsorted(time_ms, time_ms[-1] - judged_ms))


def _model_of(model: TrainedModel, history: EventColumns, *, as_anomalous: bool = False) -> TrainedModel:
    """Return the model that *history* alone would give. *as_anomalous*: unused names are as anomalous as with the whole
    history."""
    agents = max(1, len(np.unique(history.names[:, event_columns.AGENT])))
    types = NameHasher(model.salt).hash_many(model.sensitive_types)
    _, observations = FeatureBuilder(empty_baseline(types), agents).observe_and_learn(history)
    baseline = fit_baseline(history, observations, np.ones(len(history), np.bool_), types)
    if as_anomalous:
        factor = _items_by_name(model.baseline) / _items_by_name(baseline)
        baseline = with_fewer_names(baseline, history, observations, max(factor, 1.0))
    builder = FeatureBuilder(baseline, agents)
    builder.observe_and_learn(history)
    return dataclasses.replace(model, baseline=baseline, seeds=agent_seeds(builder, history))


def _items_by_name(baseline: Baseline) -> float:
    """Return the items that each different name of a baseline represents.

    The longer a history, the more anomalous an unused name. Compared with a shorter one, all such events would be more
    normal than future ones, which would then be more anomalous than any seen before.
    """
    items, names = baseline.totals[:, : layout.SINGLE_KINDS].sum(axis=(0, 1), dtype=np.float64).tolist()
    return float(items / max(names, 1.0))


def _run_live_path(model: TrainedModel, columns: EventColumns) -> _LivePathScores:
    """Run the live path over *columns*, which follow the model's history."""
    agents = max(2, len(np.unique(columns.names[:, event_columns.AGENT])))
    # Hard signals are inside the budget. Nothing needs the events themselves here, and a history that is kept for
    # training has none.
    engine = Engine(model, EngineSettings(capacity=agents), None)
    stubs = [_PLACEHOLDER_EVENT] * len(columns)
    columns = EventColumns(stubs, *columns[1:])
    shape = len(columns), len(CONCERNS)
    addable, habits = np.zeros(len(columns), np.bool_), np.full(len(columns), USUAL, np.int8)
    signals = np.zeros((len(columns), COUNTS))
    lived = _LivePathScores(np.empty(len(columns)), np.empty(shape), np.empty(shape), addable, habits, signals)
    for start in range(0, len(columns), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(columns)))
        scored = engine.score(columns.take(rows))
        lived.anomaly[rows], lived.concerns[rows] = scored.effective_anomaly, scored.effective_concerns
        lived.statistics[rows] = scored.concern_risk[:, :, risk.CONCERN_STATISTIC]
        addable[rows], habits[rows] = (scored.vectors[:, _ADDED] > 0.0).any(axis=1), scored.habits
        signals[rows] = scored.signals
    return lived


def _daily_maxima(statistic: Floats, columns: EventColumns) -> Floats:
    """Return the highest statistic of each agent on each day, at least 0."""
    days = np.stack([columns.names[:, event_columns.AGENT], (columns.time_ms // DAY_MS).astype(np.uint64)])
    _, day = np.unique(days, axis=1, return_inverse=True)
    highest = np.zeros(int(day.max(initial=-1)) + 1)
    np.maximum.at(highest, day.ravel(), statistic)
    return highest

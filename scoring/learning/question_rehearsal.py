"""Questions about calls, rehearsed: the calls of a history's end are asked of a model of what came before it.

A question is answered by the model as it is: what changed since its training (a key, a host, a person) is as new to the
hundredth call as to the first, while events are learned from. Calls that are held out at random show nothing of that:
the others of the same days are known. So the budget is kept for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import FEATURE_COUNT
from trustwatch.ingest.features.row_observations import allocate_observations
from trustwatch.ingest.identities import AgentHash
from trustwatch.ingest.timestamps import DAY_MS
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
from trustwatch.models.detector import ForestDetector
from trustwatch.models.trained_model import TrainedModel

LEAST_REHEARSED = 200
"""Calls that a rehearsal needs; of fewer it would say less than the held-out ones."""

HALF, ASKED_FROM = 0.5, 0.75
"""Parts of a history: what its last quarter is asked of, once as far as its half and once all that came before. Of the
four weeks that a model learns from the last quarter is a week; a day would show little of what a week brings."""

_GROWTH = math.log(1.0 / ASKED_FROM) / math.log(ASKED_FROM / HALF)
"""From three quarters of a history to all of it a logarithm grows so much, against from the half to three quarters."""


class RehearsedScores(NamedTuple):
    """The n calls of a history's end, asked about.

    Attributes:
        scores: (n,), as `rehearse_questions` says.
        agent: (n,), keys.
        effect: (n,), codes.
        tenants: how many the history is of.
        days: from its first event to its last.
    """

    scores: NDArray[np.float64]
    agent: NDArray[np.uint64]
    effect: NDArray[np.int8]
    tenants: int
    days: float


class RehearsedCalls(NamedTuple):
    """Scores of the calls of a history's end, by effect, and as they count for each tenant; empty where there are few
    calls, or the model answers no questions. *scores* are of each call; None where there is nothing."""

    by_effect: dict[str, HeldOutCalls]
    bounded: BoundedCalls
    scores: RehearsedScores | None = None


_NOT_REHEARSED = RehearsedCalls({}, {})


def rehearse_questions(model_of: Callable[[EventColumns], TrainedModel], history: EventColumns) -> RehearsedCalls:
    """Scores of the calls of a history's end, by effect, as a model of all of it would answer questions about them.

    What is new is the odder the longer the history, about as its logarithm: a new key is odder to the model of all than
    to that of three quarters. How much follows from how much odder it was to the latter than to that of the half; what
    became known meanwhile stays as it is.

    Args:
        model_of: gives the model with only some events as its history.
        history: in order.
    """
    half, split = int(HALF * len(history)), int(ASKED_FROM * len(history))
    after = history.take(np.arange(split, len(history)))
    if not half or not len(after):
        return _NOT_REHEARSED
    earlier, later = (asked_scores(model_of(history.take(np.arange(end))), after) for end in (half, split))
    grown = np.minimum(1.0, later + _GROWTH * np.maximum(0.0, later - earlier))
    by_effect = held_out_by_effect(after, grown)
    if by_effect[EVERY_EFFECT].calls < LEAST_REHEARSED:
        return _NOT_REHEARSED
    bounded = bounded_by_tenant(after, grown) if has_neighbours(history) else {}
    tenants = len(np.unique(history.names[:, event_columns.TENANT]))
    return RehearsedCalls(by_effect, bounded, _scores_of_calls(after, grown, tenants))


def _scores_of_calls(after: EventColumns, scores: NDArray[np.float64], tenants: int) -> RehearsedScores:
    """The calls among events with such scores."""
    rows, days = call_rows(after), float(after.time_ms[-1] - after.time_ms[0]) / DAY_MS
    agent, effect = after.names[rows, event_columns.AGENT], after.codes[rows, event_columns.EFFECT]
    return RehearsedScores(scores[rows], agent, effect, tenants, days)


def asked_scores(before: TrainedModel, after: EventColumns) -> NDArray[np.float64]:
    """Scores (n,) of events *after* as calls that *before* is asked about; nothing is learned of them.

    Args:
        before: with challenges.
        after: n events that follow what it knows, in order.
    """
    challenges, detector = before.challenges, before.detector
    assert challenges is not None and isinstance(detector, ForestDetector)
    vectors, observations = np.zeros((len(after), FEATURE_COUNT)), allocate_observations(len(after), after.arguments)
    builder = _known_agents(before, after)
    slots = builder.slots.find(after.names[:, event_columns.AGENT])
    builder.observe(after, slots, np.arange(len(after)), vectors, observations)
    return score_asked(detector, challenges.foreign, before.baseline, after, vectors, observations).anomaly


def _known_agents(before: TrainedModel, after: EventColumns) -> FeatureBuilder:
    """A builder with the agents of *after*, as far as *before* knows them."""
    agents, first = np.unique(after.names[:, event_columns.AGENT], return_index=True)
    checks = after.names[first, event_columns.AGENT_CHECK]
    builder = FeatureBuilder(before.baseline, max(1, len(agents)))
    slots = builder.admit(agents)
    names = [AgentHash(int(key), int(check)) for key, check in zip(agents, checks, strict=True)]
    at = before.seeds.find(names)
    builder.unpack(slots[at >= 0], before.seeds.rows[at[at >= 0]])
    return builder

"""Kernels of a round: the steps between observing events, assessing them, moving risk and learning.

A round is often a handful of rows, and then each call of NumPy costs more than its work: there were a hundred of them.
Each kernel here is one step of `engine.Engine.score`; `scored_batch.ScoredBatch` explains the numbers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.compilation import allocation_free
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_vector import F_NETWORK
from trustwatch.models.betting import LEARN_NOTHING, announced_part, learnable_part
from trustwatch.models.detector import FAMILIAR_EVENTS

from . import risk, risk_levels
from .evidence_dedup import (
    CALLER_FEATURES,
    CARRIER_MIN_EVIDENCE,
    CARRIER_MIN_SHARE,
    EVIDENCE_P_VALUE,
    FLOW_FEATURES,
    NEVER_USUAL_BITS,
    NEVER_USUAL_EVIDENCE,
    WHO_FEATURES,
)
from .hard_signals import OF_MEDIUM
from .usual_anomalies import NEVER_USUAL, NEWCOMER_EVENTS, NO_HABIT, USUAL

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SUSPICION_SHARE = 0.6
"""Part of the medium threshold from which a run of anomalous events is no longer learned; single ones are."""


class RoundInput(NamedTuple):
    """The detector's input for m rows of a round; see `ForestDetector.assess`."""

    X: Floats  # (m, F)
    groups: npt.NDArray[np.uint64]
    failed: Flags
    familiar: Flags
    raising: Floats

    @staticmethod
    def allocate(m: int, features: int) -> RoundInput:
        """Allocate room for *m* rows."""
        return RoundInput(
            np.empty((m, features)),
            np.empty(m, np.uint64),
            np.empty(m, np.bool_),
            np.empty(m, np.bool_),
            np.empty(m),
        )


class Measured(NamedTuple):
    """The columns of a batch that assessments of its n events are written into, named as in `ScoredBatch`, and the
    least p-value of each row, (n,), over all evidence and the concerns that move levels."""

    anomaly: Floats
    effective_anomaly: Floats
    p_values: Floats
    raw_p_values: Floats
    concern_anomaly: Floats  # (n, 3)
    effective_concerns: Floats  # (n, 3)
    raw_concern_p_values: Floats  # (n, 3)
    concern_p_values: Floats  # (n, 3)
    target_evidence: Floats
    effective_target_evidence: Floats
    least_p_values: Floats


@allocation_free
def remember_agents(
    rows: Rows,
    slots: npt.NDArray[np.int32],
    numbers: npt.NDArray[np.float32],
    known: npt.NDArray[np.uint8],
    agent_numbers: npt.NDArray[np.float32],
    known_items: npt.NDArray[np.uint8],
) -> None:
    """Copy the *numbers* and *known* counts of each row's agent, by slot, as they are when the row is judged."""
    for row in rows:
        slot = slots[row]
        for at in range(numbers.shape[1]):
            agent_numbers[row, at] = numbers[slot, at]
        for at in range(known.shape[1]):
            known_items[row, at] = known[slot, at]


@allocation_free
def gather_input(
    rows: Rows,
    vectors: Floats,
    names: npt.NDArray[np.uint64],
    codes: npt.NDArray[np.int8],
    agent_numbers: npt.NDArray[np.float32],
    told_targets: Flags,
    unnamed_evidence: float,
    out: RoundInput,
) -> None:
    """Gather the detector's input. *unnamed_evidence*, in decades, is that of a target which no person named."""
    for at in range(len(rows)):
        row = rows[at]
        for feature in range(vectors.shape[1]):
            out.X[at, feature] = vectors[row, feature]
        out.groups[at] = names[row, event_columns.GROUP]
        out.failed[at] = codes[row, event_columns.OUTCOME] != event_columns.SUCCESS
        out.familiar[at] = agent_numbers[row, layout.N_SHARED] >= FAMILIAR_EVENTS
        out.raising[at] = unnamed_evidence if told_targets[row] else 0.0


@allocation_free
def keep_scores(
    rows: Rows,
    anomaly: Floats,
    p_values: Floats,
    concern_anomaly: Floats,
    concern_p_values: Floats,
    raising: Floats,
    counted: npt.NDArray[np.int64],
    out: Measured,
) -> None:
    """Keep the scores of the single events, (m,) and by concern (m, 3), for both views of them.

    Args:
        counted: int64 (k,), numbers of the concerns that move levels.
    """
    for at in range(len(rows)):
        row = rows[at]
        out.anomaly[row] = out.effective_anomaly[row] = anomaly[at]
        out.p_values[row] = out.raw_p_values[row] = p_values[at]
        out.target_evidence[row] = out.effective_target_evidence[row] = raising[at]
        for concern in range(concern_anomaly.shape[1]):
            out.concern_anomaly[row, concern] = out.effective_concerns[row, concern] = concern_anomaly[at, concern]
            out.raw_concern_p_values[row, concern] = concern_p_values[at, concern]
            out.concern_p_values[row, concern] = concern_p_values[at, concern]
        _keep_least(row, counted, out)


@allocation_free
def _keep_least(row: int, counted: npt.NDArray[np.int64], out: Measured) -> None:
    """Keep the least p-value of a row."""
    least = out.p_values[row]
    for concern in counted:
        least = min(least, out.concern_p_values[row, concern])
    out.least_p_values[row] = least


@allocation_free
def doubt_new_networks(rows: Rows, new_network_p: Floats, out: Measured) -> None:
    """Treat events from a rare new network as anomalous when earlier counts are checked and events are learned."""
    for row in rows:
        if new_network_p[row] < 1.0:
            out.raw_p_values[row] = min(out.raw_p_values[row], new_network_p[row])
            out.least_p_values[row] = min(out.least_p_values[row], EVIDENCE_P_VALUE)


@allocation_free
def keep_new_networks(
    rows: Rows,
    places: Rows,
    masks: npt.NDArray[np.uint32],
    new_network_p: Floats,
    accepted_share: float,
    evidence: Floats,
    signals: Floats,
    least_p_values: Floats,
) -> None:
    """Write how far a new network raises towards *medium* into `hard_signals.OF_MEDIUM` of *signals*.

    That is the logarithm of the share of days on which the agent's history expects one, over that of the accepted share
    of days with an alert: a new network alone is *medium* if it is as rare as false alerts may be, and never more.

    Args:
        places, masks: of `evidence_dedup.find_counted`: the probability of a network that has counted becomes 1.
        new_network_p: (n,), see `RowObservations`.
        accepted_share: of agent-days, for *medium* and the concern that a new network indicates.
        evidence: (m, F), of each feature of *rows*: that of the network becomes the strongest, so that it counts once.
    """
    for at in range(len(places)):
        if masks[at] >> np.uint32(layout.K_NETWORK) & np.uint32(1):
            new_network_p[rows[places[at]]] = 1.0
    for at in range(len(rows)):
        row = rows[at]
        if new_network_p[row] < 1.0:
            signals[row, OF_MEDIUM] = min(math.log(new_network_p[row]) / math.log(accepted_share), 1.0)
            least_p_values[row] = min(least_p_values[row], EVIDENCE_P_VALUE)
            evidence[at, F_NETWORK] = max(evidence[at, F_NETWORK], CARRIER_MIN_EVIDENCE)
            for feature in range(evidence.shape[1]):
                evidence[at, F_NETWORK] = max(evidence[at, F_NETWORK], evidence[at, feature])


@allocation_free
def take_input(
    rows: Rows,
    places: Rows,
    masks: npt.NDArray[np.uint32],
    given: RoundInput,
    new_kinds: npt.NDArray[np.uint32],
    codes: npt.NDArray[np.int8],
    habits: npt.NDArray[np.int8],
    fresh: npt.NDArray[np.uint32],
    own_codes: npt.NDArray[np.int8],
    out: RoundInput,
) -> None:
    """Copy the input of the *places* in *rows* in which something has counted, to score them without it.

    Vectors are copied as they are, a target that has counted raises nothing, and habits are set.

    Args:
        masks: uint32 (k,), of `evidence_dedup.find_counted`.
        fresh, own_codes: written: uint32 (k,) of *new_kinds* and int8 (k, CODES) of *codes*.
    """
    for at in range(len(places)):
        place, mask = places[at], masks[at]
        row = rows[place]
        habits[row] = NO_HABIT if mask & NEVER_USUAL_BITS else USUAL
        for feature in range(given.X.shape[1]):
            out.X[at, feature] = given.X[place, feature]
        target_counted = mask >> np.uint32(layout.K_TARGET) & np.uint32(1)
        out.groups[at], out.failed[at], out.familiar[at] = (
            given.groups[place],
            given.failed[place],
            given.familiar[place],
        )
        out.raising[at] = 0.0 if target_counted else given.raising[place]
        fresh[at] = new_kinds[row]
        for column in range(codes.shape[1]):
            own_codes[at, column] = codes[row, column]


@allocation_free
def keep_suppressed(
    rows: Rows,
    places: Rows,
    anomaly: Floats,
    p_values: Floats,
    concern_anomaly: Floats,
    concern_p_values: Floats,
    raising: Floats,
    suppressed_evidence: Floats,
    evidence: Floats,
    counted: npt.NDArray[np.int64],
    out: Measured,
) -> None:
    """Keep the scores of the *places* in *rows* without what has counted.

    Fewer anomalies are never more anomalous, whatever the forest makes of the rare combination that is left.

    Args:
        suppressed_evidence: (k, F), which replaces their rows of *evidence* (m, F).
        counted: as for `keep_scores`.
    """
    for at in range(len(places)):
        row = rows[places[at]]
        out.effective_target_evidence[row] = raising[at]
        out.effective_anomaly[row] = min(anomaly[at], out.anomaly[row])
        out.p_values[row] = max(p_values[at], out.raw_p_values[row])
        for concern in range(concern_anomaly.shape[1]):
            out.effective_concerns[row, concern] = min(concern_anomaly[at, concern], out.concern_anomaly[row, concern])
            out.concern_p_values[row, concern] = max(
                concern_p_values[at, concern], out.raw_concern_p_values[row, concern]
            )
        for feature in range(evidence.shape[1]):
            evidence[places[at], feature] = suppressed_evidence[at, feature]
        _keep_least(row, counted, out)


@allocation_free
def _strongest(evidence: Floats, place: int, features: npt.NDArray[np.int64]) -> float:
    """Return the largest evidence of some *features* of a row."""
    strongest = 0.0
    for feature in features:
        strongest = max(strongest, evidence[place, feature])
    return strongest


@allocation_free
def mark_habits(
    rows: Rows,
    slots: npt.NDArray[np.int32],
    state: npt.NDArray[Any],
    least_p_values: Floats,
    codes: npt.NDArray[np.int8],
    evidence: Floats,
    asked: npt.NDArray[np.int64],
    habits: npt.NDArray[np.int8],
    caller_changed: Flags,
) -> None:
    """Mark events by which an agent's caller changed, and those that never become usual.

    A caller changed if a name that identifies the caller is one of those that carry the evidence of compromise of an
    authenticated event. An event never becomes usual if its caller, or the origin of its arguments, carries the
    evidence, or is as anomalous as `NEVER_USUAL_EVIDENCE` next to something more anomalous. For a newcomer every caller
    is new, which is not evidence.

    Args:
        state: risk rows by slot, before this round moves them.
        evidence: (m, F), of each feature, decades, without what has counted.
        asked: int64 (k,), features of compromise; none if that moves no level.
        habits, caller_changed: (n,), written.
    """
    for place in range(len(rows)):
        row = rows[place]
        least = max(CARRIER_MIN_EVIDENCE, CARRIER_MIN_SHARE * _strongest(evidence, place, asked))
        carried = _strongest(evidence, place, CALLER_FEATURES) >= least
        authenticated = codes[row, event_columns.SELF_ASSERTED] == 0
        caller_changed[row] = carried and authenticated and least_p_values[row] <= EVIDENCE_P_VALUE
        least = min(least, NEVER_USUAL_EVIDENCE)
        newcomer = state[slots[row]].events < NEWCOMER_EVENTS
        if newcomer:
            habits[row] = USUAL
        flows = _strongest(evidence, place, FLOW_FEATURES) >= least
        if flows or (not newcomer and _strongest(evidence, place, WHO_FEATURES) >= least):
            habits[row] = NEVER_USUAL


@allocation_free
def choose_learned(
    rows: Rows,
    names: npt.NDArray[np.uint64],
    codes: npt.NDArray[np.int8],
    time_ms: npt.NDArray[np.int64],
    by_concern: Floats,
    thresholds: Floats,
    threshold_rows: npt.NDArray[np.int64],
    levels: npt.NDArray[np.int8],
    raw_p_values: Floats,
    agent_numbers: npt.NDArray[np.float32],
    parts: npt.NDArray[np.uint8],
) -> None:
    """Choose the *parts* (m,) of each event to learn.

    Of what is self-asserted that is nothing, of a suspicious window an announced key alone.

    Args:
        by_concern: float64 (n, 3, CONCERN_OUTPUTS), of `risk.update`: suspicion after each row.
        thresholds: (g, 3, 3), of which *threshold_rows* (n,) says the first index; the last one is the level.
        levels: (n, 2), before and after each row.
    """
    for at in range(len(rows)):
        row, parts[at] = rows[at], LEARN_NOTHING
        if codes[row, event_columns.SELF_ASSERTED] != 0:
            continue
        quiet = levels[row, 1] < risk_levels.MEDIUM
        for concern in range(by_concern.shape[1]):
            limit = SUSPICION_SHARE * thresholds[threshold_rows[row], concern, 0]
            quiet &= not by_concern[row, concern, risk.SUSPICION] >= limit
        event_type = codes[row, event_columns.TYPE]
        if quiet:
            agent, taught = names[row, event_columns.AGENT_DRAW], agent_numbers[row, layout.N_EVENTS]
            parts[at] = learnable_part(agent, time_ms[row], event_type, taught, raw_p_values[row])
        else:
            parts[at] = announced_part(event_type)

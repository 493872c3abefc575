"""Consequences of features that count as usual: features made of others, and the agent's short-term state.

A first use is anomalous several times over: a target that is new to an agent is, by necessity, new together with its
action. If a rule names the one, the other is usual too, in such events alone. Composites (`write_surprise`,
`external_target`, the session's strangeness) are computed again from their parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.compilation import compiled
from trustwatch.ingest.features import feature_vector, layout
from trustwatch.ingest.features.evidence_beside_features import accept_new_networks
from trustwatch.ingest.features.feature_declaration import Compared
from trustwatch.ingest.features.feature_table import FEATURE_OF_KIND, FEATURES, ITEMS
from trustwatch.ingest.features.feature_vector import reset_reference
from trustwatch.ingest.features.layout import AgentState

Flags = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]

IMPLIED_FEATURES = {
    kind: implied
    for kind in ITEMS
    if (implied := [at for at, feature in enumerate(FEATURES) if kind in (*feature.new_with, *feature.restates)])
}
"""Features that are anomalous whenever the item of a kind is new to the agent."""
COMPARED_KINDS = {
    at: feature.restates for at, feature in enumerate(FEATURES) if isinstance(feature.explanation, Compared)
}
"""Features that compare with the model's history, to which an item stays new for as long as the model does."""
_MADE = np.array([at for at, feature in enumerate(FEATURES) if feature.parts], np.int64)


def spread_to_implied(named: Flags, fresh: npt.NDArray[Any]) -> Flags:
    """Extend the flags of features (m, F) to those that are anomalous because a flagged name is used for the first
    time."""
    wide = named.copy()
    for kind, implied in IMPLIED_FEATURES.items():
        new = ((fresh >> np.uint32(kind)) & np.uint32(1)).astype(np.bool_)
        first = named[:, FEATURE_OF_KIND[kind]] & new
        for feature in implied:
            wide[:, feature] |= first
    for feature, kinds in COMPARED_KINDS.items():
        for kind in kinds:
            wide[:, feature] |= named[:, FEATURE_OF_KIND[kind]]
    return wide


@compiled
def recompute_composites(after: Matrix, codes: npt.NDArray[np.int8]) -> None:
    """Recompute the composites of *after* (m, F) from its parts. None of them rises."""
    recomputed = after.copy()
    feature_vector.compose_rows(recomputed, codes)
    for row in range(len(after)):
        for feature in _MADE:
            after[row, feature] = min(after[row, feature], recomputed[row, feature])


def _session_strangeness(vectors: Matrix) -> Matrix:
    """Return what an event adds to the strangeness of its session."""
    total = vectors[:, feature_vector.F_TRANSITION] + np.maximum(
        vectors[:, feature_vector.F_TARGET], vectors[:, feature_vector.F_ACTION_TARGET]
    )
    total = (
        total
        + vectors[:, feature_vector.F_REPEAT]
        + feature_vector.OUTCOME_WEIGHT * vectors[:, feature_vector.F_OUTCOME]
        + vectors[:, feature_vector.F_PROVENANCE]
    )
    return np.asarray(total)


def retract_session_effects(
    before: Matrix,
    after: Matrix,
    named: Flags,
    sessions: npt.NDArray[np.uint64],
    slots: npt.NDArray[np.int32],
    fresh: npt.NDArray[Any],
    state: AgentState,
) -> None:
    """Remove what the events left in the agents' short-term state, and in the session's strangeness of *after*.

    Args:
        sessions: uint64 (m,), session of each event, 0 = none.
        slots: int32 (m,), all different.
    """
    excess = (1.0 - feature_vector.STRANGENESS_RETENTION) * (_session_strangeness(before) - _session_strangeness(after))
    session_ids = np.where(sessions == 0, np.uint64(1), sessions)
    session_index = np.argmax(state.session_id[slots] == session_ids[:, None], axis=1)
    strange = state.session_numbers[slots, session_index, layout.S_STRANGE]
    left = np.maximum(strange - excess.astype(np.float32), np.float32(0.0))
    state.session_numbers[slots, session_index, layout.S_STRANGE] = left
    after[:, feature_vector.F_STRANGE] = np.minimum(after[:, feature_vector.F_STRANGE], left.astype(np.float64))
    # A session that does what a person called usual has no evidence of another actor so far.
    likeness = state.session_numbers[slots, session_index, layout.S_LIKENESS]
    usual = np.where(named[:, feature_vector.F_HABITS], np.minimum(likeness, np.float32(0.0)), likeness)
    state.session_numbers[slots, session_index, layout.S_LIKENESS] = usual
    new = np.zeros(len(slots), np.float32)
    for kind in layout.NAMING:
        bit = ((fresh >> np.uint32(kind)) & np.uint32(1)).astype(np.bool_)
        new += (bit & named[:, FEATURE_OF_KIND[kind]]).astype(np.float32)
    novelty = state.numbers[slots, layout.N_NOVELTY]
    state.numbers[slots, layout.N_NOVELTY] = np.maximum(novelty - new, np.float32(0.0))


def reset_session_strangeness(state: AgentState, slot: int) -> None:
    """Reset the strangeness of an agent's sessions and its count of new names: their cause was not an attack."""
    state.session_numbers[slot, :, layout.S_STRANGE] = np.float32(0.0)
    state.numbers[slot, layout.N_NOVELTY] = np.float32(0.0)


def reset_decaying_state(state: AgentState, slot: int) -> None:
    """Reset everything that decays: pace, failures, volume and new names that an incident left behind. A person has
    confirmed the agent, so the last hours' events must not raise it again, nor the difference from its pace weeks ago.
    """
    reset_session_strangeness(state, slot)
    for column in (
        *range(layout.N_PACE, layout.N_PACE + len(layout.HALF_LIVES_S)),
        layout.N_FAILURES,
        layout.N_DENIALS,
        layout.N_VOLUME,
    ):
        state.numbers[slot, column] = np.float32(0.0)
    reset_reference(state.numbers[slot])
    accept_new_networks(state, slot)

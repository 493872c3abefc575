"""Kernel of `argument_origin`: whether a call acts on a value that others may have written and its task never used.

Others write what some answers hold (mail, pages, tickets). A session remembers which of its latest answers did; values
are remembered by task and peer group in the shared baseline, and by the agent in its own table.
"""

from __future__ import annotations

import numpy as np

from .. import columns
from ..compilation import inlined
from ..events import EFFECTS
from . import layout
from .frequency_tables import hash_pair, own_count, period_item, shared_count, value_item
from .layout import AgentState, Array, Baseline
from .row_observations import ACTED_ON, LOOKED_UP, NO_FOREIGN, RowObservations

_READ = EFFECTS.index("read")
NOTHING_KNOWN, KNOWN_VALUES, NEW_TO_PEERS, NEW_TO_TASK, NEW_TO_ALL = 0.0, 1.0, 1.5, 2.0, 3.0
"""Values of the feature: no origins are reported or no values are remembered; nothing stands out; a value of others
that is new to the peer group, if nothing is remembered of the task; one that is new for the declared task (for the peer
group, if none is declared); one that is new for the declared task and for all other tasks of the peer group."""


@inlined
def _may_be_foreign(untrusted: np.uint64, session: Array, source: np.int64) -> bool:
    """Returns whether others may have written the answer of an earlier call of a session.

    True for a call that is too old if any answer of the session was untrusted, and for every unseen call.
    """
    calls = np.int64(session[layout.S_CALLS])
    if source < 0:
        return False
    if source >= calls:
        return True
    if calls - source > layout.REMEMBERED_CALLS:
        return bool(np.int64(session[layout.S_ANSWERS]) & layout.ANY_UNTRUSTED)
    return bool((untrusted >> np.uint64(source % layout.REMEMBERED_CALLS)) & np.uint64(1))


@inlined
def acts(codes: Array) -> bool:
    """True for a call that may change something or leads outside; what it does need not be known."""
    return bool(codes[columns.EFFECT] != _READ or codes[columns.EXTERNAL] == columns.OUTSIDE)


@inlined
def write_values(
    observations: RowObservations, row: int, names: Array, codes: Array, untrusted: np.uint64, session: Array
) -> bool:
    """Write the items of an event's values; returns whether the call acts on one that others may have written."""
    first, end = observations.arguments.start[row], observations.arguments.start[row + 1]
    foreign = ACTED_ON if acts(codes) else LOOKED_UP
    learned = 0
    for argument in range(first, end):
        given = observations.arguments.values[argument]
        value = value_item(given) if given != 0 else np.uint64(0)
        by_others = _may_be_foreign(untrusted, session, np.int64(observations.arguments.sources[argument]))
        observations.values[argument] = value
        observations.is_foreign[argument] = foreign if by_others else NO_FOREIGN
        observations.own_values[argument] = np.uint64(0)
        if value != 0 and by_others and foreign == ACTED_ON and learned < layout.LEARNED_VALUES:
            observations.own_values[argument] = hash_pair(names[columns.TASK], value)
            learned += 1
    learns_foreign = learned > 0
    # A value that is only looked up is not learned, or the author of a mail would have its value looked up first.
    for argument in range(first, end):
        if observations.values[argument] == 0:
            continue
        if learned < layout.LEARNED_VALUES and observations.is_foreign[argument] == NO_FOREIGN:
            observations.own_values[argument] = hash_pair(names[columns.TASK], observations.values[argument])
            learned += 1
    return learns_foreign


@inlined
def _remembers(baseline: Baseline, scope: np.uint64, at_ms: int) -> bool:
    """True if a scope has shown enough values of a time's period for another one to be new."""
    return bool(scope != 0 and shared_count(baseline, scope, period_item(at_ms)) >= layout.LEAST_VALUES)


@inlined
def novelty_to_peers(baseline: Baseline, scope: np.uint64, peers: np.uint64, value: np.uint64, new: float) -> float:
    """Novelty of a value that a scope does not remember: *new*, or more if the peers of its task do not either."""
    return NEW_TO_ALL if scope != peers and shared_count(baseline, peers, value) == 0.0 else new


@inlined
def argument_origin(
    observations: RowObservations,
    row: int,
    names: Array,
    now_ms: int,
    acts_on_foreign: bool,
    scopes: Array,
    baseline: Baseline,
    table: Array,
) -> float:
    """Value of the feature for an event that reports origins, whose values are items already."""
    declared = scopes[layout.TASK] != 0
    scope, peers, new = scopes[layout.TASK] if declared else scopes[layout.PEERS], scopes[layout.PEERS], NEW_TO_TASK
    if not _remembers(baseline, scope, now_ms):
        scope, new = peers, NEW_TO_PEERS
        if not declared or not _remembers(baseline, scope, now_ms):
            return NOTHING_KNOWN
    if not acts_on_foreign:
        return KNOWN_VALUES
    item, novelty = np.uint64(0), new
    for argument in range(observations.arguments.start[row], observations.arguments.start[row + 1]):
        value = observations.values[argument]
        if observations.is_foreign[argument] != ACTED_ON or value == 0:
            continue
        own = own_count(table, layout.K_ARGUMENT, hash_pair(names[columns.TASK], value))
        if own == 0.0 and shared_count(baseline, scope, value) == 0.0:
            item = hash_pair(item, value)  # of all of them: one that has counted hides no other
            novelty = max(novelty, novelty_to_peers(baseline, scope, peers, value, new))
    observations.items[row, layout.K_ARGUMENT] = item
    return novelty if item != 0 else KNOWN_VALUES


@inlined
def end_call(state: AgentState, slot: int, k: int, code: int, sensitive: bool) -> None:
    """Count a traced call of a session, and remember whether others may have written its answer, or it is sensitive."""
    call = np.int64(state.session_numbers[slot, k, layout.S_CALLS])
    answers = np.int64(state.session_numbers[slot, k, layout.S_ANSWERS])
    bit = np.uint64(1) << np.uint64(call % layout.REMEMBERED_CALLS)
    if code == 1:
        state.session_untrusted[slot, k] |= bit
        answers |= layout.ANY_UNTRUSTED
    else:
        state.session_untrusted[slot, k] &= ~bit
    mark = np.uint32(1) << np.uint32(call % layout.REMEMBERED_SENSITIVE_CALLS)
    if sensitive:
        state.session_sensitive[slot, k] |= mark
        answers |= layout.ANY_SENSITIVE
    else:
        state.session_sensitive[slot, k] &= ~mark
    state.session_numbers[slot, k, layout.S_ANSWERS] = np.float32(answers)
    state.session_numbers[slot, k, layout.S_CALLS] += np.float32(1.0)

"""Kernels of the features of arguments: where the values of a call came from, and by which route.

`argument_origin` measures whether a call acts on a value that others may have written and that its task never used.

Others write the content of some answers (mail, pages, tickets). A session remembers which of its latest answers did;
values are remembered by task and peer group in the shared baseline, and by the agent in its own table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .. import columns
from ..columns import EventColumns
from ..compilation import allocation_free, inlined
from ..events import EFFECTS
from . import layout
from .feature_vector import F_ARGUMENT
from .frequency_tables import hash_pair, own_count, period_item, route_item, scope_keys, shared_count, value_item
from .layout import AgentState, Array, Baseline
from .row_observations import ACTED_ON, LOOKED_UP, NO_FOREIGN, SENSITIVE, UNHASHED, RowObservations

_READ = EFFECTS.index("read")
NOTHING_KNOWN, KNOWN_VALUES, NEW_TO_PEERS, NEW_TO_TASK, NEW_TO_ALL = 0.0, 1.0, 1.5, 2.0, 3.0
"""Values of the feature: no origins are reported or no values are remembered; nothing stands out; a value of others
that is new to the peer group, if nothing is remembered of the task; one that is new for the declared task (for the peer
group, if none is declared); one that is new for the declared task and for all other tasks of the peer group."""


@inlined
def _may_be_foreign(untrusted: np.uint64, session: Array, source: np.int64) -> bool:
    """Return whether others may have written the answer of an earlier call of a session.

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
    """Return whether a call may change something or leads outside. An unknown effect counts as such."""
    return bool(codes[columns.EFFECT] != _READ or codes[columns.EXTERNAL] == columns.OUTSIDE)


@inlined
def write_values(
    observations: RowObservations, row: int, names: Array, codes: Array, untrusted: np.uint64, session: Array
) -> bool:
    """Write the items of an event's values; return whether the call acts on a foreign value."""
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
    return bool(scope != 0 and shared_count(baseline, scope, period_item(at_ms)) >= layout.LEAST_VALUES)


@inlined
def novelty_to_peers(baseline: Baseline, scope: np.uint64, peers: np.uint64, value: np.uint64, new: float) -> float:
    """Return the novelty of a value that a scope does not know: *new*, or more if the peers of its task do not know it
    either."""
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
    """Return the feature's value for an event that reports origins, whose values are already items."""
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
    """Count a traced call of a session, and note whether its answer is sensitive or may be foreign."""
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


# Kernel of `argument_route` and `sensitive_route`: whether a value came to a call by a way that its task never took.
#
# A route is the action that gave a value, the action that it is given to, and the name of the argument. It remembers no
# value, so it shows less than `argument_origin`, which it replaces if a sender reports no hash. What leaves an agent
# is judged by its route whatever the value is: records of customers are new every day, the ways that they go are not.


SENSITIVE_TYPES = np.uint64(0x5E2517173)
"""Scope under which a baseline keeps the hashed names of sensitive resource types."""
ANY_TYPE = np.uint64(0)
"""Marks a table in which every type is sensitive; no name has this hash."""


@inlined
def gives_sensitive_answer(names: Array, codes: Array, baseline: Baseline) -> bool:
    """Return whether a resource of a sensitive type answered a call."""
    kind = names[columns.RESOURCE_TYPE]
    if kind == 0 or codes[columns.OUTCOME] != columns.SUCCESS:
        return False
    return bool(shared_count(baseline, SENSITIVE_TYPES, kind) > 0.0)


@inlined
def _was_sensitive(sensitive: np.uint32, session: Array, call: np.int64) -> bool:
    """Return whether the answer of an earlier call of a session was sensitive.

    True for a call that is too old if any answer of the session was; false for a call that was never seen.
    """
    calls = np.int64(session[layout.S_CALLS])
    if call < 0 or call >= calls:
        return False
    if calls - call > layout.REMEMBERED_SENSITIVE_CALLS:
        return bool(np.int64(session[layout.S_ANSWERS]) & layout.ANY_SENSITIVE)
    return bool((sensitive >> np.uint32(call % layout.REMEMBERED_SENSITIVE_CALLS)) & np.uint32(1))


@inlined
def _sends(codes: Array) -> bool:
    """Return whether a call leads outside or may write to a place that others write to, too."""
    if codes[columns.EXTERNAL] == columns.OUTSIDE:
        return True
    shared = codes[columns.UNTRUSTED_RESULT] == 1 and codes[columns.EXTERNAL] != columns.INSIDE
    return bool(shared and codes[columns.EFFECT] != _READ)


@inlined
def write_routes(
    observations: RowObservations, row: int, names: Array, codes: Array, sensitive: np.uint32, session: Array
) -> None:
    """Write the routes of an event whose values are already items, and the routes that its agent learns."""
    arguments, learned = observations.arguments, 0
    does_act, sends = acts(codes), _sends(codes)
    for argument in range(arguments.start[row], arguments.start[row + 1]):
        observations.routes[argument, :] = np.uint64(0)
        observations.own_routes[argument, :] = np.uint64(0)
        if arguments.routes[argument] == 0:
            continue
        route = hash_pair(names[columns.ACTION], arguments.routes[argument])
        if arguments.values[argument] == 0 and does_act:
            observations.routes[argument, UNHASHED] = route_item(route, UNHASHED)
        if sends and _was_sensitive(sensitive, session, np.int64(arguments.calls[argument])):
            observations.routes[argument, SENSITIVE] = route_item(route, SENSITIVE)
        for rule in (UNHASHED, SENSITIVE):
            if observations.routes[argument, rule] != 0 and learned < layout.LEARNED_VALUES:
                observations.own_routes[argument, rule] = hash_pair(
                    names[columns.TASK], observations.routes[argument, rule]
                )
                learned += 1


@inlined
def _remembers_arguments(baseline: Baseline, scopes: Array, scope_rows: Array, level: int) -> bool:
    at = scope_rows[level]
    return bool(scopes[level] != 0 and at >= 0 and baseline.totals[at, layout.K_ARGUMENT, 0] >= layout.LEAST_VALUES)


@inlined
def _lacks_a_hash(observations: RowObservations, row: int) -> bool:
    for argument in range(observations.arguments.start[row], observations.arguments.start[row + 1]):
        if observations.arguments.values[argument] == 0:
            return True
    return False


@inlined
def route_novelty(
    observations: RowObservations,
    row: int,
    rule: int,
    names: Array,
    scopes: Array,
    scope_rows: Array,
    baseline: Baseline,
    table: Array,
) -> float:
    """Return the value of `argument_route` (rule UNHASHED) or `sensitive_route` (rule SENSITIVE) of an event whose
    routes are written. New routes are added to the item of the event's arguments.

    The first covers events with a value that has no hash; a value that others may have written is stronger evidence
    than other values. The second is measured if any type of resources is sensitive.
    """
    if rule == UNHASHED and not _lacks_a_hash(observations, row):
        return NOTHING_KNOWN
    if rule == SENSITIVE and shared_count(baseline, SENSITIVE_TYPES, ANY_TYPE) == 0.0:
        return NOTHING_KNOWN
    level, new = layout.TASK if scopes[layout.TASK] != 0 else layout.PEERS, NEW_TO_TASK
    if not _remembers_arguments(baseline, scopes, scope_rows, level):
        if level == layout.PEERS or not _remembers_arguments(baseline, scopes, scope_rows, layout.PEERS):
            return NOTHING_KNOWN
        level, new = layout.PEERS, NEW_TO_PEERS
    novelty = KNOWN_VALUES
    for argument in range(observations.arguments.start[row], observations.arguments.start[row + 1]):
        route = observations.routes[argument, rule]
        if route == 0 or shared_count(baseline, scopes[level], route) != 0.0:
            continue
        if own_count(table, layout.K_ARGUMENT, hash_pair(names[columns.TASK], route)) == 0.0:
            item = observations.items[row, layout.K_ARGUMENT]
            observations.items[row, layout.K_ARGUMENT] = hash_pair(item, route)
            by_others = rule == SENSITIVE or observations.is_foreign[argument] == ACTED_ON
            novelty = max(novelty, new if by_others else NEW_TO_PEERS)
    return novelty


# Values that others may have written and that are new for a task, whatever the call does with them. `argument_origin`
# covers calls that act. A call that only reads can carry a secret away, too, as the address of a page that is opened;
# but some tools are meant for such values (the code that a mail brings), so the caller must know how often honest calls
# of the tool do it.


def foreign_values(
    batch: EventColumns,
    rows: npt.NDArray[np.int64],
    baseline: Baseline,
    observations: RowObservations,
    vectors: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the novelty (n,) of the foreign values that calls use, as values of `argument_origin`; 0 for other
    *rows*."""
    out = np.zeros(len(batch))
    _write_foreign_values(
        rows,
        batch.names,
        batch.codes,
        batch.time_ms,
        baseline,
        observations,
        vectors,
        np.zeros(layout.SCOPES, np.uint64),
        out,
    )
    return out


@allocation_free
def _write_foreign_values(
    rows: Array,
    names: Array,
    codes: Array,
    time_ms: Array,
    baseline: Baseline,
    observations: RowObservations,
    vectors: Array,
    scopes: Array,
    out: Array,
) -> None:
    for row in rows:
        out[row] = vectors[row, F_ARGUMENT]
        if out[row] != KNOWN_VALUES or codes[row, columns.UNTRUSTED_RESULT] == columns.UNTRACED:
            continue
        scope_keys(scopes, names[row])
        scope, new = scopes[layout.TASK], NEW_TO_TASK
        if scope == 0:
            scope = scopes[layout.PEERS]
        elif shared_count(baseline, scope, period_item(time_ms[row])) < layout.LEAST_VALUES:
            scope, new = scopes[layout.PEERS], NEW_TO_PEERS
        for argument in range(observations.arguments.start[row], observations.arguments.start[row + 1]):
            looked_up = observations.is_foreign[argument] != NO_FOREIGN and observations.values[argument] != 0
            value = observations.values[argument]
            if looked_up and shared_count(baseline, scope, value) == 0.0:
                out[row] = max(out[row], novelty_to_peers(baseline, scope, scopes[layout.PEERS], value, new))

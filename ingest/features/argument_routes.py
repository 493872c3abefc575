"""Kernel of `argument_route` and `sensitive_route`: whether a value came to a call by a way that its task never took.

A route is the action that gave a value, the action that it is given to, and the name of the argument. It remembers no
value, so it shows less than `argument_origin`, which it replaces if a sender reports no hash. What leaves an agent
is judged by its route whatever the value is: records of customers are new every day, the ways that they go are not.
"""

from __future__ import annotations

import numpy as np

from .. import columns
from ..compilation import inlined
from ..events import EFFECTS
from . import layout
from .argument_origin import KNOWN_VALUES, NEW_TO_PEERS, NEW_TO_TASK, NOTHING_KNOWN, acts
from .frequency_tables import hash_pair, own_count, route_item, shared_count
from .layout import Array, Baseline
from .row_observations import ACTED_ON, SENSITIVE, UNHASHED, RowObservations

_READ = EFFECTS.index("read")
SENSITIVE_TYPES = np.uint64(0x5E2517173)
"""Scope under which a baseline keeps the types of resources that are sensitive, by their names' hashes."""
ANY_TYPE = np.uint64(0)
"""Mark of a table that takes every type; no name has this hash."""


@inlined
def gives_sensitive_answer(names: Array, codes: Array, baseline: Baseline) -> bool:
    """True if a call was answered, by a resource of a sensitive type."""
    kind = names[columns.RESOURCE_TYPE]
    if kind == 0 or codes[columns.OUTCOME] != columns.SUCCESS:
        return False
    return bool(shared_count(baseline, SENSITIVE_TYPES, kind) > 0.0)


@inlined
def _was_sensitive(sensitive: np.uint32, session: Array, call: np.int64) -> bool:
    """Returns whether the answer of an earlier call of a session was sensitive.

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
    """True for a call that leads outside, or that may write where others do: its answer may hold what they wrote."""
    if codes[columns.EXTERNAL] == columns.OUTSIDE:
        return True
    shared = codes[columns.UNTRUSTED_RESULT] == 1 and codes[columns.EXTERNAL] != columns.INSIDE
    return bool(shared and codes[columns.EFFECT] != _READ)


@inlined
def write_routes(
    observations: RowObservations, row: int, names: Array, codes: Array, sensitive: np.uint32, session: Array
) -> None:
    """Write the routes of an event whose values are items already, and those that its agent learns."""
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
def _remembers(baseline: Baseline, scopes: Array, scope_rows: Array, level: int) -> bool:
    """True if a scope has shown enough arguments for a route to be new."""
    at = scope_rows[level]
    return bool(scopes[level] != 0 and at >= 0 and baseline.totals[at, layout.K_ARGUMENT, 0] >= layout.LEAST_VALUES)


@inlined
def _route_novelty(
    observations: RowObservations,
    row: int,
    rule: int,
    names: Array,
    scopes: Array,
    scope_rows: Array,
    baseline: Baseline,
    table: Array,
) -> float:
    """Value of a feature of routes; those that are new go into the item of the event's arguments.

    Of values without a hash, one that others may have written says more than one that the sender does not call so.
    """
    level, new = layout.TASK if scopes[layout.TASK] != 0 else layout.PEERS, NEW_TO_TASK
    if not _remembers(baseline, scopes, scope_rows, level):
        if level == layout.PEERS or not _remembers(baseline, scopes, scope_rows, layout.PEERS):
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


@inlined
def _lacks_a_hash(observations: RowObservations, row: int) -> bool:
    for argument in range(observations.arguments.start[row], observations.arguments.start[row + 1]):
        if observations.arguments.values[argument] == 0:
            return True
    return False


@inlined
def argument_route(
    observations: RowObservations,
    row: int,
    names: Array,
    scopes: Array,
    scope_rows: Array,
    baseline: Baseline,
    table: Array,
) -> float:
    """Value of the feature for an event whose routes are written; it covers events with a value that has no hash."""
    if not _lacks_a_hash(observations, row):
        return NOTHING_KNOWN
    return _route_novelty(observations, row, UNHASHED, names, scopes, scope_rows, baseline, table)


@inlined
def sensitive_route(
    observations: RowObservations,
    row: int,
    names: Array,
    scopes: Array,
    scope_rows: Array,
    baseline: Baseline,
    table: Array,
) -> float:
    """Value of the feature of an event whose routes are written; it speaks where any type of resources is sensitive."""
    if shared_count(baseline, SENSITIVE_TYPES, ANY_TYPE) == 0.0:
        return NOTHING_KNOWN
    return _route_novelty(observations, row, SENSITIVE, names, scopes, scope_rows, baseline, table)

"""Shared baselines: what is normal for the fleet, a tenant, a peer group and a declared task.

A baseline is fitted once, from the items and quantities that the feature kernel found in a history, and never changes;
live pipelines switch from one snapshot to the next at a recorded offset.
"""

from __future__ import annotations

import numpy as np

from trustwatch_client.events import MAX_ARGUMENTS

from ..columns import AGENT, GROUP, UNTRACED, UNTRUSTED_RESULT, EventColumns
from ..compilation import compiled, inlined
from ..errors import ModelError
from . import layout
from .argument_flow import ANY_TYPE, SENSITIVE_TYPES
from .frequency_tables import count_key, distinct_hash, hash_pair, mix_pairs, period_item, scope_keys, scope_row
from .habits_of_others import count_own_items
from .layout import Array, Baseline
from .row_observations import IGNORED_EVENT, LOOKED_UP, SENSITIVE, UNHASHED, RowObservations

MAX_ITEMS = 1 << 24
"""Maximum items of a baseline over all scopes, including those that count what followed a context (400 MB). More are
refused, because the baseline could no longer be shared in memory."""
LEAST_AGENTS = 2
"""Number of agents of a peer group that must have looked a value up before the group knows it."""
MAX_VALUES = MAX_ITEMS // 4
"""Maximum different argument values over all tasks and peer groups. Senders choose how many there are, so more are left
out instead of refused."""


NO_TYPES: Array = np.zeros(0, np.uint64)


def empty_baseline(sensitive_types: Array = NO_TYPES) -> Baseline:
    """Return a baseline without history: each agent is judged by its own history alone.

    Args:
        sensitive_types: uint64 (s,), hashes of the types of resources whose answers are sensitive.
    """
    items = 1 + len(sensitive_types) if len(sensitive_types) else 0
    baseline = _allocate_baseline(items, scopes=0)
    _mark_sensitive(baseline, sensitive_types)
    return baseline


@compiled
def _mark_sensitive(baseline: Baseline, sensitive_types: Array) -> int:
    used = 0
    for kind in sensitive_types:
        used += int(count_key(baseline.keys, baseline.counts, hash_pair(SENSITIVE_TYPES, kind)))
    if len(sensitive_types):
        used += int(count_key(baseline.keys, baseline.counts, hash_pair(SENSITIVE_TYPES, ANY_TYPE)))
    return used


def _allocate_baseline(items: int, scopes: int) -> Baseline:
    capacity, scope_capacity = _table_capacity(items), _table_capacity(scopes)
    return Baseline(
        keys=np.zeros(capacity, np.uint64),
        counts=np.zeros(capacity, np.float32),
        scope_keys=np.zeros(scope_capacity, np.uint64),
        scope_rows=np.full(scope_capacity, -1, np.int32),
        totals=np.zeros((scopes, layout.KINDS, 2), np.float32),
        means=np.zeros((scopes, layout.QUANTITIES), np.float32),
        variances=np.zeros((scopes, layout.QUANTITIES), np.float32),
        numbers=np.zeros((scopes, layout.QUANTITIES), np.float32),
    )


def _table_capacity(entries: int) -> int:
    return 1 << max(4, (2 * entries - 1).bit_length() if entries else 0)


def fit_baseline(
    columns: EventColumns, observations: RowObservations, keep: Array, sensitive_types: Array = NO_TYPES
) -> Baseline:
    """Build the baseline of the rows of a history for which *keep* (bool, shape (n,)) is true. Raises ModelError."""
    rows = np.nonzero(keep & (observations.flags != IGNORED_EVENT))[0]
    scopes = np.zeros((len(columns), layout.SCOPES), np.uint64)
    _write_scope_keys(rows, columns.names, scopes)
    distinct = np.unique(scopes[rows])
    distinct = distinct[distinct != 0]
    traced = rows[columns.codes[rows, UNTRUSTED_RESULT] != UNTRACED]
    counting = _known_values(columns, observations)
    items = 1 << 16
    while True:
        baseline = _allocate_baseline(items, len(distinct))
        _index_scopes(baseline.scope_keys, baseline.scope_rows, distinct)
        used = _mark_sensitive(baseline, sensitive_types)
        used = _count_items(baseline, rows, scopes, observations.items, observations.contexts, used, items)
        times = columns.time_ms
        with_values = -1
        if used >= 0:
            with_values = _count_values(
                baseline, traced, scopes, times, observations, counting, used, items, MAX_VALUES
            )
        if with_values >= 0:
            groups = scopes[:, layout.PEERS]
            counted = count_own_items(baseline, rows, columns, groups, observations.items, with_values, items)
            if counted == len(rows) or items == MAX_ITEMS:  # of more than there is room for the newest are known
                break
        items *= 2
        if items > MAX_ITEMS:
            raise ModelError(
                f"the history names more than {MAX_ITEMS} things; train on a shorter window or fewer tenants"
            )
    _fit_moments(baseline, rows, scopes, observations.quantities)
    return baseline


@compiled
def _write_scope_keys(rows: Array, names: Array, scopes: Array) -> None:
    for row in rows:
        scope_keys(scopes[row], names[row])


@compiled
def _index_scopes(keys: Array, positions: Array, distinct: Array) -> None:
    mask = np.uint64(len(keys) - 1)
    for position in range(len(distinct)):
        at = distinct[position] & mask
        while keys[at] != 0:
            at = (at + np.uint64(1)) & mask
        keys[at] = distinct[position]
        positions[at] = position


@compiled
def _count_items(
    baseline: Baseline, rows: Array, scopes: Array, items: Array, contexts: Array, used: int, room: int
) -> int:
    """Count every item in each scope of its event; return the number of used places including *used*, or -1 if the
    table is full."""
    for row in rows:
        for level in range(layout.SCOPES):
            scope = scopes[row, level]
            if scope == 0:
                continue
            position = scope_row(baseline, scope)
            for kind in range(layout.SINGLE_KINDS):
                if items[row, kind] == 0:
                    continue
                baseline.totals[position, kind, 0] += np.float32(1.0)
                if count_key(baseline.keys, baseline.counts, hash_pair(scope, items[row, kind])):
                    baseline.totals[position, kind, 1] += np.float32(1.0)
                    used += 1
                    if contexts[row, kind] != 0:
                        different = hash_pair(scope, distinct_hash(kind, contexts[row, kind]))
                        used += int(count_key(baseline.keys, baseline.counts, different))
        if used > room - 2 * layout.SCOPES * layout.KINDS:
            return -1
    return used


def _known_values(columns: EventColumns, observations: RowObservations) -> Array:
    """Flag (m,) the arguments whose values their event knows.

    A value that a mail caused to be looked up is not known, because its author would make a value known before it is
    used. A value that several agents of a peer group looked up is known.
    """
    arguments = observations.arguments
    counting = (observations.is_foreign != LOOKED_UP) | (observations.values == 0)
    places = np.flatnonzero(~counting)
    rows = np.repeat(np.arange(len(columns)), np.diff(arguments.start))[places]
    values = mix_pairs(columns.names[rows, GROUP], observations.values[places])
    _, first = np.unique(mix_pairs(values, columns.names[rows, AGENT]), return_index=True)
    value_of, agents = np.unique(values[first], return_counts=True)
    counting[places] = np.isin(values, value_of[agents >= LEAST_AGENTS])
    return np.asarray(counting)


@inlined
def _count_routes(baseline: Baseline, observations: RowObservations, scope: np.uint64, argument: int) -> int:
    new = 0
    for rule in (UNHASHED, SENSITIVE):
        route = observations.routes[argument, rule]
        if route != 0:
            new += int(count_key(baseline.keys, baseline.counts, hash_pair(scope, route)))
    return new


@compiled
def _count_values(
    baseline: Baseline,
    rows: Array,
    scopes: Array,
    time_ms: Array,
    observations: RowObservations,
    counting: Array,
    used: int,
    room: int,
    most: int,
) -> int:
    """Count the values of arguments, how many of each period there are, and the requested routes, for the task and the
    peer group; returns the places used, *used* included, or -1 if no space is left. If there are more than *left*, the
    newest are counted."""
    for row in rows[::-1]:
        for level in (layout.PEERS, layout.TASK):
            scope = scopes[row, level]
            if scope == 0:
                continue
            position = scope_row(baseline, scope)
            for argument in range(observations.arguments.start[row], observations.arguments.start[row + 1]):
                if not counting[argument] or most <= 0:
                    continue
                baseline.totals[position, layout.K_ARGUMENT, 0] += np.float32(1.0)
                routes = _count_routes(baseline, observations, scope, argument)
                used, most = used + routes, most - routes
                if observations.values[argument] == 0:
                    continue
                used += int(count_key(baseline.keys, baseline.counts, hash_pair(scope, period_item(time_ms[row]))))
                if count_key(baseline.keys, baseline.counts, hash_pair(scope, observations.values[argument])):
                    baseline.totals[position, layout.K_ARGUMENT, 1] += np.float32(1.0)
                    used += 1
                    most -= 1
        if used > room - 8 * MAX_ARGUMENTS:
            return -1
    return used


def with_fewer_names(
    baseline: Baseline, columns: EventColumns, observations: RowObservations, factor: float
) -> Baseline:
    """Return a baseline with as many items, but fewer different ones by *factor*, at least 1.

    The longer a history is, the rarer new names become: the result expects them as rarely as after a longer history.
    Values of arguments and habits of others are not changed.
    """
    totals, counts = baseline.totals.copy(), baseline.counts.copy()
    totals[:, : layout.SINGLE_KINDS, 1] /= np.float32(factor)
    thinner = baseline._replace(totals=totals, counts=counts)
    rows = np.nonzero(observations.flags != IGNORED_EVENT)[0]
    scopes = np.zeros((len(columns), layout.SCOPES), np.uint64)
    _write_scope_keys(rows, columns.names, scopes)
    _divide_names(thinner, rows, scopes, observations.contexts, np.float32(factor))
    return thinner


@compiled
def _divide_names(baseline: Baseline, rows: Array, scopes: Array, contexts: Array, factor: np.float32) -> None:
    """Divide the numbers of different items per context, each once. Those already divided are negative meanwhile."""
    mask = np.uint64(len(baseline.keys) - 1)
    for row in rows:
        for level in range(layout.SCOPES):
            if scopes[row, level] == 0:
                continue
            for kind in range(layout.SINGLE_KINDS):
                if contexts[row, kind] == 0:
                    continue
                key = hash_pair(scopes[row, level], distinct_hash(kind, contexts[row, kind]))
                at: np.uint64 = key & mask
                while baseline.keys[at] != 0 and baseline.keys[at] != key:
                    at = (at + np.uint64(1)) & mask
                if baseline.counts[at] > 0.0:
                    baseline.counts[at] = -baseline.counts[at] / factor
    baseline.counts[:] = np.abs(baseline.counts)


@compiled
def _fit_moments(baseline: Baseline, rows: Array, scopes: Array, quantities: Array) -> None:
    """Compute the running mean and variance of every quantity in every scope (Welford)."""
    means = np.zeros(baseline.means.shape)
    squares = np.zeros(baseline.means.shape)
    numbers = np.zeros(baseline.means.shape)
    for row in rows:
        for level in range(layout.SCOPES):
            if scopes[row, level] == 0:
                continue
            at = scope_row(baseline, scopes[row, level])
            for q in range(layout.QUANTITIES):
                value = quantities[row, q]
                if value < 0.0:
                    continue
                numbers[at, q] += 1.0
                delta = value - means[at, q]
                means[at, q] += delta / numbers[at, q]
                squares[at, q] += delta * (value - means[at, q])
    baseline.numbers[:] = numbers
    baseline.means[:] = means
    baseline.variances[:] = squares / np.maximum(numbers, 1.0)

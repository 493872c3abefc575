"""The compiled feature kernel: reads events as columns, keeps the agents' state, writes feature vectors.

`observe` measures an event against what was known *before* it and moves only the short-term state (pace, session,
clock). `learn` moves the long-term baseline, and is called after the event was scored, for events that may be learned.
Both walk the rows in order and are deterministic; nothing depends on how events are cut into batches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .. import columns as c
from ..compiled import allocation_free, inlined
from . import layout as l
from .items import write_items
from .layout import AgentState, Array, Baseline
from .reference import update_reference
from .sessions import count_action_use, session_slot
from .tables import halve_habits, hash_pair, mix_bits, own_add, own_add_vouched, scope_row
from .vector import write_feature_vector

LATE_EVENT, IGNORED_EVENT = 1, 2
"""Bits of `Scratch.flags`: the event is older than one already seen of its agent; it is our own denial."""

CREDENTIAL_ONLY = 2
"""Weight of an event of which `learn` takes the credential alone."""

_DAY_MS = 86_400_000
_MAX_COUNT_AFTER_VERSION = np.float32(50.0)
_MAX_MOMENT_WEIGHT = 500.0
_MAX_EVENT_COUNT, _MAX_EVENT_BYTES = 1e9, 1e18
"""One event counts as no more than this: sums are kept in float32, and an infinite one could never be forgotten."""


class RowObservations(NamedTuple):
    """What `observe` found out about each row of a batch, for `learn` and for reasons."""

    items: Array  # uint64 (n, KINDS): hash of the row's item of each kind, 0 = none
    contexts: Array  # uint64 (n, KINDS): hash of the item it is conditional on, 0 = none
    quantities: Array  # float64 (n, QUANTITIES), -1 = absent
    flags: Array  # uint8 (n,)
    surprise_bits: Array  # float64 (n, KINDS): surprise of each item over all levels
    new_kinds: Array  # uint32 (n,): bit k set where the agent has a history of kind k, but not of this item
    age_days: Array  # float64 (n,): days since the agent's first event
    token_reuse: Array  # uint8 (n,): 1 = the event uses a token that this agent's own events reported revoked


def allocate_observations(n: int) -> RowObservations:
    """Scratch space for *n* rows."""
    return RowObservations(
        np.zeros((n, l.KINDS), np.uint64),
        np.zeros((n, l.KINDS), np.uint64),
        np.full((n, l.QUANTITIES), -1.0),
        np.zeros(n, np.uint8),
        np.zeros((n, l.KINDS)),
        np.zeros(n, np.uint32),
        np.zeros(n),
        np.zeros(n, np.uint8),
    )


@inlined
def _decay_counts(numbers: Array, elapsed_s: float) -> None:
    """Bring the decayed counts forward by the elapsed seconds."""
    for k in range(3):
        numbers[l.N_PACE + k] *= np.float32(0.5 ** (elapsed_s / l.HALF_LIVES_S[k]))
    hour = np.float32(0.5 ** (elapsed_s / l.FAILURE_HALF_LIFE_S))
    for column in (l.N_FAILURES, l.N_DENIALS, l.N_VOLUME, l.N_NOVELTY):
        numbers[column] *= hour


@inlined
def _write_quantities(
    q: Array, numbers: Array, times: Array, values: Array, at_ms: int, known: bool, session_events: float
) -> None:
    """Quantities of one event; all are logarithms of counts or sizes, so that a standard deviation is a ratio."""
    for k in range(3):
        q[l.Q_PACE_1M + k] = math.log1p(np.float64(numbers[l.N_PACE + k]))
    if known:
        q[l.Q_GAP] = math.log1p(max(at_ms - times[l.T_LAST], 0) / 1000.0)
    pairs = (
        (l.Q_BYTES_IN, c.BYTES_IN),
        (l.Q_BYTES_OUT, c.BYTES_OUT),
        (l.Q_DURATION, c.DURATION),
        (l.Q_BREADTH, c.BREADTH),
        (l.Q_DEPTH, c.DEPTH),
        (l.Q_LIFETIME, c.LIFETIME),
    )
    for quantity, column in pairs:
        if values[column] >= 0.0:
            q[quantity] = math.log1p(values[column])
    q[l.Q_SESSION] = math.log1p(np.float64(session_events))
    q[l.Q_FAILURES] = math.log1p(np.float64(numbers[l.N_FAILURES]))
    q[l.Q_DENIALS] = math.log1p(np.float64(numbers[l.N_DENIALS]))
    q[l.Q_VOLUME] = math.log1p(np.float64(numbers[l.N_VOLUME]))
    q[l.Q_NOVELTY] = math.log1p(np.float64(numbers[l.N_NOVELTY]))


@inlined
def _advance_counts(numbers: Array, values: Array, codes: Array, elapsed_s: float) -> None:
    """Decay the short-term counts to the event's time and add the event to them."""
    _decay_counts(numbers, elapsed_s)
    count = np.float32(min(values[c.COUNT], _MAX_EVENT_COUNT))
    for k in range(3):
        numbers[l.N_PACE + k] += count
    if codes[c.OUTCOME] == c.ERROR:
        numbers[l.N_FAILURES] += count
    if codes[c.OUTCOME] == c.DENIED:
        numbers[l.N_DENIALS] += count
    volume = max(values[c.BYTES_IN], 0.0) + max(values[c.BYTES_OUT], 0.0)
    numbers[l.N_VOLUME] += np.float32(min(volume, _MAX_EVENT_BYTES))


@inlined
def _count_new_names(fresh: np.uint32) -> int:
    """How many of the kinds that name things (not order or outcome) are new to the agent."""
    count = 0
    for kind in l.NAMING:
        count += int((fresh >> np.uint32(kind)) & np.uint32(1))
    return count


@inlined
def _check_revoked_token(revoked: Array, names: Array, codes: Array) -> np.uint8:
    """Remember a revoked token; 1 when the event uses one that was revoked earlier."""
    token = names[c.TOKEN]
    if token == 0:
        return np.uint8(0)
    known = False
    for k in range(l.REVOKED_TOKENS):
        known = known or revoked[k] == token
    if codes[c.TYPE] != c.TOKEN_REVOKE:
        return np.uint8(1) if known else np.uint8(0)
    # Anybody can claim a revocation; only one that a token vouches for may push out those that are known.
    if not known and codes[c.SELF_ASSERTED] == 0:
        for k in range(l.REVOKED_TOKENS - 1, 0, -1):
            revoked[k] = revoked[k - 1]
        revoked[0] = token
    return np.uint8(0)


@allocation_free
def _change_version(times: Array, numbers: Array, table: Array, version: np.uint64, at_ms: int) -> None:
    """A new version is a change-point, not an anomaly: the baseline stays with half its weight, once a day at most."""
    seen = times[l.T_VERSION]
    now = np.int64(version)
    if now == 0 or seen == now:
        return
    times[l.T_VERSION] = now
    if seen == 0 or at_ms - times[l.T_CHANGED] < _DAY_MS:
        return
    times[l.T_CHANGED] = at_ms
    halve_habits(table, numbers, l.KINDS)
    for quantity in range(l.QUANTITIES):
        column = l.N_COUNT + quantity
        numbers[column] = min(numbers[column] * np.float32(0.5), _MAX_COUNT_AFTER_VERSION)


@inlined
def scope_keys(out: Array, names: Array) -> None:
    """Keys of the scopes of one event, in the order FLEET, TENANT, PEERS, TASK; 0 where the event has none."""
    out[l.FLEET] = mix_bits(np.uint64(11))
    out[l.TENANT] = hash_pair(np.uint64(12), names[c.TENANT])
    out[l.PEERS] = hash_pair(np.uint64(13), names[c.GROUP])
    out[l.TASK] = np.uint64(0) if names[c.TASK] == 0 else hash_pair(names[c.GROUP], names[c.TASK])


@inlined
def _find_scopes(scopes: Array, scope_rows: Array, names: Array, baseline: Baseline) -> None:
    """Keys of one event's scopes and their rows in the baseline, -1 where there is none."""
    scope_keys(scopes, names)
    for level in range(l.SCOPES):
        scope_rows[level] = -1 if scopes[level] == 0 else scope_row(baseline, scopes[level])


@allocation_free
def observe(
    rows: Array,
    slots: Array,
    names: Array,
    values: Array,
    codes: Array,
    time_ms: Array,
    state: AgentState,
    baseline: Baseline,
    out: Array,
    found: RowObservations,
    scopes: Array,
    scope_rows: Array,
) -> None:
    """Write the feature vectors of *rows* into *out* and move the agents' short-term state.

    Args:
        rows: int64 (m,): rows of the batch, in order; an agent may occur in them more than once.
        slots: int64 (n,): slot of each row's agent.
        names, values, codes, time_ms: the batch's columns (`EventColumns`).
        out: float64 (n, FEATURES), rows are overwritten.
        found: Scratch, rows are overwritten.
        scopes, scope_rows: room for uint64 (SCOPES,) and int64 (SCOPES,).
    """
    for row in rows:
        slot = slots[row]
        numbers, times, table = state.numbers[slot], state.times[slot], state.table[slot]
        at_ms = time_ms[row]
        found.items[row, :] = np.uint64(0)
        found.contexts[row, :] = np.uint64(0)
        found.quantities[row, :] = -1.0
        found.flags[row], found.new_kinds[row], found.token_reuse[row] = 0, 0, 0
        if codes[row, c.OWN_DENIAL] != 0:
            found.flags[row] = IGNORED_EVENT
            out[row, :] = 0.0
            continue
        known = times[l.T_FIRST] != 0
        if not known:
            times[l.T_FIRST] = max(at_ms, 1)  # 0 means that nobody has seen the agent
            times[l.T_LAST] = at_ms
        if at_ms < times[l.T_LAST]:
            found.flags[row] = LATE_EVENT
        now_ms = max(at_ms, times[l.T_LAST])
        if codes[row, c.SELF_ASSERTED] == 0:
            _change_version(times, numbers, table, names[row, c.VERSION], now_ms)
        found.age_days[row] = (now_ms - times[l.T_FIRST]) / _DAY_MS
        found.token_reuse[row] = _check_revoked_token(state.revoked[slot], names[row], codes[row])
        session = names[row, c.SESSION] if names[row, c.SESSION] != 0 else np.uint64(1)
        k = session_slot(state, slot, session, now_ms)
        prev = state.session_prev[slot, k]
        uses = count_action_use(state.session_table[slot, k], names[row, c.ACTION])
        state.session_numbers[slot, k, l.S_EVENTS] += np.float32(1.0)
        _advance_counts(numbers, values[row], codes[row], (now_ms - times[l.T_LAST]) / 1000.0)
        write_items(found.items[row], found.contexts[row], names[row], values[row], codes[row], at_ms, prev, uses)
        _write_quantities(
            found.quantities[row],
            numbers,
            times,
            values[row],
            now_ms,
            known,
            state.session_numbers[slot, k, l.S_EVENTS],
        )
        _find_scopes(scopes, scope_rows, names[row], baseline)
        found.new_kinds[row] = write_feature_vector(
            out[row],
            found.surprise_bits[row],
            found.items[row],
            found.contexts[row],
            found.quantities[row],
            values[row],
            codes[row],
            scope_rows,
            scopes,
            baseline,
            table,
            numbers,
            state.session_numbers[slot, k],
        )
        numbers[l.N_NOVELTY] += np.float32(_count_new_names(found.new_kinds[row]))
        state.session_prev[slot, k] = names[row, c.ACTION]
        state.session_last[slot, k] = now_ms
        times[l.T_LAST] = now_ms


@inlined
def _learn_quantity(numbers: Array, quantity: int, value: float) -> None:
    """Running mean and variance whose memory is bounded, so that they follow honest change."""
    count = min(np.float64(numbers[l.N_COUNT + quantity]) + 1.0, _MAX_MOMENT_WEIGHT)
    mean = np.float64(numbers[l.N_MEAN + quantity])
    variance = np.float64(numbers[l.N_VAR + quantity])
    delta = value - mean
    mean += delta / count
    variance += (delta * (value - mean) - variance) / count
    numbers[l.N_COUNT + quantity] = np.float32(count)
    numbers[l.N_MEAN + quantity] = np.float32(mean)
    numbers[l.N_VAR + quantity] = np.float32(max(variance, 0.0))


@allocation_free
def learn(rows: Array, slots: Array, codes: Array, state: AgentState, found: RowObservations, weights: Array) -> None:
    """Add events to their agents' baselines.

    Of rows whose weight is 0 (suspicious, self-asserted) nothing is learned, of those whose weight is 2 (odd, but an
    announcement of the authorization server) the credential alone.
    """
    for position in range(len(rows)):
        row = rows[position]
        if weights[position] == 0 or found.flags[row] == IGNORED_EVENT:
            continue
        slot = slots[row]
        numbers, table = state.numbers[slot], state.table[slot]
        for kind in range(l.KINDS):
            if found.items[row, kind] != 0 and (weights[position] != CREDENTIAL_ONLY or kind == l.K_CREDENTIAL):
                own_add(table, numbers, kind, found.items[row, kind])
        announced = codes[row, c.TYPE] == c.CLIENT_CHANGE or codes[row, c.TYPE] == c.CLIENT_REGISTER
        if announced and found.items[row, l.K_CREDENTIAL] != 0:
            own_add_vouched(table, l.K_CREDENTIAL, found.items[row, l.K_CREDENTIAL])
        if weights[position] == CREDENTIAL_ONLY:
            continue
        for quantity in range(l.QUANTITIES):
            if found.quantities[row, quantity] >= 0.0:
                _learn_quantity(numbers, quantity, found.quantities[row, quantity])
        numbers[l.N_METHOD] = max(numbers[l.N_METHOD], np.float32(codes[row, c.METHOD]))
        numbers[l.N_EVENTS] += np.float32(1.0)
        update_reference(numbers, found.quantities[row], found.age_days[row])

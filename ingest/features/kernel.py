"""The compiled feature kernel: reads events as columns, keeps the agents' state, writes feature vectors.

`observe` measures an event against what was known *before* it and moves only the short-term state (pace, session, clock).
`learn` moves the long-term baseline, and is called after the event was scored, for events that may be learned. Both walk the
rows in order and are deterministic; nothing depends on how events are cut into batches.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from .. import columns as c
from . import layout as l
from .surprise import usual
from .tables import halve_habits, item_hash, mix, own_add, pair, scope_row
from .vector import write_vector

LATE, IGNORED = 1, 2
"""Bits of `Scratch.flags`: the event is older than one already seen of its agent; it is our own denial."""

_WEEK_MS = 7 * 86_400_000
_DAY_MS = 86_400_000
_EPOCH_IS_THURSDAY = 3 * 86_400_000
_REPEATS = 15
_VERSION_COUNT = np.float32(50.0)
_REFERENCE_AFTER = 200.0
_MAX_WEIGHT = 500.0


class Scratch(NamedTuple):
    """What `observe` found out about each row of a batch, for `learn` and for reasons."""

    items: Any  # uint64 (n, KINDS): hash of the row's item of each kind, 0 = none
    contexts: Any  # uint64 (n, KINDS): hash of the item it is conditional on, 0 = none
    quantities: Any  # float64 (n, QUANTITIES), -1 = absent
    flags: Any  # uint8 (n,)
    bits: Any  # float64 (n, KINDS): surprise of each item over all levels
    fresh: Any  # uint32 (n,): bit k set where the agent has a history of kind k, but not of this item
    token_reuse: Any  # uint8 (n,): 1 = the event uses a token that this agent's own events reported revoked


def scratch(n: int) -> Scratch:
    """Scratch space for *n* rows."""
    return Scratch(
        np.zeros((n, l.KINDS), np.uint64),
        np.zeros((n, l.KINDS), np.uint64),
        np.full((n, l.QUANTITIES), -1.0),
        np.zeros(n, np.uint8),
        np.zeros((n, l.KINDS)),
        np.zeros(n, np.uint32),
        np.zeros(n, np.uint8),
    )


@njit(cache=True)
def _decay(numbers, elapsed_s):
    """Bring the decayed counts forward by the elapsed seconds."""
    for k in range(3):
        numbers[l.N_PACE + k] *= np.float32(0.5 ** (elapsed_s / l.HALF_LIVES_S[k]))
    hour = np.float32(0.5 ** (elapsed_s / l.FAILURE_HALF_LIFE_S))
    for column in (l.N_FAILURES, l.N_DENIALS, l.N_VOLUME, l.N_NOVELTY):
        numbers[column] *= hour


@njit(cache=True)
def _session_slot(state, slot, session, at_ms):
    """Slot of the event's session among the agent's; the longest unused one is given to a new session."""
    oldest = 0
    for k in range(l.SESSIONS):
        if state.session_id[slot, k] == session:
            if session != np.uint64(1) or at_ms - state.session_last[slot, k] <= l.IMPLICIT_SESSION_GAP_MS:
                return k
            oldest = k
            break
        if state.session_last[slot, k] < state.session_last[slot, oldest]:
            oldest = k
    state.session_id[slot, oldest] = session
    state.session_last[slot, oldest] = at_ms
    state.session_prev[slot, oldest] = np.uint64(0)
    state.session_numbers[slot, oldest, :] = np.float32(0.0)
    state.session_table[slot, oldest, :] = np.uint32(0)
    return oldest


@njit(cache=True)
def _count_use(table, action):
    """Uses of an action in a session after this one. A session of very many actions counts the rarest ones together."""
    fingerprint = np.uint32((action & np.uint64((1 << 22) - 1)) | np.uint64(1)) << np.uint32(10)
    least = 0
    for k in range(l.SESSION_TABLE):
        entry = table[k]
        if entry & ~np.uint32(1023) == fingerprint:
            if entry & np.uint32(1023) < np.uint32(1023):
                table[k] = entry + np.uint32(1)
            return np.int64(table[k] & np.uint32(1023))
        if entry & np.uint32(1023) < table[least] & np.uint32(1023):
            least = k
    inherited = np.uint32(0) if table[least] == 0 else table[least] & np.uint32(1023)
    table[least] = fingerprint | min(inherited + np.uint32(1), np.uint32(1023))
    return np.int64(1) if inherited == 0 else np.int64(inherited + 1)


@njit(cache=True)
def _use_bucket(uses):
    """1, 2, 3, 4, then two steps an octave: the resolution at which repetition matters."""
    if uses <= 4:
        return uses
    return min(4 + np.int64(2.0 * math.log2(uses / 4.0)), np.int64(_REPEATS))


@njit(cache=True)
def _hour_item(at_ms):
    """Part of the week: eight parts of a day of three hours, weekdays and weekend apart (1 to 16)."""
    in_week = (at_ms + _EPOCH_IS_THURSDAY) % _WEEK_MS
    weekend = 1 if in_week >= 5 * _DAY_MS else 0
    return np.uint64(1 + (in_week % _DAY_MS) // (3 * 3_600_000) + 8 * weekend)


@njit(cache=True)
def _write_items(items, contexts, names, codes, at_ms, prev, uses):
    """Items of one event: what it touched, and in which order."""
    plain = (
        (l.K_ACTION, c.ACTION), (l.K_RESOURCE, c.RESOURCE), (l.K_TARGET, c.TARGET), (l.K_AUDIENCE, c.AUDIENCE),
        (l.K_PEER, c.PEER), (l.K_PRINCIPAL, c.PRINCIPAL), (l.K_NETWORK, c.NETWORK), (l.K_CREDENTIAL, c.CREDENTIAL),
        (l.K_SCOPES, c.SCOPES), (l.K_CHAIN, c.CHAIN),
    )  # fmt: skip
    for kind, column in plain:
        if names[column] != 0:
            items[kind] = item_hash(kind, names[column])
    action = names[c.ACTION]
    items[l.K_EFFECT] = item_hash(l.K_EFFECT, np.uint64(codes[c.EFFECT] + 1))
    items[l.K_HOUR] = item_hash(l.K_HOUR, _hour_item(at_ms))
    items[l.K_TRANSITION] = item_hash(l.K_TRANSITION, pair(prev + np.uint64(1), action))
    items[l.K_FROM] = contexts[l.K_TRANSITION] = item_hash(l.K_FROM, prev + np.uint64(1))
    if names[c.TARGET] != 0:
        items[l.K_ACTION_TARGET] = item_hash(l.K_ACTION_TARGET, pair(action, names[c.TARGET]))
        contexts[l.K_ACTION_TARGET] = items[l.K_ACTION]
    bucket = np.uint64(_use_bucket(uses))
    items[l.K_REPEAT] = item_hash(l.K_REPEAT, pair(action, bucket))
    contexts[l.K_REPEAT] = item_hash(l.K_REPEAT, pair(action, np.uint64(1)))
    if codes[c.PROVENANCE] >= 0:
        items[l.K_PROVENANCE] = item_hash(l.K_PROVENANCE, pair(action, np.uint64(codes[c.PROVENANCE] + 1)))
        contexts[l.K_PROVENANCE] = items[l.K_ACTION]
    items[l.K_OUTCOME] = item_hash(l.K_OUTCOME, pair(action, np.uint64(codes[c.OUTCOME] + 1)))
    contexts[l.K_OUTCOME] = items[l.K_ACTION]


@njit(cache=True)
def _write_quantities(q, numbers, times, values, at_ms, known, session_events):
    """Quantities of one event; all are logarithms of counts or sizes, so that a standard deviation is a ratio."""
    for k in range(3):
        q[l.Q_PACE_1M + k] = math.log1p(np.float64(numbers[l.N_PACE + k]))
    if known:
        q[l.Q_GAP] = math.log1p(max(at_ms - times[l.T_LAST], 0) / 1000.0)
    pairs = (
        (l.Q_BYTES_IN, c.BYTES_IN), (l.Q_BYTES_OUT, c.BYTES_OUT), (l.Q_DURATION, c.DURATION),
        (l.Q_BREADTH, c.BREADTH), (l.Q_DEPTH, c.DEPTH), (l.Q_LIFETIME, c.LIFETIME),
    )  # fmt: skip
    for quantity, column in pairs:
        if values[column] >= 0.0:
            q[quantity] = math.log1p(values[column])
    q[l.Q_SESSION] = math.log1p(np.float64(session_events))
    q[l.Q_FAILURES] = math.log1p(np.float64(numbers[l.N_FAILURES]))
    q[l.Q_DENIALS] = math.log1p(np.float64(numbers[l.N_DENIALS]))
    q[l.Q_VOLUME] = math.log1p(np.float64(numbers[l.N_VOLUME]))
    q[l.Q_NOVELTY] = math.log1p(np.float64(numbers[l.N_NOVELTY]))


@njit(cache=True)
def _advance_counts(numbers, values, codes, elapsed_s):
    """Decay the short-term counts to the event's time and add the event to them."""
    _decay(numbers, elapsed_s)
    count = np.float32(values[c.COUNT])
    for k in range(3):
        numbers[l.N_PACE + k] += count
    if codes[c.OUTCOME] == c.ERROR:
        numbers[l.N_FAILURES] += count
    if codes[c.OUTCOME] == c.DENIED:
        numbers[l.N_DENIALS] += count
    numbers[l.N_VOLUME] += np.float32(max(values[c.BYTES_IN], 0.0) + max(values[c.BYTES_OUT], 0.0))


@njit(cache=True)
def _new_names(fresh):
    """How many of the kinds that name things (not order or outcome) are new to the agent."""
    return sum([(fresh >> np.uint32(kind)) & np.uint32(1) for kind in range(l.K_CHAIN + 1)])


@njit(cache=True)
def _check_token(revoked, names, codes):
    """Remember a revoked token; 1 when the event uses one that was revoked earlier."""
    token = names[c.TOKEN]
    if token == 0:
        return np.uint8(0)
    known = False
    for k in range(l.REVOKED):
        known = known or revoked[k] == token
    if codes[c.TYPE] != c.TOKEN_REVOKE:
        return np.uint8(1) if known else np.uint8(0)
    if not known:
        for k in range(l.REVOKED - 1, 0, -1):
            revoked[k] = revoked[k - 1]
        revoked[0] = token
    return np.uint8(0)


@njit(cache=True)
def _change_version(times, numbers, table, version, at_ms):
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
        numbers[column] = min(numbers[column] * np.float32(0.5), _VERSION_COUNT)


@njit(cache=True)
def scope_keys(out, names):
    """Keys of the scopes of one event, in the order FLEET, TENANT, PEERS, TASK; 0 where the event has none."""
    out[l.FLEET] = mix(np.uint64(11))
    out[l.TENANT] = pair(np.uint64(12), names[c.TENANT])
    out[l.PEERS] = pair(np.uint64(13), names[c.GROUP])
    out[l.TASK] = np.uint64(0) if names[c.TASK] == 0 else pair(names[c.GROUP], names[c.TASK])


@njit(cache=True)
def observe(rows, slots, names, values, codes, time_ms, state, baseline, out, found):
    """Write the feature vectors of *rows* into *out* and move the agents' short-term state.

    Args:
        rows: int64 (m,): rows of the batch, in order; an agent may occur in them more than once.
        slots: int64 (n,): slot of each row's agent.
        names, values, codes, time_ms: the batch's columns (`EventColumns`).
        out: float64 (n, FEATURES), rows are overwritten.
        found: Scratch, rows are overwritten.
    """
    scopes = np.zeros(l.SCOPES, np.uint64)
    scope_rows = np.zeros(l.SCOPES, np.int64)
    for row in rows:
        slot = slots[row]
        numbers, times, table = state.numbers[slot], state.times[slot], state.table[slot]
        at_ms = time_ms[row]
        found.items[row, :] = np.uint64(0)
        found.contexts[row, :] = np.uint64(0)
        found.quantities[row, :] = -1.0
        found.flags[row], found.fresh[row], found.token_reuse[row] = 0, 0, 0
        if codes[row, c.OWN_DENIAL] != 0:
            found.flags[row] = IGNORED
            out[row, :] = 0.0
            continue
        known = times[l.T_FIRST] != 0
        if not known:
            times[l.T_FIRST] = at_ms
            times[l.T_LAST] = at_ms
        if at_ms < times[l.T_LAST]:
            found.flags[row] = LATE
        now_ms = max(at_ms, times[l.T_LAST])
        _change_version(times, numbers, table, names[row, c.VERSION], now_ms)
        found.token_reuse[row] = _check_token(state.revoked[slot], names[row], codes[row])
        session = names[row, c.SESSION] if names[row, c.SESSION] != 0 else np.uint64(1)
        k = _session_slot(state, slot, session, now_ms)
        prev = state.session_prev[slot, k]
        uses = _count_use(state.session_table[slot, k], names[row, c.ACTION])
        state.session_numbers[slot, k, l.S_EVENTS] += np.float32(1.0)
        _advance_counts(numbers, values[row], codes[row], (now_ms - times[l.T_LAST]) / 1000.0)
        _write_items(found.items[row], found.contexts[row], names[row], codes[row], at_ms, prev, uses)
        _write_quantities(
            found.quantities[row], numbers, times, values[row], now_ms, known, state.session_numbers[slot, k, l.S_EVENTS]
        )
        scope_keys(scopes, names[row])
        for level in range(l.SCOPES):
            scope_rows[level] = -1 if scopes[level] == 0 else scope_row(baseline, scopes[level])
        found.fresh[row] = write_vector(
            out[row], found.bits[row], found.items[row], found.contexts[row], found.quantities[row], values[row],
            codes[row], scope_rows, scopes, baseline, table, numbers, state.session_numbers[slot, k],
        )  # fmt: skip
        numbers[l.N_NOVELTY] += np.float32(_new_names(found.fresh[row]))
        state.session_prev[slot, k] = names[row, c.ACTION]
        state.session_last[slot, k] = now_ms
        times[l.T_LAST] = now_ms


@njit(cache=True)
def _learn_quantity(numbers, quantity, value):
    """Running mean and variance whose memory is bounded, so that they follow honest change."""
    count = min(np.float64(numbers[l.N_COUNT + quantity]) + 1.0, _MAX_WEIGHT)
    mean = np.float64(numbers[l.N_MEAN + quantity])
    variance = np.float64(numbers[l.N_VAR + quantity])
    delta = value - mean
    mean += delta / count
    variance += (delta * (value - mean) - variance) / count
    numbers[l.N_COUNT + quantity] = np.float32(count)
    numbers[l.N_MEAN + quantity] = np.float32(mean)
    numbers[l.N_VAR + quantity] = np.float32(max(variance, 0.0))


@njit(cache=True)
def _freeze_reference(numbers, baseline, rows):
    """Keep the early usual values as the reference against which a slow ramp is measured."""
    for k in range(len(l.DRIFTING)):
        mean, sd, weight = usual(baseline, rows, numbers, l.DRIFTING[k])
        if weight > 0.0:
            numbers[l.N_REF_MEAN + k] = np.float32(mean)
            numbers[l.N_REF_SD + k] = np.float32(sd)


@njit(cache=True)
def learn(rows, slots, names, codes, state, baseline, found, weights):
    """Add events to their agents' baselines; rows whose weight is 0 (suspicious, self-asserted, frozen) are left out."""
    scopes = np.zeros(l.SCOPES, np.uint64)
    scope_rows = np.zeros(l.SCOPES, np.int64)
    for position in range(len(rows)):
        row = rows[position]
        if weights[position] == 0 or found.flags[row] == IGNORED:
            continue
        slot = slots[row]
        numbers, table = state.numbers[slot], state.table[slot]
        for kind in range(l.KINDS):
            if found.items[row, kind] != 0:
                own_add(table, numbers, kind, found.items[row, kind])
        for quantity in range(l.QUANTITIES):
            if found.quantities[row, quantity] >= 0.0:
                _learn_quantity(numbers, quantity, found.quantities[row, quantity])
        numbers[l.N_METHOD] = max(numbers[l.N_METHOD], np.float32(codes[row, c.METHOD]))
        numbers[l.N_EVENTS] += np.float32(1.0)
        if numbers[l.N_EVENTS] >= _REFERENCE_AFTER and numbers[l.N_REF_SD] == 0:
            scope_keys(scopes, names[row])
            for level in range(l.SCOPES):
                scope_rows[level] = -1 if scopes[level] == 0 else scope_row(baseline, scopes[level])
            _freeze_reference(numbers, baseline, scope_rows)

"""The kernel of features: sessions, items and quantities of a batch, observed and learned in event order."""

from __future__ import annotations

import math

import numpy as np

from .. import columns
from ..compilation import allocation_free, inlined
from ..timestamps import DAY_MS, HOUR_MS, WEEK_MS
from . import layout
from .agent_clock import (
    count_action_use,
    is_session_late,
    lateness_ms,
    leave_time_out,
    left_after,
    move_clock,
    order_flag,
    session_slot,
    start_clock,
    tells_order,
    time_behind_ms,
    use_bucket,
    vouched_time_ms,
)
from .argument_flow import argument_origin, end_call, gives_sensitive_answer, route_novelty, write_routes, write_values
from .evidence_beside_features import is_told_new, write_new_network
from .feature_vector import (
    F_ARGUMENT,
    F_ARGUMENT_ROUTE,
    F_HABITS,
    F_SENSITIVE_ROUTE,
    update_reference,
    write_feature_vector,
)
from .frequency_tables import halve_habits, hash_pair, item_hash, own_add, own_add_vouched, scope_keys, scope_row
from .habits_of_others import habits_of_others, share_in_group
from .layout import AgentState, Array, Baseline
from .row_observations import IGNORED_EVENT, OUT_OF_ORDER_EVENT, SENSITIVE, UNHASHED, RowObservations

# Items of an event and their contexts: the frequencies that are learned.


_EPOCH_WEEK_OFFSET = 3 * DAY_MS
_MAX_ITEM_BYTES = 1e18


@inlined
def _part_of_week_item(at_ms: int) -> np.uint64:
    """Return the part of the week: eight parts of three hours per day, weekdays and weekend separate (1 to 16)."""
    in_week = (at_ms + _EPOCH_WEEK_OFFSET) % WEEK_MS
    weekend = 1 if in_week >= 5 * DAY_MS else 0
    return np.uint64(1 + (in_week % DAY_MS) // (3 * HOUR_MS) + 8 * weekend)


@inlined
def _size_item(kind: int, action: np.uint64, size: float) -> np.uint64:
    """Return the size of a request or answer in thirds of an octave: templates, codes and pages have usual sizes."""
    third = np.uint64(3.0 * math.log2(1.0 + min(size, _MAX_ITEM_BYTES)))
    return item_hash(kind, hash_pair(action, third + np.uint64(1)))


@inlined
def write_items(
    items: Array,
    contexts: Array,
    names: Array,
    event_numbers: Array,
    codes: Array,
    at_ms: int,
    prev: np.uint64,
    uses: np.int64,
) -> None:
    """Write the items of one event: what it touched, and in which order."""
    plain = (
        (layout.K_ACTION, columns.ACTION),
        (layout.K_RESOURCE, columns.RESOURCE),
        (layout.K_TARGET, columns.TARGET),
        (layout.K_AUDIENCE, columns.AUDIENCE),
        (layout.K_PEER, columns.PEER),
        (layout.K_PRINCIPAL, columns.PRINCIPAL),
        (layout.K_NETWORK, columns.NETWORK),
        (layout.K_CREDENTIAL, columns.CREDENTIAL),
        (layout.K_SCOPES, columns.SCOPES),
        (layout.K_CHAIN, columns.CHAIN),
    )
    for kind, column in plain:
        if names[column] != 0:
            items[kind] = item_hash(kind, names[column])
    action = names[columns.ACTION]
    items[layout.K_EFFECT] = item_hash(layout.K_EFFECT, np.uint64(codes[columns.EFFECT] + 1))
    items[layout.K_HOUR] = item_hash(layout.K_HOUR, _part_of_week_item(at_ms))
    items[layout.K_TRANSITION] = item_hash(layout.K_TRANSITION, hash_pair(prev + np.uint64(1), action))
    items[layout.K_FROM] = contexts[layout.K_TRANSITION] = item_hash(layout.K_FROM, prev + np.uint64(1))
    if names[columns.TARGET] != 0:
        items[layout.K_ACTION_TARGET] = item_hash(layout.K_ACTION_TARGET, hash_pair(action, names[columns.TARGET]))
        contexts[layout.K_ACTION_TARGET] = items[layout.K_ACTION]
    bucket = np.uint64(use_bucket(uses))
    items[layout.K_REPEAT] = item_hash(layout.K_REPEAT, hash_pair(action, bucket))
    contexts[layout.K_REPEAT] = item_hash(layout.K_REPEAT, hash_pair(action, np.uint64(1)))
    if codes[columns.PROVENANCE] >= 0:
        items[layout.K_PROVENANCE] = item_hash(
            layout.K_PROVENANCE, hash_pair(action, np.uint64(codes[columns.PROVENANCE] + 1))
        )
        contexts[layout.K_PROVENANCE] = items[layout.K_ACTION]
    items[layout.K_OUTCOME] = item_hash(layout.K_OUTCOME, hash_pair(action, np.uint64(codes[columns.OUTCOME] + 1)))
    contexts[layout.K_OUTCOME] = items[layout.K_ACTION]
    if event_numbers[columns.BYTES_IN] >= 0.0:
        items[layout.K_REQUEST_SIZE] = _size_item(layout.K_REQUEST_SIZE, action, event_numbers[columns.BYTES_IN])
        contexts[layout.K_REQUEST_SIZE] = items[layout.K_ACTION]
    if event_numbers[columns.BYTES_OUT] >= 0.0:
        items[layout.K_ANSWER_SIZE] = _size_item(layout.K_ANSWER_SIZE, action, event_numbers[columns.BYTES_OUT])
        contexts[layout.K_ANSWER_SIZE] = items[layout.K_ACTION]


# `observe` measures an event against what was known *before* it and moves only the short-term state (pace, session,
# clock). `learn` moves the long-term baseline, and is called after the event was scored, for events that may be
# learned. Both walk the rows in order and are deterministic; nothing depends on how events are cut into batches.


CREDENTIAL_ONLY = 2
"""Weight of an event from which `learn` takes only the credential."""

_MAX_COUNT_AFTER_VERSION = np.float32(50.0)
_MAX_MOMENT_WEIGHT = 500.0
_MAX_EVENT_COUNT, _MAX_EVENT_BYTES = 1e9, 1e18
"""Maximum count of one event: sums are kept in float32, and an infinite one could never decay."""


@inlined
def _decay_counts(agent_numbers: Array, elapsed_s: float) -> None:
    for k in range(3):
        agent_numbers[layout.N_PACE + k] *= np.float32(0.5 ** (elapsed_s / layout.HALF_LIVES_S[k]))
    hour = np.float32(0.5 ** (elapsed_s / layout.FAILURE_HALF_LIFE_S))
    for column in (layout.N_FAILURES, layout.N_DENIALS, layout.N_VOLUME, layout.N_NOVELTY):
        agent_numbers[column] *= hour


@inlined
def _write_quantities(
    q: Array, agent_numbers: Array, times: Array, event_numbers: Array, at_ms: int, has_gap: bool, session_events: float
) -> None:
    """Write the quantities of one event. All are logarithms of counts or sizes, so that a standard deviation is a
    ratio."""
    for k in range(3):
        q[layout.Q_PACE_1M + k] = math.log1p(np.float64(agent_numbers[layout.N_PACE + k]))
    if has_gap:
        q[layout.Q_GAP] = math.log1p(max(at_ms - times[layout.T_LAST], 0) / 1000.0)
    pairs = (
        (layout.Q_BYTES_IN, columns.BYTES_IN),
        (layout.Q_BYTES_OUT, columns.BYTES_OUT),
        (layout.Q_DURATION, columns.DURATION),
        (layout.Q_BREADTH, columns.BREADTH),
        (layout.Q_DEPTH, columns.DEPTH),
        (layout.Q_LIFETIME, columns.LIFETIME),
    )
    for quantity, column in pairs:
        if event_numbers[column] >= 0.0:
            q[quantity] = math.log1p(event_numbers[column])
    q[layout.Q_SESSION] = math.log1p(np.float64(session_events))
    q[layout.Q_FAILURES] = math.log1p(np.float64(agent_numbers[layout.N_FAILURES]))
    q[layout.Q_DENIALS] = math.log1p(np.float64(agent_numbers[layout.N_DENIALS]))
    q[layout.Q_VOLUME] = math.log1p(np.float64(agent_numbers[layout.N_VOLUME]))
    q[layout.Q_NOVELTY] = math.log1p(np.float64(agent_numbers[layout.N_NOVELTY]))


@inlined
def _advance_counts(agent_numbers: Array, event_numbers: Array, codes: Array, elapsed_s: float, late_s: float) -> None:
    _decay_counts(agent_numbers, elapsed_s)
    count = np.float32(min(event_numbers[columns.COUNT], _MAX_EVENT_COUNT))
    for k in range(3):
        agent_numbers[layout.N_PACE + k] += count * left_after(late_s, layout.HALF_LIVES_S[k])
    left = left_after(late_s, layout.FAILURE_HALF_LIFE_S)
    if codes[columns.OUTCOME] == columns.ERROR:
        agent_numbers[layout.N_FAILURES] += count * left
    if codes[columns.OUTCOME] == columns.DENIED:
        agent_numbers[layout.N_DENIALS] += count * left
    volume = max(event_numbers[columns.BYTES_IN], 0.0) + max(event_numbers[columns.BYTES_OUT], 0.0)
    agent_numbers[layout.N_VOLUME] += np.float32(min(volume, _MAX_EVENT_BYTES)) * left


@inlined
def _count_new_names(fresh: np.uint32) -> int:
    """Return the number of kinds that name things (not order or outcome) whose item is new to the agent."""
    count = 0
    for kind in layout.NAMING:
        count += int((fresh >> np.uint32(kind)) & np.uint32(1))
    return count


@inlined
def _check_revoked_token(revoked: Array, names: Array, codes: Array) -> np.uint8:
    """Remember a revoked token, which a signal event may name, too. Return 1 if the event uses a token that was revoked
    before."""
    token = names[columns.TOKEN]
    if token == 0:
        return np.uint8(0)
    revoked_before = False
    for k in range(layout.REVOKED_TOKENS):
        revoked_before = revoked_before or revoked[k] == token
    if codes[columns.TYPE] != columns.TOKEN_REVOKE and codes[columns.TYPE] < columns.FIRST_SIGNAL:
        return np.uint8(1) if revoked_before else np.uint8(0)
    # Any sender can claim a revocation; only an authenticated one may push out those that are known.
    if not revoked_before and codes[columns.SELF_ASSERTED] == 0:
        for k in range(layout.REVOKED_TOKENS - 1, 0, -1):
            revoked[k] = revoked[k - 1]
        revoked[0] = token
    return np.uint8(0)


@allocation_free
def _change_version(times: Array, agent_numbers: Array, table: Array, version: np.uint64, at_ms: int) -> None:
    """Treat a new version as a change-point, not an anomaly: halve the weight of the baseline, at most once a day."""
    seen = times[layout.T_VERSION]
    now = np.int64(version)
    if now == 0 or seen == now:
        return
    times[layout.T_VERSION] = now
    if seen != 0:
        _change_habits(times, agent_numbers, table, at_ms)


@allocation_free
def _change_habits(times: Array, agent_numbers: Array, table: Array, at_ms: int) -> None:
    """Halve the weight of what was learned, unless that was done less than a day ago."""
    if at_ms - times[layout.T_CHANGED] < DAY_MS:
        return
    times[layout.T_CHANGED] = at_ms
    halve_habits(table, agent_numbers, layout.KINDS)
    for quantity in range(layout.QUANTITIES):
        column = layout.N_COUNT + quantity
        agent_numbers[column] = min(agent_numbers[column] * np.float32(0.5), _MAX_COUNT_AFTER_VERSION)


@inlined
def _find_scopes(scopes: Array, scope_rows: Array, names: Array, baseline: Baseline) -> None:
    scope_keys(scopes, names)
    for level in range(layout.SCOPES):
        scope_rows[level] = -1 if scopes[level] == 0 else scope_row(baseline, scopes[level])


@inlined
def _share_of_group(baseline: Baseline, agent_numbers: Array, names: Array, scopes: Array) -> float:
    shared = np.float64(agent_numbers[layout.N_SHARED])
    if shared <= 0.0:
        return 0.0
    known = min(shared / max(np.float64(agent_numbers[layout.N_EVENTS]), 1.0), 1.0)
    return known * share_in_group(baseline, names[columns.AGENT_DRAW], scopes[layout.PEERS])


@inlined
def _is_no_behavior(observations: RowObservations, row: int, revoked: Array, names: Array, codes: Array) -> bool:
    """Return whether an event is not behavior: our denials, reports by others, and a revoked token that was refused,
    which any caller may have presented. Also write whether a revoked token was used."""
    if codes[columns.OWN_DENIAL] != 0:
        return True
    observations.token_reuse[row] = _check_revoked_token(revoked, names, codes)
    return bool(observations.token_reuse[row] != 0 and codes[columns.OUTCOME] == columns.DENIED)


@allocation_free
def _pass_over(state: AgentState, slot: int, names: Array, codes: Array, at_ms: int) -> None:
    agent_numbers, times, table = state.numbers[slot], state.times[slot], state.table[slot]
    now_ms = max(at_ms, times[layout.T_LAST])
    if codes[columns.TYPE] >= columns.FIRST_SIGNAL and codes[columns.SELF_ASSERTED] == 0:
        _check_revoked_token(state.revoked[slot], names, codes)
        if codes[columns.TYPE] == columns.SIGNAL_CHANGE and times[layout.T_FIRST] != 0:
            _change_habits(times, agent_numbers, table, now_ms)
    is_vouched = codes[columns.SELF_ASSERTED] == 0  # else anybody could move the numbers of real calls
    if is_vouched and codes[columns.UNTRUSTED_RESULT] != columns.UNTRACED and names[columns.SESSION] != 0:
        # It is not behavior, but the sender has numbered it, and numbers later calls after it.
        skipped = session_slot(state, slot, names[columns.SESSION], now_ms)
        end_call(state, slot, skipped, 0, False)


@allocation_free
def observe(
    rows: Array,
    slots: Array,
    names: Array,
    event_numbers: Array,
    codes: Array,
    time_ms: Array,
    state: AgentState,
    baseline: Baseline,
    out: Array,
    observations: RowObservations,
    scopes: Array,
    scope_rows: Array,
) -> None:
    """Write the feature vectors of *rows* into *out* and update the agents' short-term state.

    Args:
        rows: int64 (m,): rows of the batch, in order; an agent may occur in them more than once.
        slots: int64 (n,): slot of each row's agent.
        names, event_numbers, codes, time_ms: the batch's columns (`EventColumns`).
        out: float64 (n, FEATURES), rows are overwritten.
        observations: a `RowObservations`, rows are overwritten.
        scopes, scope_rows: room for uint64 (SCOPES,) and int64 (SCOPES,).
    """
    for row in rows:
        slot = slots[row]
        agent_numbers, times, table = state.numbers[slot], state.times[slot], state.table[slot]
        at_ms = time_ms[row]
        observations.items[row, :] = np.uint64(0)
        observations.contexts[row, :] = np.uint64(0)
        observations.quantities[row, :] = -1.0
        observations.flags[row], observations.new_kinds[row], observations.token_reuse[row] = 0, 0, 0
        observations.told_targets[row], observations.token_gap_ms[row], observations.new_network_p[row] = False, -1, 1.0
        if _is_no_behavior(observations, row, state.revoked[slot], names[row], codes[row]):
            observations.flags[row] = IGNORED_EVENT
            out[row, :] = 0.0
            _pass_over(state, slot, names[row], codes[row], at_ms)
            continue
        is_vouched = codes[row, columns.SELF_ASSERTED] == 0
        seen_before = times[layout.T_FIRST] != 0
        if not seen_before:
            start_clock(times, agent_numbers, at_ms, is_vouched)
        behind_ms = time_behind_ms(times, agent_numbers, at_ms, is_vouched)
        late_ms = lateness_ms(behind_ms, event_numbers[row, columns.DURATION])
        is_in_order = late_ms <= layout.MOST_DISORDER_MS
        observations.flags[row] = order_flag(times, at_ms, is_in_order)
        now_ms = max(at_ms, times[layout.T_LAST])
        if is_vouched:
            _change_version(times, agent_numbers, table, names[row, columns.VERSION], now_ms)
        observations.age_days[row] = (now_ms - times[layout.T_FIRST]) / DAY_MS
        session = names[row, columns.SESSION] if names[row, columns.SESSION] != 0 else np.uint64(1)
        k = session_slot(state, slot, session, now_ms)
        prev = state.session_prev[slot, k]
        is_work = codes[row, columns.TYPE] >= columns.FIRST_WORK
        is_late = is_session_late(
            state.session_numbers[slot],
            k,
            vouched_time_ms(times, agent_numbers),
            at_ms,
            event_numbers[row, columns.DURATION],
            is_vouched,
            is_work,
        )
        uses = count_action_use(state.session_table[slot, k], names[row, columns.ACTION])
        state.session_numbers[slot, k, layout.S_EVENTS] += np.float32(1.0)
        elapsed_s, late_s = (now_ms - times[layout.T_LAST]) / 1000.0, late_ms / 1000.0
        _advance_counts(agent_numbers, event_numbers[row], codes[row], elapsed_s, late_s)
        write_items(
            observations.items[row],
            observations.contexts[row],
            names[row],
            event_numbers[row],
            codes[row],
            at_ms,
            prev,
            uses,
        )
        _write_quantities(
            observations.quantities[row],
            agent_numbers,
            times,
            event_numbers[row],
            now_ms,
            seen_before and behind_ms == 0,
            state.session_numbers[slot, k, layout.S_EVENTS],
        )
        leave_time_out(
            observations.items[row],
            observations.contexts[row],
            observations.quantities[row],
            is_in_order,
            tells_order(state.disorder[slot], state.session_doubt[slot], k, is_late, is_vouched, is_work),
        )
        _find_scopes(scopes, scope_rows, names[row], baseline)
        observations.new_kinds[row] = write_feature_vector(
            out[row],
            observations.surprise_bits[row],
            observations.items[row],
            observations.contexts[row],
            observations.quantities[row],
            event_numbers[row],
            codes[row],
            scope_rows,
            scopes,
            baseline,
            table,
            agent_numbers,
            _share_of_group(baseline, agent_numbers, names[row], scopes),
            state.session_numbers[slot, k],
        )
        write_new_network(observations, row, state, slot, names[row], codes[row], at_ms)
        target = observations.items[row, layout.K_TARGET]
        observations.told_targets[row] = is_told_new(codes[row], target, scopes, scope_rows, baseline, table)
        if codes[row, columns.UNTRUSTED_RESULT] != columns.UNTRACED:
            untrusted, numbers = state.session_untrusted[slot, k], state.session_numbers[slot, k]
            foreign = write_values(observations, row, names[row], codes[row], untrusted, numbers)
            out[row, F_ARGUMENT] = argument_origin(
                observations, row, names[row], now_ms, foreign, scopes, baseline, table
            )
            write_routes(observations, row, names[row], codes[row], state.session_sensitive[slot, k], numbers)
            for feature, rule in ((F_ARGUMENT_ROUTE, UNHASHED), (F_SENSITIVE_ROUTE, SENSITIVE)):
                out[row, feature] = route_novelty(
                    observations, row, rule, names[row], scopes, scope_rows, baseline, table
                )
            if is_vouched:  # else anybody could move the numbers of real calls
                sensitive = gives_sensitive_answer(names[row], codes[row], baseline)
                end_call(state, slot, k, codes[row, columns.UNTRUSTED_RESULT], sensitive)
        if is_vouched and agent_numbers[layout.N_SHARED] > 0.0:
            out[row, F_HABITS] = habits_of_others(
                baseline,
                scope_rows,
                scopes,
                names[row, columns.AGENT_DRAW],
                observations.items[row],
                table,
                state.session_numbers[slot, k],
            )
        left = left_after(late_s, layout.FAILURE_HALF_LIFE_S)
        agent_numbers[layout.N_NOVELTY] += np.float32(_count_new_names(observations.new_kinds[row])) * left
        if is_in_order and not is_late:
            state.session_prev[slot, k] = names[row, columns.ACTION]
        state.session_last[slot, k] = now_ms
        move_clock(times, agent_numbers, now_ms, behind_ms, at_ms, is_vouched)


@inlined
def _learn_quantity(agent_numbers: Array, quantity: int, value: float) -> None:
    """Update a running mean and variance with bounded memory, so that they follow honest change."""
    count = min(np.float64(agent_numbers[layout.N_COUNT + quantity]) + 1.0, _MAX_MOMENT_WEIGHT)
    mean = np.float64(agent_numbers[layout.N_MEAN + quantity])
    variance = np.float64(agent_numbers[layout.N_VAR + quantity])
    delta = value - mean
    mean += delta / count
    variance += (delta * (value - mean) - variance) / count
    agent_numbers[layout.N_COUNT + quantity] = np.float32(count)
    agent_numbers[layout.N_MEAN + quantity] = np.float32(mean)
    agent_numbers[layout.N_VAR + quantity] = np.float32(max(variance, 0.0))


@inlined
def _learn_values(table: Array, agent_numbers: Array, known: Array, observations: RowObservations, row: int) -> None:
    for argument in range(observations.arguments.start[row], observations.arguments.start[row + 1]):
        if observations.own_values[argument] != 0:
            own_add(table, agent_numbers, known, layout.K_ARGUMENT, observations.own_values[argument])
        for rule in (UNHASHED, SENSITIVE):
            if observations.own_routes[argument, rule] != 0:
                own_add(table, agent_numbers, known, layout.K_ARGUMENT, observations.own_routes[argument, rule])


@allocation_free
def learn(
    rows: Array, slots: Array, codes: Array, state: AgentState, observations: RowObservations, weights: Array
) -> None:
    """Add events to their agents' baselines.

    Nothing is learned from rows whose weight is 0 (suspicious, self-asserted), from those whose weight is 2 (anomalous,
    but announced by the authorization server) only the credential.
    """
    for position in range(len(rows)):
        row = rows[position]
        if weights[position] == 0 or observations.flags[row] == IGNORED_EVENT:
            continue
        slot = slots[row]
        agent_numbers, table, known = state.numbers[slot], state.table[slot], state.known[slot]
        for kind in range(layout.SINGLE_KINDS):
            if observations.items[row, kind] != 0 and (
                weights[position] != CREDENTIAL_ONLY or kind == layout.K_CREDENTIAL
            ):
                own_add(table, agent_numbers, known, kind, observations.items[row, kind])
        announced = (
            codes[row, columns.TYPE] == columns.CLIENT_CHANGE or codes[row, columns.TYPE] == columns.CLIENT_REGISTER
        )
        if announced and observations.items[row, layout.K_CREDENTIAL] != 0:
            own_add_vouched(table, layout.K_CREDENTIAL, observations.items[row, layout.K_CREDENTIAL])
        if weights[position] == CREDENTIAL_ONLY:
            continue
        _learn_values(table, agent_numbers, known, observations, row)
        for quantity in range(layout.QUANTITIES):
            if observations.quantities[row, quantity] >= 0.0:
                _learn_quantity(agent_numbers, quantity, observations.quantities[row, quantity])
        agent_numbers[layout.N_METHOD] = max(agent_numbers[layout.N_METHOD], np.float32(codes[row, columns.METHOD]))
        agent_numbers[layout.N_EVENTS] += np.float32(1.0)
        if observations.flags[row] != OUT_OF_ORDER_EVENT:
            update_reference(agent_numbers, observations.quantities[row], observations.age_days[row])

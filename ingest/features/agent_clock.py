"""An agent's latest time and sessions, and how late an event is for it.

Time never goes back. Unauthenticated events advance it too, but do not make an authenticated event late, because the
agent's state keeps their lead.
"""

from __future__ import annotations

import math

import numpy as np

from ..compilation import inlined
from . import layout
from .layout import AgentState, Array
from .row_observations import LATE_EVENT, OUT_OF_ORDER_EVENT

NEVER_VOUCHED_S = np.float32(1e9)
"""Lead of an agent that has no authenticated event yet: nothing is late relative to it."""


@inlined
def start_clock(times: Array, agent_numbers: Array, at_ms: int, is_vouched: bool) -> None:
    """Start the clock at the time of an agent's first event."""
    times[layout.T_FIRST] = max(at_ms, 1)  # 0 means that the agent is new
    times[layout.T_LAST] = at_ms
    if not is_vouched:
        agent_numbers[layout.N_LEAD] = NEVER_VOUCHED_S


@inlined
def vouched_time_ms(times: Array, agent_numbers: Array) -> int:
    """Return the time of the agent's latest attested event."""
    latest_ms: int = times[layout.T_LAST] - np.int64(np.float64(agent_numbers[layout.N_LEAD]) * 1000.0 + 0.5)
    return latest_ms


@inlined
def time_behind_ms(times: Array, agent_numbers: Array, at_ms: int, is_vouched: bool) -> int:
    """Return by how much an event is older than the latest attested event of its agent.

    Unauthenticated events make no event late, or any sender could take the evidence from other events. They are never
    late themselves: they cannot lower the score, and count in full.
    """
    if not is_vouched:
        return 0
    behind_ms: int = max(vouched_time_ms(times, agent_numbers) - at_ms, 0)
    return behind_ms


_LONGEST_CALL_MS = 1e12


@inlined
def lateness_ms(behind_ms: int, duration_ms: float) -> int:
    """Return by how much an event is late. A long call is dated by its start and reported at its end, which does not
    make it late: otherwise an agent that holds a call open could remove the evidence from it."""
    late_ms: int = max(behind_ms - int(min(max(duration_ms, 0.0), _LONGEST_CALL_MS)), 0)
    return late_ms


@inlined
def order_flag(times: Array, at_ms: int, is_in_order: bool) -> int:
    """Return the value for `RowObservations.flags`."""
    if at_ms >= times[layout.T_LAST]:
        return 0
    return LATE_EVENT if is_in_order else OUT_OF_ORDER_EVENT


@inlined
def move_clock(times: Array, agent_numbers: Array, now_ms: int, behind_ms: int, at_ms: int, is_vouched: bool) -> None:
    """Advance the agent's latest time, and the lead of events without a token."""
    if not is_vouched:
        agent_numbers[layout.N_LEAD] += np.float32((now_ms - times[layout.T_LAST]) / 1000.0)
    elif behind_ms == 0:
        agent_numbers[layout.N_LEAD] = np.float32((now_ms - at_ms) / 1000.0)
    times[layout.T_LAST] = now_ms


@inlined
def is_session_late(
    sessions: Array, k: int, vouched_ms: int, at_ms: int, duration_ms: float, is_vouched: bool, is_work: bool
) -> bool:
    """Return whether an event came out of order in its session. Only behavior advances the session's latest time.

    *sessions* are the numbers of the agent's sessions, *vouched_ms* is the time of its latest attested event.

    Unauthenticated events are never out of order, and make no other event so. An authorization server's reports about
    tokens and clients arrive by another way than work, so they do not either: an agent requests tokens at any time.
    """
    if not is_vouched:
        return False
    known = int(sessions[k, layout.S_ANSWERS]) >> layout.SESSION_TIME_BITS
    latest_ms = vouched_ms - (known - 1) if known > 0 else at_ms
    later_ms = max(vouched_ms, at_ms)
    for other in range(layout.SESSIONS):
        bits = int(sessions[other, layout.S_ANSWERS])
        lag = bits >> layout.SESSION_TIME_BITS
        if other == k and is_work:
            lag = later_ms - max(latest_ms, at_ms) + 1
        elif lag > 0:
            lag += later_ms - vouched_ms
        lag = lag if lag <= layout.MOST_SESSION_LAG_MS + 1 else 0
        answers = bits & ((1 << layout.SESSION_TIME_BITS) - 1)
        sessions[other, layout.S_ANSWERS] = np.float32((lag << layout.SESSION_TIME_BITS) | answers)
    return lateness_ms(max(latest_ms - at_ms, 0), duration_ms) > layout.PARALLEL_MS


@inlined
def tells_order(disorder: Array, doubt: Array, k: int, is_late: bool, is_vouched: bool, is_work: bool) -> bool:
    """Return whether the order of an event is evidence, after updating the agent's share of out-of-order events.

    If events arrive shuffled, actions seem to follow one another that never did. The order of unauthenticated events
    always counts: they cannot lower the score. *doubt* is that of the agent's sessions, *k* the one of the event.
    """
    if not is_vouched:
        return True
    is_doubted = is_late or doubt[k] > 0
    if is_work:
        disorder[0] += layout.DISORDER_STEP * (np.float32(1.0 if is_late else 0.0) - disorder[0])
        if disorder[0] < layout.LEAST_DISORDER:
            disorder[0] = np.float32(0.0)
        doubt[k] = layout.DOUBTED_WORK if is_late else max(int(doubt[k]) - 1, 0)
    return not is_late and not (is_doubted and bool(disorder[0] > layout.MOST_UNORDERED))


@inlined
def leave_time_out(items: Array, contexts: Array, quantities: Array, is_in_time: bool, has_order: bool) -> None:
    """Drop an event's evidence of pace unless it is on time, and of order unless that is evidence."""
    if not is_in_time:
        for quantity in layout.TIMED_QUANTITIES:
            quantities[quantity] = -1.0
    if not is_in_time or not has_order:
        for kind in (layout.K_TRANSITION, layout.K_FROM):
            items[kind] = contexts[kind] = np.uint64(0)


@inlined
def left_after(late_s: float, half_life_s: float) -> np.float32:
    """Return what is left of a late event at its agent's latest time. Counts are as if it had arrived on time."""
    return np.float32(0.5 ** (late_s / half_life_s)) if late_s > 0.0 else np.float32(1.0)


# Kernel of sessions: the slot that each of an agent's latest sessions has, and the uses of each action in it.


_MAX_USE_BUCKET = 15


@inlined
def session_slot(state: AgentState, slot: int, session: np.uint64, at_ms: int) -> int:
    """Return the slot of the event's session; a new session gets the one unused longest."""
    oldest = 0
    for k in range(layout.SESSIONS):
        if state.session_id[slot, k] == session:
            if session != np.uint64(1) or at_ms - state.session_last[slot, k] <= layout.IMPLICIT_SESSION_GAP_MS:
                return k
            oldest = k
            break
        if state.session_last[slot, k] < state.session_last[slot, oldest]:
            oldest = k
    state.session_id[slot, oldest] = session
    state.session_last[slot, oldest] = at_ms
    state.session_doubt[slot, oldest] = layout.DOUBTED_BEGINNING
    state.session_prev[slot, oldest] = np.uint64(0)
    state.session_numbers[slot, oldest, :] = np.float32(0.0)
    state.session_untrusted[slot, oldest] = np.uint64(0)
    state.session_sensitive[slot, oldest] = np.uint32(0)
    state.session_table[slot, oldest, :] = np.uint32(0)
    return oldest


@inlined
def count_action_use(table: Array, action: np.uint64) -> np.int64:
    """Return the uses of an action in a session after this one. If a session has very many actions, the rarest are
    counted together."""
    fingerprint = np.uint32((action & np.uint64((1 << 22) - 1)) | np.uint64(1)) << np.uint32(10)
    least = 0
    for k in range(layout.SESSION_TABLE):
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


@inlined
def use_bucket(uses: np.int64) -> np.int64:
    """Return 1, 2, 3, 4, then two steps per octave: the resolution at which repetition matters."""
    if uses <= 4:
        return uses
    return min(4 + np.int64(2.0 * math.log2(uses / 4.0)), np.int64(_MAX_USE_BUCKET))

"""Kernel of sessions: the slot that each of an agent's latest sessions has, and the uses of each action in it."""

from __future__ import annotations

import math

import numpy as np

from ..compilation import inlined
from . import layout
from .layout import AgentState, Array

_MAX_USE_BUCKET = 15


@inlined
def session_slot(state: AgentState, slot: int, session: np.uint64, at_ms: int) -> int:
    """Slot of the event's session among the agent's; the longest unused one is given to a new session."""
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
    """Uses of an action in a session after this one. A session of very many actions counts the rarest ones together."""
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
    """1, 2, 3, 4, then two steps an octave: the resolution at which repetition matters."""
    if uses <= 4:
        return uses
    return min(4 + np.int64(2.0 * math.log2(uses / 4.0)), np.int64(_MAX_USE_BUCKET))

"""Evidence that is missing according to an agent's state: of order, if its sessions arrive shuffled, and of habits, if
its work is unauthenticated. It is only displayed; no score depends on it."""

from __future__ import annotations

import numpy as np

from . import layout
from .agent_clock import NEVER_VOUCHED_S
from .layout import Array


def unordered_sessions(disorder: Array, session_last: Array, session_doubt: Array) -> Array:
    """Latest sessions of agents, int64 (n,) of 0 to `layout.SESSIONS`, in which order is currently not evidence.

    Args:
        disorder: (n, 1), as `AgentState` has it.
        session_last: (n, `layout.SESSIONS`), likewise.
        session_doubt: (n, `layout.SESSIONS`), likewise.
    """
    found = np.zeros(len(disorder), np.int64)
    rows = np.flatnonzero(disorder[:, 0] > layout.MOST_UNORDERED)  # few of the many that a pipeline may hold
    found[rows] = ((session_last[rows] != 0) & (session_doubt[rows] > 0)).sum(axis=1)
    return found


def used_sessions(row: Array) -> int:
    """Latest sessions of an agent that its state remembers, 0 to `layout.SESSIONS`."""
    return int((row["session_last"] != 0).sum())


def was_never_vouched(row: Array) -> bool:
    """Returns whether an agent has never had an authenticated event."""
    return bool(row["numbers"][layout.N_LEAD] >= NEVER_VOUCHED_S)


def is_latest_unvouched(row: Array) -> bool:
    """Returns whether an agent's latest events, and the work of its sessions of 70 minutes before, are unauthenticated.

    A request for a token is not work, so an authenticated one next to unauthenticated work makes no difference unless
    it is the latest event: the state does not count unauthenticated events.
    """
    if row["numbers"][layout.N_LEAD] <= 0.0:
        return False
    vouched_ms = int(row["times"][layout.T_LAST]) - round(float(row["numbers"][layout.N_LEAD]) * 1000.0)
    recent = row["session_last"] >= vouched_ms - layout.MOST_SESSION_LAG_MS
    recent &= row["session_last"] != 0
    has_vouched_work = row["session_numbers"][:, layout.S_ANSWERS].astype(np.int64) >> layout.SESSION_TIME_BITS > 0
    return bool(recent.any() and not has_vouched_work.any())

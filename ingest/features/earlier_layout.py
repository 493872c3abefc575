"""Agents' state as 0.1 stored it, and its conversion: nothing is lost, only values of arguments are not known yet."""

from __future__ import annotations

from typing import Final

import numpy as np

from . import layout
from .layout import Array

GENERATION: Final = 2
KINDS: Final = 20
"""Without values of arguments."""
_REGIONS: Final = 4
_ADDED_NUMBERS: Final = (layout.N_SEEN + KINDS, layout.N_DISTINCT + KINDS)
"""Columns of the present `numbers` that it did not have: totals of values."""

STATE_ROW = np.dtype(
    [
        ("times", np.int64, (layout.TIMES,)),
        ("numbers", np.float32, (layout.NUMBERS - len(_ADDED_NUMBERS),)),
        ("table", np.uint32, (_REGIONS * layout.REGION_SIZE,)),
        ("session_id", np.uint64, (layout.SESSIONS,)),
        ("session_last", np.int64, (layout.SESSIONS,)),
        ("session_prev", np.uint64, (layout.SESSIONS,)),
        ("session_numbers", np.float32, (layout.SESSIONS, 2)),
        ("session_table", np.uint32, (layout.SESSIONS, layout.SESSION_TABLE)),
        ("revoked", np.uint64, (layout.REVOKED_TOKENS,)),
    ]
)


def converted(rows: Array) -> Array:
    """Rows (n,) of dtype `layout.STATE_ROW` from rows of the earlier layout."""
    made = np.zeros(len(rows), layout.STATE_ROW)
    kept = np.delete(np.arange(layout.NUMBERS), _ADDED_NUMBERS)
    for name in STATE_ROW.names or ():
        if name == "numbers":
            made[name][:, kept] = rows[name]
        elif name == "table":
            made[name][:, : rows[name].shape[1]] = rows[name]
        elif name == "session_numbers":
            made[name][:, :, : rows[name].shape[2]] = rows[name]
        else:
            made[name] = rows[name]
    return made


def read_state_row(stored: bytes) -> Array | None:
    """State of one agent, (1,) of dtype `layout.STATE_ROW`, as it is stored in this layout or the earlier one.

    Returns:
        None where *stored* has the size of neither.
    """
    if len(stored) == layout.STATE_ROW.itemsize:
        return np.frombuffer(stored, layout.STATE_ROW)
    return converted(np.frombuffer(stored, STATE_ROW)) if len(stored) == STATE_ROW.itemsize else None

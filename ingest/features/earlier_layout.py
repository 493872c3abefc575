"""Agents' state as earlier versions stored it, and its conversion: nothing is lost, what is new is not known yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from . import layout
from .layout import Array

GENERATION: Final = 2
KINDS: Final = 20
"""Of 0.1, without values of arguments."""
_REGIONS: Final = 4
_ADDED_NUMBERS: Final = (layout.N_SEEN + KINDS, layout.N_DISTINCT + KINDS)
"""Columns of the present `numbers` that 0.1 did not have: totals of values."""

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
"""Of 0.1."""


def _row_with_values(session_numbers: int) -> np.dtype[Any]:
    """Row of a version between 0.1 and the next, which had so many numbers of a session."""
    return np.dtype(
        [
            ("times", np.int64, (layout.TIMES,)),
            ("numbers", np.float32, (layout.NUMBERS,)),
            ("table", np.uint32, (layout.TABLE_SIZE,)),
            ("session_id", np.uint64, (layout.SESSIONS,)),
            ("session_last", np.int64, (layout.SESSIONS,)),
            ("session_prev", np.uint64, (layout.SESSIONS,)),
            ("session_numbers", np.float32, (layout.SESSIONS, session_numbers)),
            ("session_untrusted", np.uint64, (layout.SESSIONS,)),
            ("session_table", np.uint32, (layout.SESSIONS, layout.SESSION_TABLE)),
            ("revoked", np.uint64, (layout.REVOKED_TOKENS,)),
        ]
    )


STATE_ROW_WITH_VALUES = _row_with_values(session_numbers=4)
"""Of the versions after it, which knew values of arguments, but compared no session with the habits of others."""
STATE_ROW_WITH_HABITS = _row_with_values(session_numbers=6)
"""Of those that did, but neither knew which answers were sensitive nor counted the names that an agent uses."""


STATE_ROW_WITH_NAMES = np.dtype(
    [
        ("times", np.int64, (layout.TIMES,)),
        ("numbers", np.float32, (layout.NUMBERS,)),
        ("table", np.uint32, (layout.TABLE_SIZE,)),
        ("known", np.uint8, (layout.KINDS,)),
        ("session_id", np.uint64, (layout.SESSIONS,)),
        ("session_last", np.int64, (layout.SESSIONS,)),
        ("session_prev", np.uint64, (layout.SESSIONS,)),
        ("session_numbers", np.float32, (layout.SESSIONS, layout.SESSION_NUMBERS)),
        ("session_untrusted", np.uint64, (layout.SESSIONS,)),
        ("session_sensitive", np.uint32, (layout.SESSIONS,)),
        ("session_table", np.uint32, (layout.SESSIONS, layout.SESSION_TABLE)),
        ("revoked", np.uint64, (layout.REVOKED_TOKENS,)),
    ]
)
"""Of those that knew both, but not how often an agent's events come out of order."""
STATE_ROW_WITH_ORDER = np.dtype(
    [
        *((name, STATE_ROW_WITH_NAMES[name]) for name in STATE_ROW_WITH_NAMES.names or ()),
        ("disorder", np.float32, (1,)),
        ("session_doubt", np.uint8, (layout.SESSIONS,)),
    ]
)
"""Of those that knew that, but not from which networks tokens are used."""


class StateLayout(NamedTuple):
    """Name of a layout in stored state: generation and kinds of items as in `layout`, and the row."""

    generation: int
    kinds: int
    row: np.dtype[Any]


EARLIER_LAYOUTS: Final = (
    StateLayout(GENERATION, KINDS, STATE_ROW),
    StateLayout(3, 21, STATE_ROW_WITH_VALUES),
    StateLayout(3, 21, STATE_ROW_WITH_HABITS),
    StateLayout(3, 21, STATE_ROW_WITH_NAMES),
    StateLayout(3, 21, STATE_ROW_WITH_ORDER),
)


def converted(rows: Array) -> Array:
    """Rows (n,) of dtype `layout.STATE_ROW` from rows of an earlier layout."""
    converted_rows = np.zeros(len(rows), layout.STATE_ROW)
    converted_rows["known"] = layout.UNCOUNTED
    kept = np.delete(np.arange(layout.NUMBERS), _ADDED_NUMBERS)
    for name in rows.dtype.names or ():
        if name == "numbers" and rows[name].shape[1] == len(kept):
            converted_rows[name][:, kept] = rows[name]
        elif name == "table":
            converted_rows[name][:, : rows[name].shape[1]] = rows[name]
        elif name == "session_numbers":
            converted_rows[name][:, :, : rows[name].shape[2]] = rows[name]
        else:
            converted_rows[name] = rows[name]
    return converted_rows


def read_state_rows(stored: Sequence[bytes]) -> Array | None:
    """State of agents, (n,) of dtype `layout.STATE_ROW`, as they are stored in this layout or an earlier one."""
    size, raw = len(stored[0]) if stored else 0, b"".join(stored)
    if size == layout.STATE_ROW.itemsize:
        return np.frombuffer(raw, layout.STATE_ROW)
    row = next((earlier.row for earlier in EARLIER_LAYOUTS if size == earlier.row.itemsize), None)
    return None if row is None else converted(np.frombuffer(raw, row))

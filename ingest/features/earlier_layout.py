"""Convert agents' state that earlier versions stored: nothing is lost, and new fields have no values yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from . import layout
from .layout import Array

GENERATION: Final = 2
KINDS: Final = 20
"""Number of kinds in 0.1, without values of arguments."""
_REGIONS: Final = 4
_ADDED_NUMBERS: Final = (layout.N_SEEN + KINDS, layout.N_DISTINCT + KINDS)
"""Columns of the current `numbers` that 0.1 did not have: totals of values."""


def _row_without(*later: str, **shapes: tuple[int, ...]) -> np.dtype[Any]:
    kept = [name for name in layout.STATE_ROW.names or () if name not in later]
    present = {name: layout.STATE_ROW[name] for name in kept}
    return np.dtype([(name, field.base, shapes.get(name, field.shape)) for name, field in present.items()])


_USES_OF_TOKENS: Final = ("use_token", "use_network", "use_ms", "use_new")
_ORDER: Final = ("disorder", "session_doubt", *_USES_OF_TOKENS)
_NAMES: Final = ("known", "session_sensitive", *_ORDER)

STATE_ROW = _row_without(
    "session_untrusted",
    *_NAMES,
    numbers=(layout.NUMBERS - len(_ADDED_NUMBERS),),
    table=(_REGIONS * layout.REGION_SIZE,),
    session_numbers=(layout.SESSIONS, 2),
)
"""Row of 0.1."""
STATE_ROW_WITH_VALUES = _row_without(*_NAMES, session_numbers=(layout.SESSIONS, 4))
"""Row of the versions after 0.1, which had values of arguments, but did not compare sessions with the habits of
others."""
STATE_ROW_WITH_HABITS = _row_without(*_NAMES)
"""Row with habits, but without sensitive answers and the number of names that an agent uses."""
STATE_ROW_WITH_NAMES = _row_without(*_ORDER)
"""Row with both, but without how often an agent's events come out of order."""
STATE_ROW_WITH_ORDER = _row_without(*_USES_OF_TOKENS)
"""Row with disorder, but without the networks from which tokens are used."""


class StateLayout(NamedTuple):
    """A layout of stored state: generation and kinds of items as in `layout`, and the row."""

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
    """Convert rows of an earlier layout to rows (n,) of dtype `layout.STATE_ROW`."""
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
    """Read the state of agents, (n,) of dtype `layout.STATE_ROW`, stored in this layout or an earlier one."""
    size, raw = len(stored[0]) if stored else 0, b"".join(stored)
    if size == layout.STATE_ROW.itemsize:
        return np.frombuffer(raw, layout.STATE_ROW)
    row = next((earlier.row for earlier in EARLIER_LAYOUTS if size == earlier.row.itemsize), None)
    return None if row is None else converted(np.frombuffer(raw, row))

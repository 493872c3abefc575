"""State that earlier versions stored goes on: every column keeps its meaning, and nothing is known of what is new."""

from __future__ import annotations

import numpy as np
import pytest

from trustwatch.ingest.features import earlier_layout, layout
from trustwatch.ingest.features.earlier_layout import EARLIER_LAYOUTS, StateLayout, converted, read_state_rows


def earlier_rows(count: int, of: StateLayout = EARLIER_LAYOUTS[0]) -> layout.Array:
    """Rows in which every number is another one."""
    rows = np.zeros(count, of.row)
    for name in of.row.names or ():
        rows[name] = np.arange(1, rows[name].size + 1).reshape(rows[name].shape)
    return rows


def test_every_number_keeps_its_meaning() -> None:
    """Columns behind those that are new moved up by as many."""
    rows = earlier_rows(3)
    made = converted(rows)
    numbers, old = made["numbers"], rows["numbers"]
    kinds = earlier_layout.KINDS

    def of(array: layout.Array, start: int, count: int) -> list[float]:
        return np.asarray(array[1, start : start + count]).tolist()

    assert of(numbers, layout.N_SEEN, kinds) == of(old, 10, kinds)
    assert of(numbers, layout.N_DISTINCT, kinds) == of(old, 10 + kinds, kinds)
    assert of(numbers, layout.N_MEAN, 3 * layout.QUANTITIES) == of(old, 10 + 2 * kinds, 3 * layout.QUANTITIES)
    assert numbers[1, layout.N_SHARED] == old[1, -1]
    assert not numbers[:, [layout.N_SEEN + layout.K_ARGUMENT, layout.N_DISTINCT + layout.K_ARGUMENT]].any()
    for region in range(4):
        place = slice(region * layout.REGION_SIZE, (region + 1) * layout.REGION_SIZE)
        np.testing.assert_array_equal(made["table"][:, place], rows["table"][:, place])
    assert not made["table"][:, 4 * layout.REGION_SIZE :].any() and layout.REGION[layout.K_ARGUMENT] == 4
    np.testing.assert_array_equal(made["session_numbers"][:, :, : layout.S_CALLS], rows["session_numbers"])
    assert not made["session_numbers"][:, :, layout.S_CALLS].any() and not made["session_untrusted"].any()
    for name in ("times", "session_id", "session_last", "session_prev", "session_table", "revoked"):
        np.testing.assert_array_equal(made[name], rows[name])


@pytest.mark.parametrize(
    "earlier", EARLIER_LAYOUTS, ids=["0.1", "with values", "with habits", "with names", "with order"]
)
def test_a_stored_row_is_of_this_layout_or_of_an_earlier_one(earlier: StateLayout) -> None:
    old = earlier_rows(1, earlier)
    now = converted(old)

    assert read_state_rows([old.tobytes()]) == now
    assert read_state_rows([now.tobytes()]) == now
    assert read_state_rows([old.tobytes()[:-1]]) is None and read_state_rows([b""]) is None

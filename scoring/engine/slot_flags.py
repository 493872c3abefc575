"""Flags of slots, few of which are set at a time: nothing takes longer because there is room for many agents."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.compilation import allocation_free
from trustwatch.ingest.features.feature_builder import SlotIndices

_FIRST_SIZE = 1_024


class SlotFlags:
    """A flag of each slot, with a list of the slots where it is set.

    Args:
        capacity: number of slots.
    """

    def __init__(self, capacity: int) -> None:
        self._flags = np.zeros(capacity, np.bool_)
        self._listed = np.empty(_FIRST_SIZE, np.int32)
        """Slots in the order in which they were set; one that was cleared stays, and is there twice if set again."""
        self._listed_count = 0
        self._count = 0

    def __len__(self) -> int:
        """Number of slots where it is set."""
        return self._count

    def __getitem__(self, slots: Any) -> Any:
        """Flags of some slots, as of an array."""
        return self._flags[slots]

    def set(self, slots: SlotIndices) -> None:
        """Set it in some slots, which may stand there more than once."""
        if self._listed_count + len(slots) > len(self._listed):
            self._make_room(len(slots))
        before = self._listed_count
        self._listed_count = int(_set_flags(slots, self._flags, self._listed, before))
        self._count += self._listed_count - before

    def clear(self, slots: SlotIndices) -> None:
        """Clear it in some slots."""
        self._count -= int(_clear_flags(slots, self._flags))

    def clear_all(self) -> None:
        """Clear it in every slot."""
        self.clear(self._listed[: self._listed_count])
        self._listed_count = 0

    def slots(self) -> SlotIndices:
        """Slots where it is set, in their order."""
        listed = np.sort(self._listed[: self._listed_count])
        listed = listed[self._flags[listed]]
        is_first = np.ones(len(listed), np.bool_)
        np.not_equal(listed[1:], listed[:-1], out=is_first[1:])  # `np.unique` takes ten times as long
        found: SlotIndices = listed[is_first]
        return found

    def _make_room(self, count: int) -> None:
        """Make room for *count* more in the list, which has each slot once afterwards."""
        kept = self.slots()
        self._listed = np.empty(max(_FIRST_SIZE, 2 * (len(kept) + count)), np.int32)
        self._listed[: len(kept)] = kept
        self._listed_count = len(kept)


@allocation_free
def _set_flags(
    slots: npt.NDArray[np.int32], flags: npt.NDArray[np.bool_], listed: npt.NDArray[np.int32], count: int
) -> int:
    """Set flags, and list slots where one was not set behind the *count* that are listed; returns how many are then."""
    for slot in slots:
        if not flags[slot]:
            flags[slot] = True
            listed[count] = slot
            count += 1
    return count


@allocation_free
def _clear_flags(slots: npt.NDArray[np.int32], flags: npt.NDArray[np.bool_]) -> int:
    """Clear flags; returns how many were set."""
    count = 0
    for slot in slots:
        count += flags[slot]
        flags[slot] = False
    return count

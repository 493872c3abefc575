"""Which agent lives in which slot: a compiled table from agent key to slot, and who has been quiet the longest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..compiled import allocation_free
from .layout import Array

AgentKeys = npt.NDArray[np.uint64]
SlotIndices = npt.NDArray[np.int32]


class AgentSlotTable:
    """At most *capacity* resident agents.

    Args:
        capacity: slots; a batch may name at most that many different agents.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be positive, is {capacity}")
        self.capacity = capacity
        self.keys = np.zeros(capacity, np.uint64)
        """Key of the agent in each slot, 0 = free."""
        self._last_use = np.zeros(capacity, np.int64)
        self._clock = 0
        self._used = 0
        self._free: list[int] = []
        size = 1 << (4 * capacity).bit_length()
        self._index_keys = np.zeros(size, np.uint64)
        self._index_slots = np.full(size, -1, np.int32)

    def __len__(self) -> int:
        return self._used - len(self._free)

    def find(self, keys: AgentKeys) -> SlotIndices:
        """Slot of each key, -1 where the agent is not resident. Resident ones count as used now."""
        self._clock += 1
        slots = np.empty(len(keys), np.int32)
        _find(self._index_keys, self._index_slots, keys, slots, self._last_use, self._clock)
        return slots

    def overflow(self, newcomers: int) -> int:
        """How many agents must leave before that many can move in."""
        return max(0, len(self) + newcomers - self.capacity)

    def least_recent(self, count: int, keep: npt.NDArray[np.bool_]) -> SlotIndices:
        """The *count* least recently used slots, those where *keep* is true last; never one used by the latest find."""
        occupied = np.nonzero((self.keys != 0) & (self._last_use < self._clock))[0]
        order = np.lexsort((self._last_use[occupied], keep[occupied]))
        return occupied[order[:count]].astype(np.int32)

    def add(self, keys: AgentKeys) -> SlotIndices:
        """Give each (new, distinct) key a slot."""
        slots = np.empty(len(keys), np.int32)
        for position, key in enumerate(keys.tolist()):
            if self._free:
                slot = self._free.pop()
            else:
                slot, self._used = self._used, self._used + 1
            slots[position] = slot
            self.keys[slot] = key
        self._last_use[slots] = self._clock
        _insert(self._index_keys, self._index_slots, keys, slots)
        return slots

    def remove(self, slots: SlotIndices) -> None:
        """Empty the given slots."""
        _remove(self._index_keys, self._index_slots, self.keys[slots])
        self.keys[slots] = 0
        self._free.extend(slots.tolist())


@allocation_free
def _find(index_keys: Array, index_slots: Array, keys: Array, out: Array, last_use: Array, clock: int) -> None:
    mask = np.uint64(len(index_keys) - 1)
    for position in range(len(keys)):
        key = keys[position]
        at = key & mask
        out[position] = -1
        while index_keys[at] != 0:
            if index_keys[at] == key:
                out[position] = index_slots[at]
                last_use[out[position]] = clock
                break
            at = (at + np.uint64(1)) & mask


@allocation_free
def _insert(index_keys: Array, index_slots: Array, keys: Array, slots: Array) -> None:
    mask = np.uint64(len(index_keys) - 1)
    for position in range(len(keys)):
        at = keys[position] & mask
        while index_keys[at] != 0:
            at = (at + np.uint64(1)) & mask
        index_keys[at] = keys[position]
        index_slots[at] = slots[position]


@allocation_free
def _remove(index_keys: Array, index_slots: Array, keys: Array) -> None:
    """Delete with backward shift, so that look-ups never need tombstones."""
    mask = np.uint64(len(index_keys) - 1)
    for position in range(len(keys)):
        at = keys[position] & mask
        while index_keys[at] != keys[position]:
            at = (at + np.uint64(1)) & mask
        hole, look = at, (at + np.uint64(1)) & mask
        while index_keys[look] != 0:
            home = index_keys[look] & mask
            if (look - home) & mask >= (look - hole) & mask:
                index_keys[hole] = index_keys[look]
                index_slots[hole] = index_slots[look]
                hole = look
            look = (look + np.uint64(1)) & mask
        index_keys[hole] = np.uint64(0)
        index_slots[hole] = -1

"""The feature builder: resident agents in slots, and the feature vectors of a batch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..columns import AGENT, EventColumns
from ..compilation import allocation_free
from . import feature_kernel, layout
from .feature_table import FEATURE_COUNT
from .layout import Array, Baseline
from .row_observations import RowObservations, allocate_observations

AgentKeys = npt.NDArray[np.uint64]
SlotIndices = npt.NDArray[np.int32]


class AgentSlotTable:
    """Maps at most *capacity* resident agents to slots."""

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
        """Return the slot of each key, -1 if the agent is not resident. Resident agents count as used now."""
        self._clock += 1
        slots = np.empty(len(keys), np.int32)
        _find(self._index_keys, self._index_slots, keys, slots, self._last_use, self._clock)
        return slots

    def overflow(self, newcomers: int) -> int:
        """Return the number of agents that must leave memory before *newcomers* more fit."""
        return max(0, len(self) + newcomers - self.capacity)

    def least_recent(self, count: int, keep: npt.NDArray[np.bool_]) -> SlotIndices:
        """Return the *count* least recently used slots, with those where *keep* is true last; never a slot that the
        latest `find` used."""
        occupied = np.nonzero((self.keys != 0) & (self._last_use < self._clock))[0]
        order = np.lexsort((self._last_use[occupied], keep[occupied]))
        return occupied[order[:count]].astype(np.int32)

    def add(self, keys: AgentKeys) -> SlotIndices:
        """Assign a slot to each key. Keys must be new and distinct."""
        reused = [self._free.pop() for _ in range(min(len(self._free), len(keys)))]
        end = self._used + len(keys) - len(reused)
        slots = np.concatenate([np.array(reused, np.int32), np.arange(self._used, end, dtype=np.int32)])
        self._used = end
        self.keys[slots] = keys
        self._last_use[slots] = self._clock
        _insert(self._index_keys, self._index_slots, keys, slots)
        return slots

    def remove(self, slots: SlotIndices) -> None:
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


class StateSpill(Protocol):
    """Storage for agents that do not fit in memory, from which they return when they act again."""

    def evict(self, keys: AgentKeys, slots: SlotIndices) -> None:
        """Keep the state of the agents in these slots, which are about to leave memory."""

    def admit(self, keys: AgentKeys, slots: SlotIndices) -> None:
        """Restore the state of agents that were assigned (zeroed) slots."""


class FeatureBuilder:
    """Holds the state of resident agents and turns events into feature vectors."""

    def __init__(self, baseline: Baseline, capacity: int, spill: StateSpill | None = None) -> None:
        self.baseline = baseline
        self.slots = AgentSlotTable(capacity)
        self.state = layout.allocate_state(capacity)
        self.pinned = np.zeros(capacity, np.bool_)
        """True if an agent's risk still changes with time: such agents are evicted last."""
        self.spill = spill
        self._scopes = np.zeros(layout.SCOPES, np.uint64)
        self._scope_rows = np.zeros(layout.SCOPES, np.int64)

    def admit(self, keys: AgentKeys) -> SlotIndices:
        """Return the slot of each row's agent. Agents that are not resident move in; others may have to leave."""
        slots = self.slots.find(keys)
        absent = slots < 0
        if not absent.any():
            return slots
        missing = np.unique(keys[absent])
        crowd = self.slots.overflow(len(missing))
        if crowd:
            self._evict(self.slots.least_recent(crowd, self.pinned))
        fresh = self.slots.add(missing)
        for array in self.state:
            array[fresh] = 0
        self.pinned[fresh] = False
        if self.spill is not None:
            self.spill.admit(missing, fresh)
        return self.slots.find(keys)

    def _evict(self, slots: SlotIndices) -> None:
        if self.spill is not None:
            self.spill.evict(self.slots.keys[slots], slots)
        self.slots.remove(slots)

    def evict_all(self) -> None:
        """Move every agent out of memory, as if it were full."""
        self._evict(np.flatnonzero(self.slots.keys).astype(np.int32))

    def observe(
        self,
        columns: EventColumns,
        slots: SlotIndices,
        rows: Array,
        out: npt.NDArray[np.float64],
        observations: RowObservations,
    ) -> None:
        """Write the feature vectors of *rows* into *out* (shape (n, F)), and keep the observations for `learn`."""
        feature_kernel.observe(
            rows,
            slots,
            columns.names,
            columns.numbers,
            columns.codes,
            columns.time_ms,
            self.state,
            self.baseline,
            out,
            observations,
            self._scopes,
            self._scope_rows,
        )

    def learn(
        self, columns: EventColumns, slots: SlotIndices, rows: Array, observations: RowObservations, weights: Array
    ) -> None:
        """Add rows to their agents' baselines; weights uint8 (len(rows),): 0 nothing, 1 everything, 2 the
        credential."""
        feature_kernel.learn(rows, slots, columns.codes, self.state, observations, weights)

    def observe_and_learn(
        self,
        columns: EventColumns,
        learn: bool | npt.NDArray[np.bool_] | npt.NDArray[np.uint8] = True,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> tuple[npt.NDArray[np.float64], RowObservations]:
        """Return the feature vectors of a whole batch. Each event is observed before it is learned, whatever its score:
        for training.

        Args:
            learn: whether to learn, for all events or for each (shape (n,)); as weights, see `learn`.
            rows: only these, ascending; the vectors of others stay zero.

        Returns:
            Matrix of shape (n, F), and what was found in each row.
        """
        n = len(columns)
        out, observations = np.zeros((n, FEATURE_COUNT)), allocate_observations(n, columns.arguments)
        rows = np.arange(n) if rows is None else rows
        slots = np.zeros(n, np.int32)
        slots[rows] = self.admit(columns.names[rows, AGENT])
        weights = np.broadcast_to(np.asarray(learn, np.uint8), (n,))
        for places in agent_rounds(slots[rows]):
            turn = rows[places]
            self.observe(columns, slots, turn, out, observations)
            self.learn(columns, slots, turn, observations, weights[turn])
        return out, observations

    def set_shared_counts(self, keys: AgentKeys) -> None:
        """Set whose events the baseline counts, one key per event, so that an agent's own events are not counted as
        others'."""
        agents, counts = np.unique(keys, return_counts=True)
        self.state.numbers[self.admit(agents), layout.N_SHARED] = counts

    def pack(self, slots: SlotIndices) -> Array:
        """Return the state of the slots as rows of dtype `layout.STATE_ROW`."""
        rows = np.empty(len(slots), layout.STATE_ROW)
        for name, array in self.state._asdict().items():
            rows[name] = array[slots]
        return rows

    def unpack(self, slots: SlotIndices | slice, rows: Array) -> None:
        """Load stored rows into the slots."""
        for name, array in self.state._asdict().items():
            array[slots] = rows[name]


def agent_rounds(slots: SlotIndices) -> list[npt.NDArray[np.int64]]:
    """Split rows into rounds in which every agent occurs at most once, its first event in the first round and so on.

    An event can then be scored and learned before the agent's next one is looked at, while a round is still one batch.
    """
    n = len(slots)
    if not n:
        return []
    sorted_slots = np.sort(slots)
    if not (sorted_slots[1:] == sorted_slots[:-1]).any():
        return [np.arange(n)]
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, n])
    turn = np.empty(n, np.int64)
    turn[order] = np.arange(n) - np.repeat(starts, lengths)
    by_turn = np.argsort(turn, kind="stable")
    return np.split(by_turn, np.cumsum(np.bincount(turn))[:-1])

"""Arrays of the agents in memory: one slot per agent, alongside the feature builder's state."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.capabilities import NOTHING_DECLARED
from trustwatch.ingest.compilation import allocation_free
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.features.feature_builder import SlotIndices

from ..records.agents import AgentName
from . import announced_paths, risk_levels

_FIRST_SIZE = 1_024


class SlotFlags:
    """A flag for each slot, with a list of the slots in which it is set."""

    def __init__(self, capacity: int) -> None:
        self._flags = np.zeros(capacity, np.bool_)
        self._listed = np.empty(_FIRST_SIZE, np.int32)
        """Slots in the order in which they were set; one that was cleared stays, and is listed twice if set again."""
        self._listed_count = 0
        self._count = 0

    def __len__(self) -> int:
        """Number of slots in which the flag is set."""
        return self._count

    def __getitem__(self, slots: Any) -> Any:
        """Flags of some slots, indexed as an array."""
        return self._flags[slots]

    def set(self, slots: SlotIndices) -> None:
        """Set the flag of some slots. A slot may occur more than once."""
        if self._listed_count + len(slots) > len(self._listed):
            self._make_room(len(slots))
        before = self._listed_count
        self._listed_count = int(_set_flags(slots, self._flags, self._listed, before))
        self._count += self._listed_count - before

    def clear(self, slots: SlotIndices) -> None:
        self._count -= int(_clear_flags(slots, self._flags))

    def clear_all(self) -> None:
        self.clear(self._listed[: self._listed_count])
        self._listed_count = 0

    def slots(self) -> SlotIndices:
        """Return the slots in which the flag is set, in ascending order."""
        listed = np.sort(self._listed[: self._listed_count])
        listed = listed[self._flags[listed]]
        is_first = np.ones(len(listed), np.bool_)
        np.not_equal(listed[1:], listed[:-1], out=is_first[1:])  # `np.unique` takes ten times as long
        found: SlotIndices = listed[is_first]
        return found

    def _make_room(self, count: int) -> None:
        """Make room for *count* more slots in the list, and remove repeated ones."""
        kept = self.slots()
        self._listed = np.empty(max(_FIRST_SIZE, 2 * (len(kept) + count)), np.int32)
        self._listed[: len(kept)] = kept
        self._listed_count = len(kept)


@allocation_free
def _set_flags(
    slots: npt.NDArray[np.int32], flags: npt.NDArray[np.bool_], listed: npt.NDArray[np.int32], count: int
) -> int:
    """Set flags and append newly set slots to the *count* listed ones; return the new count."""
    for slot in slots:
        if not flags[slot]:
            flags[slot] = True
            listed[count] = slot
            count += 1
    return count


@allocation_free
def _clear_flags(slots: npt.NDArray[np.int32], flags: npt.NDArray[np.bool_]) -> int:
    """Clear flags; return how many were set."""
    count = 0
    for slot in slots:
        count += flags[slot]
        flags[slot] = False
    return count


class ResidentAgents:
    """Names, peer groups and risk of the agents in memory, by slot."""

    def __init__(self, capacity: int) -> None:
        self.names: list[AgentName | None] = [None] * capacity
        self.types: list[str] = [""] * capacity
        self.capabilities: list[bytes] = [NOTHING_DECLARED] * capacity
        """Capabilities that the last event of each agent declared that declared any."""
        self.capability_hashes = np.zeros(capacity, np.uint64)
        """Hash of each agent's capabilities, as in `columns.CAPABILITIES`."""
        self.checks = np.zeros(capacity, np.uint64)
        """Second half of each agent's identity (`identities.AgentHash`), 0 until its first event."""
        self.groups = np.zeros(capacity, np.uint64)
        self.threshold_rows = np.zeros(capacity, np.int64)
        """Row of the thresholds that hold for the slot's peer group."""
        self.risk = risk_levels.allocate(capacity)
        self.paths = np.zeros(capacity, announced_paths.PATHS)
        """Access paths that were announced of each agent."""
        self.dirty = SlotFlags(capacity)
        """Set for agents that changed since a commit of their rows was begun."""
        self.moved = SlotFlags(capacity)
        """Set for agents that changed since their risk was last published; each of them is dirty, too."""

    def mark_changed(self, slots: SlotIndices) -> None:
        """Note that agents changed, so that their risk is published and their rows are stored."""
        for flags in (self.dirty, self.moved):
            flags.set(slots)

    def register(self, slot: int, key: int, event: NativeEvent) -> bool:
        """Note the agent of a slot. Return whether its peer group is the one that the event states.

        What a known agent is, only a token can say: otherwise anybody could move it to another peer group. An event
        that says nothing of it (a gateway's log, our own records) changes nothing either.
        """
        agent = event.agent
        if self.names[slot] is None:
            self.names[slot] = AgentName(key, event.tenant or "", agent.issuer or "", agent.id)
        elif agent.self_asserted or not agent.type:
            return False
        if self.types[slot] != (agent.type or ""):
            self.types[slot] = agent.type or ""
        return True

    def find_impostors(self, slots: SlotIndices, checks: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return rows whose agent has the key of another agent, bool (n,). Of agents that are new in their slots, the
        first row counts.

        Args:
            slots: of each row's agent key, (n,).
            checks: second half of each row's agent's identity, (n,).
        """
        unknown = np.flatnonzero(self.checks[slots] == 0)
        if len(unknown):
            newcomers, first = np.unique(slots[unknown], return_index=True)
            self.checks[newcomers] = checks[unknown[first]]
        impostors: npt.NDArray[np.bool_] = self.checks[slots] != checks
        return impostors

    def clear(self, slots: SlotIndices) -> None:
        """Clear the slots of agents that leave memory."""
        self.risk[slots] = np.zeros((), risk_levels.ROW)
        self.paths[slots] = np.zeros((), announced_paths.PATHS)
        for flags in (self.dirty, self.moved):
            flags.clear(slots)
        self.checks[slots] = 0
        self.groups[slots] = 0
        self.threshold_rows[slots] = 0
        self.capability_hashes[slots] = 0
        for slot in slots.tolist():
            self.names[slot] = None
            self.types[slot] = ""
            self.capabilities[slot] = NOTHING_DECLARED

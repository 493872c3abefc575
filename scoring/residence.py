"""Which agents are in memory: they move in from the store or the model's history, and move out without loss."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from ..ingest.features import layout
from ..ingest.features.slots import Keys, Slots
from ..ingest.hashing import NameHasher
from . import risk
from .engine import Engine, EngineSettings
from .records import AgentRow, Reason
from ..models.bundle import TrainedModel

_encode = msgspec.json.Encoder().encode
NO_REASONS = b"[]"


class AgentLoader(Protocol):
    """The part of a store that agents come back from."""

    def agents(self, keys: Collection[int]) -> dict[int, AgentRow]:
        """Rows of those keys that exist."""


class Note(NamedTuple):
    """What is said about an agent beside its numbers."""

    decision_id: str = ""
    reasons: bytes = NO_REASONS
    counterfactual: str = ""
    weight: float = 0.0  # evidence of the event that the reasons speak of
    at_ms: int = 0


def state_version(salt: bytes) -> str:
    """Names the layout of stored state and the salt its hashes were made with; other state can not be resumed."""
    shape = f"{layout.ROW}|{layout.KINDS}|{layout.REGION_SIZE}".encode()
    features = hashlib.sha256(shape + hashlib.sha256(salt).digest()).hexdigest()[:12]
    return f"{features}:{hashlib.sha256(str(risk.ROW).encode()).hexdigest()[:12]}"


class Residence:
    """Implements the feature builder's `Spill`, and builds the rows that a commit writes.

    Args:
        model: knows where agents of the training history go on.
        settings: of the engine that is made here, since engine and residence belong together.
        store: where other agents come from; None keeps those that moved out in memory (replay).
    """

    def __init__(self, model: TrainedModel, settings: EngineSettings, store: AgentLoader | None) -> None:
        self.engine = Engine(model, settings, self)
        self.version = state_version(model.salt)
        self._store = store
        self._seeds = model.seeds
        self._hash = NameHasher(model.salt)
        self._notes: list[Note] = [Note()] * settings.capacity
        self.gone: dict[int, AgentRow] = {}
        """Agents that moved out since the last commit (without a store: ever)."""

    def note(self, slot: int) -> Note:
        """What is said about the agent in a slot."""
        return self._notes[slot]

    def set_note(self, slot: int, note: Note) -> None:
        """Say something about the agent in a slot."""
        self._notes[slot] = note

    def evict(self, keys: Keys, slots: Slots) -> None:
        """Keep the rows of agents that changed since the last commit; the others are in the store already."""
        engine = self.engine
        moving = slots[engine.dirty[slots]] if self._store is not None else slots
        for row in self.rows(moving):
            self.gone[row.name.key] = row
        engine.clear_slots(slots)
        for slot in slots.tolist():
            self._notes[slot] = Note()

    def admit(self, keys: Keys, slots: Slots) -> None:
        """Bring back what is known of agents: state on its way to the store, in the store, or from the model's history."""
        known = {key: self.gone.pop(key) for key in keys.tolist() if key in self.gone}
        missing = [key for key in keys.tolist() if key not in known]
        if missing and self._store is not None:
            known.update(self._store.agents(missing))
        self._admit_seeds(keys, slots, known)
        for key, slot in zip(keys.tolist(), slots.tolist(), strict=True):
            row = known.get(key)
            if row is not None:
                self._restore(row, slot)

    def _admit_seeds(self, keys: Keys, slots: Slots, known: dict[int, AgentRow]) -> None:
        at = self._seeds.find(keys)
        stored = np.array([known[k].state_version == self.version if k in known else False for k in keys.tolist()])
        fresh = (at >= 0) & ~stored
        self.engine.builder.unpack(slots[fresh], self._seeds.rows[at[fresh]])
        self.engine.risk["events"][slots[fresh]] = self._seeds.events[at[fresh]]

    def _restore(self, row: AgentRow, slot: int) -> None:
        """Put a stored agent into its slot. State of another layout or salt is left behind; risk survives a new salt."""
        engine = self.engine
        ours, theirs = self.version.split(":"), row.state_version.split(":")
        if ours == theirs:
            state = np.frombuffer(row.features, layout.ROW)
            engine.builder.unpack(np.array([slot]), state)
            engine.dirty[slot] = row.name.key in self.gone
        if ours[-1] == theirs[-1]:
            engine.risk[slot] = np.frombuffer(row.risk, risk.ROW)[0]
        engine.agents.names[slot] = row.name
        engine.agents.types[slot] = row.agent_type
        group = np.uint64(self._hash(f"{row.name.tenant}\x1f{row.agent_type}"))
        engine.agents.groups[slot] = group
        engine.agents.bounds[slot] = engine.model.group_row(group)
        engine.builder.pinned[slot] = engine.risk["due_ms"][slot] != 0
        self._notes[slot] = Note(row.decision_id, row.reasons, row.counterfactual)

    def rows(self, slots: Slots) -> list[AgentRow]:
        """Everything that is stored of the agents in these slots."""
        engine = self.engine
        features = engine.builder.pack(slots)
        risks = engine.risk[slots]
        return [
            self._row(slot, features[at], risks[at]) for at, slot in enumerate(slots.tolist())
            if engine.agents.names[slot] is not None
        ]  # fmt: skip

    def _row(self, slot: int, features: Any, state: Any) -> AgentRow:
        name = self.engine.agents.names[slot]
        assert name is not None
        note = self._notes[slot]
        (_, score, at_ms, _, due_ms, events, anomaly, _, confidence, level) = state.item()
        first, last = features["times"][layout.T_FIRST], features["times"][layout.T_LAST]
        return AgentRow(
            name=name, agent_type=self.engine.agents.types[slot], level=level, risk_score=score, confidence=confidence,
            anomaly_score=anomaly, first_seen_ms=int(first), last_seen_ms=int(last), evaluated_ms=at_ms, due_ms=due_ms,
            events=events, decision_id=note.decision_id, reasons=note.reasons, counterfactual=note.counterfactual,
            features=features.tobytes(), risk=state.tobytes(), state_version=self.version,
        )  # fmt: skip

    def take_dirty(self) -> list[AgentRow]:
        """Rows of all agents that changed since the last call, those that moved out meanwhile included."""
        slots = np.flatnonzero(self.engine.dirty).astype(np.int32)
        rows = self.rows(slots)
        self.engine.dirty[slots] = False
        if self._store is not None:
            rows.extend(self.gone.values())
        return rows

    def settled(self) -> None:
        """The rows handed out by `take_dirty` are in the store."""
        if self._store is not None:
            self.gone.clear()


def encode_reasons(reasons: Sequence[Reason]) -> bytes:
    """Reasons as the JSON list that rows and answers carry."""
    return _encode(reasons)

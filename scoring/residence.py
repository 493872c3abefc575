"""Which agents are in memory: they move in from the store or the model's history, and move out without loss."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from ..ingest.erasing import Subject
from ..ingest.errors import Unavailable
from ..ingest.features import layout
from ..ingest.features.slots import Keys, Slots
from ..ingest.hashing import NameHasher
from ..models.bundle import TrainedModel
from . import risk
from .engine import Engine, EngineSettings
from .privacy.forgetting import Erasers, Forgotten
from .records import AgentRow, Reason, RiskLevel
from .store import Due

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Reason]).decode
NO_REASONS = b"[]"
_PAGE = 500
_PACKED = 1_000
T = TypeVar("T")

_PLAIN_OF_RISK = ("level", "score", "confidence", "anomaly", "at_ms", "due_ms", "events")
_PLAIN_OF_ROW = ("level", "risk_score", "confidence", "anomaly_score", "evaluated_ms", "due_ms", "events")


class AgentLoader(Protocol):
    """The part of a store that agents come back from."""

    def agents(self, keys: Collection[int]) -> dict[int, AgentRow]:
        """Rows of those keys that exist."""

    def due(self, before_ms: int, limit: int, after: Due | None = None, partition: int = 0) -> list[Due]:
        """Agents of the partition whose stored level changes by time alone until then, in pages."""


class Note(NamedTuple):
    """What is said about an agent beside its numbers."""

    decision_id: str = ""
    reasons: bytes = NO_REASONS
    counterfactual: str = ""


def state_version(salt: bytes) -> str:
    """Names the layout of stored state and the salt its hashes were made with; other state can not be resumed."""
    shape = f"{layout.GENERATION}|{layout.ROW}|{layout.KINDS}|{layout.REGION_SIZE}".encode()
    features = hashlib.sha256(shape + hashlib.sha256(salt).digest()).hexdigest()[:12]
    return f"{features}:{hashlib.sha256(str(risk.ROW).encode()).hexdigest()[:12]}"


class Residence:
    """Implements the feature builder's `Spill`, and builds the rows that a commit writes.

    Args:
        model: knows where agents of the training history go on.
        settings: of the engine that is made here, since engine and residence belong together.
        store: where other agents come from; None keeps those that moved out in memory (replay).
        partition: whose agents these are: time alone changes only those.
    """

    def __init__(
        self, model: TrainedModel, settings: EngineSettings, store: AgentLoader | None, partition: int = 0
    ) -> None:
        self.engine = Engine(model, settings, self)
        self.version = state_version(model.salt)
        self._store = store
        self._partition = partition
        self._seeds = model.seeds
        self._hash = NameHasher(model.salt)
        self._notes: list[Note] = [Note()] * settings.capacity
        self.forgotten = Forgotten()
        """Agents that do not go on from the model's history."""
        self._erasers = Erasers()
        self._leaving: set[int] = set()
        self.gone: dict[int, AgentRow] = {}
        """Agents that moved out since the last commit (without a store: ever)."""
        self.wait: Callable[[Unavailable], None] | None = None
        """Called when the store does not answer, before it is asked again; None lets the error through.

        An agent's move must not be left half done: it would go on without its history.
        """

    def note(self, slot: int) -> Note:
        """What is said about the agent in a slot."""
        return self._notes[slot]

    def set_note(self, slot: int, note: Note) -> None:
        """Say something about the agent in a slot."""
        self._notes[slot] = note

    def forget(self, subject: Subject, *, ours: bool = True) -> None:
        """Know nothing of an agent any more, in memory and with the next commit; name nobody by that name.

        Args:
            ours: whether its row is this partition's to remove: elsewhere it may act again already, as somebody new.
        """
        if subject.kind == "agent" and ours:
            self._forget_agent(subject.key)
        eraser = self._erasers.add(subject)
        for slot, note in enumerate(self._notes):
            if eraser.may_be_in(note.reasons) or eraser.in_text(note.counterfactual):
                self._redact(slot, note)
        for key, row in list(self.gone.items()):
            self.gone[key] = self._redacted(row)

    def keep_out(self, subjects: Iterable[Subject]) -> None:
        """Erasures that are under way as the process starts: what it loads must not bring their names back."""
        for subject in subjects:
            self._erasers.add(subject)

    def _forget_agent(self, key: int) -> None:
        table = self.engine.builder.slots
        slots = table.find(np.array([key], np.uint64))
        if slots[0] >= 0:
            self.engine.clear_slots(slots)
            self._notes[int(slots[0])] = Note()
            self.engine.builder.pinned[slots] = False
            table.remove(slots)
        self.gone.pop(key, None)
        self.forgotten.add(key)
        self._leaving.add(key)

    def _redact(self, slot: int, note: Note) -> None:
        name = self.engine.agents.names[slot]
        if name is None:
            return
        told = self._erasers.json(name.tenant, note.reasons), self._erasers.text(name.tenant, note.counterfactual)
        if told != (note.reasons, note.counterfactual):
            self._notes[slot] = Note(note.decision_id, *told)
            self.engine.dirty[slot] = True

    def _redacted(self, row: AgentRow) -> AgentRow:
        tenant = row.name.tenant
        told = self._erasers.json(tenant, row.reasons), self._erasers.text(tenant, row.counterfactual)
        if told == (row.reasons, row.counterfactual):
            return row
        return msgspec.structs.replace(row, reasons=told[0], counterfactual=told[1])

    @property
    def leaving(self) -> tuple[int, ...]:
        """Agents whose rows go with the next commit."""
        return tuple(sorted(self._leaving))

    def evict(self, keys: Keys, slots: Slots) -> None:  # noqa: ARG002 (the rows name their agents)
        """Keep the rows of agents that changed since the last commit; the others are in the store already."""
        engine = self.engine
        moving = slots[engine.dirty[slots]] if self._store is not None else slots
        for row in self.rows(moving):
            self.gone[row.name.key] = row
        engine.clear_slots(slots)
        for slot in slots.tolist():
            self._notes[slot] = Note()

    def admit(self, keys: Keys, slots: Slots) -> None:
        """Bring back what is known of agents: waiting for the store, in the store, or from the model's history."""
        unsaved = {key: self.gone[key] for key in keys.tolist() if key in self.gone}
        missing = [key for key in keys.tolist() if key not in unsaved]
        known = {**self._stored(missing), **unsaved}
        self._admit_seeds(keys, slots, known)
        for key, slot in zip(keys.tolist(), slots.tolist(), strict=True):
            row = known.get(key)
            if row is not None:
                self._restore(row, slot)
                self.engine.dirty[slot] = self.gone.pop(key, None) is not None
        self._note_shares(keys, slots)

    def switch(self, model: TrainedModel) -> None:
        """Go on with another model of the same salt. Agents move out, and come back to be measured against it."""
        self.engine.builder.evict_all()
        self.engine.use(model)
        self._seeds = model.seeds

    def _stored(self, keys: list[int]) -> dict[int, AgentRow]:
        store = self._store
        keys = [key for key in keys if key not in self._leaving]
        return {} if store is None or not keys else self._patiently(lambda: store.agents(keys))

    def _stored_due(self, before_ms: int, limit: int, after: Due | None) -> list[Due]:
        store = self._store
        return [] if store is None else self._patiently(lambda: store.due(before_ms, limit, after, self._partition))

    def _patiently(self, question: Callable[[], T]) -> T:
        """Ask the store until it answers."""
        while True:
            try:
                return question()
            except Unavailable as error:
                if self.wait is None:
                    raise
                self.wait(error)

    def due_elsewhere(self, now_ms: int) -> Iterator[Slots]:
        """Agents that are not in memory and whose level changes by *now_ms*: each page has just moved in."""
        table = self.engine.builder.slots
        unsaved = [key for key, row in self.gone.items() if 0 < row.due_ms <= now_ms]
        size = max(1, min(_PAGE, self.engine.settings.capacity // 2))
        for start in range(0, len(unsaved), size):
            yield self.engine.builder.admit(np.array(unsaved[start : start + size], np.uint64))
        after: Due | None = None
        while True:
            page = self._stored_due(now_ms, size, after)
            keys = np.array([d.key for d in page if d.key not in self.gone and d.key not in self._leaving], np.uint64)
            keys = keys[table.find(keys) < 0]
            if len(keys):
                yield self.engine.builder.admit(keys)
            if len(page) < size:
                return
            after = page[-1]

    def _admit_seeds(self, keys: Keys, slots: Slots, known: dict[int, AgentRow]) -> None:
        at = self._known_seeds(keys)
        stored = np.array([k in known and self._same_features(known[k]) for k in keys.tolist()])
        fresh = (at >= 0) & ~stored
        self.engine.builder.unpack(slots[fresh], self._seeds.rows[at[fresh]])
        risk.seed(self.engine.risk, slots[fresh], self._seeds.events[at[fresh]], self.engine.settings.risk)

    def _known_seeds(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Place of each agent in the model's history, -1 where it has none, or is forgotten."""
        at = self._seeds.find(keys)
        known = keys[at >= 0]
        forgotten = self.forgotten.among(known.tolist()) if len(known) else ()
        if forgotten:
            at[np.isin(keys, np.array(sorted(forgotten), np.uint64))] = -1
        return at

    def _note_shares(self, keys: Keys, slots: Slots) -> None:
        """How much of an agent the shared baseline counts is up to this model, not to the one it was stored under."""
        at = self._known_seeds(keys)
        numbers = self.engine.builder.state.numbers
        numbers[slots, layout.N_SHARED] = 0.0
        numbers[slots[at >= 0], layout.N_SHARED] = self._seeds.rows["numbers"][at[at >= 0], layout.N_SHARED]

    def _restore(self, row: AgentRow, slot: int) -> None:
        """Put a stored agent into its slot. Features of another layout or salt are left behind; risk survives both."""
        engine = self.engine
        if self._same_features(row):
            state = np.frombuffer(row.features, layout.ROW)
            engine.builder.unpack(np.array([slot], np.int32), state)
        if row.state_version.split(":")[-1] == self.version.split(":")[-1]:
            engine.risk[slot] = np.frombuffer(row.risk, risk.ROW)[0]
        else:
            engine.risk[slot] = self._outline(row)
        engine.agents.names[slot] = row.name
        engine.agents.types[slot] = row.agent_type
        engine.agents.groups[slot] = group = self._group(row)
        engine.agents.bounds[slot] = engine.model.group_row(group)
        engine.builder.pinned[slot] = engine.risk["due_ms"][slot] != 0
        tenant = row.name.tenant
        reasons, counterfactual = (
            self._erasers.json(tenant, row.reasons),
            self._erasers.text(tenant, row.counterfactual),
        )
        self._notes[slot] = Note(row.decision_id, reasons, counterfactual)

    def _same_features(self, row: AgentRow) -> bool:
        return row.state_version.split(":")[0] == self.version.split(":")[0]

    def _group(self, row: AgentRow) -> np.uint64:
        return np.uint64(self._hash(f"{row.name.tenant}\x1f{row.agent_type}"))

    def _outline(self, row: AgentRow) -> Any:
        """Risk of an agent whose stored state has another layout, from its plain columns: an upgrade frees nobody."""
        state = np.zeros((), risk.ROW)
        for column, field in zip(_PLAIN_OF_ROW, _PLAIN_OF_RISK, strict=True):
            state[field] = getattr(row, column)
        state["since_ms"], state["p_value"] = row.evaluated_ms, 1.0
        if row.level >= RiskLevel.MEDIUM:
            limits = self.engine.bounds[self.engine.model.group_row(self._group(row))]
            state["statistic"] = limits[row.level - RiskLevel.MEDIUM]
        return state

    def rows(self, slots: Slots) -> list[AgentRow]:
        """Everything that is stored of the agents in these slots."""
        engine = self.engine
        names, types, notes = engine.agents.names, engine.agents.types, self._notes
        features, risks = engine.builder.pack(slots), engine.risk[slots]
        wide, narrow = layout.ROW.itemsize, risk.ROW.itemsize
        times = features["times"]
        all_features, all_risks = features.tobytes(), risks.tobytes()
        said = zip(
            slots.tolist(),
            times[:, layout.T_FIRST].tolist(),
            times[:, layout.T_LAST].tolist(),
            *(risks[field].tolist() for field in _PLAIN_OF_RISK),
            strict=True,
        )
        rows = []
        for at, (slot, first, last, level, score, confidence, anomaly, at_ms, due_ms, events) in enumerate(said):
            name, note = names[slot], notes[slot]
            if name is not None:
                row = AgentRow(
                    name,
                    types[slot],
                    level,
                    score,
                    confidence,
                    anomaly,
                    first,
                    last,
                    at_ms,
                    due_ms,
                    events,
                    note.decision_id,
                    note.reasons,
                    note.counterfactual,
                    all_features[at * wide : (at + 1) * wide],
                    all_risks[at * narrow : (at + 1) * narrow],
                    self.version,
                )
                rows.append(row)
        return rows

    def take_dirty(self) -> list[AgentRow]:
        """Rows of all agents that changed since `settled`, those that moved out meanwhile included.

        Until then they stay changed: a commit that was given up half way is made whole by the next one.
        """
        slots = np.flatnonzero(self.engine.dirty).astype(np.int32)
        rows: list[AgentRow] = []
        for start in range(0, len(slots), _PACKED):  # small copies stay in the processor's caches
            rows += self.rows(slots[start : start + _PACKED])
        if self._store is not None:
            rows.extend(self.gone.values())
        return rows

    def settled(self) -> None:
        """The rows handed out by `take_dirty` are in the store; nothing was applied since."""
        self.engine.dirty[:] = False
        self._leaving.clear()
        if self._store is not None:
            self.gone.clear()


def encode_reasons(reasons: Sequence[Reason]) -> bytes:
    """Reasons as the JSON list that rows and answers carry."""
    return _encode(reasons)


def decode_reasons(kept: bytes) -> list[Reason]:
    """Reasons of `encode_reasons`; none of an empty text."""
    return _decode(kept) if kept else []

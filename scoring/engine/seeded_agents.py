"""Agents that the model's training history knows: their positions in it, and their initial state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns, full_name
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_builder import AgentKeys, FeatureBuilder, SlotIndices
from trustwatch.ingest.hashing import EncodedTexts
from trustwatch.ingest.identities import AgentHash, IdentityHasher, PrivacyKey, unkeyed_agent_key
from trustwatch.ingest.record_erasure import ErasureSubject, NameEraser
from trustwatch.models.trained_model import TrainedModel

from ..records.agent_pages import AgentColumns
from ..records.agents import AgentIdentity, AgentRow, AgentSummary
from . import risk_levels, usual_anomalies
from .resident_agents import ResidentAgents

AnyAgent = TypeVar("AnyAgent", AgentRow, AgentSummary)


class RedactText(Protocol):
    """Removes an erased name from the reasons of an agent."""

    def __call__(self, agent: AnyAgent, /) -> AnyAgent:
        """Return the agent without the name; the same object if the name does not occur."""


class UnsavedAgents:
    """Agents that left memory and of which the store may have older rows. There are two generations, because work
    continues while a commit is written: rows that wait for the next commit, and rows that are being written."""

    def __init__(self) -> None:
        self.waiting: dict[int, AgentRow] = {}
        """Agents that moved out since a commit of their rows was begun (without a store: ever), by key."""
        self._in_flight: dict[int, AgentRow] = {}
        self._removed: set[int] = set()
        self._removed_in_flight: set[int] = set()
        self._unpublished: dict[int, AgentSummary] = {}

    def get(self, key: int) -> AgentRow | None:
        """Return the newest row of an agent, or None if the store has it."""
        row = self.waiting.get(key)
        return row if row is not None or key in self._removed else self._in_flight.get(key)

    def identities(self) -> Iterator[AgentIdentity]:
        return (row.name.identity for row in chain(self.waiting.values(), self._in_flight.values()))

    def due_keys(self, now_ms: int) -> list[int]:
        """Return keys of agents whose level changes by *now_ms*. Some may be in memory again."""
        newest = {**self._in_flight, **self.waiting}
        return [key for key, row in newest.items() if 0 < row.due_ms <= now_ms and self.get(key) is row]

    def redact(self, redact: RedactText) -> None:
        """Apply *redact* to rows that wait and to unpublished risk. The store erases what is being written."""
        self.waiting = {key: redact(row) for key, row in self.waiting.items()}
        self._unpublished = {key: redact(summary) for key, summary in self._unpublished.items()}

    def remove(self, key: int) -> None:
        """Forget an erased agent. The next commit removes its row, which is not read until then."""
        self.waiting.pop(key, None)
        self._unpublished.pop(key, None)
        self._removed.add(key)

    def take_back(self, key: int) -> bool:
        """Note that an agent is in memory again; return whether it is dirty."""
        return self.waiting.pop(key, None) is not None

    def is_removed(self, key: int) -> bool:
        """Return whether the store's row of an agent must not be read, since the agent was erased."""
        return key in self._removed or key in self._removed_in_flight

    @property
    def removed(self) -> tuple[int, ...]:
        """Keys of agents whose rows the next commit removes."""
        return tuple(sorted(self._removed))

    def add_unpublished(self, summaries: Collection[AgentSummary]) -> None:
        """Keep the risk of agents that leave memory before it was published."""
        self._unpublished.update((summary.name.key, summary) for summary in summaries)

    def take_unpublished(self) -> list[AgentSummary]:
        """Return the risk that `add_unpublished` kept since the last call."""
        unpublished, self._unpublished = list(self._unpublished.values()), {}
        return unpublished

    def begin_commit(self, rows: Collection[AgentRow]) -> None:
        """Note that *rows*, including the waiting ones, are being written."""
        self._in_flight, self.waiting = {row.name.key: row for row in rows}, {}
        self._removed_in_flight, self._removed = self._removed, set()

    def mark_committed(self) -> None:
        """Note that the rows of `begin_commit` are stored."""
        self._in_flight, self._removed_in_flight = {}, set()


class MetAgents:
    """Keys of agents that were loaded or erased during preloading, so that a page's rows of them may be older.

    Once all rows were preloaded, every agent that the store can have was met. Of more agents than *most* nothing is
    remembered, be it a flood of new names.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._since_take_over: set[int] | None = None
        self._stored: set[int] | None = None

    def begin(self) -> None:
        """Start to record which agents are met."""
        self._since_take_over, self._stored = set(), None

    def note(self, keys: Iterable[int]) -> None:
        """Note agents that are loaded or erased."""
        noted = self._stored if self._since_take_over is None else self._since_take_over
        if noted is not None:
            noted.update(keys)
            if len(noted) > self._most:
                self._since_take_over = self._stored = None

    def unmet(self, rows: Iterable[AgentRow]) -> dict[int, AgentRow] | None:
        """Return those *rows*, by key, whose agents were not met; None if this is not recorded."""
        met = self._since_take_over
        return None if met is None else {row.name.key: row for row in rows if row.name.key not in met}

    def are_unmet(self, keys: Collection[int]) -> npt.NDArray[np.bool_] | None:
        """Flag those *keys* whose agents were not met; None if this is not recorded."""
        met = self._since_take_over
        if met is None:
            return None
        if met.isdisjoint(keys):
            return np.ones(len(keys), np.bool_)
        return np.array([key not in met for key in keys], np.bool_)

    def end(self, *, all_met: bool) -> None:
        """Note that preloading has ended. *all_met*: the store has no agent that was not met."""
        self._stored, self._since_take_over = self._since_take_over if all_met else None, None

    def may_be_stored(self, key: int) -> bool:
        """Return False if the store certainly has no row of the agent."""
        return self._stored is None or key in self._stored


MAX_NAME_ERASERS = 100
"""Most erasures whose names are kept out of what a process loads later; older ones are long done."""


class ErasedAgents:
    """Agents that must not be restored from a model's history, identified by keyed marks."""

    def __init__(self, key: PrivacyKey | None = None, marks: Collection[str] = ()) -> None:
        self._key = key
        self._marks = set(marks)
        self._names: set[AgentIdentity] = set()

    def add(self, name: AgentIdentity) -> None:
        """Add an agent whose mark is stored already."""
        self._names.add(name)

    def __bool__(self) -> bool:
        """True if any agent was erased."""
        return bool(self._names or self._marks)

    def __contains__(self, name: AgentIdentity) -> bool:
        """True if the agent was erased."""
        key = self._key
        return name in self._names or (key is not None and key.erasure_mark(unkeyed_agent_key(*name)) in self._marks)


class NameErasers:
    """Removes erased names from reasons that are loaded until the store has erased them."""

    def __init__(self) -> None:
        self._erasers: list[tuple[str, NameEraser]] = []

    def __bool__(self) -> bool:
        """True if there is a name to remove."""
        return bool(self._erasers)

    def add(self, subject: ErasureSubject) -> NameEraser:
        eraser = NameEraser(subject.name, subject.pseudonym)
        self._erasers = [*self._erasers[1 - MAX_NAME_ERASERS :], (subject.tenant, eraser)]
        return eraser

    def erase_in_json(self, tenant: str, raw: bytes) -> bytes:
        """Return the reasons of an agent of *tenant* without the names; the same object if nothing changes."""
        for of, eraser in self._erasers:
            if of == tenant:
                raw = eraser.erase_in_json(raw, keep_members=True)
        return raw

    def erase_in_text(self, tenant: str, text: str) -> str:
        """Return a text about an agent of *tenant* without the names."""
        for of, eraser in self._erasers:
            if of == tenant:
                text = eraser.erase_in_text(text)
        return text


@dataclass(eq=False)
class SeededAgents:
    """Finds agents in the model's history by their full names, and initializes their state from it."""

    agents: ResidentAgents
    builder: FeatureBuilder
    model: TrainedModel
    risk_parameters: risk_levels.RiskParameters
    identities: IdentityHasher

    def __post_init__(self) -> None:
        self._model_identities = IdentityHasher(self.model.salt)
        self._arriving: EventColumns | None = None
        self.asked_for: dict[int, AgentIdentity] = {}
        """Full names of agents that are requested by name, by key."""

    def use_model(self, model: TrainedModel, risk_parameters: risk_levels.RiskParameters) -> None:
        """Switch to another model with the same salt."""
        self.model = model
        self.risk_parameters = risk_parameters

    @contextmanager
    def arriving(self, columns: EventColumns) -> Iterator[None]:
        """While the context is open, agents that move in can take their full names from this batch."""
        self._arriving = columns
        try:
            yield
        finally:
            self._arriving = None

    def admit(self, slots: SlotIndices, at: npt.NDArray[np.int64]) -> None:
        """Initialize the agents in these slots from the history at *at*."""
        seeds = self.model.seeds
        self.builder.unpack(slots, seeds.rows[at])
        risk_levels.seed(self.agents.risk, slots, seeds.events[at], self.risk_parameters)
        self.seed_habits(slots, at)

    def seed_habits(self, slots: SlotIndices, at: npt.NDArray[np.int64]) -> None:
        """Initialize usual anomalies of agents from the history at *at*, if it has any."""
        slots, at, seeds = slots[at >= 0], at[at >= 0], self.model.seeds
        usual_anomalies.seed(self.agents.risk, slots, seeds.odd[at], seeds.rehearsed[at], self.model.window_ms[1])

    def find(self, keys: AgentKeys, known: Mapping[int, AgentRow], erased: ErasedAgents) -> npt.NDArray[np.int64]:
        """Return the position of each agent in the history; -1 if it has none, or was erased."""
        at = np.full(len(keys), -1, np.int64)
        if not len(self.model.seeds.keys):
            return at
        names = {key: row.name.identity for key, row in known.items()} | self.asked_for
        hashes = {key: self._model_identities.agent_hash(*name) for key, name in names.items()}
        arriving: dict[int, int] = {}  # first row of each other agent in the batch that loads it
        unnamed = sorted(key for key in keys.tolist() if key not in names)
        if self._arriving is not None and unnamed:
            acting, first = np.unique(self._arriving.names[:, event_columns.AGENT], return_index=True)
            is_loaded = np.isin(acting, np.array(unnamed, np.uint64))
            arriving = dict(zip(acting[is_loaded].tolist(), first[is_loaded].tolist(), strict=True))
            same_salt = self.identities == self._model_identities
            for key, row in arriving.items():
                check = int(self._arriving.names[row, event_columns.AGENT_CHECK])
                own = AgentHash(key, check) if same_salt else None
                hashes[key] = own or self._model_identities.agent_hash(*self._name_arriving(row))
        named = [place for place, key in enumerate(keys.tolist()) if key in hashes]
        at[named] = self.model.seeds.find([hashes[int(keys[place])] for place in named])
        if erased:
            for place in np.flatnonzero(at >= 0).tolist():
                key = int(keys[place])
                if (names.get(key) or self._name_arriving(arriving[key])) in erased:
                    at[place] = -1
        return at

    def find_stored(self, columns: AgentColumns, names: EncodedTexts, erased: ErasedAgents) -> npt.NDArray[np.int64]:
        """Return the same for stored agents; *names* are theirs, encoded by `encode_agent_names`."""
        if not len(self.model.seeds.keys):
            return np.full(columns.agent_count, -1, np.int64)
        at = self.model.seeds.find(self._model_identities.agent_hashes(names))
        if erased:
            for place in np.flatnonzero(at >= 0).tolist():
                if columns.identity(place) in erased:
                    at[place] = -1
        return at

    def _name_arriving(self, row: int) -> AgentIdentity:
        assert self._arriving is not None
        return full_name(self._arriving.events[row])

    def update_shared_counts(self, slots: SlotIndices, at: npt.NDArray[np.int64]) -> None:
        """Set each agent's number of events in the shared baseline of this model."""
        numbers = self.builder.state.numbers
        numbers[slots, layout.N_SHARED] = 0.0
        numbers[slots[at >= 0], layout.N_SHARED] = self.model.seeds.rows["numbers"][at[at >= 0], layout.N_SHARED]

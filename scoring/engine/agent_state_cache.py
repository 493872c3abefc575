"""Agents in memory: they move in from the store or the model's history, and move out without loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.errors import Unavailable, give_up, retry_until_available
from trustwatch.ingest.features.feature_builder import AgentKeys, FeatureBuilder, SlotIndices
from trustwatch.ingest.identities import IdentityHasher, encode_agent_names, unkeyed_agent_key
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.models.trained_model import TrainedModel

from ..records.agent_pages import AgentColumns, StateFormat
from ..records.agents import AgentIdentity, AgentRow, AgentSummary, DueAgent
from ..records.commits import Position
from . import risk_levels
from .agent_rows import AgentExplanation, AgentRows, explanation_of
from .resident_agents import ResidentAgents
from .seeded_agents import AnyAgent, ErasedAgents, MetAgents, NameErasers, SeededAgents, UnsavedAgents

_DUE_PAGE_SIZE = 500
_PACK_CHUNK = 1_000


class AgentLoader(Protocol):
    """The part of the store that loads agents."""

    def load(self, keys: Collection[int], owner: Position | None = None) -> dict[int, AgentRow]:
        """Load the rows of the keys that exist. Raises Fenced if *owner* no longer owns the partition."""

    def due(self, before_ms: int, limit: int, after: DueAgent | None = None, partition: int = 0) -> list[DueAgent]:
        """List, in pages, agents of the partition whose stored level changes by then without an event."""

    def find_unkeyed(self, key: int) -> AgentIdentity | None:
        """Return the full name of the agent that version 0.1 knew by *key*."""


class AgentStateCache:
    """Implements the feature builder's `StateSpill`, and builds the rows that a commit writes."""

    def __init__(
        self,
        agents: ResidentAgents,
        model: TrainedModel,
        thresholds: npt.NDArray[np.float64],
        risk_parameters: risk_levels.RiskParameters,
        store: AgentLoader | None,
        partition: int,
        identities: IdentityHasher,
    ) -> None:
        capacity = len(agents.names)
        self.builder = FeatureBuilder(model.baseline, capacity, self)
        self._agents = agents
        self._rows = AgentRows(agents, self.builder, model, thresholds, identities)
        self._seeded = SeededAgents(agents, self.builder, model, risk_parameters, identities)
        self._store = store
        self._partition = partition
        self._identities = identities
        self.erased_agents = ErasedAgents()
        """Agents that do not continue from the model's history."""
        self._erasers = NameErasers()
        self._unsaved = UnsavedAgents()
        self._preloaded: dict[int, AgentRow] = {}
        self._met = MetAgents(capacity)
        self.on_unavailable: Callable[[Unavailable], None] = give_up
        """Called when the store does not answer, before it is queried again; `give_up` raises the error. An agent's
        move must not be left half done: it would continue without its history.
        """
        self.owner: Position | None = None
        """Owner of the partition. Rows that another one may have written are refused: they may be of a time that this
        one has not come to."""

    @property
    def capacity(self) -> int:
        """Number of agents that fit into memory."""
        return len(self._agents.names)

    @property
    def resident_count(self) -> int:
        """Number of agents in memory."""
        return len(self.builder.slots)

    @property
    def evicted(self) -> Mapping[int, AgentRow]:
        """Agents by key that left memory since the last commit began (without a store: ever)."""
        return self._unsaved.waiting

    @property
    def unwritten_count(self) -> int:
        """Number of agents that changed since the last commit began."""
        return len(self._agents.dirty) + len(self._unsaved.waiting)

    @property
    def state_format(self) -> StateFormat:
        """Format in which state is stored and can be preloaded as columns."""
        return self._rows.state_format

    def explanation(self, slot: int) -> AgentExplanation:
        return self._rows.explanations[slot]

    def set_explanation(self, slot: int, explanation: AgentExplanation) -> None:
        self._rows.explanations[slot] = explanation

    def erase(self, subject: ErasureSubject, *, ours: bool = True) -> None:
        """Erase an agent from memory and with the next commit, and its name from the reasons of others.

        *ours*: the row is this partition's to remove; elsewhere the agent may act again already, as a new one.
        """
        if subject.kind == "agent" and ours:
            self._remove_agent(subject)
        eraser = self._erasers.add(subject)
        for slot, explanation in enumerate(self._rows.explanations):
            json = explanation.reasons + explanation.indicators
            name = self._agents.names[slot]
            if name is not None and (eraser.may_occur_in(json) or eraser.is_in_text(explanation.counterfactual)):
                redacted = self._redacted_explanation(name.tenant, explanation)
                if redacted != explanation:
                    self._rows.explanations[slot] = redacted
                    self._agents.mark_changed(np.array([slot], np.int32))
        self._unsaved.redact(self._redacted_row)

    def keep_out_erased(self, subjects: Iterable[ErasureSubject]) -> None:
        """Take over erasures that are in progress when the process starts, so that loading restores no erased name."""
        for subject in subjects:
            self._erasers.add(subject)

    def begin_preload(self) -> None:
        """Start to record which agents were met: a page's rows of them may be older."""
        self._met.begin()
        self._met.note(self._unsaved.waiting)

    def preload(self, rows: Sequence[AgentRow]) -> int | None:
        """Load agents that were not met, if there is room for all; return their number, or None."""
        fresh = self._met.unmet(rows)
        if fresh is None or self.builder.slots.overflow(len(fresh)):
            return None
        self._preloaded = fresh
        try:
            self.builder.admit(np.array(list(fresh), np.uint64))
        finally:
            self._preloaded = {}
        return len(fresh)

    def preload_columns(self, columns: AgentColumns) -> int | None:
        """As `preload`, without building a row for each agent."""
        unmet = self._met.are_unmet(columns.keys.tolist())
        if unmet is None:
            return None
        fresh = unmet & (self.builder.slots.find(columns.keys) < 0)
        count = int(fresh.sum())
        if self.builder.slots.overflow(count):
            return None
        if not count:
            return count
        if count < len(fresh):
            columns = columns.where(fresh)
        if self._erasers:
            columns = self._redacted_columns(columns)
        self._met.note(columns.keys.tolist())
        slots = self.builder.slots.add(columns.keys)
        names = encode_agent_names(columns.tenants, columns.issuers, columns.agent_ids)
        self._rows.restore_columns(columns, names, slots)  # all of it: what others left there is not cleared first
        self._seeded.update_shared_counts(slots, self._seeded.find_stored(columns, names, self.erased_agents))
        return count

    def end_preload(self, *, complete: bool) -> None:
        """Note that preloading has ended. *complete*: every agent of the store was preloaded."""
        self._met.end(all_met=complete)

    def _remove_agent(self, subject: ErasureSubject) -> None:
        key, table = self._identities.agent_key(*subject.agent_identity), self.builder.slots
        self._met.note([key])
        slots = table.find(np.array([key], np.uint64))
        slot = int(slots[0])
        row = None if slot >= 0 else self._unsaved.get(key) or self._load_stored([key]).get(key)
        name = self._agents.names[slot] if slot >= 0 else None if row is None else row.name
        if name is not None and name.identity != subject.agent_identity:
            return  # the key is another agent's; nothing is known of this one
        if slot >= 0:
            self._agents.clear(slots)
            self._rows.explanations[slot] = AgentExplanation()
            self.builder.pinned[slots] = False
            table.remove(slots)
        self._unsaved.remove(key)
        self.erased_agents.add(subject.agent_identity)

    def _redacted_explanation(self, tenant: str, explanation: AgentExplanation) -> AgentExplanation:
        return AgentExplanation(
            explanation.decision_id,
            self._erasers.erase_in_json(tenant, explanation.reasons),
            self._erasers.erase_in_text(tenant, explanation.counterfactual),
            self._erasers.erase_in_json(tenant, explanation.indicators),
        )

    def _redacted_row(self, row: AnyAgent) -> AnyAgent:
        explanation = explanation_of(row)
        redacted = self._redacted_explanation(row.name.tenant, explanation)
        return row if redacted == explanation else msgspec.structs.replace(row, **msgspec.structs.asdict(redacted))

    def _redacted_columns(self, columns: AgentColumns) -> AgentColumns:
        texts = columns.decision_ids, columns.reasons, columns.counterfactuals, columns.indicators
        redacted = list(map(self._redacted_explanation, columns.tenants, map(AgentExplanation, *texts)))
        return columns._replace(
            reasons=[explanation.reasons for explanation in redacted],
            counterfactuals=[explanation.counterfactual for explanation in redacted],
            indicators=[explanation.indicators for explanation in redacted],
        )

    def after_erasures(self, stored: Iterable[AgentSummary]) -> Iterator[AgentSummary]:
        """Apply erasures that the store may not have yet to stored agents."""
        kept = (agent for agent in stored if not self._unsaved.is_removed(agent.name.key))
        return (self._redacted_row(agent) for agent in kept)

    @property
    def removed_agents(self) -> tuple[int, ...]:
        """Keys of agents whose rows the next commit removes."""
        return self._unsaved.removed

    def evict(self, keys: AgentKeys, slots: SlotIndices) -> None:  # noqa: ARG002 (of `StateSpill`)
        """Keep the rows of agents that changed since the last commit. The store has, or is getting, the others."""
        moving = slots
        if self._store is not None:
            moving = slots[self._agents.dirty[slots]]
            self._unsaved.add_unpublished(self._rows.summaries(slots[self._agents.moved[slots]]))
        self._unsaved.waiting.update((row.name.key, row) for row in self.rows(moving))
        self._agents.clear(slots)
        for slot in slots.tolist():
            self._rows.explanations[slot] = AgentExplanation()

    def admit(self, keys: AgentKeys, slots: SlotIndices) -> None:
        """Load what is known of agents: rows that wait for a commit, stored rows, or the model's history."""
        unsaved = {key: row for key in keys.tolist() if (row := self._unsaved.get(key)) is not None}
        missing = [key for key in keys.tolist() if key not in unsaved]
        stored_rows = self._preloaded or {**self._load_stored(missing), **unsaved}
        self._met.note(keys.tolist())
        history = self._seeded.find(keys, stored_rows, self.erased_agents)
        resumed = np.array([key in stored_rows and self._rows.fits(stored_rows[key]) for key in keys.tolist()])
        fresh = (history >= 0) & ~resumed
        self._seeded.admit(slots[fresh], history[fresh])
        stored = [place for place, key in enumerate(keys.tolist()) if key in stored_rows]
        converted = np.zeros(len(keys), np.bool_)
        rows = [stored_rows[key] for key in keys[stored].tolist()]
        if self._erasers:
            rows = [self._redacted_row(row) for row in rows]
        converted[stored] = ~self._rows.restore(rows, slots[stored])
        if stored:
            are_dirty = np.array([self._unsaved.take_back(key) for key in keys[stored].tolist()], np.bool_)
            self._agents.dirty.set(slots[stored][are_dirty])
        self._seeded.seed_habits(slots[converted], history[converted])
        self._seeded.update_shared_counts(slots, history)

    def arriving(self, columns: EventColumns) -> AbstractContextManager[None]:
        """While the context is open, agents that move in can take their full names from this batch."""
        return self._seeded.arriving(columns)

    def find_slot(self, name: AgentIdentity) -> int | None:
        """Return the slot of an agent, loading it if necessary; None if it has never acted."""
        key = self._identities.agent_key(*name)
        self._seeded.asked_for = {key: name}
        try:
            slot = int(self.builder.admit(np.array([key], np.uint64))[0])
        finally:
            self._seeded.asked_for = {}
        resident = self._agents.names[slot]
        return slot if resident is not None and resident.identity == name else None

    def find_unkeyed(self, key: int) -> AgentIdentity | None:
        """Return the full name of the agent that version 0.1 knew by this key (`unkeyed_agent_key`), or None."""
        names = (name.identity for name in self._agents.names if name is not None)
        store = self._store
        for name in chain(names, self._unsaved.identities()):
            if unkeyed_agent_key(*name) == key:
                return name
        if store is None:
            return None
        return retry_until_available(lambda: store.find_unkeyed(key), self.on_unavailable)

    def use_model(
        self, model: TrainedModel, thresholds: npt.NDArray[np.float64], risk_parameters: risk_levels.RiskParameters
    ) -> None:
        """Switch to another model with the same salt. No agent may be in memory."""
        self.builder.baseline = model.baseline
        self._rows.use_model(model, thresholds)
        self._seeded.use_model(model, risk_parameters)

    def _load_stored(self, keys: list[int]) -> dict[int, AgentRow]:
        store = self._store
        keys = [key for key in keys if self._met.may_be_stored(key) and not self._unsaved.is_removed(key)]
        if store is None or not keys:
            return {}
        return retry_until_available(lambda: store.load(keys, self.owner), self.on_unavailable)

    def load_due_agents(self, now_ms: int) -> Iterator[SlotIndices]:
        """Load agents whose level changes by *now_ms* without an event, page by page; yield the slots of each page."""
        table = self.builder.slots
        unsaved = np.array(self._unsaved.due_keys(now_ms), np.uint64)
        unsaved = unsaved[table.find(unsaved) < 0]
        size = max(1, min(_DUE_PAGE_SIZE, len(self._agents.names) // 2))
        for start in range(0, len(unsaved), size):
            yield self.builder.admit(unsaved[start : start + size])
        after, store = None, self._store
        while store is not None:
            page = retry_until_available(partial(store.due, now_ms, size, after, self._partition), self.on_unavailable)
            stored = [d.key for d in page if self._unsaved.get(d.key) is None and not self._unsaved.is_removed(d.key)]
            keys = np.array(stored, np.uint64)
            keys = keys[table.find(keys) < 0]
            if len(keys):
                yield self.builder.admit(keys)
            if len(page) < size:
                return
            after = page[-1]

    def rows(self, slots: SlotIndices) -> list[AgentRow]:
        return self._rows.build(slots)

    def take_moved(self) -> list[AgentSummary]:
        """Return the summaries of agents that changed since the last call, including those that left memory."""
        slots = self._agents.moved.slots()
        self._agents.moved.clear_all()
        moved, unpublished = self._rows.summaries(slots), self._unsaved.take_unpublished()
        if not unpublished:
            return moved
        return list({summary.name.key: summary for summary in (*unpublished, *moved)}.values())  # some came back

    def changed_rows(self) -> list[AgentRow]:
        """Return the rows of all agents that changed since the last commit began, including those that left memory."""
        slots, rows = self._agents.dirty.slots(), []
        for start in range(0, len(slots), _PACK_CHUNK):  # small copies stay in the processor's caches
            rows += self.rows(slots[start : start + _PACK_CHUNK])
        if self._store is not None:
            rows.extend(self._unsaved.waiting.values())
        return rows

    def begin_commit(self) -> list[AgentRow]:
        """Return the rows of `changed_rows` for a commit; later changes belong to the next one.

        Until `mark_committed` they are what is known of their agents, since the store may still have older ones.
        """
        rows = self.changed_rows()
        self._agents.dirty.clear_all()
        self._unsaved.begin_commit(rows)
        return rows

    def mark_committed(self) -> None:
        """Note that the rows of `begin_commit` are stored."""
        self._unsaved.mark_committed()

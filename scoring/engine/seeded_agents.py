"""Agents that the model's training history knows: where they are in it, and what they begin with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns, full_name
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_builder import AgentKeys, FeatureBuilder, SlotIndices
from trustwatch.ingest.hashing import EncodedTexts
from trustwatch.ingest.identities import AgentHash, IdentityHasher
from trustwatch.models.trained_model import TrainedModel

from ..records.agent_pages import AgentColumns
from ..records.agents import AgentIdentity, AgentRow
from . import risk_levels, usual_oddness
from .forgetting import ErasedAgents
from .resident_agents import ResidentAgents


@dataclass(eq=False)
class SeededAgents:
    """Finds agents in the model's history by their full names, and lets them go on from there."""

    agents: ResidentAgents
    builder: FeatureBuilder
    model: TrainedModel
    risk_parameters: risk_levels.RiskParameters
    identities: IdentityHasher

    def __post_init__(self) -> None:
        self._model_identities = IdentityHasher(self.model.salt)
        self._arriving: EventColumns | None = None
        self.asked_for: dict[int, AgentIdentity] = {}
        """Full names of agents that are asked for by name, by key."""

    def use_model(self, model: TrainedModel, risk_parameters: risk_levels.RiskParameters) -> None:
        """Use another model of the same salt."""
        self.model = model
        self.risk_parameters = risk_parameters

    @contextmanager
    def arriving(self, columns: EventColumns) -> Iterator[None]:
        """Take the full names of agents that move in from a batch, where nothing else knows them."""
        self._arriving = columns
        try:
            yield
        finally:
            self._arriving = None

    def admit(self, slots: SlotIndices, at: npt.NDArray[np.int64]) -> None:
        """Let agents begin in these slots as the history at *at* left them."""
        seeds = self.model.seeds
        self.builder.unpack(slots, seeds.rows[at])
        risk_levels.seed(self.agents.risk, slots, seeds.events[at], self.risk_parameters)
        self.seed_habits(slots, at)

    def seed_habits(self, slots: SlotIndices, at: npt.NDArray[np.int64]) -> None:
        """Let agents begin with how odd the history at *at* shows them to be, where it shows them."""
        slots, at, seeds = slots[at >= 0], at[at >= 0], self.model.seeds
        usual_oddness.seed(self.agents.risk, slots, seeds.odd[at], seeds.rehearsed[at], self.model.window_ms[1])

    def find(self, keys: AgentKeys, known: Mapping[int, AgentRow], erased: ErasedAgents) -> npt.NDArray[np.int64]:
        """Place of each agent in the history, -1 where it has none, or is forgotten."""
        at = np.full(len(keys), -1, np.int64)
        if not len(self.model.seeds.keys):
            return at
        names = {key: row.name.identity for key, row in known.items()} | self.asked_for
        hashes = {key: self._model_identities.agent_hash(*name) for key, name in names.items()}
        arriving = self._rows_arriving([key for key in keys.tolist() if key not in names])
        hashes |= {key: self._hash_arriving(row) for key, row in arriving.items()}
        named = [place for place, key in enumerate(keys.tolist()) if key in hashes]
        at[named] = self.model.seeds.find([hashes[int(keys[place])] for place in named])
        if erased:
            for place in np.flatnonzero(at >= 0).tolist():
                key = int(keys[place])
                if (names.get(key) or self._name_arriving(arriving[key])) in erased:
                    at[place] = -1
        return at

    def find_stored(self, columns: AgentColumns, names: EncodedTexts, erased: ErasedAgents) -> npt.NDArray[np.int64]:
        """The same of agents that are stored; *names* are theirs, of `encode_agent_names`."""
        if not len(self.model.seeds.keys):
            return np.full(columns.agent_count, -1, np.int64)
        at = self.model.seeds.find(self._model_identities.agent_hashes(names))
        if erased:
            for place in np.flatnonzero(at >= 0).tolist():
                if columns.identity(place) in erased:
                    at[place] = -1
        return at

    def _rows_arriving(self, keys: Collection[int]) -> dict[int, int]:
        """First row of each of *keys* in the batch that moves them in."""
        if self._arriving is None or not keys:
            return {}
        acting, first = np.unique(self._arriving.names[:, event_columns.AGENT], return_index=True)
        is_asked_for = np.isin(acting, np.array(sorted(keys), np.uint64))
        return dict(zip(acting[is_asked_for].tolist(), first[is_asked_for].tolist(), strict=True))

    def _hash_arriving(self, row: int) -> AgentHash:
        """Identity of a row's agent under the model's salt."""
        assert self._arriving is not None
        if self.identities == self._model_identities:
            names = self._arriving.names[row]
            return AgentHash(int(names[event_columns.AGENT]), int(names[event_columns.AGENT_CHECK]))
        return self._model_identities.agent_hash(*self._name_arriving(row))

    def _name_arriving(self, row: int) -> AgentIdentity:
        assert self._arriving is not None
        return full_name(self._arriving.events[row])

    def update_shared_counts(self, slots: SlotIndices, at: npt.NDArray[np.int64]) -> None:
        """Set each agent's count of events in the shared baseline: this model's, not that of the one before."""
        numbers = self.builder.state.numbers
        numbers[slots, layout.N_SHARED] = 0.0
        numbers[slots[at >= 0], layout.N_SHARED] = self.model.seeds.rows["numbers"][at[at >= 0], layout.N_SHARED]

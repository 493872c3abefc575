"""Rows of agents, stored and published: made from their slots, and restored into them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest.capabilities import capability_text, decode_capabilities
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.earlier_layout import EARLIER_LAYOUTS, StateLayout, read_state_rows
from trustwatch.ingest.features.feature_builder import FeatureBuilder, SlotIndices
from trustwatch.ingest.hashing import EncodedTexts, NameHasher
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.trained_model import TrainedModel

from ..records.agent_pages import AgentColumns, StateFormat
from ..records.agents import NO_INDICATORS, AgentName, AgentRow, AgentSummary, RiskLevel
from ..records.decisions import RiskReason
from . import announced_paths, risk_levels
from .resident_agents import ResidentAgents


def present_layout() -> StateLayout:
    return StateLayout(layout.LAYOUT_GENERATION, layout.KINDS, layout.STATE_ROW)


def state_version(salt: bytes) -> str:
    """Return the version of stored state: its layout and the salt of its hashes. Other state cannot be resumed."""
    return f"{features_version(salt, present_layout())}:{risk_version(risk_levels.ROW)}"


def risk_version(row: np.dtype[Any]) -> str:
    """Return the version of a layout of the risk state."""
    return hashlib.sha256(str(row).encode()).hexdigest()[:12]


def features_version(salt: bytes, stored: StateLayout) -> str:
    """Return the version of stored features: their layout and salt."""
    shape = f"{stored.generation}|{stored.row}|{stored.kinds}|{layout.REGION_SIZE}".encode()
    return hashlib.sha256(shape + hashlib.sha256(salt).digest()).hexdigest()[:12]


T = TypeVar("T")

_RISK_BYTES = np.dtype((np.void, risk_levels.ROW.itemsize))
"""A row of risk as one value: its members one by one take three times as long to copy."""

_encode_json = msgspec.json.Encoder().encode
_decode_reasons_json = msgspec.json.Decoder(list[RiskReason]).decode
NO_REASONS = b"[]"

_RISK_COLUMNS = ("level", "score", "confidence", "anomaly", "at_ms", "due_ms", "events")
_ROW_COLUMNS = ("level", "risk_score", "confidence", "anomaly_score", "evaluated_ms", "due_ms", "events")


@lru_cache(maxsize=64)  # a store has a handful of them, one in each row
def _version_parts(state_version: str) -> list[str]:
    return state_version.split(":")


class AgentExplanation(msgspec.Struct, frozen=True, gc=False):  # one an agent; see `AgentName`
    """Explanation of an agent's risk: its decision, reasons, counterfactual and indicators."""

    decision_id: str = ""
    reasons: bytes = NO_REASONS
    counterfactual: str = ""
    indicators: bytes = NO_INDICATORS


@dataclass(eq=False)
class AgentRows:
    """Builds rows from the agents in memory, and loads stored rows into their slots."""

    agents: ResidentAgents
    builder: FeatureBuilder
    model: TrainedModel
    thresholds: npt.NDArray[np.float64]
    identities: IdentityHasher

    def __post_init__(self) -> None:
        self._hash = NameHasher(self.model.salt)
        self.explanations: list[AgentExplanation] = [AgentExplanation()] * len(self.agents.names)
        """Of the agent in each slot."""
        self.state_version = state_version(self.model.salt)
        self.state_format = StateFormat(self.state_version, layout.STATE_ROW.itemsize, risk_levels.ROW.itemsize)
        self._stored_sizes = {
            features_version(self.model.salt, stored): stored.row.itemsize
            for stored in (present_layout(), *EARLIER_LAYOUTS)
        }
        self._risk_layouts = {
            f"{risk_version(row)}:{row.itemsize}": row for row in (risk_levels.ROW, *risk_levels.EARLIER_ROWS)
        }

    def use_model(self, model: TrainedModel, thresholds: npt.NDArray[np.float64]) -> None:
        """Switch to another model with the same salt."""
        self.model = model
        self.thresholds = thresholds

    def restore(self, rows: Sequence[AgentRow], slots: SlotIndices) -> npt.NDArray[np.bool_]:
        """Load stored agents into their slots; return for each whether its risk has the current layout.

        Features of another layout or salt are left behind; risk survives both.
        """
        agents = self.agents
        by_size: dict[int, list[int]] = {}  # places by layout of their features: one call costs as much as ten rows
        for place, row in enumerate(rows):
            if self.fits(row):
                by_size.setdefault(len(row.features), []).append(place)
        fitting = {place for places in by_size.values() for place in places}
        kept = [row.announced_paths if at in fitting else announced_paths.NO_PATHS for at, row in enumerate(rows)]
        agents.paths[slots] = announced_paths.unpack(kept)
        for places in by_size.values():
            states = read_state_rows([rows[place].features for place in places])
            if states is not None:
                self.builder.unpack(slots[places], states)
        as_stored = self._restore_risk(rows, slots)
        groups: dict[tuple[str, str], np.uint64] = {}
        for row in rows:
            if (group := (row.name.tenant, row.agent_type)) not in groups:  # few groups, many agents
                groups[group] = self._group_hash(*group)
        agents.groups[slots] = [groups[row.name.tenant, row.agent_type] for row in rows]
        agents.threshold_rows[slots] = self.model.group_rows(agents.groups[slots])
        self._restore_capabilities([row.capabilities for row in rows], slots)
        agents.checks[slots] = [self.identities.agent_hash(*row.name.identity).check for row in rows]
        self.builder.pinned[slots] = agents.risk["due_ms"][slots] != 0
        for row, slot in zip(rows, slots.tolist(), strict=True):
            agents.names[slot], agents.types[slot] = row.name, row.agent_type
            self.explanations[slot] = explanation_of(row)
        return as_stored

    def restore_columns(self, columns: AgentColumns, names: EncodedTexts, slots: SlotIndices) -> None:
        """Load stored agents in `state_format` into slots that were just taken."""
        agents = self.agents
        # Consecutive slots, as those that were just taken mostly are, make a slice: arrays are copied whole.
        first, last = int(slots[0]), int(slots[-1])
        at = slice(first, last + 1) if (slots == np.arange(first, first + len(slots))).all() else slots
        self.builder.unpack(at, columns.features.view(layout.STATE_ROW)[:, 0])
        agents.risk.view(_RISK_BYTES)[at] = columns.risk.view(_RISK_BYTES)[:, 0]
        agents.paths[at] = announced_paths.unpack(columns.announced_paths)
        groups = list(zip(columns.tenants, columns.agent_types, strict=True))
        hashes = {group: self._group_hash(*group) for group in set(groups)}  # few groups, many agents
        agents.groups[at] = [hashes[group] for group in groups]
        agents.threshold_rows[at] = self.model.group_rows(agents.groups[at])
        self._restore_capabilities(columns.capabilities, slots)
        agents.checks[at] = self.identities.agent_hashes(names)[:, 1]
        self.builder.pinned[at] = agents.risk["due_ms"][at] != 0
        explained = columns.decision_ids, columns.reasons, columns.counterfactuals, columns.indicators
        words = columns.keys.tolist(), columns.tenants, columns.issuers, columns.agent_ids
        _put(agents.names, at, list(map(AgentName, *words)))
        _put(agents.types, at, columns.agent_types)
        _put(self.explanations, at, list(map(AgentExplanation, *explained)))

    def _restore_risk(self, rows: Sequence[AgentRow], slots: SlotIndices) -> npt.NDArray[np.bool_]:
        versions = np.array([f"{_version_parts(row.state_version)[-1]}:{len(row.risk)}" for row in rows])
        as_stored = np.zeros(len(rows), np.bool_)
        for version, stored in self._risk_layouts.items():
            same = np.flatnonzero(versions == version)
            states = np.frombuffer(b"".join(rows[place].risk for place in same.tolist()), stored)
            self.agents.risk[slots[same]] = risk_levels.converted(states)
            as_stored[same] = True
        for place in np.flatnonzero(~as_stored).tolist():
            self.agents.risk[slots[place]] = self._risk_from_columns(rows[place])
        return as_stored

    def fits(self, row: AgentRow) -> bool:
        """Return False if the features have another salt or an unknown size, as in a damaged row."""
        return self._stored_sizes.get(_version_parts(row.state_version)[0]) == len(row.features)

    def _restore_capabilities(self, kept: Sequence[bytes], slots: SlotIndices) -> None:
        """Load declared capabilities. Many agents share few lists."""
        agents = self.agents
        hashes = {one: self._hash(capability_text(decode_capabilities(one))) for one in set(kept)}
        agents.capability_hashes[slots] = [hashes[one] for one in kept]
        for slot, declared in zip(slots.tolist(), kept, strict=True):
            agents.capabilities[slot] = declared

    def _group_hash(self, tenant: str, agent_type: str) -> np.uint64:
        return np.uint64(self._hash(f"{tenant}\x1f{agent_type}"))

    def _risk_from_columns(self, row: AgentRow) -> Any:
        """Return the risk of an agent whose stored state has an unknown layout, from its plain columns, so that no
        upgrade resets it."""
        state = np.zeros((), risk_levels.ROW)
        for column, field in zip(_ROW_COLUMNS, _RISK_COLUMNS, strict=True):
            state[field] = getattr(row, column)
        state["since_ms"], state["p_value"] = row.evaluated_ms, 1.0
        if row.level >= RiskLevel.MEDIUM:
            limits = self.thresholds[self.model.group_row(self._group_hash(row.name.tenant, row.agent_type))]
            concern = risk_levels.signalled_concern(limits)
            state["concern"] = CONCERNS.index(row.concern) if row.concern in CONCERNS else concern  # 0.1 knew none
            state["statistic"][concern] = state["suspicion"][concern] = limits[concern, row.level - RiskLevel.MEDIUM]
        return state

    def build(self, slots: SlotIndices) -> list[AgentRow]:
        """Build the complete rows of the agents in these slots."""
        named = slots[[self.agents.names[slot] is not None for slot in slots.tolist()]]
        features, risks = self.builder.pack(named).tobytes(), self.agents.risk[named].tobytes()
        wide, narrow = layout.STATE_ROW.itemsize, risk_levels.ROW.itemsize
        return [
            AgentRow(
                *msgspec.structs.astuple(summary),
                features=features[at * wide : (at + 1) * wide],
                risk=risks[at * narrow : (at + 1) * narrow],
                state_version=self.state_version,
            )
            for at, summary in enumerate(self.summaries(named))
        ]

    def summaries(self, slots: SlotIndices) -> list[AgentSummary]:
        """Build the summaries of the agents in these slots, as they are published."""
        names, types, explanations = self.agents.names, self.agents.types, self.explanations
        risks, times = self.agents.risk[slots], self.builder.state.times[slots]
        paths = announced_paths.pack(self.agents.paths[slots])
        columns = zip(
            slots.tolist(),
            risks["concern"].tolist(),
            *(risks[field].tolist() for field in _RISK_COLUMNS),
            times[:, layout.T_FIRST].tolist(),
            times[:, layout.T_LAST].tolist(),
            paths,
            strict=True,
        )
        return [
            AgentSummary(
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
                explanations[slot].decision_id,
                explanations[slot].reasons,
                explanations[slot].counterfactual,
                CONCERNS[concern] if level >= RiskLevel.MEDIUM else "",
                explanations[slot].indicators,
                path,
                self.agents.capabilities[slot],
            )
            for slot, concern, level, score, confidence, anomaly, at_ms, due_ms, events, first, last, path in columns
            if (name := names[slot]) is not None
        ]


def _put(target: list[T], at: SlotIndices | slice, values: Sequence[T]) -> None:
    if isinstance(at, slice):
        target[at] = values
        return
    for slot, value in zip(at.tolist(), values, strict=True):
        target[slot] = value


def explanation_of(row: AgentSummary) -> AgentExplanation:
    """Return the explanation that a row or a summary carries."""
    return AgentExplanation(row.decision_id, row.reasons, row.counterfactual, row.indicators)


def encode_reasons(reasons: Sequence[RiskReason]) -> bytes:
    """Encode reasons as the JSON list that rows and answers carry."""
    return _encode_json(reasons)


def decode_reasons(kept: bytes) -> list[RiskReason]:
    """Decode reasons; empty bytes have none."""
    return _decode_reasons_json(kept) if kept else []

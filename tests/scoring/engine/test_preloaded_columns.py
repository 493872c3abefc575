"""Agents that move in as columns are the same, bit for bit, as if each row had been restored by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustwatch.ingest.features.earlier_layout import EARLIER_LAYOUTS
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.source import RecordBatch
from trustwatch.scoring.engine.agent_rows import features_version
from trustwatch.scoring.engine.announced_paths import PATHS, VERSION
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.records.agent_pages import AgentColumns, StateFormat, split_rows
from trustwatch.scoring.records.agents import AgentName, AgentRow, Indicator, encode_indicators
from trustwatch.scoring.records.decisions import RiskReason

KEY = IdentityHasher(b"a key of tests")
ISSUER = "https://as.example"
AGENTS = 24
ANN, GONE = ErasureSubject("principal", "acme", "", "ann", "erased~1"), ("acme", ISSUER, "agent-3")


class RowsByKey(dict[int, AgentRow]):
    """Rows by key."""

    def load(self, keys: Any, owner: Any = None) -> dict[int, AgentRow]:
        return {key: self[key] for key in keys if key in self}

    def due(self, before_ms: int, limit: int, after: Any = None, partition: int = 0) -> list[Any]:
        return []


class StoredRows(list[AgentRow]):
    """Rows that no failure prints."""

    def __repr__(self) -> str:
        return f"{len(self)} rows"


@pytest.fixture(scope="module")
def stored(kit: Any, make: Any) -> StoredRows:
    """Rows of agents of which some alarm and some are known to the model's history."""
    processor = kit.processor(identities=KEY)
    events = make.stream(3, 600, agents=AGENTS, start_ms=make.START_MS + 10**9, odd=0.3)
    for batch in kit.batches(kit.records(events), itertools.repeat(100)):
        processor.apply(batch)
    rows = StoredRows(processor.engine.agent_states.changed_rows())
    assert len(rows) == AGENTS and any(row.reasons != b"[]" for row in rows) and any(row.due_ms for row in rows)
    return rows


def earlier_state(number: int, row: AgentRow, salt: bytes) -> AgentRow:
    """The row as an earlier version would have written it, of an agent with one event."""
    earlier = EARLIER_LAYOUTS[number]
    state = np.zeros(1, earlier.row)
    state["times"] = row.last_seen_ms
    version = f"{features_version(salt, earlier)}:{row.state_version.split(':')[1]}"
    return msgspec.structs.replace(row, features=state.tobytes(), state_version=version)


def paths(version: int, size: int = PATHS.itemsize) -> bytes:
    kept = np.zeros(1, PATHS)
    kept["version"], kept["names"] = version, 7
    return kept.tobytes()[:size]


REASON = RiskReason("new_target", "target", "ann\0\1", "usual", 1.0, "ann acted\0")
CHANGES: dict[str, Callable[[AgentRow, bytes], dict[str, Any] | AgentRow]] = {
    "as it is": lambda row, salt: {},
    "another salt": lambda row, salt: {"state_version": "0" * 12 + row.state_version[12:]},
    "old risk": lambda row, salt: {"risk": b"old", "state_version": row.state_version[:13] + "0" * 12},
    "damaged risk": lambda row, salt: {"risk": row.risk[:-1]},
    "damaged features": lambda row, salt: {"features": row.features[1:]},
    "no state": lambda row, salt: {"features": b"", "risk": b"", "state_version": ""},
    "explained": lambda row, salt: {
        "reasons": msgspec.json.encode([REASON]),
        "indicators": encode_indicators([Indicator("target", "ann\0", "new", "2025-12-01T00:00:00Z")]),
        "counterfactual": "without ann\0",
        "decision_id": "D\1",
    },
    "announced": lambda row, salt: {"announced_paths": paths(VERSION)},
    "announced otherwise": lambda row, salt: {"announced_paths": paths(VERSION + 1)},
    "declared": lambda row, salt: {"capabilities": b'["pay","look_*"]'},
    "announced in part": lambda row, salt: {"announced_paths": paths(VERSION, 9)},
    "of no type": lambda row, salt: {"agent_type": ""},
    "renamed": lambda row, salt: {
        "name": AgentName(
            KEY.agent_key("beta\0", "", "é" * 70 + row.name.agent_id), "beta\0", "", "é" * 70 + row.name.agent_id
        )
    },
    **{
        f"layout {number}": lambda row, salt, number=number: earlier_state(number, row, salt)
        for number in range(len(EARLIER_LAYOUTS))
    },
}
CHANGE = st.one_of(st.just("as it is"), st.sampled_from(sorted(CHANGES)))


def changed(row: AgentRow, change: str, salt: bytes) -> AgentRow:
    values = CHANGES[change](row, salt)
    return values if isinstance(values, AgentRow) else msgspec.structs.replace(row, **values)


def snapshot(engine: Engine) -> list[Any]:
    """All that is known of each agent in memory, in the order of keys."""
    table, agents, states = engine.builder.slots, engine.agents, engine.agent_states
    slots = np.flatnonzero(table.keys).astype(np.int32)
    slots = slots[np.argsort(table.keys[slots])]
    assert table.find(table.keys[slots]).tolist() == slots.tolist()
    assert (engine.builder.pinned[slots] == (engine.risk["due_ms"][slots] != 0)).all()
    arrays = (
        *engine.builder.state,
        *(agents.checks, agents.groups, agents.threshold_rows, agents.risk, agents.paths, agents.dirty, agents.moved),
        engine.builder.pinned,
    )
    return [
        table.keys[slots].tolist(),
        *(array[slots].tobytes() for array in arrays),
        [(agents.names[slot], agents.types[slot], states.explanation(slot)) for slot in slots.tolist()],
        states.rows(slots),
        engine.due_slots(2**60).size,
    ]


def move_in(engine: Engine, rows: list[AgentRow], state_format: StateFormat, step: int) -> list[int | None]:
    """Let the agents of a page move in, those of the format as columns."""
    page, states = split_rows(rows, AGENTS + 1, state_format), engine.agent_states
    columns, parts = page.columns, []
    if columns is not None:
        parts = [columns.part(start, start + step) for start in range(0, columns.agent_count, step)]
    return [*(states.preload_columns(part) for part in parts), *(states.preload([row]) for row in page.rows)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    changes=st.lists(CHANGE, min_size=AGENTS, max_size=AGENTS),
    met=st.integers(1, 8),
    left=st.booleans(),
    erased=st.booleans(),
    step=st.integers(1, AGENTS),
)
def test_columns_and_rows_come_to_the_same(
    kit: Any, make: Any, stored: StoredRows, changes: list[str], met: int, left: bool, erased: bool, step: int
) -> None:
    """Whatever agents did since the take-over, whoever left memory again or was erased, and whatever comes next."""
    salt = kit.model.salt
    rows = [changed(row, change, salt) for row, change in zip(stored, changes, strict=True)]
    present = Engine(kit.model, EngineSettings(capacity=1)).agent_states.state_format
    nothing = StateFormat("", -1, -1)
    later = make.stream(9, 60, agents=AGENTS + 3, start_ms=make.START_MS + 2 * 10**9, odd=0.2)
    seen = []
    for state_format in (present, nothing):
        loader = RowsByKey({row.name.key: row for row in rows})
        processor = kit.processor(loader, capacity=100, identities=KEY)
        engine = processor.engine
        engine.agent_states.begin_preload()
        records = kit.records(later)
        processor.apply(RecordBatch(0, 0, records[:met]))
        if left:
            engine.builder.evict_all()
        if erased:
            engine.agent_states.keep_out_erased([ANN])
            engine.agent_states.erase(ErasureSubject("agent", *GONE, "erased~2"))
        moved_in = move_in(engine, rows, state_format, step)
        before = snapshot(engine)
        engine.agent_states.end_preload(complete=True)
        for start in range(met, len(records), 20):
            processor.apply(RecordBatch(0, start, records[start : start + 20]))
        published = sorted(engine.agent_states.take_moved(), key=lambda agent: agent.name.key)
        seen.append((sum(count or 0 for count in moved_in), before, published, snapshot(engine)))
    assert seen[0] == seen[1]


def test_what_is_not_remembered_or_has_no_room_does_not_move_in(kit: Any, stored: StoredRows) -> None:
    """Then nobody moves in, and memory is as it was."""
    for capacity, begun in ((AGENTS - 1, True), (AGENTS, False)):
        engine = kit.processor(RowsByKey(), capacity=capacity, identities=KEY).engine
        if begun:
            engine.agent_states.begin_preload()
        columns = AgentColumns.of_rows(stored, engine.agent_states.state_format)
        assert engine.agent_states.preload_columns(columns) is None
        assert len(engine.builder.slots) == 0


def test_an_agent_in_memory_is_left_as_it_is(kit: Any, stored: StoredRows) -> None:
    """Also one that was there before anybody noted who is met: a second slot of one agent would lose its state."""
    engine = kit.processor(RowsByKey({row.name.key: row for row in stored}), identities=KEY).engine
    engine.agent_states.find_slot(stored[0].name.identity)
    engine.agent_states.begin_preload()
    columns = AgentColumns.of_rows(stored, engine.agent_states.state_format)
    assert engine.agent_states.preload_columns(columns) == AGENTS - 1
    assert engine.agent_states.preload_columns(columns) == 0
    assert len(engine.builder.slots) == AGENTS

"""Agents come and go without loss; state of another model is told apart."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.features import feature_table, layout
from trustwatch.ingest.features.earlier_layout import EARLIER_LAYOUTS, StateLayout
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.models.model_training import train_model
from trustwatch.scoring.engine import risk_levels
from trustwatch.scoring.engine.agent_rows import features_version, state_version
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.records.agents import AgentRow


class RowsByKey(dict[int, AgentRow]):
    """Rows by key."""

    def load(self, keys: Any, owner: Any = None) -> dict[int, AgentRow]:
        return {key: self[key] for key in keys if key in self}

    def due(self, before_ms: int, limit: int, after: Any = None, partition: int = 0) -> list[Any]:
        return []


def shelf_of(kit: Any, make: Any) -> tuple[RowsByKey, Any]:
    processor = kit.processor()
    processor.engine.score(
        kit.columns(make.stream(1, 300) + make.stream(3, 200, start_ms=make.START_MS + 10**9, odd=0.3))
    )
    rows = processor.engine.agent_states.changed_rows()
    return RowsByKey({row.name.key: row for row in rows}), processor


def test_features_measured_otherwise_are_neither_resumed_nor_scored(make: Any, monkeypatch: Any) -> None:
    """Where columns mean something else though their shape stays, stored state and models of before do not fit."""
    state, table = state_version(make.SALT), feature_table.feature_table_hash()
    monkeypatch.setattr(layout, "LAYOUT_GENERATION", layout.LAYOUT_GENERATION + 1)
    monkeypatch.setattr(feature_table, "LAYOUT_GENERATION", layout.LAYOUT_GENERATION)
    assert state_version(make.SALT).split(":")[0] != state.split(":")[0]
    assert state_version(make.SALT).split(":")[1] == state.split(":")[1]  # risk goes on
    assert feature_table.feature_table_hash() != table


def test_another_salt_keeps_risk_and_restarts_features(kit: Any, make: Any) -> None:
    """Under a model with another salt, risk and count of events go on; features begin from that model's history."""
    shelf, _ = shelf_of(kit, make)
    salt = b"quite another salt"
    past = ColumnEncoder(salt).encode([decode_event(json.dumps(e).encode()) for e in make.stream(1, 600)])
    model = train_model(past, salt, "test-2", make.SETTINGS)
    engine = Engine(model, EngineSettings(capacity=50), shelf)
    assert state_version(salt) != state_version(make.SALT)
    keys = np.array(list(shelf), np.uint64)
    slots = engine.builder.admit(keys)
    for key, slot in zip(shelf, slots.tolist(), strict=True):
        stored = np.frombuffer(shelf[key].risk, risk_levels.ROW)[0]
        assert engine.risk[slot] == stored
        assert engine.agents.names[slot] == shelf[key].name
    identities = IdentityHasher(salt)
    at = model.seeds.find([identities.agent_hash(*shelf[key].name.identity) for key in keys.tolist()])
    expected = np.where(at >= 0, model.seeds.rows["times"][at, layout.T_LAST], 0)
    assert (engine.builder.state.times[slots, layout.T_LAST] == expected).all()
    assert (at >= 0).any()


def test_another_risk_layout_begins_with_the_habits_of_the_history(kit: Any, make: Any) -> None:
    """Else an upgrade would make agents that are often odd alert anew; those of the present layout keep their own."""
    shelf, _ = shelf_of(kit, make)
    keys = list(shelf)
    for key in keys[::2]:
        row = shelf[key]
        shelf[key] = msgspec.structs.replace(row, risk=b"old", state_version=row.state_version.split(":")[0] + ":old")
    seeds = kit.model.seeds
    often = replace(seeds, odd=np.full_like(seeds.odd, 7.0), rehearsed=np.full_like(seeds.rehearsed, 90.0))
    engine = Engine(replace(kit.model, seeds=often), EngineSettings(capacity=100), shelf)
    slots = engine.builder.admit(np.array(keys, np.uint64))
    hashes = [IdentityHasher(make.SALT).agent_hash(*shelf[key].name.identity) for key in keys]
    known = seeds.find(hashes) >= 0
    assert known.any()
    expected = np.where(known, 90.0, 0.0)
    expected[1::2] = [np.frombuffer(shelf[key].risk, risk_levels.ROW)["events_before"][0] for key in keys[1::2]]
    assert engine.risk["events_before"][slots].tolist() == expected.tolist()


def test_an_agent_that_returns_before_its_commit_is_still_written(kit: Any, make: Any) -> None:
    """An agent that moved out unsaved and came back without acting is part of the next commit."""
    processor = kit.processor(RowsByKey(), capacity=1)
    one = processor.engine.score(kit.columns([make.event(1, "a", make.START_MS)]))
    key = one.columns.names[:, 0].copy()
    processor.engine.score(kit.columns([make.event(2, "b", make.START_MS)]))
    processor.engine.builder.admit(key)
    assert sorted(row.name.agent_id for row in processor.engine.agent_states.changed_rows()) == ["a", "b"]


@pytest.mark.parametrize(
    "earlier", EARLIER_LAYOUTS, ids=["0.1", "with values", "with habits", "with names", "with order"]
)
def test_features_that_earlier_versions_stored_go_on(kit: Any, make: Any, earlier: StateLayout) -> None:
    """Under the same salt: the row is converted, whatever else it holds; one of another size is left behind."""
    shelf, processor = shelf_of(kit, make)
    kept = [at for at in range(layout.NUMBERS) if at not in (layout.N_SEEN + 20, layout.N_DISTINCT + 20)]
    for key, row in list(shelf.items()):
        now = np.frombuffer(row.features, layout.STATE_ROW)
        old = np.zeros(1, earlier.row)
        for name in earlier.row.names or ():
            shorter = name == "numbers" and old[name].shape[1] < layout.NUMBERS
            old[name] = now[name][:, kept] if shorter else now[name][..., : old[name].shape[-1]]
        version = f"{features_version(make.SALT, earlier)}:{row.state_version.split(':')[1]}"
        shelf[key] = msgspec.structs.replace(row, features=old.tobytes(), state_version=version)
    keys = np.array(list(shelf), np.uint64)
    broken = shelf[int(keys[0])]
    shelf[int(keys[0])] = msgspec.structs.replace(broken, features=broken.features[:-4])

    engine = Engine(processor.engine.model, EngineSettings(capacity=50), shelf)
    slots = engine.builder.admit(keys)

    seen = engine.builder.state.numbers[slots, layout.N_EVENTS]
    expected = [np.frombuffer(shelf[int(key)].features, earlier.row)["numbers"][0] for key in keys[1:]]
    assert seen[1:].tolist() == [float(numbers[layout.N_EVENTS]) for numbers in expected]
    seeds = processor.engine.model.seeds
    assert seen[0] == seeds.rows["numbers"][seeds.keys == keys[0], layout.N_EVENTS]
    assert (seen[1:] > seen[0]).any()  # than what the history alone knows

"""Access paths that authorization servers announced: what is kept, and all that is not."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.scoring.engine import announced_paths, risk_levels
from trustwatch.scoring.engine.announced_paths import (
    CHAIN,
    CREDENTIAL,
    KIND_OF_PLACE,
    NETWORK,
    PATHS,
    as_parts,
    find_announced,
    pack,
    part_names,
    unpack,
)
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.records.agents import AgentRow

MINUTE_MS, DAY_MS = 60_000, 86_400_000
KEY = {"method": "private_key_jwt", "thumbprint": "renewed"}
CHANGE = {"type": "client.change", "action": "client.change", "credential": KEY}
REGISTER = {**CHANGE, "type": "client.register", "action": "client.register"}


class Fleet:
    """An engine, whose events come minute by minute."""

    def __init__(self, kit: Any, make: Any, **settings: Any) -> None:
        self.engine = Engine(kit.model, EngineSettings(capacity=50, **settings))
        self._kit, self._make, self._minute = kit, make, 0

    def event(self, agent: int | str = 1, **members: Any) -> ScoredBatch:
        self._minute += 1
        at_ms = members.pop("at_ms", self._make.START_MS + 20 * DAY_MS) + self._minute * MINUTE_MS
        told = {"resource": {"target": f"host-{agent}-1"}, **members}
        return self.engine.score(self._kit.columns([self._make.event(self._minute, agent, at_ms, **told)]))

    def known(self, agent: int | str = 1, **members: Any) -> list[bool]:
        """Network, credential, chain: what had been announced before an event of the agent."""
        flags: list[bool] = as_parts(self.event(agent, **members).announced_paths)[0].tolist()
        return flags

    def row(self, agent: str = "agent-1") -> AgentRow:
        rows = {row.name.agent_id: row for row in self.engine.agent_states.changed_rows()}
        return rows[agent]

    def raise_level(self, slot: int) -> None:
        state = self.engine.risk[slot : slot + 1]
        state["level"], state["score"], state["due_ms"] = risk_levels.HIGH, 0.8, 0
        state["statistic"] = 1e3


@pytest.fixture
def fleet(kit: Any, make: Any) -> Fleet:
    return Fleet(kit, make)


class OneRow:
    """A store of one agent."""

    def __init__(self, row: AgentRow) -> None:
        self.row = row

    def load(self, keys: Any, owner: Any = None) -> dict[int, AgentRow]:
        return {self.row.name.key: self.row}

    def due(self, before_ms: int, limit: int, after: Any = None, partition: int = 0) -> list[Any]:
        return []

    def find_unkeyed(self, key: int) -> None:
        return None


def test_an_announced_key_is_known_at_once(fleet: Fleet) -> None:
    """Of that agent alone; the network that the announcement came by is not, nor a key that calls alone show."""
    fleet.event(**CHANGE, client={"asn": 65_001})

    assert fleet.known(credential=KEY, client={"asn": 65_001}) == [False, True, False]
    assert fleet.known(2, credential=KEY) == [False] * 3
    assert fleet.known(credential={**KEY, "thumbprint": "stolen"}) == [False] * 3
    assert fleet.known(credential={**KEY, "thumbprint": "stolen"}) == [False] * 3


@pytest.mark.parametrize(
    "told",
    [
        {"agent_self_asserted": True},
        {"outcome": "denied"},
        {"outcome": "denied", "error": "ext_authz_denied"},
        {"credential": {"method": "private_key_jwt"}},
        {"type": "tool.call"},
        {"type": "token.request"},
    ],
)
def test_events_that_announce_nothing(fleet: Fleet, told: dict[str, Any]) -> None:
    """Those that no token vouches for, what failed, what we caused, what names no key, and any other event."""
    fleet.event()
    fleet.event(**{**CHANGE, **told})
    assert fleet.row().announced_paths == b""
    assert fleet.known(credential=KEY) == [False] * 3


def test_nothing_is_known_nor_kept_from_medium_on(fleet: Fleet) -> None:
    """A key that was announced before counts again once that is over, as the key that it is for levels."""
    slot = int(fleet.event(**CHANGE).slots[0])
    assert fleet.known(credential=KEY) == [False, True, False]
    quiet = fleet.engine.risk[slot].copy()
    fleet.raise_level(slot)

    assert fleet.known(credential=KEY) == [False] * 3
    fleet.event(**{**CHANGE, "credential": {**KEY, "thumbprint": "of-a-thief"}})
    fleet.engine.risk[slot] = quiet

    assert fleet.known(credential=KEY) == [False, True, False]
    assert fleet.known(credential={**KEY, "thumbprint": "of-a-thief"}) == [False] * 3


def test_a_frozen_engine_keeps_nothing(kit: Any, make: Any) -> None:
    frozen = Fleet(kit, make, learn=False)
    frozen.event(**CHANGE)
    assert frozen.known(credential=KEY) == [False] * 3


def test_working_by_a_path_for_days_proves_nothing(fleet: Fleet, make: Any) -> None:
    for day in range(6):
        for hour in range(0, 24, 3):
            at_ms = make.START_MS + (20 + day) * DAY_MS + hour * 3_600_000
            assert fleet.known(client={"asn": 65_001}, delegation=["agent-1", "other"], at_ms=at_ms) == [False] * 3
    assert fleet.row().announced_paths == b""


def test_a_registered_newcomers_first_call_tells_its_path(fleet: Fleet) -> None:
    """By the registered key, of an agent that neither we nor the model knew; a later path is new."""
    path = {"client": {"asn": 65_001}, "delegation": ["fresh", "boss"], "credential": KEY}
    fleet.event("fresh", **REGISTER, client={"asn": 65_002})
    fleet.event("fresh", **path, type="token.request")
    assert fleet.known("fresh", **path) == [False, True, False]
    assert fleet.known("fresh", **path) == [True, True, True]
    assert fleet.known("fresh", **{**path, "client": {"asn": 65_002}, "delegation": ["fresh"]}) == [False, True, False]
    assert fleet.known("fresh", **{**path, "client": {"asn": 65_002}}) == [False, True, True]


@pytest.mark.parametrize("before", [[{"type": "token.request"}, REGISTER], []])
def test_other_first_calls_tell_no_path(fleet: Fleet, before: list[dict[str, Any]]) -> None:
    """Of an agent that acted before its registration, or that nobody registered."""
    for told in before:
        fleet.event("fresh", **told)
    path = {"client": {"asn": 65_001}, "delegation": ["fresh", "boss"], "credential": KEY}
    fleet.event("fresh", **path)
    assert fleet.known("fresh", **path) == [False, bool(before), False]


def test_a_call_by_another_key_tells_no_path_of_a_newcomer(fleet: Fleet) -> None:
    path = {"client": {"asn": 65_001}, "delegation": ["fresh", "boss"], "credential": {**KEY, "thumbprint": "thief"}}
    fleet.event("fresh", **REGISTER)
    fleet.event("fresh", **path)
    assert fleet.known("fresh", **path) == [False] * 3
    assert not fleet.engine.agents.paths["names"][:, KIND_OF_PLACE != CREDENTIAL].any()


def test_an_agent_of_the_history_is_no_newcomer(fleet: Fleet) -> None:
    """Registered again, it has a past; nor is one whose first call comes weeks later."""
    fleet.event(1, **REGISTER)
    fleet.event(1, credential=KEY, client={"asn": 65_001})
    assert fleet.known(1, credential=KEY, client={"asn": 65_001}) == [False, True, False]


def test_what_is_kept_is_bounded_and_ends() -> None:
    """Four keys, the latest; a month; a week until the first call."""
    own = np.zeros(1, PATHS)
    for number in range(100):
        announced_paths._keep_credential(own[0], np.uint64(1_000 + number), number)
    kept = sorted(own["names"][0][own["names"][0] > 0].tolist())
    assert kept == [1_096, 1_097, 1_098, 1_099] and len(pack(own)[0]) == PATHS.itemsize <= 80
    parts = np.array([[0, 1_099, 0]], np.uint64)
    month = announced_paths.KEPT_MINUTES
    assert find_announced(own, parts, np.array([(99 + month - 1) * MINUTE_MS])).tolist() == [[False, True, False]]
    assert not find_announced(own, parts, np.array([(99 + month) * MINUTE_MS])).any()
    late = own.copy()
    for paths, minute in ((own, 100), (late, 99 + announced_paths.WAITING_MINUTES)):
        announced_paths._keep_first_path(paths[0], np.array([7, 1_099, 9], np.uint64), minute)
    assert own["names"][0][:2].tolist() == [7, 9] and late["names"][0][:2].tolist() == [0, 0]


def test_a_part_that_is_not_told_is_never_known() -> None:
    names = np.zeros((1, event_columns.NAMES), np.uint64)
    names[0, event_columns.AGENT_DRAW] = 5
    assert part_names(names).tolist() == [[0, 0, 0]]
    assert not find_announced(np.zeros(1, PATHS), part_names(names), np.array([0])).any()
    assert (NETWORK, CREDENTIAL, CHAIN) == (0, 1, 2)


def resumed(kit: Any, row: AgentRow) -> bytes:
    """Bytes that a worker publishes of an agent whose row it took over."""
    heir = Engine(kit.model, EngineSettings(capacity=50), OneRow(row))
    slot = heir.agent_states.find_slot(row.name.identity)
    assert slot is not None
    return heir.agent_states.rows(np.array([slot], np.int32))[0].announced_paths


def test_it_is_stored_and_taken_over(fleet: Fleet, kit: Any) -> None:
    """By the next worker; of rows of before, damaged ones, other versions and under another salt there is nothing."""
    fleet.event(**CHANGE)
    row = fleet.row()
    assert resumed(kit, row) == row.announced_paths != b""
    other_version = b"\x02" + row.announced_paths[1:]
    for damaged in (b"", b"junk", b"\xff" * PATHS.itemsize, other_version):
        assert resumed(kit, msgspec.structs.replace(row, announced_paths=damaged)) == b""
    assert resumed(kit, msgspec.structs.replace(row, state_version="other:version")) == b""


def test_another_model_of_the_salt_takes_it_over_and_an_erasure_ends_it(fleet: Fleet, kit: Any) -> None:
    fleet.event(**CHANGE)
    name = fleet.row().name
    fleet.engine.use_model(kit.model)
    assert fleet.known(credential=KEY) == [False, True, False]

    fleet.engine.agent_states.erase(ErasureSubject("agent", *name.identity, "erased-1"))

    assert fleet.engine.agents.paths["version"].max() == 0
    assert unpack(pack(fleet.engine.agents.paths[:1]))["version"][0] == 0

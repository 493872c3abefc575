"""Two agents with one key: the one that is known keeps it, the other is refused, counted and told of."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.colliding_agents import COLLIDING_KEY, FIRST, ISSUER, SECOND, TENANT, CollidingIdentities
from trustwatch.ingest.identities import IdentityHasher, unkeyed_agent_key
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.source import RecordBatch
from trustwatch.scoring.pipeline.settings import PipelineSettings
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.store.outbox_store import DeliveryRoute
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ...support.one_partition import EmbeddedPipeline


def conflicted(kit: Any, *given: Any, **more: Any) -> Any:
    """A processor in which the two have one key."""
    return kit.processor(*given, identities=CollidingIdentities(kit.model.salt), **more)


def events_of(make: Any, agent_id: str, count: int, first: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Events of one of the two, a minute apart."""
    events = []
    for number in range(first, first + count):
        made = make.event(number, 1, make.START_MS + 10**9 + number * 60_000, **more)
        made["tenant"], made["id"] = TENANT, f"{agent_id}-{number}"
        made["agent"] = {**made["agent"], "id": agent_id, "issuer": ISSUER}
        events.append(made)
    return events


def attack(make: Any, agent_id: str, count: int, first: int) -> list[dict[str, Any]]:
    """Events that would make their agent critical."""
    return events_of(
        make,
        agent_id,
        count,
        first,
        action="attack-1",
        resource={"target": "evil-7", "external": True},
        credential={"method": "none", "thumbprint": "stolen"},
        bytes_out=10**9,
    )


def test_the_two_had_one_key_in_0_1() -> None:
    """A pair that somebody found by search under the hash of 0.1 is none under any key."""
    assert unkeyed_agent_key(TENANT, ISSUER, FIRST) == unkeyed_agent_key(TENANT, ISSUER, SECOND) == COLLIDING_KEY
    for key in (b"", b"one deployment", b"another one"):
        first, second = (IdentityHasher(key).agent_hash(TENANT, ISSUER, agent_id) for agent_id in (FIRST, SECOND))
        assert first.key != second.key
        assert first.check != second.check


def test_two_whose_check_agrees_too_are_told_apart_when_they_are_loaded(kit: Any, make: Any) -> None:
    """The full name decides, not 128 bits: a command that names the other one moves nobody."""
    processor = conflicted(kit)
    processor.apply(RecordBatch(0, 0, kit.records(events_of(make, FIRST, 5))))

    assert processor.engine.agent_states.find_slot((TENANT, ISSUER, SECOND)) is None
    assert processor.engine.agent_states.find_slot((TENANT, ISSUER, FIRST)) is not None


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_an_impostor_moves_nobody(kit: Any, make: Any, cut: int) -> None:
    """State of the agent that holds the key is bit for bit that without the other, however the events are cut."""
    own, foreign = events_of(make, FIRST, 20), attack(make, SECOND, 20, 5)
    mixed = [*own[:10], *foreign, *own[10:]]
    alone, beside = conflicted(kit), conflicted(kit)
    alone.apply(RecordBatch(0, 0, kit.records(own)))
    letters, conflicts = [], []
    records = kit.records(mixed)
    for start in range(0, len(records), cut):
        applied = beside.apply(RecordBatch(0, start, records[start : start + cut]))
        letters += applied.dead_letters
        conflicts += applied.identity_conflicts

    assert beside.engine.agent_states.changed_rows() == alone.engine.agent_states.changed_rows()
    assert [letter.offset for letter in letters] == list(range(10, 30))
    assert {letter.path for letter in letters} == {"$.agent.id"}
    assert json.loads(letters[0].raw) == foreign[0]
    assert {(one.tenant, one.issuer, one.agent_id) for one in conflicts} == {(TENANT, ISSUER, SECOND)}


def test_the_other_way_round(kit: Any, make: Any) -> None:
    """Whoever comes first keeps the key: the second one is refused even where it is the honest one."""
    processor = conflicted(kit)
    applied = processor.apply(RecordBatch(0, 0, kit.records([*attack(make, SECOND, 5, 0), *events_of(make, FIRST, 5)])))

    assert [row.name.agent_id for row in processor.engine.agent_states.changed_rows()] == [SECOND]
    assert {one.agent_id for one in applied.identity_conflicts} == {FIRST}


def test_an_agent_that_comes_back_keeps_its_key(kit: Any, make: Any) -> None:
    """Moved out of memory and back in, by its own event or by the impostor's, it is still the one that is known."""
    processor = conflicted(kit, capacity=1)
    others = [make.event(number, f"other-{number}", make.START_MS + 10**9) for number in range(3)]
    parts = [
        events_of(make, FIRST, 5),
        others[:1],
        attack(make, SECOND, 5, 5),
        others[1:2],
        events_of(make, FIRST, 5, 20),
    ]
    refused = []
    for number, part in enumerate(parts):
        refused += processor.apply(RecordBatch(0, 100 * number, kit.records(part))).identity_conflicts

    states = processor.engine.agent_states
    resident = np.flatnonzero(states.builder.slots.keys).astype(np.int32)
    rows = {row.name.agent_id: row for row in [*states.rows(resident), *states.evicted.values()]}
    assert rows[FIRST].events == 10
    assert SECOND not in rows
    assert len(refused) == 5


def test_erasing_the_impostor_leaves_the_agent(kit: Any, make: Any) -> None:
    """An order to forget the one without the key takes nothing from the one that has it."""
    processor = conflicted(kit)
    processor.apply(RecordBatch(0, 0, kit.records(events_of(make, FIRST, 5))))
    states = processor.engine.agent_states
    states.erase(ErasureSubject("agent", TENANT, ISSUER, SECOND, "erased~1"))

    assert [row.name.agent_id for row in states.changed_rows()] == [FIRST]
    assert states.removed_agents == ()
    states.erase(ErasureSubject("agent", TENANT, ISSUER, FIRST, "erased~2"))
    assert states.changed_rows() == []


def test_an_alert_a_day(kit: Any, make: Any, tmp_path: Path) -> None:
    """The commit writes the letters and one alert, which names the refused agent alone."""
    with closing(EventLog(tmp_path / "log")) as log:
        log.append(kit.records([*events_of(make, FIRST, 5), *attack(make, SECOND, 6, 5)]))
        log.sync()
    with closing(open_store(sqlite_url(tmp_path / "t.db"))) as store:
        run_to_the_end(kit, store, tmp_path / "log")
        _check_alert(store, make.START_MS)


def test_a_restart_knows_whose_key_it_is(kit: Any, make: Any, tmp_path: Path) -> None:
    """A new process refuses the agent that is not in the store, whichever of the two comes first to it."""
    with closing(EventLog(tmp_path / "log")) as log, closing(open_store(sqlite_url(tmp_path / "t.db"))) as store:
        for events in (events_of(make, FIRST, 5), attack(make, SECOND, 6, 5)):
            log.append(kit.records(events))
            log.sync()
            run_to_the_end(kit, store, tmp_path / "log")

        assert [(agent.name.agent_id, agent.events) for agent in store.agents.iterate()] == [(FIRST, 5)]
        assert [letter.offset for letter in store.dead_letters.page().items] == [10, 9, 8, 7, 6, 5]


def run_to_the_end(kit: Any, store: SqlStore, log: Path) -> None:
    pipeline = EmbeddedPipeline(
        log,
        conflicted(kit, store.agents),
        store,
        LivePolicy(PolicyBook()),
        PipelineSettings(commit_interval_s=0.0),
        lambda: 0.0,
        lambda _: None,
    )
    pipeline.start()
    pipeline.drain()
    pipeline.kill()


def _check_alert(store: SqlStore, now_ms: int) -> None:
    store.outbox.route([DeliveryRoute("soc", "alert", frozenset({3}), 0)], now_ms)
    alerts = [lease.row for lease in store.outbox.lease("soc", now_ms, 9, 60_000)]
    assert [alert.key.startswith("identity-") for alert in alerts] == [True]
    body = json.loads(alerts[0].payload)
    assert body["type"] == "io.trustwatch.alert.identity-conflict.v1"
    assert (body["subject"], body["data"]["tenant"], alerts[0].tenant) == (SECOND, TENANT, TENANT)
    assert FIRST not in alerts[0].payload.decode()
    assert len(store.dead_letters.page().items) == 6
    assert [agent.name.agent_id for agent in store.agents.iterate()] == [FIRST]

"""Erasing an agent whose events are in a topic: under load, with a kill -9 in the middle, with a proof that holds."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trustwatch.ingest.record_keys import agent_partition_key
from trustwatch.scoring.store.decision_store import verify_chains
from trustwatch.scoring.store.sql_store import SqlStore

from ...support.distributed_testbed import (
    PARTITIONS,
    Load,
    State,
    assert_equal,
    attacked_event,
    post_json,
    state_of,
    wait,
    write_events,
)
from ...support.service_checks import child_pid, files_holding

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FILES = "archive: {directory: archive, interval_s: 0.3}\n"
VECTORS = "archive: {directory: archive, vectors: vectors, interval_s: 0.3}\n"


SERVICE = re.compile(r"http://127\.0\.0\.1:\d+")
"""Alerts link to whoever made them; each part of the service has a port of its own here."""


def known_erasures(of: SqlStore) -> Any:
    """Gives another store the list of the erased, as a back-up that was put back has it."""

    def prepare(store: SqlStore) -> None:
        for made, _ in of.erasures.list_with_positions():
            store.erasures.add(made)
        for key, value in of.metadata.find("forget.").items():
            store.metadata.put(key, value)

    return prepare


def without(state: State, *keys: int) -> State:
    """A state without some agents, and without tombstones: a worker that reads the topic again knows nothing to bury.

    And without edges: those of an erased agent are removed, and the records of others make edges of its pseudonym.
    """
    return state._replace(
        agents={key: row for key, row in state.agents.items() if key not in keys},
        decisions={name: one for name, one in state.decisions.items() if not name.startswith("erased-")},
        alerts={name: SERVICE.sub("", text) for name, text in state.alerts.items()},
        actions={name: SERVICE.sub("", text) for name, text in state.actions.items()},
        edges={},
    )


@pytest.fixture
def loads() -> Iterator[Callable[..., Load]]:
    """Starts producers of given events; ended at the end."""
    made: list[Load] = []

    def start(rig: Any, events: list[bytes], rate: int, **how: Any) -> Load:
        made.append(Load(rig.kafka_settings, events, rate, **how))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.end()


def test_erased_under_load_and_a_kill(make_rig: Any, kafka: Any, serve: Any, world: Any, loads: Any) -> None:
    """The leading worker is killed at once; the other one ends it, and nobody knows the agent any more."""
    rig = make_rig(kafka, more="")
    event = attacked_event(world)
    tenant, issuer, agent = event["tenant"], event["agent"]["issuer"], event["agent"]["id"]
    theirs = [raw for raw in world.day if json.loads(raw)["agent"]["id"] != agent]
    mine = [raw for raw in world.day if (e := json.loads(raw))["agent"]["id"] == agent and e["tenant"] == tenant]
    first = serve(rig, "--workers-only", more=FILES)
    wait(lambda: rig.epochs().get(PARTITIONS - 1), 90.0, "the first one works")
    second = serve(rig, "--workers-only", more=VECTORS)
    archiver, replica = serve(rig, "--archiver-only", more=FILES), serve(rig, "--api-only")
    for one in (second, archiver, replica):
        wait(one.is_ready, 90.0)
    load = loads(rig, theirs, 300, clones=20, name="load")
    victim = loads(rig, mine, 200, clones=1, most=1000, name="victim")
    wait(lambda: not victim.is_alive(), 60.0, "the victim's events")
    victim.end()
    name = f"{agent}~0"
    key, route = rig.store.identities.agent_key(tenant, issuer, name), agent_partition_key(tenant, issuer, name)
    friend = {**event, "agent": {**event["agent"], "id": "friend"}, "peer": name, "id": "friend-1"}
    write_events(rig, [friend | {"time": json.loads(victim._record(0).payload)["time"]}])
    wait(
        lambda: rig.store.agents.load([key]).get(key) and rig.store.agents.load([key])[key].events == 1000,
        60.0,
        "applied",
    )
    wait(lambda: replica.risk(name, tenant)["decision_id"], 20.0)
    decisions = replica.get("/v1/decisions", agent_id=name, tenant=tenant).json()["items"]
    assert decisions
    wait(lambda: any("archive" in path for path in files_holding(rig.folder, name)), 30.0, "archived")

    wish = {"agent": name, "tenant": tenant, "issuer": issuer, "reason": f"{name} is retired"}
    made = post_json(replica, "/v1/privacy/erasures", wish)
    assert made.status_code == 202, made.text
    children = [child_pid(first.process.pid, "api.service.pipeline_worker")]
    first.process.kill()
    for pid in filter(None, children):
        os.kill(pid, signal.SIGKILL)
    where = f"/v1/privacy/erasures/{made.json()['erasure_id']}"
    told = wait(lambda: (found := replica.get(where).json())["status"] in ("done", "failed") and found, 120.0)
    load.reached(200)

    assert told["status"] == "done", told
    assert told["subject"] is None
    assert name not in json.dumps(told)
    assert told["counts"]["database.decisions"] >= len(decisions)
    assert told["counts"]["archive.events"] > 0
    assert rig.store.agents.load([key]) == {}
    assert verify_chains(rig.store.decisions, rig.store.erasures).intact
    assert verify_chains(rig.store.decisions, rig.store.erasures).erased == told["counts"]["database.decisions"]
    assert files_holding(rig.folder / "archive", name) == files_holding(rig.folder / "vectors", name) == []
    said = [raw.value for raw in rig.records("risk")["risk"] if raw.key == route]
    assert said[-1] is None and any(said)
    wait(lambda: not replica.risk(name, tenant)["decision_id"], 10.0)
    assert replica.risk(name, tenant)["risk_level"] == "unknown"
    topics = {one["topic"]: one for one in told["document"]["topics"]}
    assert set(topics) == {rig.kafka_settings.topic_names.events, *(f"{rig.name}.{end}" for end in ENDS)}
    assert all(one["gone_by"] for one in topics.values())
    assert set(told["document"]["covers"]["offsets"]) == {str(at) for at in range(PARTITIONS)}
    checked = post_json(replica, f"{where}/verify", {"proof": told["proof"], "subject": name}).json()
    unseen = checked.pop("not_looked_at")  # by a replica, which has no archive
    assert {one.split(" on ")[0] for one in unseen} >= {"the archive of events", "the archive of vectors"}
    assert any(one.startswith(f"the topic {rig.kafka_settings.topic_names.events},") for one in unseen)
    assert checked == {"signed": True, "same_subject": True, "nothing_left": True, "left": {}}
    other = post_json(replica, f"{where}/verify", {"proof": told["proof"], "subject": "somebody-else"}).json()
    assert other["same_subject"] is False

    again = loads(rig, mine, 100, clones=1, most=5, name="again")
    wait(lambda: (row := rig.store.agents.load([key]).get(key)) and row.events == 5, 60.0, "somebody new")
    again.end()
    sent = load.end()
    rig.settle()
    wait(lambda: replica.risk(name, tenant)["confidence"] > 0.0, 20.0)
    for one in (second, archiver):
        assert one.stop() == 0, one.log()[-3000:]
    rig.finish()
    other = rig.undisturbed(known_erasures(rig.store))
    try:
        ours, read_again = rig.state(), state_of(other, rig.postgres, rig._undisturbed)
    finally:
        other.close()
    stranger = rig.store.identities.agent_key(tenant, issuer, "friend")
    assert_equal(without(ours, stranger), without(read_again, stranger))
    counted = {(row.name.tenant, row.name.agent_id): row.events for row in ours.agents.values()}
    assert counted == {**sent, (tenant, name): 5, (tenant, "friend"): 1}
    assert "Traceback" not in second.log() + archiver.log() + replica.log()


ENDS = ("dlq", "risk", "decisions", "alerts")

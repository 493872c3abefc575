"""API replicas answer from the risk topic: soon, alike, honest about their age, and never from an old version."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from trustwatch.ingest.kafka import open_writer
from trustwatch.ingest.record_keys import agent_partition_key, partition_of
from trustwatch.scoring.records.agents import AgentName, AgentRow, RiskLevel, RiskRecord, risk_record

from ...support.distributed_testbed import PARTITIONS, wait

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

STALE_S = 3
SOON_S = 15.0


def test_replicas_follow_the_topic(make_rig: Any, kafka: Any, serve: Any, load: Any, make_event: Any) -> None:
    """A change shows within seconds; a replica that starts later says the same; late old records win nowhere."""
    rig = make_rig(kafka, staleness_s=STALE_S)
    worker, replica = rig.worker(), serve(rig, "--api-only")
    worker.working(PARTITIONS)
    wait(replica.is_ready, 60.0)

    before = time.monotonic()
    accepted = replica.send([make_event("newcomer", number) for number in range(30)])
    assert accepted.json()["accepted"] == 30
    wait(lambda: replica.risk("newcomer")["evaluated_at"], SOON_S)
    wait(lambda: replica.metric("trustwatch_agents") == 1, SOON_S)
    assert time.monotonic() - before < 2 * SOON_S

    producer = load(rig, rate=500, clones=4)
    producer.reached(2000)
    producer.end()
    rig.settle()
    worker.stop()  # no more ticks: what is stored stands still
    later = serve(rig, "--api-only")
    stored = rig.state().agents
    names = [row.name for row in stored.values()]
    wait(later.is_ready, 60.0)
    for one in (replica, later):
        wait(lambda: not _differing(one.answers(names), stored.values()), SOON_S, "answers as stored")  # noqa: B023
    assert replica.answers(names) == later.answers(names)
    assert _changes(replica) > 0
    assert _changes(later) == 0  # those of before are no news
    for name in names:
        ours, theirs = (one.risk(name.agent_id, name.tenant) for one in (replica, later))
        assert ours["risk_score"] == pytest.approx(theirs["risk_score"], abs=0.0011)
        assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=0.011)

    victim = next(row for row in stored.values() if row.level == RiskLevel.LOW)
    _write_late(rig, victim)
    fresh = serve(rig, "--api-only")
    wait(fresh.is_ready, 60.0)
    for one in (replica, later, fresh):
        wait(lambda: one.risk("marker")["risk_level"] == "high", SOON_S)  # noqa: B023 (came after the late one)
        assert one.risk(victim.name.agent_id, victim.name.tenant)["risk_level"] == "low"
    for one in (replica, later, fresh):
        assert one.stop() == 0
        assert "Traceback" not in one.log()


def _changes(one: Any) -> float:
    """Changes of level that it was told of as news."""
    lines = one.client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("trustwatch_decisions_total{"))


def _differing(said: dict[AgentName, dict[str, Any]], stored: Iterable[AgentRow]) -> list[AgentName]:
    """Agents whose answers are not what is stored of them."""
    return [row.name for row in stored if said[row.name]["risk_level"] != RiskLevel(row.level).label]


def _write_late(rig: Any, victim: Any) -> None:
    """What a worker that was asleep tells of an agent, from an earlier epoch and an earlier offset; numbers that nobody
    can count with, which once ended every replica; then a mark.
    """
    key = agent_partition_key(victim.name.tenant, victim.name.issuer, victim.name.agent_id)
    partition = partition_of(key, PARTITIONS)
    epoch, offset = rig.epochs()[partition], rig.offsets()[partition]
    lie = msgspec.structs.replace(victim, level=RiskLevel.CRITICAL, risk_score=1.0)
    marker = msgspec.structs.replace(victim.name, key=1, agent_id="marker", tenant="acme-corp")
    mark = msgspec.structs.replace(victim, level=RiskLevel.HIGH, name=marker)
    told: list[tuple[bytes, RiskRecord]] = [
        (key, risk_record(lie, partition, epoch - 1, offset + 1000)),
        (key, risk_record(lie, partition, epoch, 1)),
        (b"marker", risk_record(mark, partition, epoch, offset)),
    ]
    writer = open_writer(rig.kafka_settings)
    try:
        for name, record in told:
            writer.send(rig.kafka_settings.topic_names.risk, name, msgspec.json.encode(record), partition=partition)
            for member in ("epoch", "offset", "events", "due_ms"):
                huge = json.dumps(json.loads(msgspec.json.encode(record)) | {member: 2**70}).encode()
                writer.send(rig.kafka_settings.topic_names.risk, b"huge", huge, partition=partition)
        writer.flush(10.0)
    finally:
        writer.close()


def test_answers_say_that_they_are_stale(make_rig: Any, kafka: Any, serve: Any, make_event: Any) -> None:
    """Of all agents without any worker; of the agents of some partitions while only their worker is gone."""
    rig = make_rig(kafka, staleness_s=STALE_S)
    replica = serve(rig, "--api-only")
    first, second = rig.worker(), rig.worker()
    wait(replica.is_ready, 90.0)
    wait(lambda: len(first.partitions) == len(second.partitions) == PARTITIONS // 2, 60.0, "two each")
    agents: dict[int, str] = {}
    for number in range(100):
        route = agent_partition_key("acme-corp", "https://as.example", f"agent-{number}")
        agents.setdefault(partition_of(route, PARTITIONS), f"agent-{number}")
    assert replica.send([make_event(agent) for agent in agents.values()]).json()["accepted"] == PARTITIONS

    def stale() -> set[int]:
        return {partition for partition, agent in agents.items() if replica.risk(agent)["stale"]}

    wait(lambda: replica.metric("trustwatch_agents") == PARTITIONS and not stale(), SOON_S)
    wait(
        lambda: replica.metric("trustwatch_pipeline_age_seconds") < STALE_S, SOON_S, "the pipeline is said to be fresh"
    )

    held = set(second.partitions)
    second.signal(signal.SIGSTOP)
    wait(lambda: stale() == held, STALE_S + SOON_S, "stale where the owner is silent")
    assert replica.metric("trustwatch_pipeline_age_seconds") >= STALE_S
    wait(lambda: not stale(), 40.0, "the other worker has taken over")
    assert first.partitions == set(agents)
    second.signal(signal.SIGCONT)

    first.stop()
    second.stop()
    wait(lambda: stale() == set(agents), STALE_S + SOON_S)
    assert replica.is_ready()  # it answers, says how old that is, and takes events in
    assert replica.send([make_event("meanwhile")]).json()["accepted"] == 1
    rig.worker()
    wait(lambda: not stale(), 60.0, "fresh again")
    wait(lambda: replica.metric("trustwatch_agents") == PARTITIONS + 1, SOON_S)


def test_a_replica_takes_events_again_by_itself(make_rig: Any, kafka: Any, serve: Any, make_event: Any) -> None:
    """Brokers fail: events are refused, answers go on. Once they are back it is ready without anybody sending.

    With the client that the other tests do not use, beside heartbeats: a replica gets ready with either.
    """
    rig = make_rig(kafka, client="confluent")
    rig.worker().working(PARTITIONS)
    replica = serve(rig, "--api-only")
    wait(replica.is_ready, 60.0)
    assert replica.send([make_event("before")]).json()["accepted"] == 1
    kafka.kill()
    assert replica.send([make_event("meanwhile")]).status_code == 503
    wait(lambda: not replica.is_ready(), SOON_S)
    assert replica.metric("trustwatch_log_failed") == 1
    assert not replica.risk("before")["stale"]  # yet
    kafka.start()
    wait(replica.is_ready, 40.0, "ready again")
    assert replica.metric("trustwatch_log_failed") == 0
    assert replica.send([make_event("after")]).json()["accepted"] == 1
    assert replica.stop() == 0
    assert "Traceback" not in replica.log()

"""What an administrator does to topics and database: growing to more partitions, and putting an older copy back."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import msgspec
import pytest

from trustwatch.api.service.commands import drain_events
from trustwatch.ingest.kafka import open_writer
from trustwatch.ingest.record_keys import agent_partition_key, partition_of
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.scoring.records.agents import AgentIdentity, AgentRow

from ...support.distributed_testbed import PARTITIONS, tell, wait
from ...support.nightly import nightly

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SOON_S = 10.0


def test_growing_changes_no_agent(make_rig: Any, kafka: Any, load: Any) -> None:
    """From 4 to 8 partitions with a backlog: every agent is what it would be had there been 8 from the start."""
    rig = make_rig(kafka, tick_s=3600)  # ticks are a partition's own: which agents they meet depends on their number
    worker = rig.worker()
    before = load(rig, keep=True)
    worker.working(PARTITIONS)
    before.reached(2000)
    worker.stop()
    before.reached(2000)
    before.end()
    waiting = sum(rig.ends().values()) - sum(rig.offsets().values())
    assert waiting >= 1000

    started = time.monotonic()
    grown = rig.run("topics", "grow", "8")
    tell(f"growing with {waiting} records that wait: {time.monotonic() - started:.1f} s")
    assert (grown["before"], grown["after"]) == (4, 8)
    agents = rig.state().agents
    assert 0.3 < grown["moved"] / len(agents) < 0.7
    assert rig.run("topics", "grow", "8")["moved"] == 0
    progress = rig.run("topics", "status")["events"]
    assert [one["behind"] for one in progress] == [0] * 8

    workers = [rig.worker(), rig.worker()]
    after = load(rig, keep=True)
    wait(lambda: len(set().union(*(one.partitions for one in workers))) == 8, 60.0, "all partitions are worked on")
    after.reached(4000)
    sent = before.sent + after.end()
    rig.finish()
    state = rig.state()
    assert sum(row.events for row in state.agents.values()) == sum(sent.values())
    for partition in range(8):
        for one in rig.store.agents.iterate_unpublished(partition, -1):
            name = one.agent.name
            assert partition_of(agent_partition_key(name.tenant, name.issuer, name.agent_id), 8) == partition
    rig.check_topics(state)

    calm = make_rig(kafka, tick_s=3600, partitions=8)
    writer = open_writer(calm.kafka_settings)
    log = TopicCommitLog(writer, calm.kafka_settings.topic_names.events)
    log.append(before.records + after.records)
    log.sync()
    writer.close()
    drain_events(calm.settings)
    assert plain(state.agents) == plain(calm.state().agents)


def plain(agents: dict[int, AgentRow]) -> dict[AgentIdentity, AgentRow]:
    """Agents by name, without their keys, which are a deployment's own, and without the names of their decisions, which
    say where the event lay."""
    return {
        row.name.identity: msgspec.structs.replace(row, name=msgspec.structs.replace(row.name, key=0), decision_id="")
        for row in agents.values()
    }


@nightly
def test_an_older_copy_of_the_database_is_put_back(rig: Any, load: Any, serve: Any, make_event: Any) -> None:
    """What was told since is of the future for it: all is applied again, and what is told from then on counts."""
    from scripts.service_stack.postgres import USER, binaries

    def pg(program: str, *arguments: str) -> None:
        done = subprocess.run([binaries() / program, *arguments], timeout=60, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    dump, url = str(rig.folder / "dump"), rig.postgres.url_of(rig.database)
    producer = load(rig)
    worker = rig.worker()
    worker.working(PARTITIONS)
    producer.reached(1000)
    wait(lambda: rig.state().agents, 60.0, "agents are stored")
    pg("pg_dump", "--format=custom", "--file", dump, "--dbname", url)
    for _ in range(2):  # epochs that the copy knows nothing of
        worker.stop()
        worker = rig.worker()
        worker.working(PARTITIONS)
    producer.reached(1000)
    sent = producer.end()
    rig.settle()
    worker.stop()
    lost = rig.epochs()

    rig.store.close()
    rig.postgres.drop_database(rig.database)
    rig.postgres.sql(f"create database {rig.database} owner {USER}", "postgres")
    pg("pg_restore", "--dbname", url, dump)
    assert max(rig.epochs().values()) < min(lost.values())
    done = rig.run("topics", "restored")
    assert done["above"] == max(lost.values())
    assert done["agents"] > 0
    assert min(rig.epochs().values()) > max(lost.values())
    assert rig.run("topics", "restored")["above"] > done["above"]  # may be run again

    replica = serve(rig, "--api-only")
    rig.worker()
    wait(replica.is_ready, 60.0)
    rig.settle()
    name = next(iter(rig.state().agents.values())).name
    since = replica.risk(name.agent_id, name.tenant)["evaluated_at"]
    event = make_event(name.agent_id, tenant=name.tenant)
    event["agent"]["issuer"] = name.issuer
    assert replica.send([event]).json()["accepted"] == 1
    wait(lambda: replica.risk(name.agent_id, name.tenant)["evaluated_at"] > since, SOON_S, "new risk shows")
    sent[name.tenant, name.agent_id] += 1
    assert replica.stop() == 0
    rig.check_end(sent)

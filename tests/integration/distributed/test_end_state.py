"""Whatever happens to workers, brokers and the database: the end state is that of an undisturbed run."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

import pytest

from ...support.distributed_testbed import PARTITIONS, wait
from ...support.nightly import nightly, size

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_killed_workers(make_rig: Any, kafka: Any, load: Any) -> None:
    """kill -9 at random moments and at the worst ones: between commit and publish, and while records leave.

    The producer sends every tenth batch twice, so that what a killed worker knew of earlier ids is needed by the next.
    It ends where the machine is so slow that more would pile up than the workers apply in the time of a test.
    """
    rig = make_rig(kafka)
    producer = load(rig, twice=0.1, most=60_000)
    worker = rig.worker()
    worker.working(PARTITIONS)
    for fault in ("kill-after-commit:3", "kill-while-publishing:3", "kill-before-commit:3"):
        faulty = rig.worker(fault)
        producer.reached(500)
        time.sleep(random.uniform(0.0, 0.5))
        worker.kill()
        assert faulty.ended() == -signal.SIGKILL
        worker = rig.worker()
    producer.reached(500)
    sent = producer.end()
    assert producer.again
    rig.settle()
    state = rig.check_end(sent)
    causes = {decision.cause for decision in state.decisions.values()}
    assert causes == {"event", "tick"}  # else the run has proved too little
    assert state.alerts
    assert state.actions


def test_workers_come_and_go_and_a_sleeper_is_fenced(rig: Any, load: Any) -> None:
    """Rebalances while loaded. Two workers fall asleep, one before its commit and one after it, and wake up too late.

    The first must be refused by the store; what the second then tells of must not win over what was told since.
    """
    producer = load(rig)
    stays = rig.worker()
    stays.working(PARTITIONS)
    for fault in ("stop-before-commit:4", "stop-after-commit:4"):
        comes = rig.worker()
        sleeper = rig.worker(fault)
        wait(sleeper.stopped, what="asleep")
        held = rig.epochs()
        comes.working()
        awake = (stays, comes)
        wait(lambda: len(set().union(*(one.partitions for one in awake))) == PARTITIONS, 40.0, "partitions moved")  # noqa: B023
        moved = {partition for partition, epoch in rig.epochs().items() if epoch > held[partition]}
        assert moved
        producer.reached(500)
        sleeper.signal(signal.SIGCONT)
        wait(lambda: sleeper.count("fenced") or "partition lost" in sleeper.log(), 20.0, "the sleeper noticed")  # noqa: B023
        if fault.startswith("stop-before"):
            wait(lambda: sleeper.count("fenced") >= 1, 20.0, "all that it had to commit was refused")  # noqa: B023
            assert "another worker owns the partition" in sleeper.log()
        comes.stop()
        sleeper.working()  # it is a member like any other again
        sleeper.stop()
    sent = producer.end()
    rig.settle()
    rig.check_end(sent)


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_database_restarts(make_rig: Any, kafka: Any, load: Any, client: str) -> None:
    """PostgreSQL is restarted and crashes under load: workers wait for it, and do not end."""
    rig = make_rig(kafka, client=client)
    producer = load(rig)
    worker = rig.worker()
    worker.working(PARTITIONS)
    for bring_down in [rig.postgres.stop, rig.postgres.kill] * size(each_push=1, nightly=2):
        producer.reached(800)
        bring_down()
        producer.reached(800)
        rig.postgres.start()
    producer.reached(500)
    sent = producer.end()
    rig.settle()
    assert worker.process.poll() is None
    assert "the pipeline waits" in worker.log()
    assert "Traceback" not in worker.log()
    assert set(rig.epochs().values()) == {1}  # it kept its partitions all the time
    rig.check_end(sent)


@nightly
def test_broker_that_leads_is_killed(make_rig: Any, kafka_cluster3: Any, load: Any) -> None:
    """kill -9 of one leader after the other: what was acknowledged is applied, and once."""
    rig = make_rig(kafka_cluster3, replication=3)
    events = rig.kafka_settings.topic_names.events
    producer = load(rig)
    workers = [rig.worker(), rig.worker()]
    for worker in workers:
        worker.working()
    for partition in (0, 1):
        leader = kafka_cluster3.leader(events, partition)
        producer.reached(500)
        kafka_cluster3.kill_node(leader)
        producer.reached(1500)
        rig.settle()  # with two brokers
        kafka_cluster3.start_node(leader)
        for topic in (events, rig.kafka_settings.topic_names.risk, "__consumer_offsets"):
            kafka_cluster3.wait_in_sync(topic, 3)
    sent = producer.end()
    rig.settle()
    rig.check_end(sent)
    assert "Traceback" not in rig.logs()

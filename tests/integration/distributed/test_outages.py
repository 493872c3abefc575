"""The broker is killed and started again, under load: replica and worker come back by themselves, with either client.

Two outages on each push, the longer one beyond `delivery_timeout_ms`; each night twenty of 5 to 60 s.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from ...support.distributed_testbed import PARTITIONS, DistributedTestbed, DoorLoad, Serving, tell, wait
from ...support.nightly import nightly, size

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

OUTAGES = size(each_push=2, nightly=20)
SHORTEST_S, LONGEST_S = 5, 60
BEFORE_S = 4.0
"""Time of load before each kill: a record is on its way then."""

AGAIN_S = 20.0
"""Time after the start of the broker until events are taken again."""

REFUSED_S = 6.0
"""Longest wait for a refusal: 5 s are promised, and this machine is busy."""


def outage_lengths(count: int) -> list[int]:
    """Lengths between the shortest and the longest, short and long ones in turn; two are 27 and 5 s."""
    if count == 2:
        return [27, SHORTEST_S]  # beyond `delivery_timeout_ms`: what waits in the producer expires
    return [SHORTEST_S + (LONGEST_S - SHORTEST_S) * (number * 7 % count) // (count - 1) for number in range(count)]


def wait_back(load: DoorLoad, replica: Serving) -> float:
    """Seconds until events are taken again, and the replica says so."""
    began, taken = time.monotonic(), load.total
    wait(lambda: load.total > taken, AGAIN_S, "events are taken again")
    wait(replica.is_ready, AGAIN_S, "ready again")
    return round(time.monotonic() - began, 1)


@pytest.mark.parametrize("client", ["kafka-python", pytest.param("confluent", marks=nightly)])
def test_all_comes_back_after_each_outage(client: str, make_rig: Any, kafka: Any, serve: Any, world: Any) -> None:
    """Events are taken again soon after each start, a refusal comes early and says when to come again; at the end every
    event that was acknowledged counts once."""
    rig: DistributedTestbed = make_rig(kafka, client=client)
    rig.worker().working(PARTITIONS)
    replica: Serving = serve(rig, "--api-only")
    wait(replica.is_ready, 60.0)
    load = DoorLoad(replica, rig.kafka_settings, world.day, rate=400, name=f"outages-{client}")
    load.start()
    for length_s in outage_lengths(OUTAGES):
        time.sleep(BEFORE_S)
        kafka.kill()
        time.sleep(length_s)
        kafka.start()
        tell(f"{client}: {length_s} s away, back {wait_back(load, replica)} s after the start")
    load.reached(400)
    sent = load.end()
    check_refusals(load)
    replaced = rig.workers[0].count("producers_replaced")
    tell(f"{client}: {load.total} events, {load.again} sent again; producers replaced by the worker: {replaced}")
    rig.settle()
    assert replica.stop() == 0
    rig.check_end(sent)


def check_refusals(load: DoorLoad) -> None:
    """All came early, and said when to come again."""
    longest = max(refusal.waited_s for refusal in load.refusals)
    tell(f"{len(load.refusals)} refusals, the slowest after {longest:.1f} s")
    assert {(refusal.status, refusal.retry_after != "") for refusal in load.refusals} == {(503, True)}
    assert longest <= REFUSED_S

"""A worker that is told to end while its broker is gone for good: it ends all the same, and its successor goes on."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ...support.distributed_testbed import PARTITIONS, DistributedTestbed, tell
from ...support.kafka_topics import CLIENTS
from ...support.nightly import nightly

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), nightly]

ENDS_WITHIN_S = 15.0
"""A service kills a worker that takes 30 s."""

SESSION_S = 25
"""Longer than an end may take: librdkafka would wait so long."""

AWAY_S = 12.0
"""Time without the broker before the order to end: positions that nobody took wait in the client by then."""


@pytest.mark.parametrize("how", ["killed", "silent"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_worker_ends_though_its_broker_is_gone_for_good(
    client: str, how: str, make_rig: Any, kafka: Any, load: Any
) -> None:
    """In order, without the 45 s of a session, and with work in hand that no broker acknowledges."""
    rig: DistributedTestbed = make_rig(kafka, client=client, session_s=SESSION_S)
    worker = rig.worker()
    worker.working(PARTITIONS)
    sending = load(rig, rate=400)
    sending.reached(400)
    if how == "killed":
        kafka.kill()
    else:
        kafka.pause_node(1)
    time.sleep(AWAY_S)
    began = time.monotonic()
    worker.process.terminate()
    status = worker.ended()
    took_s = time.monotonic() - began
    tell(f"{client}: the broker {how}, the worker ended after {took_s:.1f} s")
    assert (status, took_s < ENDS_WITHIN_S) == (0, True), worker.log()
    kafka.start()
    sent = sending.end()
    rig.worker().working(PARTITIONS)
    rig.settle()
    rig.check_end(sent)

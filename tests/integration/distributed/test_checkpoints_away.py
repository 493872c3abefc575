"""A real S3 with checkpoints dies or hangs: partitions whose states are there wait for it, and no others."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from ...support.distributed_testbed import PARTITIONS, tell, wait
from ...support.nightly import nightly
from ...support.peer_fixtures import BUCKET

if TYPE_CHECKING:
    from scripts.service_stack import S3Gateway

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

STALE_S = 5
AWAY_S = 15.0
"""Time for which the others are watched while the place is away."""


@pytest.mark.parametrize(
    ("fault", "client"), [("kill", "kafka-python"), pytest.param("pause", "confluent", marks=nightly)]
)
def test_a_worker_takes_over_while_the_place_of_checkpoints_is_away(
    make_rig: Any, kafka: Any, load: Any, serve: Any, s3_gateway: S3Gateway, fault: str, client: str
) -> None:
    """It keeps its own partitions fresh, others stale, and starts beside another one; at the end nothing is lost or
    doubled."""
    rig = make_rig(kafka, checkpoints=f"s3://{BUCKET}/states", staleness_s=STALE_S, client=client)
    replica = serve(rig, "--api-only")
    stays, dies = rig.worker(), rig.worker()
    wait(lambda: len(stays.partitions) == len(dies.partitions) == PARTITIONS // 2, 90.0, "two each")
    held = set(dies.partitions)
    producer = load(rig, rate=400, most=60_000)
    producer.reached(800)
    wait(lambda: held <= set(rig.store.checkpoints.partitions()), 60.0, "checkpoints of all that is to move")
    dies.kill()
    getattr(s3_gateway, fault)()
    assert held <= set(rig.store.checkpoints.partitions())
    epochs = rig.epochs()
    names = {at: next(iter(rig.store.agents.iterate_unpublished(at, -1))).agent.name for at in range(PARTITIONS)}

    def stale() -> set[int]:
        return {at for at, name in names.items() if replica.risk(name.agent_id, name.tenant)["stale"]}

    wait(lambda: stays.count("partitions_waiting") == len(held), 60.0, "the other one has taken over")
    wait(lambda: stale() == held, 30.0, "what it waits for is stale, the rest is not")
    watched_until = time.monotonic() + AWAY_S
    while time.monotonic() < watched_until:
        assert stale() == held
        time.sleep(0.2)
    assert {at for at, epoch in rig.epochs().items() if epoch == epochs[at] + 1} == held, "each was claimed once"
    assert "the pipeline waits" not in stays.log() and "checkpoints can not be read now" in stays.log()

    late = rig.worker()
    late.working()  # it starts, and gets a part
    assert "rows of agents are, until they can" in late.log() and stale() >= held
    s3_gateway.start()
    began = time.monotonic()
    wait(lambda: not stale(), 60.0, "all is fresh again")
    tell(f"fresh {time.monotonic() - began:.1f} s after the place was back")
    assert not stays.count("partitions_waiting") and not late.count("partitions_waiting")
    producer.reached(400)
    sent = producer.end()
    rig.settle()
    assert replica.stop() == 0
    rig.check_end(sent)
    assert "agents go on from checkpoints" in rig.logs() and "Traceback" not in rig.logs()
    assert rig.store.checkpoints.partitions() == []

"""Feedback with Kafka: a rule for a peer group reaches every partition, holds across workers, ends in all of them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ...support.distributed_testbed import PARTITIONS, wait
from ...support.service_checks import FEATURES, Agent, ended

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_a_rule_for_a_peer_group_holds_in_every_partition(make_rig: Any, kafka: Any, serve: Any, world: Any) -> None:
    """Previewed from the topic, adopted through a replica, kept by the next worker after kill -9, revoked."""
    rig = make_rig(kafka)
    worker, replica = rig.worker(), serve(rig, "--api-only")
    worker.working(PARTITIONS)
    wait(replica.is_ready, 60.0)

    def settle() -> None:
        rig.settle()
        time.sleep(0.5)  # the replica follows

    agent = Agent(replica, world.day, world.attacked, settle)
    for start in range(0, len(agent.past), 500):
        replica.send(agent.past[start : start + 500])
    decision = agent.flag()
    path = f"/v1/decisions/{decision['decision_id']}/feedback"
    draft = {
        "verdict": "false_positive",
        "scope": {"kind": "peer_group", "features": FEATURES},
        "reason": "a new buyer",
        "expires_in_s": 86_400,
    }

    started = replica.client.post(f"{path}/preview", json=draft, headers=replica.auth())
    assert started.status_code == 202, started.text
    preview = wait(lambda: ended(replica, started.json()["preview_id"]), 90.0)
    assert preview["status"] == "done", preview
    assert preview["window"]["source"] == "kafka"
    assert preview["alerts_before"] > preview["alerts_after"]

    made = replica.client.post(path, json=draft | {"preview_id": preview["preview_id"]}, headers=replica.auth())
    assert made.status_code == 201, made.text
    where = f"/v1/feedback/{made.json()['feedback_id']}"
    wait(lambda: replica.get(where).json()["partitions"] == PARTITIONS, 20.0)
    settle()
    assert agent.risk()["risk_level"] == "low"
    assert {agent.act(f"other-{number}.example")["risk_level"] for number in range(3)} == {"low"}
    assert replica.get(where).json()["events_matched"] == 3

    worker.kill()
    rig.worker().working(PARTITIONS)
    assert agent.act("after-the-kill.example")["risk_level"] == "low"
    assert replica.get(where).json()["events_matched"] == 4
    offsets = {held.from_offset for held in rig.store.feedback.rules_of_feedback([made.json()["feedback_id"]])}
    assert len(offsets) > 1  # each partition at one of its own

    gone = replica.client.delete(where, params={"reason": "no"}, headers=replica.auth())
    assert gone.status_code == 200, gone.text
    wait(lambda: replica.get(where).json()["partitions"] == 0, 20.0)
    scores = [agent.act(f"again-{number}.example")["risk_score"] for number in range(2)]
    assert scores[-1] > 0.02

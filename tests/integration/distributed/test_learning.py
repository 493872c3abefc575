"""Two workers and a replica without a model: they begin with the same one, and switch to the first that is trained."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trustwatch.models.model_directory import read_manifest
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import SimulationSettings

from ...support.distributed_testbed import PARTITIONS, switches_to, wait
from ...support.service_checks import Models, post_lines

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

LAST = 60
"""Events that are sent once the first model is in force."""


@pytest.fixture(scope="module")
def history() -> list[bytes]:
    """Four days of twenty agents, from Monday of last week on: calm agents of a year ago would be forgotten."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday = today - timedelta(days=today.weekday() + 7)
    plan = SimulationSettings(start=monday, duration=timedelta(days=4), seed=11, agents=20, events_per_agent_day=60.0)
    return [one.event for one in simulate(plan)]


def test_a_deployment_without_a_model_trains_its_first(
    make_rig: Any, kafka: Any, serve: Any, history: list[bytes], tmp_path: Path
) -> None:
    """Unknown until then; all partitions switch without a restart; each event counts once."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()  # each machine has its own; they share the versions below `data_dir`
    rig = make_rig(kafka, here)
    replica, one = serve(rig, "--api-only"), serve(rig, "--workers-only")
    two = serve(rig, "--workers-only", model=json.dumps(str(there)))
    for service in (replica, one, two):
        wait(service.is_ready, 120.0, "ready")
    models = Models(replica)
    post_lines(replica, history[:-LAST])
    rig.settle()
    (digest,) = {read_manifest(folder)[1] for folder in (here, there)}
    said = wait(lambda: (text := models.get()["learning"]) and "has 0" not in text and text, 60.0, "progress")
    assert "of 2,000 events" in said and "of 3 days" in said
    assert {row["risk_level"] for row in replica.pages("/v1/agents")} == {"unknown"}
    assert replica.client.get("/readyz").json()["learning"] is True and models.in_force("learning")

    wait(lambda: "learning" not in replica.client.get("/readyz").json(), 200.0, "a first model")
    first = models.get()["in_force"]
    wait(lambda: {s.partition for s in switches_to(rig, first)} == set(range(PARTITIONS)), 30.0, "all switch")
    trained = models.get(f"/{first}")["trained"]
    assert (trained["source"], len(trained["offsets"]), trained["after"]) == ("topic", PARTITIONS, "learning")
    assert all(switch.installed == digest for switch in switches_to(rig, first))
    post_lines(replica, history[-LAST:])
    rig.settle()
    wait(lambda: models.in_force(first), 30.0, "answers name it")
    wait(lambda: "low" in {row["risk_level"] for row in replica.pages("/v1/agents")}, 30.0, "somebody is known")
    sent = Counter((event["tenant"], event["agent"]["id"]) for event in map(json.loads, history))
    counted = {(row["tenant"], row["agent_id"]): row["events"] for row in replica.pages("/v1/agents")}
    assert counted == sent
    for service in (one, two, replica):
        assert service.stop() == 0 and "Traceback" not in service.log()

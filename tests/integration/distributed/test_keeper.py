"""The life of models on Kafka and PostgreSQL: one keeper of several, killed while it trains and while it follows."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from ...support.distributed_testbed import PARTITIONS, state_of, switches_to, wait
from ...support.service_checks import Models, child_pid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

LIFECYCLE = "lifecycle: {enabled: true, every_h: 0, min_agent_days: 10}\n"
KEEPING, WAITING, TRAINING = "keeping models", "another process keeps models", "training"
CLONES = 3


def said(service: Any, what: str) -> list[dict[str, Any]]:
    """Lines of a service's log whose event begins so."""
    lines = [json.loads(line) for line in service.log().splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line["event"].startswith(what)]


def kill_keeper(service: Any) -> None:
    """kill -9."""
    pid = child_pid(service.process.pid, "api.models.worker")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def sent_by(load: Any) -> Any:
    """What a producer with an end has sent, once it is done."""
    wait(lambda: not load.is_alive(), 120.0, "all events sent")
    return load.end()


def test_keepers_take_over_from_each_other(make_rig: Any, kafka: Any, serve: Any, load: Any) -> None:
    """A wish outlives the keeper that took it on, figures outlive the one that counted; every partition switches."""
    rig = make_rig(kafka, more=LIFECYCLE)
    one = serve(rig, "")
    wait(lambda: said(one, KEEPING), 120.0, "a keeper")
    other = serve(rig, "--workers-only")
    wait(lambda: said(other, WAITING), 120.0, "a second keeper that waits")
    assert not said(other, KEEPING)
    models = Models(one)
    sent = sent_by(load(rig, rate=400, most=1_600, clones=CLONES))
    rig.settle()

    assert models.order("train", why="of what the topic holds").status_code == 202
    wait(lambda: said(one, TRAINING), 60.0, "training begins")
    kill_keeper(one)
    wait(lambda: said(other, KEEPING), 30.0, "the second keeper takes over")
    challenger = wait(models.challenger, 120.0, "a challenger of the same wish")
    version, trained = challenger["version"], challenger["trained"]
    tries = [(line["version"], line["again"]) for line in said(one, TRAINING) + said(other, TRAINING)]
    assert tries == [(version, False), (version, True)]
    assert trained["source"] == "topic" and len(trained["offsets"]) == PARTITIONS
    assert trained["events"] + sum(trained["left_out"].values()) == sum(sent.values())
    assert [line["act"] for line in models.get("/history")["items"]].count("trained") == 1

    second = load(rig, rate=400, most=1_600, clones=CLONES)
    wait(lambda: models.challenger()["figures"].get("events", 0) > 0, 120.0, "it runs in shadow")
    wait(lambda: said(one, WAITING), 60.0, "the first service's keeper waits")
    kill_keeper(other)
    wait(lambda: len(said(one, KEEPING)) == 2, 60.0, "the first service's keeper takes over")
    more = sent_by(second)
    figures = wait(
        lambda: (found := models.challenger()["figures"])["events"] == sum(more.values()) and found,
        120.0,
        "every event behind the training is counted once",
    )
    assert figures["agent_days"] == len(more) and figures["champion"]["version"] == "integration"
    check_day(models, len({*sent, *more}))

    assert models.order(f"{version}/promote", why="seen in shadow", force=True).status_code == 202
    wait(lambda: len({s.partition for s in switches_to(rig, version)}) == PARTITIONS, 60.0, "every partition switches")
    wait(lambda: models.in_force(version), 30.0, "answers name it")
    after = [switch.offset for switch in switches_to(rig, version)]
    assert all(offset > 0 for offset in after)
    sent += more + sent_by(load(rig, rate=400, most=400, clones=CLONES))
    rig.settle()
    for service in (one, other):
        assert service.stop() == 0
        assert "Traceback" not in service.log()
    rig.finish()
    state, other = rig.state(), rig.undisturbed()
    theirs = state_of(other, rig.postgres, rig._undisturbed)
    other.close()
    assert state.agents == theirs.agents and state.decisions == theirs.decisions  # alerts link to each one's port
    assert sum(row.events for row in state.agents.values()) == sum(sent.values())
    assert {one.status for one in rig.store.models.page().items} == {"champion", "retired"}
    assert {decision.model_version for decision in state.decisions.values()} <= {"integration", version}


def check_day(models: Models, agents: int) -> None:
    """The chart of the budget counts agents of all partitions, and decisions of all partitions against them."""
    wait(lambda: day_of(models)["agent_days"] == agents and not day_of(models)["estimated"], 60.0, "agent-days")


def day_of(models: Models) -> dict[str, Any]:
    """All groups of the chart's days together."""
    rows = models.get("/budget?days=3")["items"]
    return {"agent_days": sum(row["agent_days"] for row in rows), "estimated": any(row["estimated"] for row in rows)}

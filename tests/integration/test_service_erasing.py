"""Erasure at the real service: nothing of a name is left in any file, others are as they were, and it can be proved."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from ..support.service_checks import files_holding

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ARCHIVE = """\
archive: {directory: archive, vectors: vectors, interval_s: 0.2, retention_days: 36500}
retention_days: 36500
store: {agents_days: 36500}
"""
ISSUER = "https://as.example"


def states(service: Any) -> dict[str, tuple[bytes, bytes]]:
    """Features and risk of every agent, as stored."""
    with closing(sqlite3.connect(service.folder / "data" / "trustwatch.db")) as database:
        rows = database.execute("SELECT tenant || ' ' || agent_id, features, risk FROM agents")
        return {name: (features, risk) for name, features, risk in rows}


def who(world: Any) -> tuple[str, str, str, str]:
    """Tenant, issuer and id of an attacked agent; and a principal of the same tenant."""
    tenant, agent = sorted(world.attacked)[0]
    events = [json.loads(raw) for raw in world.day]
    mine = next(event for event in events if (event["tenant"], event["agent"]["id"]) == (tenant, agent))
    principals = Counter(
        event["principal"]["id"]
        for event in events
        if event["tenant"] == tenant and event.get("principal") and event["agent"]["id"] != agent
    )
    return tenant, mine["agent"]["issuer"], agent, principals.most_common(1)[0][0]


def day(world: Any, tenant: str) -> list[bytes]:
    """Events of one tenant: another one has agents of the same names."""
    return [raw for raw in world.day if json.loads(raw)["tenant"] == tenant]


def filled(service: Any, world: Any, tenant: str, agent: str) -> None:
    """The day with its attacks, and a broken record that names the agent."""
    service.start()
    events = day(world, tenant)
    for start in range(0, len(events), 500):
        assert service.post(b"\n".join(events[start : start + 500])).status_code == 202
    service.post(b'{"agent": {"id": "%s"}, "broken' % agent.encode())
    service.settle(60)


def erase(service: Any, *arguments: str) -> Any:
    more = ("--url", service.url, "--token", service.token(), "--json")
    return service.run("erase", *arguments, *more, timeout=120)


def test_nothing_is_left_in_any_file(make_service: Callable[..., Any], world: Any) -> None:
    """An agent, then a principal: database, its log, event log, archives. Others' states are equal, bit for bit."""
    service = make_service(ARCHIVE)
    tenant, issuer, agent, principal = who(world)
    filled(service, world, tenant, agent)
    before, folder = states(service), service.folder
    assert service.get("/v1/decisions", agent_id=agent, tenant=tenant).json()["items"]
    service.wait(lambda: any("archive" in path for path in files_holding(folder, agent)))
    places = {path.split("/")[0] for path in files_holding(folder, agent)}
    proof, zipped = folder / "proof.jws", folder / "out.zip"
    members = (f"agent_id={agent}", f"tenant={tenant}", f"issuer={issuer}")
    given = ("--out", str(zipped), "--url", service.url, "--token", service.token())
    exported = service.run("call", "export_agent_data", *members, *given)
    sent = [raw for raw in day(world, tenant) if json.loads(raw)["agent"]["id"] == agent]
    assert exported.returncode == 0, exported.stderr
    with zipfile.ZipFile(zipped) as archive:
        assert sorted(json.loads(one)["id"] for one in archive.read("events.jsonl").splitlines()) == sorted(
            json.loads(raw)["id"] for raw in sent
        )
        assert archive.read("decisions.jsonl").count(b"\n") > 0
    zipped.unlink()

    made = erase(
        service,
        "--agent",
        agent,
        "--tenant",
        tenant,
        "--issuer",
        issuer,
        "--reason",
        f"{agent} is retired",
        "--out",
        str(proof),
    )
    told = json.loads(made.stdout)

    assert made.returncode == 0, made.stderr + service.log()[-3000:]
    assert {"data", "archive"} <= places
    assert files_holding(folder, agent) == []
    assert f"{tenant} {agent}" in before
    assert states(service) == {name: state for name, state in before.items() if name != f"{tenant} {agent}"}
    assert told["subject"] is None
    assert agent not in json.dumps(told)
    assert told["counts"]["database.decisions"] > 0
    assert told["counts"]["log.events"] > 100
    assert told["counts"]["archive.events"] > 100
    assert told["counts"]["archive.vectors"] > 100
    assert told["counts"]["database.dead_letters"] == 1
    assert service.get(f"/v1/agents/{agent}/risk", tenant=tenant, issuer=issuer).json()["risk_level"] == "unknown"
    chain = service.get("/v1/decisions/verify").json()
    assert chain["intact"]
    assert chain["erased"] == told["counts"]["database.decisions"]

    checked = erase(service, "--agent", agent, "--verify", str(proof))
    assert json.loads(checked.stdout) == {
        "signed": True,
        "same_subject": True,
        "nothing_left": True,
        "left": {},
        "not_looked_at": [],
    }
    other = erase(service, "--agent", "somebody-else", "--verify", str(proof))
    assert other.returncode == 1
    assert not json.loads(other.stdout)["same_subject"]
    kept = states(service)
    made = erase(service, "--principal", principal, "--tenant", tenant, "--reason", "asked to be forgotten")
    told = json.loads(made.stdout)

    assert made.returncode == 0, made.stderr + service.log()[-3000:]
    assert files_holding(folder, principal) == []
    assert states(service) == kept
    assert told["counts"]["log.events.changed"] > 0
    assert told["counts"]["archive.events.changed"] > 0
    assert told["counts"]["database.edges"] > 0
    assert service.get("/v1/decisions/verify").json()["intact"]
    assert service.run("decisions", "verify", "--url", service.url, "--token", service.token()).returncode == 0

    again = next(event for event in map(json.loads, day(world, tenant)) if event["agent"]["id"] == agent)
    service.send([again | {"id": "again"}])
    service.settle()
    assert service.counts()[agent] == 1
    assert service.stop() == 0
    service.start()  # a replay of what the log has left, and the marks of who was forgotten
    service.send([again | {"id": "and-again"}])
    service.settle()
    assert service.counts()[agent] == 2
    assert "Traceback" not in service.log()


def test_kills_on_the_way(make_service: Callable[..., Any], world: Any) -> None:
    """The whole service is killed when an erasure gets to a step, with another agent each; the next start ends it."""
    service = make_service(ARCHIVE)
    tenant, issuer, first, _ = who(world)
    filled(service, world, tenant, first)
    others = sorted({json.loads(raw)["agent"]["id"] for raw in day(world, tenant)} - {first})
    order = ["queued", "waiting", "erasing", "checking", "compacting", "done"]
    for agent, step in zip([first, *others], ("waiting", "erasing", "compacting"), strict=False):
        wish = {"agent": agent, "tenant": tenant, "issuer": issuer, "reason": "retired"}
        answer = service.client.post("/v1/privacy/erasures", json=wish, headers=service.auth())
        assert answer.status_code == 202, answer.text
        path, headers = f"/v1/privacy/erasures/{answer.json()['erasure_id']}", service.auth()
        while order.index(service.client.get(path, headers=headers).json()["status"]) < order.index(step):
            pass
        os.killpg(service.process.pid, signal.SIGKILL)
        service.process.wait()
        service.start()
        done = service.wait(lambda path=path: (told := service.get(path).json())["status"] == "done" and told, 60)

        assert done["proof"]
        assert files_holding(service.folder, agent) == []
    assert service.get("/v1/decisions/verify").json()["intact"]
    assert "Traceback" not in service.log()

"""The commands that steer containment, against a real service."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app
from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch.scoring.records.agents import AgentEdge
from trustwatch.scoring.records.commits import Commit, Position

AS = "https://as.example"
HIGH, CRITICAL = 3, 4


def run(site: Any, *arguments: str, client: str = "gateway") -> Result:
    given = ["--url", site.url, "--token", site.token(client)]
    return CliRunner().invoke(make_app(), [*arguments, *given])


def waiting(site: Any, summary: Any) -> str:
    site.report([summary(level=HIGH)])
    decided = site.inside(lambda: site.guard.decide(AccessRequest("acme", AS, "bot", ("pay:write",)), "test"))
    site.wait(site.guard.approval_workflow.close())
    return str(decided.approval_id)


def test_approvals_are_listed_and_approved(site: Any, summary: Any) -> None:
    asked = waiting(site, summary)

    listed = json.loads(run(site, "approvals", "list", "--json").stdout)
    done = run(site, "approvals", "approve", asked, "--why", "planned", "--valid", "30m", "--json")
    again = run(site, "approvals", "approve", asked, "--why", "planned")

    assert (listed["intervention_id"], listed["status"]) == (asked, "pending")
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "approved"  # the service here logs to stdout, too
    assert (again.exit_code, "409" in again.output) == (1, True)
    assert "bot" in run(site, "approvals", "list", "--status", "approved").stdout


def test_an_agent_is_pinned_and_unpinned(site: Any, summary: Any) -> None:
    """For a while, which is told, and no longer once it is over; a level that does not exist is told."""
    site.report([summary(level=1)])

    wrong = run(site, "pin", "bot", "terrible", "--why", "x")
    assert (wrong.exit_code, "'low', 'medium', 'high', 'critical'" in wrong.output) == (2, True)
    pinned = run(site, "pin", "bot", "critical", "--why", "key leaked")
    assert pinned.exit_code == 0
    assert "level: critical\n" in pinned.output and "status: active\n" in pinned.output
    assert site.get("/v1/agents/bot/risk").json()["pin"]["level"] == "critical"
    ended = run(site, "unpin", "bot", "--why", "rotated")
    assert (ended.exit_code, "status: ended\n" in ended.output) == (0, True)
    assert site.get("/v1/agents/bot/risk").json()["pin"] is None


def test_the_blast_radius_is_shown(site: Any, summary: Any) -> None:
    site.report([summary(level=CRITICAL)])
    at_ms = int(site.clock.now * 1000)
    place = site.store.partitions.claim(0)
    made = [
        AgentEdge("acme", AS, "delegated", "bot", "child", at_ms, at_ms),
        AgentEdge("acme", AS, "acts_for", "bot", "ann", 1, at_ms),
    ]
    site.store.commit(Commit(place, Position(0, place.epoch, 1), [], [], [], [], edges=made))

    found = json.loads(run(site, "call", "get_blast_radius", "agent_id=bot", "days=7").stdout)

    assert [one["principal_id"] for one in found["principals"]] == ["ann"] and found["risk_level"] == "critical"
    assert [one["agent_id"] for one in found["agents"]] == ["child"]

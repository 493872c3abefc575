"""`trustwatch agents` and `release` against a real service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trustwatch.api.cli.main import make_app
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from typer.testing import CliRunner, Result

AS = "https://as.example"
RISKS = {"calm": (1, 0.1), "worst": (4, 0.99), "bad": (4, 0.91), "odd": (2, 0.5), "new": (0, 0.0)}
"""Agents, their levels and scores."""


def stored(name: str, level: int, score: float) -> AgentRow:
    """An agent as the pipeline stores it."""
    agent = AgentName(IdentityHasher().agent_key("acme", AS, name), "acme", AS, name)
    return AgentRow(agent, "Payer", level, score, 0.5, 0.125, 1, 2, 3, 0, 7, "", b"[]", "", b"", b"", "v")


@pytest.fixture(scope="module")
def site(shared: Any) -> Any:
    """A service that knows some agents."""
    rows = [stored(name, *risk) for name, risk in RISKS.items()]
    before = shared.store.partitions.claim(0)
    shared.store.commit(Commit(before, Position(0, before.epoch, before.offset + 1), rows, [], [], []))
    return shared


def run(site: Any, *arguments: str) -> Result:
    """One command."""
    return CliRunner().invoke(make_app(), [*arguments, "--url", site.url, "--token", site.token("gateway")])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["worst", "bad", "odd", "calm", "new"]),
        (("--limit", "3"), ["worst", "bad", "odd"]),
        (("--limit", "1"), ["worst"]),
        (("--level", "critical"), ["worst", "bad"]),
        (("--prefix", "c"), ["calm"]),
    ],
)
def test_agents_are_listed_by_risk(site: Any, options: tuple[str, ...], expected: list[str]) -> None:
    """As a table and as JSON lines; a limit leaves out the least."""
    table = run(site, "agents", *options).stdout.splitlines()
    lines = [json.loads(line) for line in run(site, "agents", *options, "--json").stdout.splitlines()]

    assert [line.split()[0] for line in table] == ["agent", *expected]
    assert [line["agent_id"] for line in lines] == expected


def test_explain_tells_what_the_risk_came_with(site: Any, summary: Any) -> None:
    """Each thing with whether it is new and when it came; the same in JSON. An agent without risk has none."""
    site.report([summary("robbed"), summary("quiet", level=1, risk_score=0.0)])
    at = ("--tenant", "acme", "--issuer", AS)

    told = run(site, "explain", "robbed", *at).stdout
    assert "  network AS65537  [new, 2025-11-24T15:58:00.000Z]\n" in told
    answer = json.loads(run(site, "explain", "robbed", *at, "--json").stdout)["risk"]
    assert [(one["kind"], one["status"]) for one in answer["indicators"]] == [("network", "new")]
    assert "AS65537" not in run(site, "explain", "quiet", *at).stdout


def test_explain_says_that_no_token_vouches_for_an_agent(site: Any, summary: Any) -> None:
    """Its evidence is all new for ever: who reads it has to know why, and what changes it."""
    new = b'[{"code":"first_seen_target","feature":"f","observed":"o","usual":"u","contribution":0.5,"text":"t"}]'
    none = {"confidence": 0.0, "reasons": new}
    site.report([summary("claimed", level=3, **none), summary("known", reasons=new), summary("told", level=4, **none)])
    at = ("--tenant", "acme", "--issuer", AS)

    assert "no token vouches for any event of it" in run(site, "explain", "claimed", *at).stdout
    assert "vouches" not in run(site, "explain", "known", *at).stdout
    assert "vouches" not in run(site, "explain", "told", *at).stdout, "others signalled something of it"

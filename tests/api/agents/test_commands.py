"""`trustwatch agents` and `release` against a real service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app
from trustwatch.ingest.features import layout
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, Position

AS = "https://as.example"
RISKS = {"calm": (1, 0.1), "worst": (4, 0.99), "bad": (4, 0.91), "odd": (2, 0.5), "new": (0, 0.0)}
"""Agents, their levels and scores."""


def stored(name: str, level: int, score: float, features: bytes = b"") -> AgentRow:
    """An agent as the pipeline stores it."""
    agent = AgentName(IdentityHasher().agent_key("acme", AS, name), "acme", AS, name)
    shown = (level, score, 0.5, 0.125, 1, 2, 3, 0, 7, "", b"[]", "")
    return AgentRow(agent, "Payer", *shown, features=features, risk=b"", state_version="v")


@pytest.fixture(scope="module")
def site(shared: Any) -> Any:
    keep(shared, [stored(name, *risk) for name, risk in RISKS.items()])
    return shared


def keep(site: Any, rows: Sequence[AgentRow]) -> None:
    before = site.store.partitions.claim(0)
    site.store.commit(Commit(before, Position(0, before.epoch, before.offset + 1), rows, [], [], []))


def run(site: Any, *arguments: str) -> Result:
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
    table = run(site, "agents", *options).stdout.splitlines()
    lines = [json.loads(line) for line in run(site, "agents", *options, "--json").stdout.splitlines()]

    assert [line.split()[0] for line in table] == ["agent", *expected]
    assert [line["agent_id"] for line in lines] == expected


def test_explain_tells_what_the_risk_came_with(site: Any, summary: Any) -> None:
    """Each thing with whether it is new and when it came; the same in JSON. An agent without risk has none."""
    site.report([summary("robbed"), summary("quiet", level=1, risk_score=0.0)])
    at = ("--tenant", "acme", "--issuer", AS)

    told = run(site, "explain", "robbed", *at).stdout
    assert ["network", "AS65537", "new", "2025-11-24T15:58:00.000Z"] in [line.split() for line in told.splitlines()]
    answer = json.loads(run(site, "explain", "robbed", *at, "--json").stdout)["risk"]
    assert [(one["kind"], one["status"]) for one in answer["indicators"]] == [("network", "new")]
    assert "AS65537" not in run(site, "explain", "quiet", *at).stdout


def state(lead_s: float = 0.0, disorder: float = 0.0, doubts: Sequence[int] = (0,)) -> bytes:
    """Stored features of an agent: its sessions with the *doubts* about their order, none with work that is vouched for
    while *lead_s* is not 0."""
    rows = np.zeros(1, layout.STATE_ROW)
    row, sessions, work = rows[0], len(doubts), 0 if lead_s else 1 << layout.SESSION_TIME_BITS
    row["times"][[layout.T_LAST, layout.T_FIRST]] = 1_764_000_000_000, 1_763_000_000_000
    row["session_last"][:sessions] = row["times"][layout.T_LAST]
    row["session_numbers"][:sessions, layout.S_ANSWERS] = work
    row["session_doubt"][:sessions], row["disorder"][0], row["numbers"][layout.N_LEAD] = doubts, disorder, lead_s
    return rows.tobytes()


def test_explain_says_what_is_not_judged_and_not_learned(site: Any) -> None:
    """Of whom no token vouches for, once or ever, and whose work comes out of order; JSON has the same."""
    states = {
        "claimed": state(1e9),
        "mixed": state(600.0),
        "wild": state(0.0, 0.4, (3, 0, 16)),
        "calm": state(),
    }
    keep(site, [stored(name, 3, 0.5, features) for name, features in states.items()])
    told = {name: run(site, "explain", name).stdout for name in (*states, "worst", "nobody")}

    assert (
        "\n  notes: no token attests any of its events: nothing is learned, and what it does stays new"
        in told["claimed"]
    )
    assert "\n  notes: no token attests its latest events: nothing is learned from them" in told["mixed"]
    assert "order is not judged in 2 of its 3 latest sessions (docs/detection.md#late-events)\n" in told["wild"]
    for name in ("calm", "worst", "nobody"):
        assert not any(words in told[name] for words in ("vouches", "not judged")), name
    answer = json.loads(run(site, "explain", "wild", "--json").stdout)
    assert answer["baseline"]["learned"] == 0 and len(answer["baseline"]["notes"]) == 1
    assert json.loads(run(site, "explain", "nobody", "--json").stdout)["baseline"] is None

"""`trustwatch cases`: what a person sees and does at a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app

from ...support.case_triage import Triage, agent, rise

CASE = "case-D0001"


@pytest.fixture
def triage(site: Any) -> Triage:
    """A service with a case of two agents."""
    person = Triage(site)
    person.raise_agents(rise(1, agent("a"), network="AS65537"), rise(2, agent("b"), level=4, network="AS65537"))
    return person


def run(triage: Triage, *arguments: str) -> Result:
    """A command against the service."""
    given = ["--url", triage.site.url, "--token", triage.site.token()]
    return CliRunner().invoke(make_app(), ["cases", *arguments, *given])


def test_cases_are_listed_and_shown(triage: Triage) -> None:
    """For people as a table, for programs as JSON lines."""
    table = run(triage, "list").stdout
    assert CASE in table
    assert "a, b" in table
    (row,) = map(json.loads, run(triage, "list", "--json").stdout.splitlines())
    assert (row["case_id"], row["highest_level"]) == (CASE, "critical")
    assert run(triage, "list", "--status", "closed", "--json").stdout == ""
    shown = run(triage, "show", CASE).stdout
    assert "agent b  now critical, highest critical  (network AS65537)" in shown
    assert "b: Risk went from low to critical" in shown
    whole = json.loads(run(triage, "show", CASE, "--json").stdout)
    assert [item["kind"] for item in whole["timeline"]].count("decision") == 2
    assert run(triage, "report", CASE).stdout.startswith(f"# Case {CASE}")


def test_a_case_is_worked_on(triage: Triage) -> None:
    """Each act says how the case is then."""
    steps: tuple[tuple[str, ...], ...] = (
        ("acknowledge", CASE),
        ("assign", CASE, "--owner", "ann"),
        ("note", CASE, "one campaign"),
        ("snooze", CASE, "--for", "4h", "--note", "the team is on it"),
        ("contain", CASE, "--for", "30m", "--note", "stop them"),
        ("split", CASE, "--agent", "a", "--note", "another thing"),
        ("close", CASE, "--verdict", "expected", "--note", "a drill", "--release"),
        ("reopen", CASE, "--note", "not so sure"),
    )
    for step in steps:
        result = run(triage, *step)
        assert result.exit_code == 0, result.output
    assert f"case {CASE} is acknowledged, owner: ann" in result.stderr
    (other,) = [one for one in triage.get("")["items"] if one["case_id"] != CASE]
    merged = run(triage, "merge", other["case_id"], "--into", CASE, "--json")
    assert json.loads(merged.stdout)["agents_count"] == 2


def test_what_is_refused_says_why(triage: Triage) -> None:
    """With the status of the service's answer, and nothing on stdout."""
    refused = run(triage, "close", CASE, "--verdict", "maybe", "--note", "x")
    assert refused.exit_code == 1
    assert "verdict" in refused.stderr
    assert run(triage, "snooze", CASE, "--for", "long", "--note", "x").exit_code == 2
    assert "404" in run(triage, "show", "case-none").stderr

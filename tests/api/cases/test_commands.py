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


def call(triage: Triage, *arguments: str) -> Result:
    """An operation that no command is named for."""
    given = ["--url", triage.site.url, "--token", triage.site.token()]
    return CliRunner().invoke(make_app(), ["call", *arguments, *given])


def test_cases_are_listed_and_shown(triage: Triage) -> None:
    """For people as a table, for programs as JSON lines."""
    table = run(triage, "list").stdout
    assert CASE in table
    assert "a, b" in table
    (row,) = map(json.loads, run(triage, "list", "--json").stdout.splitlines())
    assert (row["case_id"], row["highest_level"]) == (CASE, "critical")
    assert run(triage, "list", "--status", "closed", "--json").stdout == ""
    shown = run(triage, "show", CASE).stdout
    assert next(line.split()[0] for line in shown.splitlines() if "network AS65537" in " ".join(line.split())) == "b"
    assert "b Risk went from low to critical" in shown
    whole = json.loads(run(triage, "show", CASE, "--json").stdout)
    assert [item["kind"] for item in whole["timeline"]].count("decision") == 2
    assert call(triage, "get_case_report", f"case_id={CASE}").stdout.startswith(f"# Case {CASE}")


def test_a_case_is_worked_on(triage: Triage) -> None:
    """Each act says how the case is then."""
    done = run(triage, "acknowledge", CASE)
    assert done.exit_code == 0 and {f"case: {CASE}", "status: acknowledged"} < {*done.stdout.splitlines()}
    steps = (
        ("assign_case", "owner=ann"),
        ("add_case_note", "note=one campaign"),
        ("snooze_case", "for_s=14400", "note=the team is on it"),
        ("contain_case", "valid_s=1800", "note=stop them"),
        ("split_case", 'agents=[{"agent_id": "a"}]', "note=another thing"),
    )
    for operation, *members in steps:
        result = call(triage, operation, f"case_id={CASE}", *members)
        assert result.exit_code == 0, result.output
    closed = run(triage, "close", CASE, "--verdict", "expected", "--note", "a drill", "--release")
    assert closed.exit_code == 0 and "verdict: expected\n" in closed.stdout
    reopened = call(triage, "reopen_case", f"case_id={CASE}", "note=not so sure")
    assert json.loads(reopened.stdout)["owner"] == "ann"
    (other,) = [one for one in triage.get("")["items"] if one["case_id"] != CASE]
    merged = call(triage, "merge_case", f"case_id={other['case_id']}", f"into={CASE}")
    assert json.loads(merged.stdout)["agents_count"] == 2


def test_what_is_refused_says_why(triage: Triage) -> None:
    """With the status of the service's answer, and nothing on stdout."""
    refused = run(triage, "close", CASE, "--verdict", "maybe", "--note", "x")
    assert refused.exit_code == 2
    assert "verdict" in refused.stderr
    wrong = call(triage, "snooze_case", f"case_id={CASE}", "for_s=-1", "note=x")
    assert (wrong.exit_code, wrong.stdout, "for_s" in wrong.stderr) == (1, "", True)
    assert "404" in run(triage, "show", "case-none").stderr

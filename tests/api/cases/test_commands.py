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
    person = Triage(site)
    person.raise_agents(rise(1, agent("a"), network="AS65537"), rise(2, agent("b"), level=4, network="AS65537"))
    return person


def run(triage: Triage, *arguments: str) -> Result:
    given = ["--url", triage.site.url, "--token", triage.site.token()]
    return CliRunner().invoke(make_app(), ["cases", *arguments, *given])


def call(triage: Triage, *arguments: str) -> Result:
    given = ["--url", triage.site.url, "--token", triage.site.token()]
    return CliRunner().invoke(make_app(), ["call", *arguments, *given])


def test_a_case_is_worked_on(triage: Triage) -> None:
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
    refused = run(triage, "close", CASE, "--verdict", "maybe", "--note", "x")
    assert refused.exit_code == 2
    assert "verdict" in refused.stderr
    wrong = call(triage, "snooze_case", f"case_id={CASE}", "for_s=-1", "note=x")
    assert (wrong.exit_code, wrong.stdout, "for_s" in wrong.stderr) == (1, "", True)
    assert "404" in run(triage, "show", "case-none").stderr

"""`trustwatch feedback` against a real service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.decisions import Decision, RiskReason

from ...support.feedback_person import NOW_MS, Person, decision


@pytest.fixture(scope="module")
def person(shared: Any) -> Person:
    made = Person(shared)
    made.runs.result["alerts_removed"] = [
        {
            "agent_id": "agent-pay-1",
            "tenant": "acme",
            "issuer": "https://as.example",
            "event_id": "evt-1",
            "time": "2025-11-24T15:59:54.000Z",
            "level": "high",
            "level_with_rule": "low",
            "reasons": ["first use of x"],
            "marked": True,
        }
    ]
    made.runs.result["detections_lost"] = [
        {**made.runs.result["alerts_removed"][0], "marked": False, "why": "confirmed", "feedback_id": "F1"}
    ]
    made.runs.result["detections_lost_count"] = 11
    return made


def run(person: Person, *arguments: str, **options: Any) -> Result:
    given = ["--url", person.site.url, "--token", person.site.token("gateway")]
    return CliRunner().invoke(make_app(), ["feedback", *arguments, *given], **options)


def call(person: Person, *arguments: str) -> Result:
    given = ["--url", person.site.url, "--token", person.site.token("gateway")]
    return CliRunner().invoke(make_app(), ["call", *arguments, *given])


def write(person: Person, *told: Decision) -> None:
    at = person.site.store.partitions.position(0)
    person.site.store.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [], list(told), [], []))


def add(person: Person, *more: str, of: str = "D0001") -> Result:
    return run(person, "add", of, "--verdict", "false-positive", "--reason", "a new supplier", *more)


def test_a_rule_is_shown_at_work_then_adopted_listed_and_revoked(person: Person) -> None:
    reasons = (RiskReason("action_surprise", "action_surprise", "x", "5 known", 0.9, "x"),)
    earlier = {"decided_ms": NOW_MS - 60_000, "reasons": reasons}
    hour = RiskReason("hour_surprise", "hour_surprise", "x", "5 known", 0.9, "x")
    write(
        person,
        decision(11, level=2, **earlier),
        decision(10, level=1, decided_ms=NOW_MS - 70_000),
        decision(9, level=3, decided_ms=NOW_MS - 80_000, reasons=(hour,)),
    )
    done = add(person, "--expires", "12h", "--yes")
    assert done.exit_code == 0, done.output
    told = (
        "9 events",
        "3 of them matched",
        "2 as it was, 1 with the rule",
        "the decision you speak of",
        "confirmed attack",
        "1 more DETECTIONS LOST",
        "still anomalous: write_surprise, in 4 events",
        "is active until 2025-11-25T04:00:00.000Z",
    )
    assert [words for words in told if words not in done.output] == []

    lines = call(person, "list_feedback", "status=active").stdout.splitlines()
    (listed,) = [json.loads(line) for line in lines]
    assert listed["scope"]["features"] == ["action_surprise", "target_surprise"]  # of the rise to it, too
    identity = f"feedback_id={listed['feedback_id']}"
    shown = json.loads(call(person, "get_feedback", identity).stdout)
    assert [(step["by"], step["why"]) for step in shown["steps"]] == [("gateway", "a new supplier")]
    ended = call(person, "revoke_feedback", identity, "reason=it was none")
    assert json.loads(ended.stdout)["status"] == "revoked"
    assert call(person, "revoke_feedback", identity, "reason=again").exit_code == 1


def test_nothing_is_adopted_unasked(person: Person) -> None:
    silent = add(person)
    assert (silent.exit_code, "--yes" in silent.output) == (1, True)
    assert "does not run at a terminal" in add(person, "--json").output
    broad = add(person, "--all-features", "--expires", "14d", "--yes")
    assert (broad.exit_code, "24 hours" in broad.output) == (1, True)
    assert add(person, "--yes", of="D0099").exit_code == 1
    person.runs.error = "the log is damaged"
    failed = add(person, "--yes")
    person.runs.error = ""
    assert (failed.exit_code, "the log is damaged" in failed.output) == (1, True)

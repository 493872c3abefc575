"""Verdicts on calls outside of what an agent declares, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from trustwatch.scoring.policy.access_evaluation import DeclaredBoundary

LOW, CRITICAL = 1, 4


@pytest.fixture
def bounded(site: Any, summary: Any) -> Iterator[Any]:
    site.report([summary(level=LOW)])
    evaluator = site.guard.policy_evaluator
    before = evaluator.boundary
    yield lambda outside: setattr(
        evaluator, "boundary", DeclaredBoundary(lambda *_: ("pay", "look_*"), outside, {"admin": ("delete_*",)})
    )
    evaluator.boundary = before


def ask(site: Any, action: str, caller: str = "gateway", **question: Any) -> dict[str, Any]:
    body = {"action": action, **question}
    answer = site.client.post("/v1/agents/bot/calls/evaluate", json=body, headers=site.auth(caller))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.parametrize(("outside", "decision"), [("record", "allow"), ("step_up", "step_up"), ("deny", "deny")])
def test_a_call_outside_is_answered_as_the_settings_say(site: Any, bounded: Any, outside: str, decision: str) -> None:
    bounded(outside)
    for action in ("pay", "look_up"):
        answer = ask(site, action)
        assert (answer["decision"], answer["outside_boundary"]) == ("allow", False)
    answer = ask(site, "delete_everything")
    assert (answer["decision"], answer["outside_boundary"]) == (decision, True)
    assert answer["reason"] == ("allowed" if outside == "record" else "outside_boundary")
    assert bool(answer["approval_id"]) is (outside == "step_up")


def test_scopes_count_from_trusted_callers_alone(site: Any, bounded: Any) -> None:
    """An agent that could name its own scopes would choose its own boundary."""
    bounded("deny")
    assert ask(site, "delete_everything", scopes={"granted": ["admin"]})["decision"] == "deny"


def test_a_critical_agent_stays_denied_by_its_level(site: Any, bounded: Any, summary: Any) -> None:
    bounded("step_up")
    site.report([summary(level=CRITICAL)])
    answer = ask(site, "delete_everything")
    assert (answer["decision"], answer["reason"], answer["outside_boundary"]) == ("deny", "risk_level", True)

"""AuthZEN about actions outside of what an agent declares."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.scoring.policy.access_evaluation import DeclaredBoundary

OUTSIDE = {"reason": "outside_boundary"}


def registered(_tenant: str, _issuer: str, agent: str) -> tuple[str, ...] | None:
    return ("pay", "look_*") if agent == "bot" else None


def bounded(make_desk: Any, outside: Any, mode: str = "enforce", **table: Any) -> Any:
    desk = make_desk("authzen", mode=mode)
    desk.guard.policy_evaluator.boundary = DeclaredBoundary(registered, outside, **table)
    desk.level("low")
    return desk


def asked(action: str, **context: Any) -> dict[str, Any]:
    return {
        "subject": {"type": "identity", "id": "ann"},
        "action": {"name": "tools/call"},
        "resource": {"type": "tool", "id": action},
        "context": {"agent": "bot", **context},
    }


def ask(desk: Any, action: str, **context: Any) -> Any:
    return desk.evaluate(asked(action, **context), several=False).json()


@pytest.mark.parametrize("outside", ["record", "step_up", "deny"])
def test_an_action_outside_is_answered_as_the_settings_say(make_desk: Any, outside: str) -> None:
    desk = bounded(make_desk, outside)
    for action in ("pay", "look_up"):
        assert ask(desk, action) == {"decision": True}
    answer = ask(desk, "delete_everything")
    if outside == "record":
        assert answer == {"decision": True, "context": {"outside_boundary": True}}
    else:
        assert answer == {"decision": False, "context": OUTSIDE}
    assert [one.scopes for one in desk.asked()] == ([("delete_everything",)] if outside == "step_up" else [])
    (event,) = [one for one in desk.events() if one["action"] == "delete_everything"]
    assert event["attributes"]["outside_boundary"] is True
    assert ask(desk, "delete_everything", agent="other") == {"decision": True}


def test_a_yes_covers_the_action_alone(make_desk: Any) -> None:
    desk = bounded(make_desk, "step_up")
    ask(desk, "delete_everything")
    (waiting,) = desk.asked()
    path = f"/v1/approvals/{waiting.intervention_id}/approve"
    sent = {"content_type": "application/json", **desk.auth("as")}
    assert desk.send("POST", path, b'{"why": "spring cleaning"}', **sent).status_code == 200
    assert ask(desk, "delete_everything") == {"decision": True}
    assert ask(desk, "delete_more") == {"decision": False, "context": OUTSIDE}


def test_scopes_of_a_token_are_no_actions(make_desk: Any) -> None:
    """With the gate of the token issuance profile an action is a scope, which covers actions only by the table."""
    desk = bounded(make_desk, "deny")
    gate = {"action": {"name": "issue:access_token:client_credentials"}}
    body = {**asked("pay"), "evaluations": [gate, {"action": {"name": "accounts:list"}}]}
    assert [one["decision"] for one in desk.evaluate(body).json()["evaluations"]] == [True, True]


def test_methods_of_the_protocol_are_inside(make_desk: Any) -> None:
    desk = bounded(make_desk, "deny")
    for method, expected in (
        ("initialize", True),
        ("server/discover", True),
        ("tools/list", True),
        ("resources/read", False),
    ):
        body = {**asked("x"), "action": {"name": method}}
        assert desk.evaluate(body, several=False).json()["decision"] is expected


@pytest.mark.parametrize(("outside", "call"), [("step_up", "step_up"), ("deny", "deny"), ("record", "allow")])
def test_a_call_with_arguments_is_bounded_too(make_desk: Any, outside: str, call: str) -> None:
    desk = bounded(make_desk, outside)
    answer = ask(desk, "delete_everything", arguments=[])
    assert answer["decision"] is (outside == "record")
    context = answer["context"]
    assert (context["call"], context["outside_boundary"]) == (call, True)
    assert len(desk.asked()) == (outside == "step_up")
    if outside == "step_up":
        assert context["reason"] == "outside_boundary"
        path = f"/v1/approvals/{context['approval_id']}/approve"
        sent = {"content_type": "application/json", **desk.auth("as")}
        assert desk.send("POST", path, b'{"why": "spring cleaning"}', **sent).status_code == 200
        assert ask(desk, "delete_everything", arguments=[])["decision"] is True
        assert ask(desk, "delete_everything", arguments=[], task="other")["decision"] is False


def test_a_tool_that_is_called_like_a_gate_is_a_tool(make_desk: Any) -> None:
    """Only an action is a gate of token issuance; a tool's name comes from whoever asks."""
    desk = bounded(make_desk, "deny")
    assert ask(desk, "issue:access_token:refresh_token") == {"decision": False, "context": OUTSIDE}


def test_arguments_take_no_agent_out_of_the_judgement(make_desk: Any) -> None:
    """A subject that is a known agent is judged next to the one that the context names, with and without arguments."""
    desk = bounded(make_desk, "deny")
    body = {**asked("delete_everything", agent="other"), "subject": {"type": "agent", "id": "bot"}}
    plain = desk.evaluate(body, several=False).json()
    traced = desk.evaluate({**body, "context": {"agent": "other", "arguments": []}}, several=False).json()
    assert (plain["decision"], traced["decision"]) == (False, False)

"""AuthZEN about calls whose arguments are told: the model has a say beside the level."""

from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from trustwatch.api.settings.access_settings import CallerSettings
from trustwatch.scoring.engine.call_scorer import CallScorer

from ....support.call_history import KNOWN_VALUE, NEW_VALUE, call, call_model

AS = "https://as.example"
NOW_MS = 1_764_000_000_000


def evaluation(value: str | None, **context: Any) -> dict[str, Any]:
    """An evaluation of the call of `call`, as an enforcement point asks about it."""
    asked = call(value)
    told = {} if value is None else {"arguments": asked["arguments"], "task": asked["task"]}
    return {
        "subject": {"type": "client", "id": "bot"},
        "action": {"name": asked["action"], "properties": {"effect": asked["effect"]}},
        "resource": {"type": "mailbox", "id": "m-1", "properties": asked["resource"]},
        "context": {**told, **context},
    }


@pytest.fixture
def desk(make_desk: Any) -> Any:
    made = make_desk("authzen")
    made.calls.scorer = CallScorer(call_model(NOW_MS), {})
    made.level("low", agent_type="Clerk")
    return made


def ask(desk: Any, value: str | None, **context: Any) -> Any:
    return desk.evaluate(evaluation(value, **context), several=False).json()


def test_an_odd_call_is_denied_with_its_reasons_and_an_approval(desk: Any) -> None:
    odd, ordinary = ask(desk, NEW_VALUE), ask(desk, KNOWN_VALUE)

    assert odd["decision"] is False
    assert (odd["context"]["reason"], odd["context"]["call"]) == ("unusual_call", "step_up")
    assert odd["context"]["p_value"] <= 0.01 and odd["context"]["approval_id"]
    assert any("to out of read_mail" in text for text in odd["context"]["reasons"])
    assert ordinary["decision"] is True
    assert ordinary["context"]["basis"] == "model" and "reason" not in ordinary["context"]


def test_without_arguments_all_is_as_before(desk: Any) -> None:
    assert ask(desk, None) == {"decision": True}


def test_the_level_denies_first(desk: Any) -> None:
    desk.level("critical", agent_type="Clerk")

    assert ask(desk, NEW_VALUE) == {"decision": False, "context": {"reason": "risk_level"}}


def test_an_action_that_the_level_lets_pass_by_its_name_is_not_held_for_another_scope(desk: Any) -> None:
    desk.level("medium", agent_type="Clerk")

    assert ask(desk, KNOWN_VALUE)["decision"] is True


def test_a_batch_may_ask_so_much(desk: Any) -> None:
    """Each call and agent takes a millisecond in which nobody else is answered: a thousand held up gateway checks."""
    told = evaluation(KNOWN_VALUE)
    bare = [{**evaluation(None), "subject": {"type": "client", "id": f"bot-{number}"}} for number in range(51)]
    of_one_agent = [{"action": {"name": f"act-{number}"}} for number in range(1_000)]

    assert len(desk.evaluate({"evaluations": [told] * 50 + bare[:49]}).json()["evaluations"]) == 99
    assert len(desk.evaluate({**evaluation(None), "evaluations": of_one_agent}).json()["evaluations"]) == 1_000
    for given, reason in (
        ({"evaluations": [told] * 51}, "50 evaluations may have arguments"),
        ({**told, "evaluations": [{}] * 51}, "50 evaluations may have arguments"),
        ({"evaluations": bare}, "evaluations may name 50 agents"),
    ):
        refused = desk.evaluate(given)
        assert refused.status_code == 400 and refused.text.startswith(reason)


def test_each_item_of_many_is_a_call_of_its_own(desk: Any) -> None:
    answers = desk.evaluate({"evaluations": [evaluation(NEW_VALUE), evaluation(KNOWN_VALUE), evaluation(None)]}).json()

    assert [one["decision"] for one in answers["evaluations"]] == [False, True, True]


def test_without_a_model_the_level_decides(desk: Any) -> None:
    desk.calls.scorer = None

    assert ask(desk, NEW_VALUE) == {"decision": True, "context": {"call": "allow", "basis": "level"}}


def test_arguments_that_are_none_are_refused(desk: Any) -> None:
    answer = desk.evaluate(evaluation(None, arguments=[{"name": "to"}]), several=False)

    assert answer.status_code == 400
    assert "arguments" in answer.text


def test_an_approval_is_of_arguments_to_the_letter(desk: Any) -> None:
    asked = [ask(desk, NEW_VALUE, arguments_hash=told * 36)["context"]["approval_id"] for told in "aab"]
    assert asked[0] == asked[1] != asked[2]


def own_agents(make_desk: Any) -> Any:
    """The decision point, asked by callers that are bound to agents: one to itself, one to a pattern."""
    bound = {"tenants": ("acme",), "issuers": (AS,)}
    callers = (
        CallerSettings(name="itself", client_id="itself", agents=("self",), **bound),
        CallerSettings(name="fleet", client_id="fleet", agents=("fleet-*",), **bound),
    )
    return make_desk("authzen", callers=callers)


@pytest.mark.parametrize("client", ["itself", "fleet"])
def test_nobody_asks_about_a_neighbour_with_any_effect(make_desk: Any, client: str) -> None:
    """The verdict is the same; no person is asked, and no event of the neighbour comes about."""
    desk = own_agents(make_desk)
    desk.level("high", agent_type="Clerk")
    for number in range(6):
        asked = evaluation(NEW_VALUE, arguments_hash="a" * 36)
        asked["action"]["name"] = f"please-approve-{number}"
        held = desk.evaluate(asked, several=False, client=client).json()
        plain = {**evaluation(None), "action": {"name": f"pay:write-{number}"}}
        denied = desk.evaluate(plain, several=False, client=client).json()
        assert (held["decision"], denied["decision"]) == (False, False)
    assert desk.asked() == [] and desk.events() == []


def test_a_caller_asks_about_its_own_agents(make_desk: Any) -> None:
    """Persons are asked; what an agent says of itself is self-asserted, as if it had sent the event."""
    desk = own_agents(make_desk)
    for client, agent in (("itself", "itself"), ("fleet", "fleet-7")):
        desk.level("high", agent=agent, agent_type="Clerk")
        asked = {**evaluation(None), "subject": {"type": "client", "id": agent}, "action": {"name": "pay:write"}}
        assert desk.evaluate(asked, several=False, client=client).json()["decision"] is False
    assert sorted(one.agent.agent_id for one in desk.asked()) == ["fleet-7", "itself"]
    requests = [event for event in desk.events() if event["source"] == "urn:trustwatch:authzen"]
    told = {event["agent"]["id"]: event["agent"].get("self_asserted", False) for event in requests}
    assert told == {"itself": True, "fleet-7": False}


def test_a_denial_about_a_neighbour_is_told_of_its_asker(make_desk: Any) -> None:
    """It makes no event of the neighbour, so log and metrics are where somebody sees who tries."""
    desk = own_agents(make_desk)
    desk.level("critical", agent_type="Clerk")
    with capture_logs() as lines:
        assert desk.evaluate(evaluation(None), several=False, client="fleet").json()["decision"] is False
    (told,) = [line for line in lines if line["event"] == "a caller reaches beyond its entry"]
    assert (told["caller"], told["code"], told["agent_id"]) == ("fleet", "agent_not_allowed", "bot")
    assert (told["risk_level"], told["reason"]) == ("critical", "risk_level")
    assert desk.metric('trustwatch_callers_refused_total{caller="fleet",code="agent_not_allowed"}') == 1
    desk.level("critical", agent="fleet-1", agent_type="Clerk")
    own = {**evaluation(None), "subject": {"type": "client", "id": "fleet-1"}}
    assert desk.evaluate(own, several=False, client="fleet").json()["decision"] is False
    assert desk.metric('trustwatch_callers_refused_total{caller="fleet",code="agent_not_allowed"}') == 1
    assert [event["agent"]["id"] for event in desk.events()] == ["fleet-1"]


def test_a_denied_call_of_a_neighbour_is_told_of_its_asker(make_desk: Any) -> None:
    desk = own_agents(make_desk)
    desk.calls.scorer = CallScorer(call_model(NOW_MS), {})
    desk.level("low", agent_type="Clerk")
    with capture_logs() as lines:
        assert desk.evaluate(evaluation(NEW_VALUE), several=False, client="fleet").json()["decision"] is False
    (told,) = [line for line in lines if line["event"] == "a caller reaches beyond its entry"]
    assert (told["caller"], told["agent_id"], told["reason"]) == ("fleet", "bot", "unusual_call")
    assert desk.events() == []


def test_every_way_in_tells_who_reaches_beyond_its_entry(make_desk: Any) -> None:
    """Fast routes, FastAPI's, the direct one, AuthZEN and batches: each refusal is counted once, by its code."""
    desk = make_desk("authzen")
    question = {"agents": [{"agent_id": "bot", "tenant": "globex"}]}
    for number, (method, path, body) in enumerate(
        (
            ("GET", "/v1/agents/bot/risk?tenant=globex", None),
            ("POST", "/v1/agents/bot/calls/evaluate?tenant=globex", {"action": "pay"}),
            ("GET", "/v1/decisions?tenant=globex", None),
            ("POST", "/v1/risk/query", question),
        ),
        1,
    ):
        content = b"" if body is None else json.dumps(body).encode()
        answer = desk.send(method, path, content, content_type="application/json", **desk.auth("as"))
        assert "tenant_not_allowed" in answer.text, path
        assert desk.metric('trustwatch_callers_refused_total{caller="as",code="tenant_not_allowed"}') == number, path
    nothing = desk.auth("as", "trust.metrics")
    ways = (("GET", "/v1/agents/bot/risk"), ("POST", "/v1/events"), ("POST", "/access/v1/evaluation"))
    for number, (method, path) in enumerate((*ways, ("GET", "/v1/acts")), 1):
        assert desk.send(method, path, b"{}" if method == "POST" else b"", **nothing).status_code == 403
        assert desk.metric('trustwatch_callers_refused_total{caller="as",code="insufficient_scope"}') == number, path

"""AuthZEN: which agents an evaluation is judged for, and the strictest of their verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.api.settings.access_settings import CallerSettings
from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch.scoring.policy.book import LevelTokenPolicy
from trustwatch.scoring.records.agents import RiskLevel

from ....support.call_history import KNOWN_VALUE, call, call_model

AS = "https://as.example"
NOW_MS = 1_764_000_000_000
DENIED = {"reason": "risk_level"}


def coaz(subject_type: str = "identity", tool: str = "delete_all", **context: Any) -> dict[str, Any]:
    return {
        "subject": {"type": subject_type, "id": "john.doe"},
        "action": {"name": "tools/call"},
        "resource": {"type": "tool", "id": tool},
        "context": context,
    }


def ask(desk: Any, body: dict[str, Any], client: str = "as") -> Any:
    answer = desk.evaluate(body, several=False, client=client)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("kind", ["identity", "user", "client", "employee", "agent"])
@pytest.mark.parametrize(
    "context",
    [
        {"agent": "bot-3"},
        {"agent": {"id": "bot-3"}},
        {"agent": {"id": "bot-3", "issuer": AS}},
        {"client_id": "bot-3"},
        {"client_id": {"id": "bot-3"}},
        {"act": {"sub": "bot-3"}},
        {"act": "bot-3"},
        {"act": {"sub": "calm", "act": {"sub": "calmer", "act": {"sub": "bot-3"}}}},
        {"agent": "calm", "client_id": "bot-3"},
        {"agent": "bot-3", "client_id": "calm"},
        {"client_id": "calm", "act": {"sub": "bot-3"}},
    ],
)
def test_a_critical_agent_of_the_context_is_denied(make_desk: Any, kind: str, context: dict[str, Any]) -> None:
    desk = make_desk("authzen")
    desk.level("critical", "bot-3")
    desk.level("low", "calm")
    answer = ask(desk, coaz(kind, **context))

    assert (answer["decision"], answer["context"]["reason"]) == (False, "risk_level")
    several = len(context) > 1 or "calm" in str(context)
    assert answer["context"].get("agent") == ("bot-3" if several else None)
    batch = desk.evaluate({**coaz(kind, **context), "evaluations": [{}, {"action": {"name": "tools/list"}}]}).json()
    assert [one["decision"] for one in batch["evaluations"]] == [False, False]


def test_a_known_agent_is_not_hidden_by_the_context(make_desk: Any) -> None:
    """A subject that is no person counts if it is a known agent, whatever agent the context names."""
    desk = make_desk("authzen")
    desk.level("low", "calm")
    assert ask(desk, coaz("workload", agent="calm")) == {"decision": True}
    desk.level("critical", "john.doe")
    assert ask(desk, coaz("workload", agent="calm"))["context"] == {**DENIED, "agent": "john.doe"}
    assert ask(desk, coaz("identity", agent="calm")) == {"decision": True}


@pytest.mark.parametrize("kind", ["user", "identity"])
def test_a_person_without_an_agent_is_answered_as_unknown(make_desk: Any, kind: str) -> None:
    """Also if an agent has the person's id; no event is made, and no person is asked."""
    desk = make_desk("authzen")
    desk.level("critical", "john.doe")
    answer = ask(desk, coaz(kind))

    assert answer["decision"] is True
    assert answer["context"]["agent"] is None and "names no agent" in answer["context"]["detail"]
    assert desk.events() == [] and desk.asked() == []
    strict = make_desk("authzen", policies={RiskLevel.UNKNOWN: LevelTokenPolicy(allow=False)})
    assert ask(strict, coaz(kind))["context"]["reason"] == "risk_level"


def test_the_strictest_grant_of_several_agents_holds(make_desk: Any) -> None:
    """Each scope must be granted to each of them, and the shortest lifetime holds."""
    desk = make_desk("authzen")
    desk.level("low", "calm")
    desk.level("medium", "bot-3")
    gate = {"action": {"name": "issue:access_token:client_credentials"}}
    items = [gate, {"action": {"name": "notes:read"}}, {"action": {"name": "notes:write"}}]
    body = {**coaz("client", agent="calm", act={"sub": "bot-3"}), "evaluations": items}
    first, read, write = desk.evaluate(body).json()["evaluations"]

    issuance = first["context"]["issuance"]
    assert (issuance["token_lifetime"], issuance["granted_scope"]) == (300, "notes:read")
    assert issuance["claims"]["risk_level"] == "medium" and first["context"]["agent"] == "bot-3"
    assert (read["decision"], write["decision"]) == (True, False)
    assert write["context"] == {"reason": "step_up_required", "agent": "bot-3"}
    (asked,) = desk.asked()
    assert asked.agent.agent_id == "bot-3"
    (event,) = [one for one in desk.events() if one["type"] == "token.request"]
    assert (event["agent"]["id"], event["delegation"]) == ("calm", ["calm", "bot-3"])


def test_several_agents_that_each_grant_another_scope_grant_none(make_desk: Any) -> None:
    levels = {RiskLevel.LOW: "a", RiskLevel.MEDIUM: "b"}
    policies = {level: LevelTokenPolicy(allowed_scopes=(scope,)) for level, scope in levels.items()}
    desk = make_desk("authzen", policies=policies)
    desk.level("low", "calm")
    desk.level("medium", "bot-3")
    gate = {"action": {"name": "issue:access_token:client_credentials"}}
    body = {
        **coaz(agent="calm", client_id="bot-3"),
        "evaluations": [gate, {"action": {"name": "a"}}, {"action": {"name": "b"}}],
    }

    assert [one["decision"] for one in desk.evaluate(body).json()["evaluations"]] == [False, False, False]
    calm = {**body, "context": {"agent": "calm"}}
    assert [one["decision"] for one in desk.evaluate(calm).json()["evaluations"]] == [True, True, False]


def test_the_judged_action_of_a_tool_call_is_the_tool(make_desk: Any) -> None:
    """Names of tools are held as names of actions are; other methods are actions of their own names."""
    desk = make_desk("authzen")
    desk.level("medium", "bot-3")

    assert ask(desk, coaz(tool="delete_all", agent="bot-3"))["context"]["reason"] == "step_up_required"
    assert ask(desk, coaz(tool="look_up", agent="bot-3")) == {"decision": True}
    for method, kind in (
        ("initialize", "mcp_server"),
        ("server/discover", "mcp_server"),
        ("tools/list", "mcp_server"),
        ("resources/read", "resource"),
        ("prompts/get", "prompt"),
        ("tasks/get", "task"),
    ):
        body = {**coaz(agent="bot-3"), "action": {"name": method}, "resource": {"type": kind, "id": "delete_all"}}
        assert ask(desk, body) == {"decision": True}, method
    assert {event["action"] for event in desk.events() if event["type"] == "api.call"} >= {"delete_all", "tools/list"}


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        ({"agent": 7}, "context.agent must be"),
        ({"agent": ""}, "context.agent must be"),
        ({"agent": []}, "context.agent must be"),
        ({"agent": {}}, "context.agent.id must be"),
        ({"agent": {"id": "bot-3", "issuer": 7}}, "context.agent.issuer must be"),
        ({"client_id": True}, "context.client_id must be"),
        ({"client_id": {"id": None}}, "context.client_id.id must be"),
        ({"act": 7}, "context.act must be"),
        ({"act": {"sub": "calm", "act": {"sub": 7}}}, "context.act.act.sub must be"),
        ({"act": {"sub": "calm", "act": {}}}, "context.act.act.id must be"),
    ],
)
def test_what_names_no_agent_is_refused(make_desk: Any, context: dict[str, Any], sentence: str) -> None:
    desk = make_desk("authzen")
    single = desk.evaluate(coaz(**context), several=False)
    (item,) = desk.evaluate({"evaluations": [coaz(**context)]}).json()["evaluations"]

    assert single.status_code == 400 and single.text.startswith(sentence)
    assert item == {"decision": False, "context": {"error": {"status": 400, "message": single.text}}}


def test_a_chain_without_end_is_refused(make_desk: Any) -> None:
    act: dict[str, Any] = {"sub": "bot-0"}
    for number in range(1, 33):
        act = {"sub": f"bot-{number}", "act": act}
    refused = make_desk("authzen").evaluate(coaz(act=act), several=False)
    assert refused.status_code == 400 and "may have 32 actors" in refused.text


def test_agents_of_a_batch_are_bounded(make_desk: Any) -> None:
    """Each agent of each chain is a question, and each call is judged for each of them."""
    desk = make_desk("authzen")
    chains = [coaz(agent=f"a-{number}", client_id=f"b-{number}") for number in range(26)]
    calls = [coaz(agent="a", client_id="b", arguments=[]) for _ in range(26)]
    for items in (chains, calls):
        assert desk.evaluate({"evaluations": items[:25]}).status_code == 200
        assert desk.evaluate({"evaluations": items}).status_code == 400


def bound_desk(make_desk: Any) -> Any:
    fleet = CallerSettings(name="fleet", client_id="fleet", tenants=("acme",), issuers=(AS,), agents=("fleet-*",))
    return make_desk("authzen", callers=(fleet,), mode="shadow")


@pytest.mark.parametrize(
    "context",
    [
        {"agent": "fleet-1", "client_id": "bot"},
        {"agent": "bot", "client_id": "fleet-1"},
        {"agent": "fleet-1", "act": {"sub": "fleet-1", "act": {"sub": "bot"}}},
        {"agent": {"id": "fleet-1", "issuer": "https://other.example"}},
    ],
)
def test_the_caller_must_be_authorized_for_each_agent(make_desk: Any, context: dict[str, Any]) -> None:
    desk = bound_desk(make_desk)
    refused = desk.evaluate(coaz(**context), several=False, client="fleet")
    both = [coaz(**context), coaz(agent="fleet-1", client_id="fleet-2")]
    first, second = desk.evaluate({"evaluations": both}, client="fleet").json()["evaluations"]

    assert refused.status_code == 403 and "not authorized" in refused.text
    assert first == {"decision": False, "context": {"error": {"status": 403, "message": refused.text}}}
    assert second["decision"] is True
    assert desk.metric('trustwatch_callers_refused_total{caller="fleet",code="agent_not_allowed"}') == 2
    assert [event["agent"]["id"] for event in desk.events()] == ["fleet-1"]


def test_a_call_with_arguments_is_judged_for_each_agent(make_desk: Any) -> None:
    """An agent that the model holds decides, though the other may make the call."""
    desk = make_desk("authzen")
    desk.calls.scorer = CallScorer(call_model(NOW_MS), {})
    desk.level("low", agent_type="Clerk")
    desk.level("high", "risky", agent_type="Clerk")
    asked = call(KNOWN_VALUE)
    body = {
        "subject": {"type": "identity", "id": "john.doe"},
        "action": {"name": "tools/call", "properties": {"effect": asked["effect"]}},
        "resource": {"type": "tool", "id": asked["action"], "properties": asked["resource"]},
        "context": {"arguments": asked["arguments"], "task": asked["task"], "agent": "bot"},
    }
    assert ask(desk, body)["decision"] is True
    body["context"]["act"] = {"sub": "risky"}
    answer = ask(desk, body)
    assert (answer["decision"], answer["context"]["agent"]) == (False, "risky")


@pytest.mark.parametrize("declared", ["", "text/plain", "application/xml", "application/jsonp", "multipart/json"])
def test_a_body_of_another_type_is_refused(make_desk: Any, declared: str) -> None:
    answer = make_desk("authzen").evaluate(coaz(agent="bot-3"), several=False, content_type=declared)
    assert answer.status_code == 400 and "application/json" in answer.text


@pytest.mark.parametrize("declared", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"])
def test_parameters_of_the_type_are_accepted(make_desk: Any, declared: str) -> None:
    answer = make_desk("authzen").evaluate(coaz(agent="bot-3"), several=False, content_type=declared)
    assert answer.json() == {"decision": True}

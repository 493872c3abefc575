"""AuthZEN's decision point: one and many evaluations, and the profile for token issuance."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import httpx2
import pytest

from trustwatch.api.access.hooks import authzen_requests
from trustwatch.api.access.hooks.hook_adapter import MAX_HOOK_BODY_BYTES
from trustwatch.api.http.ledger import LIMITS

GATE = {"action": {"name": "issue:access_token:client_credentials"}}
PROFILE = {
    "subject": {"type": "client", "id": "bot"},
    "resource": {"type": "audience", "id": "https://telemetry.example"},
    "context": {"client_id": "bot", "issuance": {"capabilities": ["urn:ietf:params:authzen:token-issuance"]}},
    "evaluations": [GATE, {"action": {"name": "telemetry:read"}}, {"action": {"name": "telemetry:write"}}],
    "options": {"evaluations_semantic": "execute_all"},
}
SINGLE = {
    "subject": {"type": "user", "id": "alice@example.com"},
    "resource": {"type": "todo", "id": "1"},
    "action": {"name": "can_read"},
    "context": {"time": "1985-10-26T01:22-07:00"},
}
BOXCARRED = {
    "subject": {"type": "user", "id": "alice@example.com"},
    "action": {"name": "can_read"},
    "context": {"time": "2024-05-31T15:22-07:00"},
    "evaluations": [
        {"resource": {"type": "document", "id": "boxcarring.md"}},
        {"resource": {"type": "document", "id": "subject-search.md"}},
        {"action": {"name": "can_delete"}, "resource": {"type": "document", "id": "resource-search.md"}},
    ],
}
YES: dict[str, Any] = {"decision": True}


def no(reason: str) -> dict[str, Any]:
    return {"decision": False, "context": {"reason": reason}}


def issued(level: str, **more: Any) -> dict[str, Any]:
    claims = {"risk_level": level, "policy_version": "3"}
    return {"decision": True, "context": {"issuance": {**more, "claims": claims}}}


@pytest.mark.parametrize(
    ("level", "enforced"),
    [
        ("unknown", [issued("unknown", token_lifetime=300), YES, YES]),
        ("low", [issued("low", token_lifetime=900), YES, YES]),
        (
            "medium",
            [
                issued("medium", token_lifetime=300, granted_scope="telemetry:read"),
                YES,
                no("step_up_required"),
            ],
        ),
        ("high", [no("step_up_required")] * 3),
        ("critical", [no("risk_level")] * 3),
    ],
)
def test_issuance_at_every_level(make_desk: Any, level: str, enforced: list[Any]) -> None:
    """A gate and two scopes: the ceiling stands on the gate alone, a scope that waits for a person is denied."""
    for mode, expected in (("enforce", enforced), ("shadow", [issued(level), YES, YES])):
        desk = make_desk("authzen", mode=mode)
        if level != "unknown":
            desk.level(level)
        answer = desk.evaluate(PROFILE)

        assert (answer.status_code, answer.json()) == (200, {"evaluations": expected})


def test_a_gate_alone(make_desk: Any, make_hook: Any) -> None:
    """Without scopes at either endpoint, an array only where one was asked for; without claims only the ceiling."""
    desk = make_desk(make_hook("authzen", claims=False))
    request = {**PROFILE, **GATE, "evaluations": []}
    expected = {"decision": True, "context": {"issuance": {"token_lifetime": 300}}}

    assert desk.evaluate(request, several=False).json() == desk.evaluate(request).json() == expected
    assert desk.evaluate({**PROFILE, "evaluations": [GATE]}).json() == {"evaluations": [expected]}


@pytest.mark.parametrize("grant", ["authorization_code", "refresh_token", "token_exchange", "urn:x:y", "anything"])
@pytest.mark.parametrize("token", ["access_token", "id_token", "refresh_token", "txn_token"])
def test_every_gate_is_decided(make_desk: Any, token: str, grant: str) -> None:
    desk = make_desk("authzen")
    desk.level("high")
    answer = desk.evaluate({**PROFILE, "action": {"name": f"issue:{token}:{grant}"}}, several=False)

    assert answer.json() == no("refresh_refused" if grant == "refresh_token" else "step_up_required")


def test_the_standards_own_requests(make_desk: Any) -> None:
    """The samples of the standard: a user is no agent, and is answered as unknown, which is no refusal."""
    desk = make_desk("authzen")
    desk.level("critical", "alice@example.com")

    assert desk.evaluate(SINGLE, several=False).json()["decision"] is True
    assert [one["decision"] for one in desk.evaluate(BOXCARRED).json()["evaluations"]] == [True, True, True]
    desk.level("medium", "bot")
    asked = {**BOXCARRED, "context": {"client_id": "bot"}}
    assert desk.evaluate(asked).json() == {"evaluations": [YES, YES, no("step_up_required")]}


@pytest.mark.parametrize(
    ("semantic", "expected"),
    [
        ("execute_all", [YES, no("step_up_required"), YES]),
        ("deny_on_first_deny", [YES, no("step_up_required")]),
        ("permit_on_first_permit", [YES]),
    ],
)
def test_semantics(make_desk: Any, semantic: str, expected: list[Any]) -> None:
    desk = make_desk("authzen")
    desk.level("medium")
    items = [{"action": {"name": name}} for name in ("list", "can_delete", "read")]
    request = {**PROFILE, "evaluations": items, "options": {"evaluations_semantic": semantic}}

    assert desk.evaluate(request).json() == {"evaluations": expected}
    backwards = {**request, "evaluations": items[1:]}
    first = {"permit_on_first_permit": [no("step_up_required"), YES]}.get(semantic, expected[1:])
    assert desk.evaluate(backwards).json() == {"evaluations": first}


def test_items_override_whole_members(make_desk: Any) -> None:
    """A subject of an item's own is that alone; several agents in one request are several questions."""
    desk = make_desk("authzen")
    desk.level("critical", "bad")
    items = [GATE, {**GATE, "subject": {"type": "workload", "id": "bad"}}, {"action": {"name": "read"}}]

    assert desk.evaluate({**PROFILE, "evaluations": items}).json() == {
        "evaluations": [
            issued("unknown", token_lifetime=300),
            {"decision": False, "context": {"reason": "risk_level", "agent": "bad"}},
            YES,
        ]
    }
    assert [event.get("principal") for event in desk.events()] == [None, {"id": "bad", "type": "workload"}]


@pytest.mark.parametrize("kind", ["user", "client", "workload", "agent", "https://schemas.example/robot"])
def test_subjects_of_any_type(make_desk: Any, kind: str) -> None:
    desk = make_desk("authzen")
    desk.evaluate({**PROFILE, "subject": {"type": kind, "id": "ann"}})

    (event,) = desk.events()
    assert event["agent"]["id"] == "bot"
    assert event.get("principal") == {"id": "ann", "type": kind}


def test_a_question_is_an_audit_event(make_desk: Any) -> None:
    """Of a token with its scopes and audience; of another action with its resource."""
    desk = make_desk("authzen")
    desk.level("medium")
    desk.evaluate({**PROFILE, "context": {"act": {"sub": "bot", "act": {"sub": "root"}}}})
    desk.level("low")
    desk.evaluate({**PROFILE, "evaluations": [], "action": {"name": "can_read"}}, several=False)

    token, call = [event for event in desk.events() if event["type"] != "approval"]

    assert token == {
        "time": "2025-11-24T16:00:00.000Z",
        "source": "urn:trustwatch:authzen",
        "type": "token.request",
        "action": "client_credentials",
        "agent": {"id": "bot", "issuer": "https://as.example"},
        "outcome": "success",
        "error": None,
        "tenant": "acme",
        "delegation": ["bot", "root"],
        "scopes": {"requested": ["telemetry:read", "telemetry:write"]},
        "resource": {"audience": "https://telemetry.example"},
        "attributes": {
            "verdict": "allowed",
            "risk_level": "medium",
            "mode": "enforce",
            "granted": "telemetry:read",
            "token_lifetime_s": 300,
        },
    }
    assert (call["type"], call["action"]) == ("api.call", "can_read")
    assert call["resource"] == {"type": "audience", "id": "https://telemetry.example"}
    assert call["scopes"] is None


@pytest.mark.parametrize(
    ("request_body", "sentence"),
    [
        (b"", "the body is not valid JSON"),
        (b"[]", "the body is not a JSON object"),
        ({}, "subject.type is required and must be a text"),
        ({**SINGLE, "subject": {"type": "user"}}, "subject.id is required and must be a text"),
        ({**SINGLE, "subject": "alice"}, "subject.type is required and must be a text"),
        ({**SINGLE, "action": {}}, "action.name is required and must be a text"),
        ({**SINGLE, "resource": {"type": "todo", "id": 1}}, "resource.id is required and must be a text"),
        ({**SINGLE, "context": []}, "context must be an object"),
        ({**SINGLE, "evaluations": {}}, "evaluations must be an array"),
        ({**SINGLE, "evaluations": [{}] * 1001}, "evaluations may have 1000 items"),
        (
            {**SINGLE, "evaluations": [{}], "options": {"evaluations_semantic": "all"}},
            "options.evaluations_semantic must be one of execute_all, deny_on_first_deny, permit_on_first_permit",
        ),
    ],
)
def test_what_is_no_request(make_desk: Any, request_body: Any, sentence: str) -> None:
    """400 with a sentence, not the problem document or the 422 of our own API; the id of the request comes back."""
    answer = make_desk("authzen").evaluate(request_body, x_request_id="bfe9eb29")

    assert (answer.status_code, answer.text) == (400, sentence)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-request-id"] == "bfe9eb29"


@pytest.mark.parametrize("unfit", ["", "a b", "é", "x" * 129, '"><script>'])
def test_an_id_that_is_none_is_not_repeated(make_desk: Any, unfit: str) -> None:
    """As everywhere in the API: 1 to 128 plain characters; else the answer has an id of ours, and one alone."""
    desk = make_desk("authzen")
    asked = [desk.evaluate(content, several=False, x_request_id=unfit.encode()) for content in (SINGLE, [])]
    asked.append(desk.send("GET", "/.well-known/authzen-configuration", x_request_id=unfit.encode()))

    assert [answer.status_code for answer in asked] == [200, 400, 200]
    ids = [answer.headers.get_list("x-request-id") for answer in asked]
    assert all(len(given) == 1 and given[0].isalnum() and len(given[0]) < 129 for given in ids), ids


def test_an_item_that_is_none_is_denied_by_itself(make_desk: Any) -> None:
    items = [{**GATE, "subject": None}, GATE, 7]
    answers = make_desk("authzen").evaluate({**PROFILE, "evaluations": items}).json()["evaluations"]

    assert [answer["decision"] for answer in answers] == [False, True, False]
    assert answers[0]["context"]["error"] == {"status": 400, "message": "subject.type is required and must be a text"}
    assert answers[2]["context"]["error"] == {"status": 400, "message": "an evaluation must be an object"}


def test_members_that_nobody_knows_are_no_error(make_desk: Any) -> None:
    request = json.loads(json.dumps(SINGLE))
    request |= {"unheard": 1, "options": {"unheard": [2]}}
    request["subject"] |= {"type": "client", "properties": {"department": "sales"}, "unheard": {}}

    assert make_desk("authzen").evaluate(request, several=False).json() == YES


def test_who_may_ask(make_desk: Any, make_hook: Any) -> None:
    """A token, with `trust.decide`, of a caller that is bound to one tenant and issuer, or to the hook's."""
    desk = make_desk("authzen")
    content = json.dumps(SINGLE).encode()
    nobody = desk.send("POST", "/access/v1/evaluation", content, x_request_id="r")
    wrong = desk.send("POST", "/access/v1/evaluation", content, authorization="Bearer x.y.z")
    reader = desk.send("POST", "/access/v1/evaluation", content, **desk.auth("as", "trust.score:read"))
    stranger = desk.evaluate(SINGLE, client="stranger")
    everyone = desk.evaluate(SINGLE, client="all")

    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, 'Bearer realm="trustwatch"')
    assert nobody.headers["x-request-id"] == "r"
    assert wrong.status_code == 401
    assert (reader.status_code, reader.text) == (403, "the token lacks the scope trust.decide")
    assert (stranger.status_code, everyone.status_code) == (403, 403)
    bound = make_desk(make_hook("authzen", tenant="acme", issuer="https://as.example"))
    assert bound.evaluate(SINGLE, client="all", several=False).json()["decision"] is True
    assert bound.evaluate(SINGLE, client="other").status_code == 403
    assert desk.guard.verdict_counts.total() == 0


@pytest.mark.parametrize(
    ("on_failure", "mode", "decision"),
    [("closed", "enforce", False), ("open", "enforce", True), ("closed", "shadow", True)],
)
def test_a_fault_of_ours_is_answered_as_the_settings_say(
    make_desk: Any, make_hook: Any, on_failure: str, mode: str, decision: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(make_hook("authzen", on_failure=on_failure), mode=mode)

    def boom(*_: str) -> None:
        raise RuntimeError("the view is broken")

    monkeypatch.setattr(desk.view, "get", boom)
    answer = desk.evaluate(PROFILE)

    expected = [YES] * 3 if decision else [no("undecided")] * 3
    assert (answer.status_code, answer.json()) == (200, {"evaluations": expected})
    assert desk.guard.failure_counts == {("authzen", "open" if decision else "closed"): 1}
    assert [event["attributes"]["verdict"] for event in desk.events()] == ["undecided"]


def test_a_body_is_bounded(make_desk: Any) -> None:
    assert make_desk("authzen").evaluate({**SINGLE, "pad": "x" * MAX_HOOK_BODY_BYTES}).status_code == 413


def test_where_the_decision_point_is(make_desk: Any) -> None:
    """Open to all, as the standard has it: clients learn from it where to go, and nothing else."""
    answer = make_desk("authzen").send("GET", "/.well-known/authzen-configuration")

    assert answer.status_code == 200
    assert answer.json() == {
        "policy_decision_point": "http://127.0.0.1:8420",
        "access_evaluation_endpoint": "http://127.0.0.1:8420/access/v1/evaluation",
        "access_evaluations_endpoint": "http://127.0.0.1:8420/access/v1/evaluations",
        "capabilities": ["urn:ietf:params:authzen:token-issuance"],
    }
    assert make_desk("hydra").send("GET", "/.well-known/authzen-configuration").status_code == 404


LONG: dict[str, Any] = {**BOXCARRED, "evaluations": [{"action": {"name": f"a{number}"}} for number in range(1_000)]}
LONG["resource"] = {"type": "document", "id": "x"}


def test_a_long_batch_lets_others_go_first(make_desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop runs again after 50 items that are read or answered."""
    desk, read, turns = make_desk("authzen"), [0], [0]
    read_item = authzen_requests._read_item

    def counted(*given: Any) -> Any:
        read[0] += 1
        return read_item(*given)

    async def run() -> tuple[httpx2.Response, list[int]]:
        body = json.dumps(LONG).encode()
        headers = {"content-type": "application/json", **desk.auth()}
        request = desk.http.request("POST", "/access/v1/evaluations", content=body, headers=headers)
        asked = asyncio.ensure_future(request)
        seen = []
        while not asked.done():
            seen.append(read[0])
            turns[0] += 1
            await asyncio.sleep(0)
        return await asked, seen

    monkeypatch.setattr(authzen_requests, "_read_item", counted)
    answer, seen = desk.runner.run(run())

    assert answer.status_code == 200 and len(answer.json()["evaluations"]) == 1_000
    assert max(after - before for before, after in pairwise(seen)) <= authzen_requests.ITEMS_PER_SLICE
    assert turns[0] >= 2 * 1_000 / authzen_requests.ITEMS_PER_SLICE - 1


def test_long_batches_of_a_tenant_take_turns(make_desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than may wait is refused with a time to come again; short ones never wait."""
    monkeypatch.setitem(LIMITS, "work", LIMITS["work"]._replace(amount=2))
    desk = make_desk("authzen")

    async def run() -> list[httpx2.Response]:
        bodies = [json.dumps(LONG).encode()] * 5 + [json.dumps(BOXCARRED).encode()]
        path, headers = "/access/v1/evaluations", {"content-type": "application/json", **desk.auth()}
        return await asyncio.gather(
            *(desk.http.request("POST", path, content=body, headers=headers) for body in bodies)
        )

    answers = desk.runner.run(run())

    assert sorted(answer.status_code for answer in answers[:5]) == [200, 200, 429, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "2" and "one after another" in refused.text
    assert answers[5].status_code == 200

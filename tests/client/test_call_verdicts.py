"""Verdicts on calls over HTTP: requests, answers, and fail modes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest

from trustwatch_client import (
    AuditEvent,
    Call,
    Caller,
    CallVerdict,
    CallVerdicts,
    ClientCredentials,
    ClientSecret,
    EventArgument,
    Reason,
    TrustUnavailable,
)
from trustwatch_client.events import EventAgent, EventPrincipal, EventResource

from ..support.client_doubles import Reply, Request, Scripted

BOT = Caller(agent_id="https://agents.example/7", issuer="https://as.example", tenant="acme")
Make = Callable[..., Any]
CALL = Call(
    action="pay",
    effect="write",
    resource=EventResource(id="acct-1"),
    arguments=[EventArgument("to", "tool", "0cabec3c8913", 2, "read_mail", untrusted=True)],
)


STEP_UP: dict[str, Any] = {"decision": "step_up", "allow": False, "reason": "unusual_call", "approval_id": "a-1"}
WHY = {
    "code": "argument_origin",
    "feature": "argument_surprise",
    "observed": "to out of read_mail",
    "text": "a value that …",
}
MORE: dict[str, Any] = {"would_allow": False, "mode": "enforce", "p_value": 0.004, "reasons": [WHY]}


def token() -> str:
    return "token"


def test_what_is_asked_and_answered(make_verdicts: Make, server: Scripted) -> None:
    server.answer = lambda _: Reply(200, STEP_UP | MORE)
    verdicts = make_verdicts(server.url, token, fail_mode="closed", budget_s=5.0)

    assert verdicts.evaluate(BOT, CALL) == CallVerdict(
        "step_up",
        allow=False,
        reason="unusual_call",
        approval_id="a-1",
        would_allow=False,
        mode="enforce",
        reasons=(Reason(**WHY),),
        p_value=0.004,
    )
    (request,) = server.requests
    assert request.path == (
        "/v1/agents/https%3A%2F%2Fagents.example%2F7/calls/evaluate?tenant=acme&issuer=https%3A%2F%2Fas.example"
    )
    assert request.headers["authorization"] == "Bearer token"
    assert set(request.json) == {"action", "effect", "resource", "arguments"}
    assert request.json["arguments"][0]["untrusted"] is True
    assert verdicts.counts() == {"asked": 1, "fail_open": 0, "fail_closed": 0}


def test_a_call_says_what_it_knows_itself_and_the_caller_the_rest(make_verdicts: Make, server: Scripted) -> None:
    me = msgspec.structs.replace(BOT, principal="jo", task="desk", delegation=("boss",), token_id="sha256:1")
    known = Call(action="pay", type="a2a.message", task="books", principal=EventPrincipal(id="ann"))
    server.answer = lambda _: Reply(200, STEP_UP)
    verdicts = make_verdicts(server.url, token, fail_mode="closed", budget_s=5.0)

    for call in (Call(action="pay"), known):
        verdicts.evaluate(me, call, arguments_hash="0" * 12)

    said = {"action": "pay", "arguments_hash": "0" * 12, "delegation": ["boss"], "credential": {"token_id": "sha256:1"}}
    assert [request.json for request in server.requests] == [
        said | {"task": "desk", "principal": {"id": "jo"}},
        said | {"type": "a2a.message", "task": "books", "principal": {"id": "ann"}},
    ]
    assert known.credential is None, "the call of the program is as it was"


def test_an_event_in_place_of_a_call_is_deprecated(make_verdicts: Make, server: Scripted) -> None:
    """It is the same question, without its time, its outcome and its session."""
    server.answer = lambda _: Reply(200, STEP_UP)
    verdicts = make_verdicts(server.url, token, fail_mode="closed", budget_s=5.0)
    event = AuditEvent(
        time=datetime(2026, 1, 1, tzinfo=UTC),
        agent=EventAgent(id=BOT.agent_id),
        type="tool.call",
        action="pay",
        outcome="success",
        effect="write",
        session="conv-1",
        resource=CALL.resource,
        arguments=CALL.arguments,
    )

    with pytest.warns(DeprecationWarning, match="as_call"):
        by_event = verdicts.evaluate(BOT, event)

    assert by_event == verdicts.evaluate(BOT, event.as_call()) == verdicts.evaluate(BOT, CALL)
    first, second, third = (request.json for request in server.requests)
    assert first == second == third


def test_what_is_no_call_is_the_type_that_the_service_takes_for_it() -> None:
    event = AuditEvent(
        time=datetime(2026, 1, 1, tzinfo=UTC), agent=EventAgent(id="-"), type="admin", action="x", outcome="success"
    )
    assert event.as_call() == Call(action="x", type="tool.call")


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (Reply(200, b"{}"), "malformed"),
        (Reply(503), "server_error"),
        (Reply(401), "refused"),
        (Reply(429), "throttled"),
        (Reply(200, STEP_UP, wait_s=0.5), "timeout"),
        (Reply(0), "network"),
    ],
)
def test_the_fail_mode_holds_without_an_answer_and_is_counted(
    make_verdicts: Make, server: Scripted, reply: Reply, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Open lets the call pass, closed refuses it; both say why, in the log once until there is an answer again."""
    server.answer = lambda _: reply
    budget_s = 0.1 if reply.wait_s else 5.0
    opened, closed = (
        make_verdicts(server.url, token, fail_mode=mode, budget_s=budget_s) for mode in ("open", "closed")
    )
    for _ in range(2):
        assert opened.evaluate(BOT, CALL) == CallVerdict("allow", allow=True)
    with pytest.raises(TrustUnavailable) as refused:
        closed.evaluate(BOT, CALL)

    assert refused.value.cause == cause
    assert opened.counts() == {"asked": 2, "fail_open": 2, "fail_closed": 0, f"cause_{cause}": 2}
    assert closed.counts() == {"asked": 1, "fail_open": 0, "fail_closed": 1, f"cause_{cause}": 1}
    assert [cause in record.getMessage() for record in caplog.records] == [True, True]


def test_without_a_token_the_fail_mode_holds_too(make_verdicts: Make) -> None:
    def broken() -> str:
        raise RuntimeError("no key")

    verdicts = make_verdicts("https://trust.example", broken, fail_mode="open")
    assert verdicts.evaluate(BOT, CALL).allow
    assert verdicts.counts()["cause_token"] == 1


def test_a_name_that_is_no_text_takes_no_call_with_it(make_verdicts: Make) -> None:
    """Paths that a server decodes loosely may hold half a character, which no question can be written with."""
    verdicts = make_verdicts("https://trust.example", token, fail_mode="open")
    assert verdicts.evaluate(BOT, msgspec.structs.replace(CALL, action="GET /\ud800")).allow
    assert verdicts.counts() == {"asked": 1, "fail_open": 1, "fail_closed": 0, "cause_malformed": 1}


def test_a_token_counts_against_the_budget_and_is_there_for_the_next_call(
    make_verdicts: Make, server: Scripted
) -> None:
    """The authorization server is slow once; the question is not waited for, the token is kept."""

    def reply(request: Request) -> Reply:
        if request.path == "/token":
            return Reply(200, {"access_token": "slow", "expires_in": 600}, wait_s=1.5)
        return Reply(200, STEP_UP)

    server.answer = reply
    token = ClientCredentials(f"{server.url}/token", "bot", ClientSecret("s"))
    verdicts = make_verdicts(server.url, token, fail_mode="open", budget_s=0.3)

    began = time.monotonic()
    assert verdicts.evaluate(BOT, CALL).allow and time.monotonic() - began < 1.5
    deadline = time.monotonic() + 10
    while verdicts.evaluate(BOT, CALL).decision != "step_up":
        assert time.monotonic() < deadline
    assert [request.path for request in server.requests].count("/token") <= 3


def test_a_token_that_is_refused_and_a_connection_that_ended_are_replaced_once(
    make_verdicts: Make, server: Scripted
) -> None:
    tokens = iter(("old", "new", "new", "new"))
    server.answer = lambda request: Reply(200, STEP_UP) if "new" in request.headers["authorization"] else Reply(401)
    verdicts = make_verdicts(server.url, lambda: next(tokens), fail_mode="closed", budget_s=5.0)

    assert verdicts.evaluate(BOT, CALL).decision == "step_up"
    server.then(Reply(0))
    assert verdicts.evaluate(BOT, CALL).decision == "step_up"
    assert verdicts.counts() == {"asked": 2, "fail_open": 0, "fail_closed": 0}


def test_many_threads_ask_at_once(server: Scripted) -> None:
    server.answer = lambda request: Reply(200, {"decision": "deny", "allow": False, "reason": request.json["action"]})
    with (
        CallVerdicts(server.url, token, fail_mode="closed", budget_s=20.0, workers=3) as verdicts,
        ThreadPoolExecutor(12) as threads,
    ):
        calls = [msgspec.structs.replace(CALL, action=f"action-{number}") for number in range(48)]
        found = list(threads.map(lambda call: verdicts.evaluate(BOT, call).reason, calls))

    assert found == [call.action for call in calls]


def test_a_fail_mode_must_be_named() -> None:
    with pytest.raises(ValueError, match="open or closed"):
        CallVerdicts("https://trust.example", token, fail_mode=cast(Any, "last_known"))

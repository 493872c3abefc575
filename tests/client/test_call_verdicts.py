"""Verdicts on calls over HTTP: requests, answers, and fail modes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import httpx2
import msgspec
import pytest

from trustwatch_client import (
    AsyncCallVerdicts,
    AuditEvent,
    Call,
    Caller,
    CallVerdict,
    ClientCredentials,
    ClientSecret,
    EventArgument,
    Reason,
    TrustUnavailable,
)
from trustwatch_client.events import EventAgent, EventPrincipal, EventResource

from ..support.client_doubles import Reply, Request, Scripted

BOT = Caller(agent_id="https://agents.example/7", issuer="https://as.example", tenant="acme")
CALL = Call(
    action="pay",
    effect="write",
    resource=EventResource(id="acct-1"),
    arguments=[EventArgument("to", "tool", "0cabec3c8913", 2, "read_mail", untrusted=True)],
)


def ask(handler: Callable[[httpx2.Request], httpx2.Response], fail_mode: Literal["open", "closed"]) -> CallVerdict:
    async def run() -> CallVerdict:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(handler)) as http:
            verdicts = AsyncCallVerdicts("https://trust.example", lambda: "token", fail_mode=fail_mode, http=http)
            return await verdicts.evaluate(BOT, CALL)

    return asyncio.run(run())


def test_what_is_asked_and_answered() -> None:
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, json=STEP_UP | MORE)

    assert ask(answer, "closed") == CallVerdict(
        "step_up",
        allow=False,
        reason="unusual_call",
        approval_id="a-1",
        would_allow=False,
        mode="enforce",
        reasons=(Reason("argument_origin", "argument_surprise", "to out of read_mail", text="a value that …"),),
        p_value=0.004,
    )
    (request,) = requests
    assert request.url.raw_path.startswith(b"/v1/agents/https%3A%2F%2Fagents.example%2F7/calls/evaluate?tenant=acme")
    assert request.headers["authorization"] == "Bearer token"
    body: dict[str, Any] = json.loads(request.content)
    assert set(body) == {"action", "effect", "resource", "arguments"}
    assert body["arguments"][0]["untrusted"] is True


def test_a_call_says_what_it_knows_itself_and_the_caller_the_rest() -> None:
    me = msgspec.structs.replace(BOT, principal="jo", task="desk", delegation=("boss",), token_id="sha256:1")
    known = Call(action="pay", type="a2a.message", task="books", principal=EventPrincipal(id="ann"))
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        return httpx2.Response(200, json=STEP_UP)

    async def run() -> None:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
            verdicts = AsyncCallVerdicts("https://trust.example", lambda: "token", fail_mode="closed", http=http)
            for call in (Call(action="pay"), known):
                await verdicts.evaluate(me, call, arguments_hash="0" * 12)

    asyncio.run(run())

    said = {"action": "pay", "arguments_hash": "0" * 12, "delegation": ["boss"], "credential": {"token_id": "sha256:1"}}
    assert bodies == [
        said | {"task": "desk", "principal": {"id": "jo"}},
        said | {"type": "a2a.message", "task": "books", "principal": {"id": "ann"}},
    ]
    assert known.credential is None, "the call of the program is as it was"


def test_what_is_no_call_is_the_type_that_the_service_takes_for_it() -> None:
    event = AuditEvent(
        time=datetime(2026, 1, 1, tzinfo=UTC), agent=EventAgent(id="-"), type="admin", action="x", outcome="success"
    )
    assert event.as_call() == Call(action="x", type="tool.call")


def refusing(status: int) -> Callable[[httpx2.Request], httpx2.Response]:
    return lambda _: httpx2.Response(status, content=b"{}")


def slow(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadTimeout("slow")


def away(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("away")


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        (refusing(200), "malformed"),
        (refusing(503), "server_error"),
        (refusing(401), "refused"),
        (refusing(429), "throttled"),
        (slow, "timeout"),
        (away, "network"),
    ],
)
def test_the_fail_mode_holds_without_an_answer_and_is_counted(
    handler: Callable[[httpx2.Request], httpx2.Response], cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Open lets the call pass, closed refuses it; both say why, in the log once until there is an answer again."""

    async def run() -> None:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(handler)) as http:
            opened, closed = (
                AsyncCallVerdicts("https://trust.example", lambda: "token", fail_mode=mode, http=http)
                for mode in ("open", "closed")
            )
            for _ in range(2):
                assert (await opened.evaluate(BOT, CALL)).allow
            with pytest.raises(TrustUnavailable) as refused:
                await closed.evaluate(BOT, CALL)
            assert refused.value.cause == cause
            assert opened.counts() == {"asked": 2, "fail_open": 2, "fail_closed": 0, f"cause_{cause}": 2}
            assert closed.counts() == {"asked": 1, "fail_open": 0, "fail_closed": 1, f"cause_{cause}": 1}

    asyncio.run(run())
    assert [cause in record.getMessage() for record in caplog.records] == [True, True]


def test_without_a_token_the_fail_mode_holds_too() -> None:
    def broken() -> str:
        raise RuntimeError("no key")

    async def run() -> None:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(refusing(200))) as http:
            verdicts = AsyncCallVerdicts("https://trust.example", broken, fail_mode="open", http=http)
            assert (await verdicts.evaluate(BOT, CALL)).allow
            assert verdicts.counts()["cause_token"] == 1

    asyncio.run(run())


def test_a_name_that_is_no_text_takes_no_call_with_it(make_verdicts: Callable[..., Any]) -> None:
    """Paths that a server decodes loosely may hold half a character, which no question can be written with."""
    verdicts = make_verdicts("https://trust.example", lambda: "token", fail_mode="open")
    assert verdicts.evaluate(BOT, msgspec.structs.replace(CALL, action="GET /\ud800")).allow
    assert verdicts.counts() == {"asked": 1, "fail_open": 1, "fail_closed": 0, "cause_malformed": 1}


STEP_UP: dict[str, Any] = {"decision": "step_up", "allow": False, "reason": "unusual_call", "approval_id": "a-1"}
MORE: dict[str, Any] = {
    "would_allow": False,
    "mode": "enforce",
    "p_value": 0.004,
    "reasons": [
        {
            "code": "argument_origin",
            "feature": "argument_surprise",
            "observed": "to out of read_mail",
            "text": "a value that …",
        }
    ],
}


def test_threads_and_loops_ask_alike(make_verdicts: Callable[..., Any], server: Scripted) -> None:
    server.answer = lambda _: Reply(200, STEP_UP)
    verdicts = make_verdicts(server.url, lambda: "token", fail_mode="closed", budget_s=5.0)

    assert verdicts.evaluate(BOT, CALL) == CallVerdict("step_up", False, "unusual_call", "a-1")

    (request,) = server.requests
    assert request.path.endswith("/calls/evaluate?tenant=acme&issuer=https%3A%2F%2Fas.example")
    assert request.json["arguments"][0]["untrusted"] is True and "outcome" not in request.json
    assert verdicts.counts() == {"asked": 1, "fail_open": 0, "fail_closed": 0}


def test_a_token_counts_against_the_budget_and_is_there_for_the_next_call(
    make_verdicts: Callable[..., Any], server: Scripted
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


@pytest.mark.parametrize("mode", ["open", "closed"])
def test_the_fail_mode_holds_in_both_forms(
    make_verdicts: Callable[..., Any], server: Scripted, mode: Literal["open", "closed"]
) -> None:
    server.answer = lambda _: Reply(503)
    verdicts = make_verdicts(server.url, lambda: "token", fail_mode=mode, budget_s=5.0)

    if mode == "open":
        assert verdicts.evaluate(BOT, CALL).allow
    else:
        with pytest.raises(TrustUnavailable) as refused:
            verdicts.evaluate(BOT, CALL)
        assert refused.value.cause == "server_error"
    assert verdicts.counts()[f"fail_{mode}"] == verdicts.counts()["cause_server_error"] == 1

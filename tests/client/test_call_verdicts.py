"""Questions about calls over HTTP: what is sent, what comes back, and what holds without an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
import pytest
from trustwatch.client import AsyncCallVerdicts, AuditEvent, Caller, CallVerdict, EventArgument, TrustUnavailable
from trustwatch.client.events import EventAgent, EventResource

BOT = Caller(agent_id="https://agents.example/7", issuer="https://as.example", tenant="acme")
EVENT = AuditEvent(
    time=datetime(2026, 1, 1, tzinfo=UTC),
    agent=EventAgent(id=BOT.agent_id),
    type="tool.call",
    action="pay",
    outcome="success",
    effect="write",
    session="conv-1",
    resource=EventResource(id="acct-1"),
    arguments=[EventArgument("to", "tool", "0cabec3c8913", 2, "read_mail", untrusted=True)],
)


def ask(handler: Callable[[httpx.Request], httpx.Response], fail_mode: Literal["open", "closed"]) -> CallVerdict:
    async def run() -> CallVerdict:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
            verdicts = AsyncCallVerdicts("https://trust.example", lambda: "token", fail_mode=fail_mode, http=http)
            return await verdicts.evaluate(BOT, EVENT)

    return asyncio.run(run())


def test_what_is_asked_and_answered() -> None:
    """Members that are known before the call; neither its time nor its outcome nor its session."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        body = {"decision": "step_up", "allow": False, "reason": "unusual_call", "approval_id": "a-1", "p_value": 0.01}
        return httpx.Response(200, json=body)

    assert ask(answer, "closed") == CallVerdict("step_up", allow=False, reason="unusual_call", approval_id="a-1")
    (request,) = requests
    assert request.url.raw_path.startswith(b"/v1/agents/https%3A%2F%2Fagents.example%2F7/calls/evaluate?tenant=acme")
    assert request.headers["authorization"] == "Bearer token"
    body: dict[str, Any] = json.loads(request.content)
    assert set(body) == {"action", "type", "effect", "resource", "arguments"}
    assert body["arguments"][0]["untrusted"] is True


def refusing(status: int) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, content=b"{}")


def slow(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("slow")


def away(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("away")


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
    handler: Callable[[httpx.Request], httpx.Response], cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Open lets the call pass, closed refuses it; both say why, in the log once until there is an answer again."""

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
            opened, closed = (
                AsyncCallVerdicts("https://trust.example", lambda: "token", fail_mode=mode, http=http)
                for mode in ("open", "closed")
            )
            for _ in range(2):
                assert (await opened.evaluate(BOT, EVENT)).allow
            with pytest.raises(TrustUnavailable) as refused:
                await closed.evaluate(BOT, EVENT)
            assert refused.value.cause == cause
            assert opened.counts() == {"asked": 2, "fail_open": 2, "fail_closed": 0, f"cause_{cause}": 2}
            assert closed.counts() == {"asked": 1, "fail_open": 0, "fail_closed": 1, f"cause_{cause}": 1}

    asyncio.run(run())
    assert [cause in record.getMessage() for record in caplog.records] == [True, True]


def test_without_a_token_the_fail_mode_holds_too() -> None:
    """A source of tokens that breaks takes no call of the agent with it, where that is wanted."""

    def broken() -> str:
        raise RuntimeError("no key")

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(refusing(200))) as http:
            verdicts = AsyncCallVerdicts("https://trust.example", broken, fail_mode="open", http=http)
            assert (await verdicts.evaluate(BOT, EVENT)).allow
            assert verdicts.counts()["cause_token"] == 1

    asyncio.run(run())

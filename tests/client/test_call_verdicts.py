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


@pytest.mark.parametrize("status", [200, 503])
def test_the_fail_mode_holds_without_an_answer(status: int) -> None:
    """No answer, or one that is none."""

    def broken(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=b"{}")

    assert ask(broken, "open").allow
    with pytest.raises(TrustUnavailable):
        ask(broken, "closed")

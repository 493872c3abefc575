"""The client, the service and the back-test mean the same by what is known of a call before it is made."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import httpx2

from trustwatch.api.access.call_evaluation import CallQuestion
from trustwatch.ingest.events import decode_event
from trustwatch.scoring.backtest.challenge_counts import AskedCalls
from trustwatch_client import AsyncCallVerdicts, AuditEvent, Caller
from trustwatch_client.events import (
    EventAgent,
    EventArgument,
    EventClient,
    EventCredential,
    EventPrincipal,
    EventResource,
    EventScopes,
    encode_event,
)

MEMBERS = set(CallQuestion.__struct_fields__) - {"agent_type"}
"""The type of an agent is not the client's to say of each call; back-tests have it with the agent."""
EVENT = AuditEvent(
    time=datetime(2026, 1, 1, tzinfo=UTC),
    agent=EventAgent(id="bot", issuer="https://as.example", type="Clerk"),
    type="api.call",
    action="pay",
    outcome="error",
    tenant="acme",
    principal=EventPrincipal(id="ann"),
    delegation=["desk"],
    task="invoices",
    effect="write",
    resource=EventResource(type="account", id="acct-1"),
    peer="desk",
    scopes=EventScopes(granted=["pay"]),
    status=500,
    error="broke",
    bytes_in=3.0,
    bytes_out=4.0,
    duration_ms=5.0,
    client=EventClient(ip="192.0.2.1"),
    credential=EventCredential(method="private_key_jwt"),
    session="s-1",
    arguments=[EventArgument("to", "prompt", "0cabec3c8913")],
)


def test_the_client_asks_with_every_member_of_a_question_and_no_other() -> None:
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        return httpx2.Response(200, json={"decision": "allow", "allow": True})

    async def ask() -> None:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
            verdicts = AsyncCallVerdicts("https://trust.example", lambda: "token", fail_mode="closed", http=http)
            await verdicts.evaluate(Caller(agent_id="bot"), EVENT.as_call(), arguments_hash="0cabec3c8913" * 3)

    asyncio.run(ask())
    assert set(bodies[0]) == MEMBERS


def test_the_back_test_asks_with_every_member_of_a_question() -> None:
    made = decode_event(encode_event(EVENT)[1])
    question = AskedCalls().question(made)
    told = MEMBERS - {"arguments_hash"}  # binds an approval, and says nothing of how odd a call is
    assert {name: getattr(question, name) for name in told} == {name: getattr(made, name) for name in told}
    assert question.agent == made.agent

"""The client's forms of asking about calls against the real service: threads, an ASGI app and an A2A agent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from a2a.helpers import new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import a2a_pb2 as types
from a2a.utils.errors import InvalidRequestError
from fastapi import FastAPI

from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch_client import (
    AsyncCallVerdicts,
    Call,
    Caller,
    CallVerdicts,
    EventArgument,
    TrustMiddleware,
    TrustUnavailable,
)
from trustwatch_client.a2a import TrustA2AHandler
from trustwatch_client.events import EventResource

from ...support.call_history import ISSUER, KNOWN_VALUE, NEW_VALUE, TENANT, call_model

NOW_MS = 1_764_000_000_000
LOW = 1
BOT = Caller(agent_id="bot", issuer=ISSUER, tenant=TENANT, task="desk")


@pytest.fixture
def judged(site: Any, summary: Any) -> Iterator[Any]:
    site.calls.scorer = CallScorer(call_model(NOW_MS), {})
    site.report([summary(level=LOW, agent_type="Clerk")])
    yield site
    site.calls.scorer = None


def sending(value: str) -> Call:
    return Call(
        action="send",
        effect="write",
        resource=EventResource(target="host-1"),
        arguments=[EventArgument("to", "tool", value, 0, "read_mail", untrusted=True)],
    )


def test_a_thread_asks_about_a_call(judged: Any) -> None:
    """An odd one waits for a person, an ordinary one does not; of another's tenant nothing is told."""
    with CallVerdicts(judged.url, judged.token, fail_mode="closed", budget_s=20.0) as verdicts:
        odd, ordinary = verdicts.evaluate(BOT, sending(NEW_VALUE)), verdicts.evaluate(BOT, sending(KNOWN_VALUE))
        with pytest.raises(TrustUnavailable) as refused:
            verdicts.evaluate(msgspec.structs.replace(BOT, tenant="other"), sending(KNOWN_VALUE))

    assert (odd.decision, odd.allow, odd.reason, bool(odd.approval_id)) == ("step_up", False, "unusual_call", True)
    assert (ordinary.decision, ordinary.allow, ordinary.approval_id) == ("allow", True, None)
    assert refused.value.cause == "refused"
    assert (odd.mode, odd.would_allow, ordinary.would_allow) == ("enforce", False, True)
    assert odd.p_value is not None and ordinary.p_value is not None and odd.p_value < ordinary.p_value
    assert odd.reasons[0].text and odd.reasons[0].code == "argument_origin"


def asking(site: Any, work: Callable[[AsyncCallVerdicts], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        verdicts = AsyncCallVerdicts(site.url, site.token, fail_mode="closed", budget_s=20.0)
        try:
            return await work(verdicts)
        finally:
            await verdicts.close()

    return asyncio.run(run())


def test_an_app_asks_before_it_has_the_request(judged: Any) -> None:
    """An order is nothing that this agent ever did, so a person is asked first; the level alone lets it pass."""
    app, ran = FastAPI(), []

    @app.post("/orders")
    async def order() -> str:
        ran.append("order")
        return "done"

    async def work(verdicts: AsyncCallVerdicts) -> int:
        guarded = TrustMiddleware(app, caller=lambda _: BOT, calls=verdicts)
        transport = httpx2.ASGITransport(guarded)
        async with httpx2.AsyncClient(transport=transport, base_url="https://orders.example") as http:
            return (await http.post("/orders")).status_code

    assert asking(judged, work) == 401 and ran == []
    judged.calls.scorer = None
    assert asking(judged, work) == 200 and ran == ["order"]


class Clerk(AgentExecutor):
    """Answers what it is told."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        await event_queue.enqueue_event(new_text_message("done", context_id=context.context_id))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


def test_an_agent_asks_before_it_answers_another(judged: Any) -> None:
    card = types.AgentCard(name="clerk", version="1", capabilities=types.AgentCapabilities())
    message = types.SendMessageRequest(message=new_text_message("hello", role=types.ROLE_USER))

    async def work(verdicts: AsyncCallVerdicts) -> Any:
        inner = DefaultRequestHandler(Clerk(), InMemoryTaskStore(), card)
        handler = TrustA2AHandler(inner, "clerk", caller=lambda _: BOT, calls=verdicts)
        return await handler.on_message_send(message, ServerCallContext())

    with pytest.raises(InvalidRequestError, match="A person must"):
        asking(judged, work)
    judged.calls.scorer = None
    assert asking(judged, work).parts[0].text == "done"

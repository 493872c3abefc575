"""An A2A agent that tells Trustwatch who talks to it, and refuses agents that are not to be trusted now.

    python examples/client/a2a_agent.py

Its fail mode is closed: it acts for its callers, and not for strangers. Callers need a token of audience `clerk`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from a2a.helpers import new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import a2a_pb2 as types
from common import BUDGET_S, PORT, URL, Authentication, caller, service_token
from starlette.applications import Starlette

from trustwatch_client import AsyncCallVerdicts, AsyncEventSender, AsyncTrustClient, RiskSettings, SenderSettings
from trustwatch_client.a2a import TrustA2AHandler

CARD = types.AgentCard(
    name="clerk",
    description="Answers with what it was told.",
    version="1.0.0",
    supported_interfaces=[
        types.AgentInterface(url=f"http://127.0.0.1:{PORT}/", protocol_binding="JSONRPC", protocol_version="1.0")
    ],
    capabilities=types.AgentCapabilities(streaming=True),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    skills=[types.AgentSkill(id="echo", name="Echo", description="Says it again.", tags=["example"])],
)

client = AsyncTrustClient(URL, service_token, RiskSettings(fail_mode="closed", budget_s=BUDGET_S))
verdicts = AsyncCallVerdicts(URL, service_token, fail_mode="closed")
sender = AsyncEventSender(URL, service_token, SenderSettings(source="urn:example:clerk"))


class Clerk(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        text = context.get_user_input()
        await event_queue.enqueue_event(new_text_message(f"heard: {text}", context_id=context.context_id))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Nothing runs longer than its request."""


class Verified(DefaultServerCallContextBuilder):
    """Hands the claims on that our authentication verified."""

    def build(self, request: Any) -> Any:
        context = super().build(request)
        context.state["claims"] = request.scope.get("claims")
        return context


handler = TrustA2AHandler(
    DefaultRequestHandler(Clerk(), InMemoryTaskStore(), CARD),
    "clerk",
    client=client,
    sender=sender,
    calls=verdicts,
    caller=lambda context: caller(context.state.get("claims")),
)


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    await client.check()
    yield
    await sender.close()
    await client.close()
    await verdicts.close()


routes = [*create_agent_card_routes(CARD), *create_jsonrpc_routes(handler, "/", context_builder=Verified())]
app = Authentication(Starlette(routes=routes, lifespan=lifespan), "clerk", ("/.well-known/agent-card.json",))

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")

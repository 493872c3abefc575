"""One agent as a process, an A2A server that plans what it is asked for: `-m examples.agents.agent PLACE.json NAME`.

Its card is public (`/.well-known/agent-card.json`) and says how to get a token for it. Whoever talks to it is
authenticated, judged by Trustwatch (fail mode: what was known last, else open) and told to Trustwatch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import uvicorn
from a2a.helpers import new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import a2a_pb2 as types
from starlette.applications import Starlette

from trustwatch_client import AsyncEventSender, AsyncTrustClient, RiskSettings, SenderSettings
from trustwatch_client.a2a import TrustA2AHandler

from .connections import NetworkConnections
from .environment import Environment, log_activity, read_environment
from .identity import Identity, Verifier, caller_of
from .roles import ROLES, AccessRefused, Role

CARD_PATH = "/.well-known/agent-card.json"
SENDING = {"linger_s": 0.05}


def card_of(place: Environment, name: str, role: Role) -> types.AgentCard:
    """What the agent publishes about itself."""
    flow = types.ClientCredentialsOAuthFlow(token_url=f"{place.issuer}/token", scopes={"a2a:send": "talk to it"})
    oauth = types.OAuth2SecurityScheme(
        flows=types.OAuthFlows(client_credentials=flow),
        oauth2_metadata_url=f"{place.issuer}/.well-known/openid-configuration",
    )
    return types.AgentCard(
        name=name,
        description=role.plan.__doc__ or "",
        version="1.0.0",
        supported_interfaces=[
            types.AgentInterface(url=place.agents[name]["url"], protocol_binding="JSONRPC", protocol_version="1.0")
        ],
        capabilities=types.AgentCapabilities(),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[types.AgentSkill(id=role.type, name=role.type, description=role.plan.__doc__ or "", tags=["office"])],
        security_schemes={"oauth2": types.SecurityScheme(oauth2_security_scheme=oauth)},
        security_requirements=[types.SecurityRequirement(schemes={"oauth2": types.StringList(list=["a2a:send"])})],
    )


class Authentication:
    """Verified claims go into the scope; everything else but the card is refused."""

    def __init__(self, app: Any, verifier: Verifier) -> None:
        self._app, self._verifier = app, verifier

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] != CARD_PATH:
            value = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            token = value[7:] if value[:7].lower() == "bearer " else ""
            claims = self._verifier.claims(token)
            if claims is None:
                headers = [(b"www-authenticate", b'Bearer error="invalid_token"'), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body"})
                return
            scope |= {"claims": claims, "token": token}
        await self._app(scope, receive, send)


class Verified(DefaultServerCallContextBuilder):
    """Hands on what was verified, and the token: an agent that acts for its caller exchanges it."""

    def build(self, request: Any) -> Any:
        context = super().build(request)
        context.state.update(claims=request.scope.get("claims"), token=request.scope.get("token"))
        return context


class Planner(AgentExecutor):
    """Runs the plan of a role for each message."""

    def __init__(self, place: Environment, name: str, identity: Identity) -> None:
        self._place, self._name, self._identity = place, name, identity

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        role, order = ROLES[self._name], context.get_user_input()
        token = context.call_context.state["token"] if context.call_context else None
        doors = NetworkConnections(self._place, self._name, role, self._identity, token)
        log_activity(self._name, "order", text=order)
        try:
            answer = await role.plan(order, doors)
        except AccessRefused as why:
            answer = f"could not {order}: {why}"
        log_activity(self._name, "done", text=answer)
        await event_queue.enqueue_event(new_text_message(answer, context_id=context.context_id))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Nothing runs longer than its request."""


def make_app(place: Environment, name: str) -> Authentication:
    """The agent as an ASGI app."""
    me, card = place.agents[name], card_of(place, name, ROLES[name])
    settings = RiskSettings(fail_mode="last_known", without_last_known="open", cache_s=0.2, budget_s=0.5)
    client = AsyncTrustClient(place.trust_url, place.service_token, settings)
    sender = AsyncEventSender(
        place.trust_url, place.service_token, SenderSettings(source=f"urn:harbour:a2a:{name}", **SENDING)
    )
    http = httpx2.AsyncClient(trust_env=False, timeout=30)
    planner = Planner(place, name, Identity(place.issuer, me["client_id"], me["key"], http))
    handler = TrustA2AHandler(
        DefaultRequestHandler(planner, InMemoryTaskStore(), card),
        me["client_id"],
        client=client,
        sender=sender,
        caller=lambda context: caller_of(context.state.get("claims")),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await sender.close()
        await client.close()
        await http.aclose()

    routes = [*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/", context_builder=Verified())]
    return Authentication(Starlette(routes=routes, lifespan=lifespan), Verifier(place.issuer, me["url"]))


if __name__ == "__main__":
    where, who = read_environment(sys.argv[1]), sys.argv[2]
    uvicorn.run(make_app(where, who), host="127.0.0.1", port=where.agents[who]["port"], log_level="warning")

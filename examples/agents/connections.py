"""The real doors: tokens from the authorization server, tools over MCP behind Envoy, other agents over A2A."""

from __future__ import annotations

import asyncio
import random
from typing import Any, NamedTuple

import httpx
import httpx2
from a2a.client import ClientConfig, create_client
from a2a.helpers import get_message_text, new_text_message
from a2a.types import a2a_pb2 as types
from mcp.client import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from .environment import ActivityLogger, Environment, log_activity
from .identity import Identity, Token, TokenRefused
from .roles import MESSAGE, AccessRefused, Role

THINKING_TIME_S = (0.3, 0.6)
"""How long an agent takes to think before a step, s: from, to."""
MCP_VERSION = "2026-07-28"
"""Each call is one request that names its method and tool in headers: no session, no handshake."""


class NetworkConnections:
    """What one agent can reach while it works on one order. A token is asked for once per order and resource, and
    again where the gateway says that it does not suffice any more (401).

    Args:
        place: where things are.
        name, role: of the agent.
        identity: of the agent.
        handed: token of the caller, for agents that act with what they are given.
        note: where the agent notes what happens.
    """

    def __init__(
        self,
        place: Environment,
        name: str,
        role: Role,
        identity: Identity,
        handed: str | None = None,
        note: ActivityLogger = log_activity,
    ) -> None:
        self._place, self._name, self._role, self._identity, self._note = place, name, role, identity, note
        self._handed = handed if role.delegated else None
        self._tokens: dict[str, Token] = {}

    async def tool(self, name: str, ref: str) -> str:
        await _think()
        url = self._place.tools_url
        for attempt in (1, 2):
            token = await self._token(url, self._role.scope)
            called = await _call_tool(url, token.value, name, ref)
            self._note(self._name, "tool", tool=name, ref=ref, left_s=round(token.left_s), **called._asdict())
            if called.status != 401 or attempt == 2:
                break
            del self._tokens[url]  # this token does not suffice any more: perhaps a new one does
        if called.status != 200 or called.failed:
            raise AccessRefused(called.says or str(called.status))
        return called.says

    async def ask(self, agent: str, text: str) -> str:
        await _think()
        url = str(self._place.agents[agent]["url"])
        token = await self._token(url, MESSAGE)
        self._note(self._name, "ask", peer=agent, text=text)
        try:
            return await _send(url, token.value, text)
        except Exception as error:
            self._note(self._name, "refused", peer=agent, why=str(error)[:200])
            raise AccessRefused(f"{agent}: {error}") from error

    async def _token(self, resource: str, scope: str) -> Token:
        if resource in self._tokens:
            return self._tokens[resource]
        try:
            if self._handed is None:
                made = await self._identity.token(resource, scope)
            else:
                made = await self._identity.exchange(self._handed, resource, scope)
        except TokenRefused as error:
            self._note(self._name, "no_token", error=str(error), resource=resource)
            raise AccessRefused(f"no token: {error}") from error
        self._tokens[resource] = made
        self._note(self._name, "token", resource=resource, asked=scope, lifetime_s=made.lifetime_s, claims=made.claims)
        return made


async def _think() -> None:
    await asyncio.sleep(random.uniform(*THINKING_TIME_S))


class ToolResult(NamedTuple):
    """What became of a call: the HTTP status (the gateway refuses with 401 and 403), what the tool said, and whether
    that was a failure."""

    status: int
    says: str = ""
    failed: bool = False


async def _call_tool(url: str, token: str, name: str, ref: str) -> ToolResult:
    """Call a tool over MCP; the token is of this call alone."""
    seen: list[int] = []

    async def remember(response: Any) -> None:
        seen.append(response.status_code)

    headers = {"authorization": f"Bearer {token}"}
    try:
        async with (
            httpx2.AsyncClient(headers=headers, event_hooks={"response": [remember]}, trust_env=False) as http,
            McpClient(streamable_http_client(url, http_client=http), mode=MCP_VERSION) as client,
        ):
            result = await client.call_tool(name, {"ref": ref})
    except Exception as error:
        if not seen or seen[-1] < 400:
            raise AccessRefused(f"{name}: {error}") from error
        return ToolResult(seen[-1])
    return ToolResult(200, "".join(getattr(part, "text", "") for part in result.content), bool(result.is_error))


async def _send(url: str, token: str, text: str) -> str:
    """One message to another agent, whose card says where it listens; its answer."""
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:  # what the A2A SDK takes
        client = await create_client(url, ClientConfig(streaming=False, httpx_client=http))
        request = types.SendMessageRequest(message=new_text_message(text, role=types.ROLE_USER))
        answers = [one async for one in client.send_message(request)]
    return get_message_text(answers[-1].message)

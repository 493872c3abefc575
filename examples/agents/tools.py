"""The office's tools as an MCP server. `python -m examples.agents.tools PLACE.json`

The SDK authenticates (bearer tokens, RFC 6750) and publishes the resource's metadata (RFC 9728). Envoy in front of it
enforces what Trustwatch says; the middleware tells Trustwatch which tool was called, by whom and for whom.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from trustwatch_client import AsyncEventSender, Caller, SenderSettings
from trustwatch_client.mcp import TrustMcpMiddleware

from .environment import Environment, read_environment
from .identity import Verifier, caller_of
from .office import TOOLS, Tool

NAME = "office"


class McpTokenVerifier:
    """What the SDK asks about each token."""

    def __init__(self, place: Environment) -> None:
        self._verifier, self._resource = Verifier(place.issuer, place.tools_url), place.tools_url

    async def verify_token(self, token: str) -> AccessToken | None:
        claims = self._verifier.claims(token)
        if claims is None:
            return None
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=claims.get("scope", "").split(),
            claims=claims,
            expires_at=claims["exp"],
            subject=claims["sub"],
            resource=self._resource,
        )


def checked(tool: Tool) -> Callable[[str], str]:
    """A tool that wants its scope."""

    def run(ref: str) -> str:
        token = get_access_token()
        if token is None or tool.scope not in token.scopes:
            raise ToolError("insufficient_scope")
        return tool.run(ref)

    return run


def who_calls(_: Any) -> Caller | None:
    """The agent of the token that the SDK verified."""
    token = get_access_token()
    return caller_of(token.claims if token else None)


def make_app(place: Environment) -> Any:
    """The server as an ASGI app."""
    sender = AsyncEventSender(
        place.trust_url, place.service_token, SenderSettings(source="urn:harbour:mcp", linger_s=0.05)
    )
    effects: dict[str, Any] = {name: tool.effect for name, tool in TOOLS.items()}
    server = MCPServer(
        NAME,
        token_verifier=McpTokenVerifier(place),
        log_level="WARNING",
        auth=AuthSettings(
            issuer_url=place.issuer,  # type: ignore[arg-type]
            resource_server_url=place.tools_url,
            validate_token_resource=True,  # type: ignore[arg-type]
        ),
        middleware=[TrustMcpMiddleware(NAME, sender=sender, effects=effects, caller=who_calls)],
    )
    for name, tool in TOOLS.items():
        server.add_tool(checked(tool), name=name, description=f"{name.replace('_', ' ')}", structured_output=False)
    app = server.streamable_http_app(json_response=True)
    start = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(inner: Any) -> AsyncIterator[None]:
        async with start(inner):
            yield
        await sender.close()

    app.router.lifespan_context = lifespan
    return app


if __name__ == "__main__":
    where = read_environment(sys.argv[1])
    uvicorn.run(make_app(where), host="127.0.0.1", port=where.tools_port, log_level="warning")

"""An MCP server that tells Trustwatch which tools agents call, and refuses agents that are not to be trusted now.

    python examples/client/mcp_server.py

Its fail mode is open. The SDK's own bearer authentication verifies tokens, of audience
`http://127.0.0.1:8480/mcp` (the resource indicator of the server).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import uvicorn
from common import BUDGET_S, PORT, TENANT, URL, service_token, verified
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from trustwatch_client import AsyncCallVerdicts, AsyncEventSender, AsyncTrustClient, RiskSettings, SenderSettings
from trustwatch_client.mcp import TrustMcpMiddleware

RESOURCE = f"http://127.0.0.1:{PORT}/mcp"

client = AsyncTrustClient(URL, service_token, RiskSettings(fail_mode="open", budget_s=BUDGET_S))
verdicts = AsyncCallVerdicts(URL, service_token, fail_mode="open")
sender = AsyncEventSender(URL, service_token, SenderSettings(source="urn:example:ledger"))


class Verifier:
    """What the SDK asks about each token."""

    async def verify_token(self, token: str) -> AccessToken | None:
        claims = verified(token, RESOURCE)
        if claims is None:
            return None
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=claims.get("scope", "").split(),
            resource=RESOURCE,
            expires_at=claims["exp"],
            subject=claims["sub"],
            claims={**claims, "organization_id": TENANT},
        )


server = MCPServer(
    "ledger",
    token_verifier=Verifier(),
    auth=AuthSettings(
        issuer_url="https://as.example",
        resource_server_url=RESOURCE,
        validate_token_resource=True,  # type: ignore[arg-type]
    ),
    middleware=[
        TrustMcpMiddleware(
            "ledger", client=client, sender=sender, calls=verdicts, effects={"balance": "read", "pay": "write"}
        )
    ],
    log_level="WARNING",
)


@server.tool()
def balance(account: str) -> str:
    """What is left."""
    return f"{account}: 12"


@server.tool()
def pay(account: str, amount: int) -> str:
    """Pay into an account."""
    return f"paid {amount} to {account}"


inner = server.streamable_http_app()
start = inner.router.lifespan_context


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    await client.check()
    async with start(app):
        yield
    await sender.close()
    await client.close()
    await verdicts.close()


inner.router.lifespan_context = lifespan

if __name__ == "__main__":
    uvicorn.run(inner, host="127.0.0.1", port=PORT, log_level="warning")

"""An MCP server of the real SDK that serves methods beyond tools: tasks, subscriptions, a vendor's method."""

from __future__ import annotations

from typing import Any

from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import MCPServer
from mcp_types import EmptyResult, RequestParams, SetLevelRequestParams, SubscribeRequestParams

from trustwatch_client.mcp import TrustMcpMiddleware

TASK_METHODS = ("tasks/get", "tasks/list", "tasks/result", "tasks/cancel", "tasks/update")
VENDOR_METHODS = ("acme/export", "Tools/Call", "PING", "notifications/run", "pingx", "initialize/again")
"""Methods of a vendor: one that does work, and names that look like those of the handshake."""


class TaskExtension(Extension):
    """Serves each method of `TASK_METHODS` and `VENDOR_METHODS`; *served* gets their names."""

    identifier = "example.acme/tasks"

    def __init__(self, served: list[str]) -> None:
        self._served = served

    def methods(self) -> list[MethodBinding]:
        return [MethodBinding(name, RequestParams, self._serve) for name in (*TASK_METHODS, *VENDOR_METHODS)]

    async def _serve(self, ctx: Any, _: RequestParams) -> dict[str, Any]:
        self._served.append(ctx.method)
        return {"served": ctx.method}


def make_task_server(middleware: TrustMcpMiddleware, served: list[str], **more: Any) -> MCPServer:
    """The server; *served* gets the names of the methods, and of the tool, that it answered."""
    server = MCPServer("ledger", middleware=[middleware], extensions=[TaskExtension(served)], log_level="ERROR", **more)

    @server.tool()
    def pay(amount: int) -> str:
        served.append("pay")
        return f"paid {amount}"

    async def answer(ctx: Any, _: Any) -> EmptyResult:
        served.append(ctx.method)
        return EmptyResult()

    inner = server._lowlevel_server
    inner.add_request_handler("logging/setLevel", SetLevelRequestParams, answer)
    inner.add_request_handler("resources/subscribe", SubscribeRequestParams, answer)

    async def run(ctx: Any, _: Any) -> None:
        served.append(f"notified {ctx.method}")

    for name in ("notifications/acme", "acme/run"):
        inner.add_notification_handler(name, RequestParams, run)
    return server

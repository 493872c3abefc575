"""Methods of MCP that a contained or unknown agent gets: the real SDK in memory, over HTTP and over stdio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ToolsListChanged
from mcp_types import Notification, Request, Result

from trustwatch_client import Caller, CallVerdict
from trustwatch_client.mcp import ACCESS_REFUSED, TrustMcpMiddleware

from ..support.checkout import ROOT, process_command
from ..support.client_doubles import CALM, DENY, RecordingSender, ScriptedAnswer, ScriptedJudge
from ..support.mcp_task_server import TASK_METHODS, VENDOR_METHODS, make_task_server

BOT = Caller(agent_id="bot", tenant="acme")
LISTEN = "subscriptions/listen"
GATED = {
    "auto": (
        *TASK_METHODS,
        *VENDOR_METHODS,
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/get",
        "completion/complete",
        LISTEN,
        "no/such/method",
    ),
    "legacy": (*TASK_METHODS, *VENDOR_METHODS, "tools/list", "resources/subscribe", "logging/setLevel"),
}
PARAMS: dict[str, dict[str, Any]] = {
    "resources/subscribe": {"uri": "ledger://a"},
    "resources/read": {"uri": "ledger://a"},
    "logging/setLevel": {"level": "debug"},
    "prompts/get": {"name": "ask"},
    "completion/complete": {"ref": {"type": "ref/prompt", "name": "ask"}, "argument": {"name": "a", "value": "b"}},
    LISTEN: {"notifications": {"toolsListChanged": True}},
}


class TaskServer:
    """The server with its middleware, in this process."""

    def __init__(self, says: ScriptedAnswer | None, *, caller: Caller | None = BOT, **more: Any) -> None:
        self.told, self.served = RecordingSender(), list[str]()
        self.middleware = TrustMcpMiddleware("ledger", caller=lambda _: caller, client=says, sender=self.told, **more)
        self.bus = InMemorySubscriptionBus()
        self.server = make_task_server(self.middleware, self.served, subscriptions=self.bus)

    def run(self, work: Callable[[Client], Awaitable[Any]], mode: str = "auto", *, http: bool = False) -> Any:
        async def in_memory() -> Any:
            async with asyncio.timeout(60), Client(self.server, mode=mode) as client:
                return await work(client)

        async def over_http() -> Any:
            app = self.server.streamable_http_app()
            async with (
                asyncio.timeout(60),
                app.router.lifespan_context(app),
                httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http_client,
                Client(
                    streamable_http_client("http://127.0.0.1:8000/mcp", http_client=http_client), mode=mode
                ) as client,
            ):
                return await work(client)

        return asyncio.run(over_http() if http else in_memory())


async def ask(client: Client, method: str) -> dict[str, Any]:
    """Answer to a request of any method. Raises MCPError."""
    asked = Request[dict[str, Any], str](method=method, params=PARAMS.get(method, {}))
    return (await client.session.send_request(asked, Result)).model_dump()


async def refusals(client: Client, methods: tuple[str, ...]) -> dict[str, tuple[int, Any]]:
    """Code and data of the error by method."""
    found = {}
    for method in methods:
        with pytest.raises(MCPError) as raised:
            await ask(client, method)
        found[method] = raised.value.code, raised.value.data
    return found


@pytest.mark.parametrize("http", [False, True], ids=["memory", "http"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_contained_agent_gets_the_handshake_and_pings_alone(mode: str, http: bool) -> None:
    world = TaskServer(ScriptedAnswer(DENY))

    async def work(client: Client) -> dict[str, tuple[int, Any]]:
        if mode == "legacy":
            await ask(client, "ping")
        return await refusals(client, GATED[mode])

    found = world.run(work, mode, http=http)

    assert found == dict.fromkeys(GATED[mode], (ACCESS_REFUSED, {"error": "access_denied"}))
    assert world.served == []
    assert [(one.type, one.action, one.outcome) for one in world.told.events] == [
        ("api.call", method, "denied") for method in GATED[mode]
    ]


@pytest.mark.parametrize("version", ["2025-03-26", "2026-07-28"])
def test_a_batch_serves_nothing(version: str) -> None:
    world = TaskServer(ScriptedAnswer(CALM))
    app = world.server.streamable_http_app()
    calls = [{"jsonrpc": "2.0", "id": number, "method": method} for number, method in enumerate(TASK_METHODS)]
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": version}

    async def run() -> int:
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http,
        ):
            return (await http.post("http://127.0.0.1:8000/mcp", json=calls, headers=headers)).status_code

    assert asyncio.run(run()) == 400
    assert (world.served, world.told.events) == ([], [])


def test_methods_that_do_more_than_read_are_asked_about_as_tools_are() -> None:
    judge = ScriptedJudge(CallVerdict("deny", allow=False))
    world = TaskServer(None, calls=judge)

    async def work(client: Client) -> dict[str, tuple[int, Any]]:
        await ask(client, "tasks/get")
        return await refusals(client, ("tasks/cancel", "acme/export"))

    world.run(work)

    assert [(one.action, one.type) for one in judge.asked] == [
        ("tasks/cancel", "api.call"),
        ("acme/export", "api.call"),
    ]
    assert world.served == ["tasks/get"]


def test_a_subscription_is_one_event_when_it_ends_and_no_error_of_the_agent() -> None:
    says = ScriptedAnswer(CALM)
    world = TaskServer(says)

    async def work(client: Client) -> list[str]:
        async with client.listen(tools_list_changed=True) as opened:
            says.policy = DENY
            await world.bus.publish(ToolsListChanged())
            assert (await anext(opened)) is not None
            return [one.action for one in world.told.events]

    assert world.run(work) == []
    (event,) = world.told.events
    assert (event.action, event.effect, event.outcome, event.error) == (LISTEN, "read", "success", None)


@pytest.mark.parametrize("method", ["acme/run", "ping", "tools/call"])
def test_a_notification_of_another_method_does_no_work_for_a_contained_agent(method: str) -> None:
    """Nobody waits for an answer to it, so it is dropped; `notifications/…` pass."""
    world = TaskServer(ScriptedAnswer(DENY))

    async def work(client: Client) -> None:
        for name in (method, "notifications/acme"):
            await client.session.send_notification(Notification[dict[str, Any], str](method=name, params={}))
        with pytest.raises(MCPError):
            await ask(client, "tasks/get")
        for _ in range(100):
            if world.served:
                break
            await asyncio.sleep(0.02)

    world.run(work, "legacy")

    assert world.served == ["notified notifications/acme"]


def over_stdio(tmp_path: Path, option: str, mode: str) -> tuple[list[Any], list[str]]:
    """What a client gets for `tools/list`, a tool, a task and a vendor's method; and lines of the server."""
    command, *arguments = process_command("mcp_stdio_server", tmp_path / "lines", option)
    server = StdioServerParameters(command=command, args=arguments, cwd=ROOT)

    async def attempt(call: Awaitable[Any]) -> Any:
        try:
            await call
        except MCPError as error:
            return error
        return None

    async def run() -> list[Any]:
        async with asyncio.timeout(120), Client(stdio_client(server), mode=mode) as client:
            calls = (client.list_tools(), client.call_tool("pay", {"amount": 7}))
            return [await attempt(one) for one in (*calls, ask(client, "tasks/get"), ask(client, "acme/export"))]

    found = asyncio.run(run())
    lines = tmp_path / "lines"
    return found, lines.read_text(encoding="utf-8").splitlines() if lines.exists() else []


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_over_stdio_without_a_caller_every_request_is_refused(tmp_path: Path, mode: str) -> None:
    errors, lines = over_stdio(tmp_path, "nobody", mode)

    assert [(one.code, one.data) for one in errors] == [(ACCESS_REFUSED, {"error": "no_agent"})] * 4
    assert all("caller=" in one.message and 'without_caller="pass"' in one.message for one in errors)
    assert lines == []


def test_over_stdio_a_contained_agent_is_refused(tmp_path: Path) -> None:
    errors, lines = over_stdio(tmp_path, "contained", "auto")

    assert [(one.code, one.data) for one in errors] == [(ACCESS_REFUSED, {"error": "access_denied"})] * 4
    assert lines == [f"event {action} denied" for action in ("tools/list", "pay", "tasks/get", "acme/export")]


@pytest.mark.parametrize("says", [ScriptedAnswer(CALM), None], ids=["client", "sender alone"])
def test_who_names_no_agent_is_refused_and_counted(says: ScriptedAnswer | None) -> None:
    world = TaskServer(says, caller=None)

    async def work(client: Client) -> None:
        with pytest.raises(MCPError, match="caller="):
            await client.call_tool("pay", {"amount": 7})

    world.run(work, "legacy")

    assert (world.served, world.told.events) == ([], [])
    assert world.middleware.counts()["unnamed"] == 1

"""The MCP middleware between the real MCP client and server, in memory and over HTTP with the SDK's authentication."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import msgspec
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

from trustwatch.ingest.columns import OWN_DENIAL, ColumnEncoder
from trustwatch_client import Caller, CallVerdict, OriginTracker, TokenPolicy
from trustwatch_client.events import EventResource
from trustwatch_client.mcp import ACCESS_REFUSED, TrustMcpMiddleware

from ..support.client_doubles import ALL, CALM, DENY, FixedKeys, RecordingSender, ScriptedAnswer, ScriptedJudge

BOT = Caller(agent_id="bot", issuer="https://as.example", tenant="acme", session="conv-1")
MODES = ["auto", "legacy"]


class GuardedMcpServer:
    """A server with tools behind the middleware. Without *caller* the SDK's own authentication names it."""

    def __init__(
        self,
        says: ScriptedAnswer | None = None,
        *,
        caller: Caller | None = BOT,
        auth: bool = False,
        **middleware: Any,
    ) -> None:
        self.told = RecordingSender()
        read = (lambda _: caller) if not auth else None
        self.middleware = TrustMcpMiddleware(
            "ledger",
            caller=read,
            client=says,
            sender=self.told,
            effects={"balance": "read", "pay": "write"},
            **middleware,
        )
        more: dict[str, Any] = {}
        if auth:
            more["token_verifier"] = Verifier()
            more["auth"] = AuthSettings(
                issuer_url="https://as.example",
                resource_server_url="http://127.0.0.1/mcp",
                validate_token_resource=True,
            )
        self.server = MCPServer("ledger", middleware=[self.middleware], log_level="ERROR", **more)
        self.paid: list[int] = []
        self.add_tools()

    def add_tools(self) -> None:
        @self.server.tool()
        def balance(account: str) -> str:
            return f"{account} has 12"

        @self.server.tool()
        def pay(account: str, amount: int) -> str:
            if amount < 0:
                raise ValueError("no negative payments")
            self.paid.append(amount)
            return "paid"

        @self.server.resource("ledger://accounts")
        def accounts() -> str:
            return "acct-1"

        @self.server.prompt()
        def ask() -> str:
            return "pay?"

    def run(self, work: Callable[[Client], Awaitable[Any]], mode: str = "auto") -> Any:
        async def all_of_it() -> Any:
            async with Client(self.server, mode=mode) as client:
                return await work(client)

        return asyncio.run(all_of_it())

    def run_over_http(self, work: Callable[[Client], Awaitable[Any]], token: str, mode: str = "auto") -> Any:
        app = self.server.streamable_http_app()
        headers = {"authorization": f"Bearer {token}"}

        async def all_of_it() -> Any:
            async with (
                app.router.lifespan_context(app),
                httpx2.AsyncClient(transport=httpx2.ASGITransport(app), headers=headers) as http,
                Client(streamable_http_client("http://127.0.0.1:8000/mcp", http_client=http), mode=mode) as client,
            ):
                return await work(client)

        return asyncio.run(all_of_it())


class Verifier:
    """The token is the agent's name; a real one verifies a signature."""

    async def verify_token(self, token: str) -> AccessToken | None:
        if not token.startswith("agent-"):
            return None
        claims = {"iss": "https://as.example", "organization_id": "acme", "jti": "j", "act": {"sub": "sub-agent"}}
        more = {"claims": claims} if token == "agent-delegated" else {"claims": {"iss": "https://as.example"}}
        return AccessToken(
            token=token, client_id=token, scopes=["ledger"], subject="jo", resource="http://127.0.0.1/mcp", **more
        )


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_call_is_one_event(mode: str) -> None:
    world = GuardedMcpServer(ScriptedAnswer(CALM))

    result = world.run(lambda client: client.call_tool("pay", {"account": "acct-9001", "amount": 7}), mode)

    assert (result.is_error, world.paid) == (False, [7])
    (event,) = [one for one in world.told.events if one.type == "tool.call"]
    assert (event.action, event.effect, event.outcome, event.peer) == ("pay", "write", "success", "ledger")
    assert (event.agent.id, event.tenant, event.session) == ("bot", "acme", "conv-1")
    assert event.resource is not None
    assert (event.resource.id, event.resource.target) == ("ledger/pay", "ledger")
    assert event.duration_ms is not None
    assert b"acct-9001" not in msgspec.json.encode(event)


def test_single_tools_can_have_resources_of_their_own_kind() -> None:
    def resource(ctx: Any) -> EventResource | None:
        named = {"balance": EventResource(type="account"), "pay": EventResource(type="payee", external=True)}
        return named.get((ctx.params or {}).get("name"))

    judge = ScriptedJudge(CallVerdict("allow", allow=True))
    world = GuardedMcpServer(ScriptedAnswer(CALM), calls=judge, resource=resource)

    async def work(client: Client) -> None:
        await client.call_tool("balance", {"account": "acct-1"})
        await client.call_tool("pay", {"account": "acct-1", "amount": 7})
        await client.read_resource("ledger://accounts")

    world.run(work)

    told = {one.action: one.resource for one in world.told.events if one.action != "tools/list"}
    assert {action: named and (named.type, named.id, named.external) for action, named in told.items()} == {
        "balance": ("account", None, None),
        "pay": ("payee", None, True),
        "resources/read": ("mcp", "ledger://accounts", None),
    }
    assert [event.resource and event.resource.type for event in judge.asked] == ["account", "payee"]


def test_a_tool_that_fails_is_an_error_though_the_call_is_answered() -> None:
    world = GuardedMcpServer(ScriptedAnswer(CALM))

    result = world.run(lambda client: client.call_tool("pay", {"account": "a", "amount": -1}))

    assert result.is_error
    assert [(one.outcome, one.error) for one in world.told.events if one.type == "tool.call"] == [
        ("error", "tool_error")
    ]


def test_reads_are_told_by_method_and_the_rest_is_not() -> None:
    world = GuardedMcpServer(ScriptedAnswer(CALM))

    async def work(client: Client) -> None:
        await client.list_tools()
        await client.read_resource("ledger://accounts")
        await client.get_prompt("ask")
        with pytest.raises(MCPError):
            await client.read_resource("ledger://nothing")

    world.run(work, "legacy")

    assert [(one.type, one.action, one.effect, one.outcome) for one in world.told.events] == [
        ("api.call", "tools/list", "read", "success"),
        ("api.call", "resources/read", "read", "success"),
        ("api.call", "prompts/get", "read", "success"),
        ("api.call", "resources/read", "read", "error"),
    ]
    assert [one.resource.id for one in world.told.events if one.resource] == [
        "ledger",
        "ledger://accounts",
        "ledger/ask",
        "ledger://nothing",
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("policy", "error"),
    [(DENY, "access_denied"), (ALL, "insufficient_user_authentication"), (None, "temporarily_unavailable")],
)
def test_refused_before_the_tool_runs(policy: TokenPolicy | None, error: str, mode: str) -> None:
    world = GuardedMcpServer(ScriptedAnswer(policy))

    async def work(client: Client) -> MCPError:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("pay", {"account": "a", "amount": 7})
        return raised.value

    refused = world.run(work, mode)

    assert (refused.code, refused.data, world.paid) == (ACCESS_REFUSED, {"error": error}, [])
    assert "critical" not in refused.message
    event = next(one for one in world.told.events if one.type == "tool.call")
    assert event.outcome == ("denied" if policy else "error")
    assert ColumnEncoder(b"salt").encode([event]).codes[0, OWN_DENIAL] == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("token", "agent"), [("agent-7", "agent-7"), ("agent-delegated", "sub-agent")])
def test_over_http_the_verified_token_names_the_agent(token: str, agent: str, mode: str) -> None:
    world = GuardedMcpServer(says := ScriptedAnswer(CALM), auth=True)

    world.run_over_http(lambda client: client.call_tool("balance", {"account": "a"}), token, mode)

    event = next(one for one in world.told.events if one.type == "tool.call")
    assert (event.agent.id, event.agent.issuer) == (agent, "https://as.example")
    assert event.principal is not None
    assert event.principal.id == "jo"
    assert bool(event.session) == (mode == "legacy")
    assert (agent, "acme" if agent == "sub-agent" else None, "https://as.example") in says.asked


@pytest.mark.parametrize("cnf", [{"jkt": "k"}, {"x5t#S256": "c"}, {"kid": "k"}, {}])
@pytest.mark.parametrize("without_caller", ["refuse", "pass"])
def test_a_token_that_is_bound_to_something_is_no_bearer_token(
    monkeypatch: pytest.MonkeyPatch, cnf: dict[str, str], without_caller: str
) -> None:
    world = GuardedMcpServer(says := ScriptedAnswer(CALM), auth=True, without_caller=without_caller)
    verify = Verifier.verify_token

    async def verify_bound(self: Verifier, token: str) -> AccessToken | None:
        verified = await verify(self, token)
        return verified and verified.model_copy(update={"claims": {**(verified.claims or {}), "cnf": cnf}})

    monkeypatch.setattr(Verifier, "verify_token", verify_bound)

    async def work(client: Client) -> MCPError:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("balance", {"account": "a"})
        return raised.value

    refused = world.run_over_http(work, "agent-7")

    assert (refused.code, refused.data) == (ACCESS_REFUSED, {"error": "invalid_token"})
    assert (world.told.events, says.asked, world.middleware.counts()["unnamed"]) == ([], [], 1)


def test_without_a_verified_token_the_sdk_refuses_before_us() -> None:
    world = GuardedMcpServer(says := ScriptedAnswer(CALM), auth=True)
    app = world.server.streamable_http_app()

    async def work() -> int:
        transport = httpx2.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport) as http:
            return (
                await http.post("http://127.0.0.1:8000/mcp", json={}, headers={"authorization": "Bearer no"})
            ).status_code

    assert asyncio.run(work()) == 401
    assert (world.told.events, says.asked) == ([], [])


class TracingMcpServer(GuardedMcpServer):
    """Reads mail, looks up contacts and sends; what others wrote comes by mail."""

    def __init__(self, *, caller: Caller | None = BOT, tracker: OriginTracker | None = None) -> None:
        super().__init__(caller=caller)
        self.tracker = tracker or OriginTracker(FixedKeys())
        self.middleware = TrustMcpMiddleware(
            "mail",
            caller=lambda _: caller,
            sender=self.told,
            origins=self.tracker,
            untrusted={"read_mail", "resources/read"},
        )
        self.server = MCPServer("mail", middleware=[self.middleware], log_level="ERROR")

        @self.server.tool()
        def read_mail(folder: str) -> dict[str, Any]:
            return {"mails": [{"from": "Mallory Roe", "text": f"Pay to DE89 3704 0044 0532 0130 00, {SECRET}"}]}

        @self.server.tool()
        def find_contact(name: str) -> str:
            return f"{name}: mallory@books.example"

        @self.server.tool()
        def send(to: str, text: str, iban: str = "", sums: list[float] | None = None) -> str:
            del iban, sums  # what a caller gives them is what is traced
            if to == "nobody":
                raise ValueError("no such address")
            return "sent"

        @self.server.resource("notes://today")
        def notes() -> str:
            return "call +1 555 123 4567"

        @self.server.prompt()
        def rules() -> str:
            return "Write to desk@acme.example only."

    def traced(self) -> dict[str, tuple[dict[str, tuple[Any, ...]], bool | None]]:
        """By action: origins by name of argument, and whether the answer is untrusted."""
        return {
            event.action: (
                {one.name: (one.origin, one.from_call, one.from_action, one.part) for one in event.arguments},
                event.untrusted_result,
            )
            for event in self.told.events
            if event.arguments is not None
        }


SECRET = "and tell nobody of the merger with Globex before the end of May"


@pytest.mark.parametrize("mode", MODES)
def test_arguments_are_traced_through_a_real_conversation(mode: str) -> None:
    world = TracingMcpServer()

    async def work(client: Client) -> None:
        await client.get_prompt("rules", {})
        await client.call_tool("read_mail", {"folder": "inbox"})
        await client.call_tool("find_contact", {"name": "mallory roe"})
        await client.call_tool(
            "send",
            {
                "to": "Mallory@books.example",
                "iban": "DE89370400440532013000",
                "text": f"FYI {SECRET}",
                "sums": [4711.5],
            },
        )

    world.run(work, mode)

    assert world.traced() == {
        "read_mail": ({"folder": ("unseen", None, None, False)}, True),
        "find_contact": ({"name": ("tool", 0, "read_mail", False)}, True),
        "send": (
            {
                "to": ("tool", 1, "find_contact", False),
                "iban": ("tool", 0, "read_mail", False),
                "text": ("tool", 0, "read_mail", True),
                "sums": ("unseen", None, None, False),
            },
            True,
        ),
    }
    sent = msgspec.json.encode(world.told.events).lower()
    # None of these can turn up within a digest by chance, as four hexadecimal digits would once in a few hundred runs.
    for content in (b"mallory", b"de89370400440532013000", b"merger", b"4711.5", b"inbox"):
        assert content not in sent


def test_a_resource_is_a_call_of_its_own_and_a_prompt_is_the_servers() -> None:
    world = TracingMcpServer()

    async def work(client: Client) -> None:
        await client.get_prompt("rules", {})
        await client.read_resource("notes://today")
        await client.call_tool("send", {"to": "desk@acme.example", "text": "15551234567"})

    world.run(work)

    assert world.traced()["resources/read"][1] is True
    assert world.traced()["send"][0] == {
        "to": ("system", None, None, False),
        "text": ("tool", 0, "resources/read", False),
    }


def test_without_a_session_or_a_key_there_are_no_arguments_and_calls_go_on() -> None:
    """Counted by the tracker; everything else of the events is as before."""

    class NoKeys:
        def current(self, tenant: str | None) -> bytes | None:
            return None

    nameless = TracingMcpServer(caller=Caller(agent_id="bot"))
    keyless = TracingMcpServer(tracker=OriginTracker(NoKeys()))
    for world in (nameless, keyless):
        result = world.run(lambda client: client.call_tool("read_mail", {"folder": "inbox"}))
        assert not result.is_error
        assert world.traced() == {}

    assert nameless.tracker.counts()["no_session"] == 1
    assert keyless.tracker.counts()["no_key"] == 1


def test_a_broken_tracker_breaks_no_request_and_shows_no_content(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def current(self, tenant: str | None) -> bytes | None:
            raise RuntimeError("inbox")

    world = TracingMcpServer(tracker=OriginTracker(Broken()))

    result = world.run(lambda client: client.call_tool("read_mail", {"folder": "inbox"}))

    assert not result.is_error
    assert [event.outcome for event in world.told.events if event.type == "tool.call"] == ["success"]
    assert world.tracker.counts()["failed"] == 1
    assert "inbox" not in caplog.text


def test_a_call_that_fails_is_traced_too() -> None:
    world = TracingMcpServer()

    result = world.run(lambda client: client.call_tool("send", {"to": "nobody", "text": "hello world"}))

    assert result.is_error
    assert world.traced()["send"] == (
        {"to": ("unseen", None, None, False), "text": ("unseen", None, None, False)},
        False,
    )


@pytest.mark.parametrize(
    ("verdict", "counted"),
    [(CallVerdict("deny", allow=False), "deny"), (CallVerdict("step_up", allow=True), "shadow")],
)
def test_a_call_is_asked_about_before_it_is_made(verdict: CallVerdict, counted: str) -> None:
    """What follows from each verdict is in the tests of the ASGI middleware: both use one guard."""
    judge = ScriptedJudge(verdict)
    world = GuardedMcpServer(calls=judge)

    async def work(client: Client) -> bool:
        await client.list_tools()
        try:
            await client.call_tool("pay", {"account": "acct-1", "amount": 5})
        except MCPError as error:
            return error.code == ACCESS_REFUSED
        return False

    refused = not verdict.allow
    assert world.run(work) is refused
    (asked,) = judge.asked
    assert judge.callers == [BOT]
    assert (asked.type, asked.action, asked.effect, asked.peer) == ("tool.call", "pay", "write", "ledger")
    assert world.paid == ([] if refused else [5])
    told = world.told.events[-1]
    assert (told.action, told.caused_by is not None) == ("pay", refused)
    assert world.middleware.counts()[counted] == 1


def test_a_question_binds_an_approval_to_the_arguments() -> None:
    judge = ScriptedJudge(CallVerdict("allow", allow=True))
    world = GuardedMcpServer(calls=judge, origins=OriginTracker(FixedKeys()))

    async def work(client: Client) -> None:
        for amount in (5, 5, 9):
            await client.call_tool("pay", {"account": "acct-1", "amount": amount})

    world.run(work)
    first, again, other = judge.hashes
    assert first == again != other and first is not None

"""The A2A middleware between the real a2a-sdk client and server, over JSON-RPC and REST."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.client.client import Client
from a2a.helpers import new_data_part, new_task_from_user_message, new_text_message, new_url_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as types
from starlette.applications import Starlette

from trustwatch.ingest.columns import OWN_DENIAL, ColumnEncoder
from trustwatch_client import CallVerdict, OriginTracker, TokenPolicy, caller_from_claims
from trustwatch_client.a2a import A2A_METHOD_EFFECTS, TrustA2AHandler

from ..support.client_doubles import (
    ALL,
    CALM,
    DENY,
    WRITES,
    FixedKeys,
    RecordingSender,
    ScriptedAnswer,
    ScriptedJudge,
)

SECRET_TEXT = "the account number is 4711"


class Clerk(AgentExecutor):
    """Completes requests, and fails on demand."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        task = context.current_task or new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        await updater.complete(new_text_message(f"done: {SECRET_TEXT}", context_id=task.context_id, task_id=task.id))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


class Verified(DefaultServerCallContextBuilder):
    """Hands on the claims that the app's own authentication put into the scope."""

    def build(self, request: Any) -> Any:
        context = super().build(request)
        context.state["claims"] = request.scope.get("claims")
        return context


class Authenticated:
    def __init__(self, app: Any, claims: dict[str, Any] | None) -> None:
        self.app, self.claims = app, claims

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope | {"claims": self.claims}, receive, send)


CLAIMS = {"iss": "https://as.example", "sub": "jo", "act": {"sub": "planner", "act": {"sub": "desk"}}, "jti": "7"}
BINDINGS = {"JSONRPC": create_jsonrpc_routes, "HTTP+JSON": create_rest_routes}


class GuardedA2aAgent:
    """An agent behind the middleware, and another one that talks to it."""

    def __init__(self, binding: str, says: ScriptedAnswer | None, claims: dict[str, Any] | None, **traced: Any) -> None:
        self.told, self.binding = RecordingSender(), binding
        self.card = types.AgentCard(
            name="clerk",
            description="a clerk",
            version="1",
            capabilities=types.AgentCapabilities(streaming=True),
            supported_interfaces=[
                types.AgentInterface(url="https://clerk.example", protocol_binding=binding, protocol_version="1.0")
            ],
            default_input_modes=["text/plain"],
            default_output_modes=["text/plain"],
        )
        inner = DefaultRequestHandler(Clerk(), InMemoryTaskStore(), self.card)
        self.handler = TrustA2AHandler(
            inner,
            "clerk",
            client=says,
            sender=self.told,
            caller=lambda context: caller_from_claims(context.state["claims"] or {}, tenant="acme"),
            **traced,
        )
        more = {"rpc_url": "/"} if binding == "JSONRPC" else {}
        routes = BINDINGS[binding](self.handler, context_builder=Verified(), **more)  # type: ignore[operator]
        self.app = Authenticated(Starlette(routes=routes), claims)

    @asynccontextmanager
    async def client(self, *, streaming: bool = False) -> AsyncIterator[Client]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app)) as http:
            config = ClientConfig(streaming=streaming, httpx_client=http, supported_protocol_bindings=[self.binding])
            yield ClientFactory(config).create(self.card)

    def run(self, work: Callable[[Client], Awaitable[Any]], *, streaming: bool = False) -> Any:
        async def all_of_it() -> Any:
            async with self.client(streaming=streaming) as client:
                return await work(client)

        return asyncio.run(all_of_it())


async def send(
    client: Client, text: str = SECRET_TEXT, context_id: str | None = "conv-1"
) -> list[types.StreamResponse]:
    message = new_text_message(text, context_id=context_id, role=types.ROLE_USER)
    return [one async for one in client.send_message(types.SendMessageRequest(message=message))]


@pytest.fixture(params=list(BINDINGS))
def make(request: pytest.FixtureRequest) -> Callable[..., GuardedA2aAgent]:
    def made(says: ScriptedAnswer | None = None, claims: dict[str, Any] | None = CLAIMS) -> GuardedA2aAgent:
        return GuardedA2aAgent(request.param, says, claims)

    return made


@pytest.mark.parametrize(("streaming", "method"), [(False, "SendMessage"), (True, "SendStreamingMessage")])
def test_a_message_and_a_stream_are_one_event_each(
    make: Callable[..., GuardedA2aAgent], streaming: bool, method: str
) -> None:
    world = make(ScriptedAnswer(CALM))

    replies = world.run(send, streaming=streaming)

    assert streaming or replies[-1].task.status.state == types.TASK_STATE_COMPLETED
    assert not streaming or len(replies) >= 3
    (event,) = world.told.events
    assert (event.type, event.action, event.effect, event.outcome) == ("a2a.message", method, "write", "success")
    who = event.agent.id, event.agent.issuer, event.peer, event.tenant
    assert who == ("planner", "https://as.example", "clerk", "acme")
    assert (event.session, event.delegation) == ("conv-1", ["planner", "desk"])
    assert event.txn and (streaming or event.txn == replies[-1].task.id)
    assert SECRET_TEXT.encode() not in msgspec.json.encode(event)


def test_other_methods_and_errors(make: Callable[..., GuardedA2aAgent]) -> None:
    world = make(ScriptedAnswer(CALM))

    async def work(client: Client) -> None:
        task = (await send(client))[-1].task
        assert (await client.get_task(types.GetTaskRequest(id=task.id))).id == task.id
        assert len((await client.list_tasks(types.ListTasksRequest())).tasks) == 1
        with pytest.raises(Exception, match=r"(?i)not found"):
            await client.get_task(types.GetTaskRequest(id="no-such"))

    world.run(work)

    assert [(one.action, one.effect, one.outcome, one.error) for one in world.told.events] == [
        ("SendMessage", "write", "success", None),
        ("GetTask", "read", "success", None),
        ("ListTasks", "read", "success", None),
        ("GetTask", "read", "error", "TaskNotFoundError"),
    ]
    assert world.told.events[3].txn == "no-such"


@pytest.mark.parametrize(("policy", "code"), [(DENY, "Access is denied"), (ALL, "A person must"), (None, "Try again")])
@pytest.mark.parametrize("streaming", [False, True])
def test_refused_before_the_agent_works(
    make: Callable[..., GuardedA2aAgent], policy: TokenPolicy | None, code: str, streaming: bool
) -> None:
    world = make(ScriptedAnswer(policy))

    with pytest.raises(Exception, match=code) as raised:
        world.run(send, streaming=streaming)

    assert "0.97" not in str(raised.value)
    assert "critical" not in str(raised.value)
    (event,) = world.told.events
    assert ColumnEncoder(b"salt").encode([event]).codes[0, OWN_DENIAL] == 1
    assert event.outcome == ("denied" if policy else "error")


def test_reads_go_on_where_only_writes_wait(make: Callable[..., GuardedA2aAgent]) -> None:
    world = make(ScriptedAnswer(WRITES))

    async def work(client: Client) -> int:
        with pytest.raises(Exception, match="A person must"):
            await send(client)
        return len((await client.list_tasks(types.ListTasksRequest())).tasks)

    assert world.run(work) == 0
    assert [one.outcome for one in world.told.events] == ["denied", "success"]


def test_who_names_no_agent_passes_untold(make: Callable[..., GuardedA2aAgent]) -> None:
    world = make(ScriptedAnswer(DENY), claims=None)

    assert world.run(send)
    assert world.told.events == []
    assert world.handler.counts()["unnamed"] == 1


def test_every_method_of_the_sdk_is_watched() -> None:
    from a2a.server.request_handlers import RequestHandler
    from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher

    assert set(A2A_METHOD_EFFECTS) == set(JsonRpcDispatcher.METHOD_TO_MODEL)
    assert {name for name in vars(RequestHandler) if name.startswith("on_")} <= set(vars(TrustA2AHandler))
    with pytest.raises(AttributeError, match="not served"):
        getattr(GuardedA2aAgent("JSONRPC", None, CLAIMS).handler, "on_of_a_newer_sdk")  # noqa: B009


TASK, MESSAGE = {"id": "t-1"}, {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "pay"}]}
PUSH = {"taskId": "t-1", "pushNotificationConfig": {"url": "https://in.example"}}
METHODS_OF_1_0: dict[str, dict[str, Any]] = {method: {} for method in A2A_METHOD_EFFECTS}
METHODS_OF_0_3: dict[str, dict[str, Any]] = {
    "message/send": {"message": MESSAGE},
    "message/stream": {"message": MESSAGE},
    "tasks/get": TASK,
    "tasks/cancel": TASK,
    "tasks/resubscribe": TASK,
    "tasks/pushNotificationConfig/set": PUSH,
    "tasks/pushNotificationConfig/get": TASK,
    "tasks/pushNotificationConfig/list": TASK,
    "tasks/pushNotificationConfig/delete": TASK | {"pushNotificationConfigId": "c"},
    "agent/getAuthenticatedExtendedCard": {},
}


def test_a_contained_agent_is_refused_each_method_of_both_versions_and_batches() -> None:
    world = GuardedA2aAgent("JSONRPC", ScriptedAnswer(DENY), CLAIMS)
    builder = Verified()
    app = Starlette(routes=create_jsonrpc_routes(world.handler, "/", builder, enable_v0_3_compat=True))
    world.app = Authenticated(app, CLAIMS)

    def body(method: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}

    async def run() -> dict[str, str]:
        answers = {}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="http://clerk") as http:
            for version, methods in (("1.0", METHODS_OF_1_0), ("0.3", METHODS_OF_0_3)):
                for method, params in methods.items():
                    headers = {"a2a-version": version}
                    answers[method] = (await http.post("/", json=body(method, params), headers=headers)).text
            for name, other in (
                ("batch", [body("SendMessage", {}), body("message/send", METHODS_OF_0_3["message/send"])]),
                ("sendmessage", body("sendmessage", {})),
            ):
                answers[name] = (await http.post("/", json=other, headers={"a2a-version": "1.0"})).text
        return answers

    answers = asyncio.run(run())

    assert [name for name, text in answers.items() if "Access is denied" not in text] == ["batch", "sendmessage"]
    assert "Batch requests are not supported" in answers["batch"] and "-32601" in answers["sendmessage"]
    assert {event.outcome for event in world.told.events} == {"denied"}
    assert len(world.told.events) == len(A2A_METHOD_EFFECTS) + len(METHODS_OF_0_3)


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("streaming", [False, True])
def test_parts_of_messages_are_traced(binding: str, streaming: bool) -> None:
    world = GuardedA2aAgent(binding, None, CLAIMS, origins=OriginTracker(FixedKeys()), untrusted=True)

    async def work(client: Client) -> None:
        first = (await send(client, "what is my account", None))[0]
        context = first.task.context_id if first.HasField("task") else first.status_update.context_id
        await send(client, SECRET_TEXT, context)
        await send(client, SECRET_TEXT, None)

    world.run(work, streaming=streaming)

    asked = [event for event in world.told.events if event.action in ("SendMessage", "SendStreamingMessage")]
    origins = [[(one.name, one.origin, one.from_call, one.part) for one in event.arguments or ()] for event in asked]
    assert origins == [
        [("text", "unseen", None, False)],
        [("text", "tool", 0, False)],
        [("text", "unseen", None, False)],
    ]
    assert [event.untrusted_result for event in asked] == [True, True, True]
    assert b"account number" not in msgspec.json.encode(world.told.events)


def test_data_and_names_of_files_are_traced() -> None:
    world = GuardedA2aAgent("JSONRPC", None, CLAIMS, origins=OriginTracker(FixedKeys()))

    async def work(client: Client) -> None:
        context = (await send(client, "what is my account", None))[-1].task.context_id
        again = new_text_message("and now", context_id=context, role=types.ROLE_USER)
        again.parts.append(new_data_part({"account": 4711, "note": ["see you"]}))
        again.parts.append(new_url_part("https://files.example/4711.pdf", filename="4711.pdf"))
        async for _ in client.send_message(types.SendMessageRequest(message=again)):
            pass

    world.run(work)

    found = {(one.name, one.origin) for one in world.told.events[-1].arguments or ()}
    assert {("data", "tool"), ("data", "unseen"), ("url", "unseen"), ("filename", "unseen")} <= found
    assert world.told.events[-1].untrusted_result is None


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("verdict", "refused", "counted"),
    [
        (CallVerdict("deny", allow=False), "Access is denied", "deny"),
        (CallVerdict("step_up", allow=True), "", "shadow"),
        (None, "Try again", "unavailable"),
    ],
)
def test_a_message_is_asked_about_before_it_is_answered(
    binding: str, streaming: bool, verdict: CallVerdict | None, refused: str, counted: str | None
) -> None:
    judge = ScriptedJudge(verdict)
    world = GuardedA2aAgent(binding, None, CLAIMS, calls=judge)

    async def work(client: Client) -> int:
        if refused:
            with pytest.raises(Exception, match=refused):
                await send(client)
        else:
            await send(client)
        return len((await client.list_tasks(types.ListTasksRequest())).tasks)

    assert world.run(work, streaming=streaming) == (0 if refused else 1), "the agent never worked"
    (asked,) = judge.asked
    assert (asked.type, asked.effect, asked.peer) == ("a2a.message", "write", "clerk")
    assert judge.callers[0].agent_id == "planner" and asked.delegation == ["planner", "desk"]
    message = world.told.events[0]
    assert (message.action, message.caused_by is not None) == (asked.action, bool(refused))
    if counted:
        assert world.handler.counts()[counted] == 1


def test_a_question_tells_where_parts_of_the_message_came_from() -> None:
    """The first message of a conversation without a name has nothing before it; the second repeats an answer."""
    judge = ScriptedJudge(CallVerdict("allow", allow=True))
    world = GuardedA2aAgent("JSONRPC", None, CLAIMS, calls=judge, origins=OriginTracker(FixedKeys()), untrusted=True)

    async def work(client: Client) -> None:
        context = None
        for text in ("what is my account", SECRET_TEXT):
            context = (await send(client, text, context))[-1].task.context_id

    world.run(work)

    first, second = judge.asked
    assert first.arguments is None and second.arguments is not None
    assert [(one.name, one.origin, one.from_call, one.untrusted) for one in second.arguments] == [
        ("text", "tool", 0, True)
    ]
    assert world.told.events[-1].arguments is not None, "the event tells them too"
    assert b"account number" not in msgspec.json.encode(second)


def test_a_question_binds_an_approval_to_the_message() -> None:
    judge = ScriptedJudge(CallVerdict("deny", allow=False))
    world = GuardedA2aAgent("JSONRPC", None, CLAIMS, calls=judge, origins=OriginTracker(FixedKeys()))

    async def work(client: Client) -> None:
        for text in ("pay 5", "pay 5", "pay 9"):
            with pytest.raises(Exception, match="Access is denied"):
                await send(client, text, None)

    world.run(work)
    first, again, other = judge.hashes
    assert first == again != other and first is not None

"""A2A servers: an event for each request of another agent, and the risk answer enforced. Needs the extra `a2a`.

Methods, task and context ids are read. Messages and artifacts are read only where the agent was given an
`OriginTracker`, which keeps them in memory and sends hashes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

try:
    from a2a.helpers import get_data_parts
    from a2a.server.context import ServerCallContext
    from a2a.server.events.event_queue import Event
    from a2a.server.request_handlers.request_handler import RequestHandler
    from a2a.types import a2a_pb2 as types
    from a2a.utils.errors import A2AError, InternalError, InvalidRequestError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"trustwatch_client.a2a needs the A2A SDK, but {error.name} is not installed: "
        "pip install './client[a2a]' in a clone of Trustwatch, or 'path/to/WHEEL[a2a]'",
        name=error.name,
    ) from error

from .argument_origins import text_of
from .call_trace import CallTrace
from .caller import Caller
from .events import AuditEvent, CausedBy, Effect, EventAgent, EventResource, Outcome
from .guard import CallJudge, EventSink, Guard, RiskLookup, Ruling
from .origin_tracker import OriginTracker
from .refusal import REFUSAL_DETAILS
from .step_up_approvals import ApprovalSource
from .timing import Clock, SystemClock

T = TypeVar("T")
MAX_TEXT_CHARACTERS = 512
MAX_ANSWER_CHARACTERS = 262_144
"""Characters of one stream of answers that are remembered."""

A2A_METHOD_EFFECTS: Mapping[str, Effect] = {
    "SendMessage": "write",
    "SendStreamingMessage": "write",
    "CancelTask": "write",
    "GetTask": "read",
    "ListTasks": "read",
    "SubscribeToTask": "read",
    "CreateTaskPushNotificationConfig": "write",
    "GetTaskPushNotificationConfig": "read",
    "ListTaskPushNotificationConfigs": "read",
    "DeleteTaskPushNotificationConfig": "delete",
    "GetExtendedAgentCard": "read",
}
"""Methods of A2A 1.0; the names of 0.3 and of REST and gRPC arrive here as these."""


def _guarded(method: str, name: str) -> Any:
    """A request of the handler by its name, judged before it is answered."""

    async def on_request(self: TrustA2AHandler, params: Any, context: ServerCallContext) -> Any:
        return await self._call(method, params, context, getattr(self._handler, name))

    return on_request


def _guarded_stream(method: str, name: str) -> Any:
    """As `_guarded`, for a request that is answered by a stream."""

    def on_request(self: TrustA2AHandler, params: Any, context: ServerCallContext) -> AsyncGenerator[Event]:
        return self._stream(method, params, context, getattr(self._handler, name))

    return on_request


class TrustA2AHandler(RequestHandler):
    """Wraps a request handler, so that JSON-RPC, REST and gRPC are all watched:
    `create_jsonrpc_routes(TrustA2AHandler(…))`.

    An event has type `a2a.message`, the method as action, the agent that calls, and this agent as peer. A refusal is an
    A2A error; where HTTP clients should see 401 and 403, put `TrustMiddleware` around the app with a client and give
    this one a sender alone.

    Args:
        handler: answers the requests.
        agent: id of the agent that this server is; `peer` of the events.
        caller: reads the agent that calls from the context, where the app's own authentication has put who it is; None
            = no agent, and the request passes untold. Never read an unverified token here.
        client: asks for risk; None enforces nothing.
        sender: takes the events; None sends none.
        needed: scopes that a method needs, by its name.
        approved: lets step-ups pass: `Approvals`, `shown_by_token`, or your own; None lets none pass.
        origins: traces where the parts of messages came from; None reads neither them nor answers.
        untrusted: whether answers of this agent may hold what others wrote; None = it is not known.
        calls: asks about each request that does more than read before it is answered (`AsyncCallVerdicts`); best with
            *origins*.
    """

    def __init__(
        self,
        handler: RequestHandler,
        agent: str,
        *,
        caller: Callable[[ServerCallContext], Caller | None],
        client: RiskLookup | None = None,
        sender: EventSink | None = None,
        needed: Mapping[str, Collection[str]] | None = None,
        approved: ApprovalSource | None = None,
        origins: OriginTracker | None = None,
        untrusted: bool | None = None,
        calls: CallJudge | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._handler = handler
        self._agent = agent
        self._caller = caller
        self._guard = Guard(client, sender, approved, calls)
        self._needed = needed or {}
        self._origins = origins
        self._untrusted = untrusted
        self._clock = clock or SystemClock()

    def counts(self) -> Mapping[str, int]:
        """Counters by name; docs/client.md lists them."""
        return self._guard.counts()

    def __getattr__(self, name: str) -> Any:
        """Pass every other attribute of the wrapped handler on, such as its agent card, but no request unguarded."""
        if name.startswith("on_"):
            raise AttributeError(f"TrustA2AHandler does not know the request {name!r}, so it is not served")
        return getattr(self.__dict__["_handler"], name)

    on_get_task = _guarded("GetTask", "on_get_task")
    on_list_tasks = _guarded("ListTasks", "on_list_tasks")
    on_cancel_task = _guarded("CancelTask", "on_cancel_task")
    on_message_send = _guarded("SendMessage", "on_message_send")
    on_create_task_push_notification_config = _guarded(
        "CreateTaskPushNotificationConfig", "on_create_task_push_notification_config"
    )
    on_get_task_push_notification_config = _guarded(
        "GetTaskPushNotificationConfig", "on_get_task_push_notification_config"
    )
    on_list_task_push_notification_configs = _guarded(
        "ListTaskPushNotificationConfigs", "on_list_task_push_notification_configs"
    )
    on_delete_task_push_notification_config = _guarded(
        "DeleteTaskPushNotificationConfig", "on_delete_task_push_notification_config"
    )
    on_get_extended_agent_card = _guarded("GetExtendedAgentCard", "on_get_extended_agent_card")
    on_message_send_stream = _guarded_stream("SendStreamingMessage", "on_message_send_stream")
    on_subscribe_to_task = _guarded_stream("SubscribeToTask", "on_subscribe_to_task")

    async def _call(
        self,
        method: str,
        params: Any,
        context: ServerCallContext,
        call: Callable[[Any, ServerCallContext], Awaitable[T]],
    ) -> T:
        """One request and its answer."""
        watch = await self._start_call(method, params, context)
        try:
            result = await call(params, context)
            watch.read_result(result)
            return result
        except BaseException as error:
            watch.record_error(error)
            raise
        finally:
            await self._send_event(watch)

    async def _stream(
        self,
        method: str,
        params: Any,
        context: ServerCallContext,
        call: Callable[[Any, ServerCallContext], AsyncGenerator[Event]],
    ) -> AsyncGenerator[Event]:
        """One request and its stream; the event comes at its end."""
        watch = await self._start_call(method, params, context)
        stream = call(params, context)
        try:
            async for event in stream:
                watch.read_result(event)
                yield event
        except GeneratorExit:  # whoever listened has left; the agent did nothing wrong
            raise
        except BaseException as error:
            watch.record_error(error)
            raise
        finally:
            await stream.aclose()
            await self._send_event(watch)

    async def _start_call(self, method: str, params: Any, context: ServerCallContext) -> _WatchedCall:
        """Identify the caller and evaluate the call. Raises A2AError for a call that is refused."""
        watch = _WatchedCall(method, params, self._caller(context), self._clock, self._origins)
        if watch.caller is None:
            self._guard.count_unidentified()
            return watch
        effect = A2A_METHOD_EFFECTS[method]
        ruling = await self._guard.evaluate(watch.caller, effect, self._needed.get(method))
        if self._guard.judges_calls and effect != "read":
            asked = watch.caller.add_to_event(watch.event(self._agent))
            ruling = await self._guard.judge_call(ruling, watch.caller, asked, watch.hash_arguments())
        if ruling.refused:
            watch.outcome, watch.error = ruling.event_outcome()
            watch.cause = ruling.cause
            await self._send_event(watch)
            raise refusal_error(ruling)
        return watch

    async def _send_event(self, watch: _WatchedCall) -> None:
        if watch.caller is not None:
            await watch.finish_trace(self._untrusted)
            self._guard.send_event(watch.caller.add_to_event(watch.event(self._agent)))


class _WatchedCall:
    """Notes on one request, from which its event is made."""

    def __init__(
        self, method: str, params: Any, caller: Caller | None, clock: Clock, origins: OriginTracker | None
    ) -> None:
        self.method = method
        self._params = params
        self.caller = caller
        self.outcome: Outcome = "success"
        self.error: str | None = None
        self.cause: CausedBy | None = None
        self._clock = clock
        self._began, self._started = clock.wall(), clock.steady()
        message = getattr(params, "message", None)
        self._context = _shortened_text(getattr(message, "context_id", None)) or _shortened_text(
            getattr(params, "context_id", None)
        )
        ids = (getattr(part, name, None) for part, name in ((message, "task_id"), (params, "task_id"), (params, "id")))
        self._task = next((text for task_id in ids if (text := _shortened_text(task_id))), None)
        self._message = message
        self._trace = CallTrace(origins, caller)
        self._traced_session = self._context
        if self._context is not None:
            self._start_trace()
        self._answers: list[object] = []
        self._characters_left = MAX_ANSWER_CHARACTERS

    def _start_trace(self) -> None:
        self._trace.start(self._context, self.method, {} if self._message is None else _parts_of(self._message))

    def hash_arguments(self) -> str | None:
        """Hash of the request, files included, for a question about it."""
        return self._trace.hash_arguments(_serialized_without_id(self._params))

    async def finish_trace(self, untrusted: bool | None) -> None:
        """Look a message up that began a conversation, and remember what the answers told."""
        if self._traced_session is None:  # only now the conversation has a name; nothing came before
            self._start_trace()
        await self._trace.finish(self._answers, untrusted if self.outcome == "success" else None)

    def read_result(self, result: object) -> None:
        """Take ids from the answer that the request did not have, such as those of a new task."""
        self._context = self._context or _shortened_text(getattr(result, "context_id", None))
        if self._trace.is_on and self._characters_left > 0:
            parts = [part for message in _messages_in(result) for part in _parts_of(message).values()]
            self._answers.append(parts)
            self._characters_left -= len(text_of(parts, self._characters_left))
        own = getattr(result, "id", None) if isinstance(result, types.Task) else getattr(result, "task_id", None)
        self._task = self._task or _shortened_text(own)

    def record_error(self, error: BaseException) -> None:
        self.outcome, self.error = "error", type(error).__name__[:100]

    def event(self, peer: str) -> AuditEvent:
        """The event of this request."""
        event = AuditEvent(
            time=datetime.fromtimestamp(self._began, UTC),
            agent=EventAgent(id="-"),
            type="a2a.message",
            action=self.method,
            outcome=self.outcome,
            error=self.error,
            caused_by=self.cause,
            effect=A2A_METHOD_EFFECTS[self.method],
            resource=EventResource(type="agent", id=peer),
            peer=peer,
            session=self._context,
            txn=self._task,
            duration_ms=max(0.0, self._clock.steady() - self._started) * 1000.0,
        )
        self._trace.add_to_event(event)
        return event


def _messages_in(result: object) -> Iterator[Any]:
    """Messages and artifacts of an answer, all of which have parts; not the history, which the agent has seen."""
    for task in getattr(result, "tasks", None) or (result,):
        if isinstance(task, (types.Message, types.Artifact)):
            yield task
        if isinstance(task, (types.Task, types.TaskStatusUpdateEvent)) and task.status.HasField("message"):
            yield task.status.message
        if isinstance(task, types.Task):
            yield from task.artifacts
        if isinstance(task, types.TaskArtifactUpdateEvent):
            yield task.artifact


def _parts_of(message: Any) -> dict[str, list[object]]:
    """Texts, addresses, names of files and data of a message, by kind; files themselves are not read."""
    parts: dict[str, list[object]] = {"text": [], "url": [], "filename": [], "data": []}
    for part in message.parts:
        for name in ("text", "url", "filename"):
            if value := getattr(part, name):
                parts[name].append(value)
    parts["data"].extend(get_data_parts(message.parts))
    return parts


def _serialized_without_id(params: Any) -> str:
    """A whole request as text, but for the id of its message, which is new when it is sent again."""
    request = type(params)()
    request.CopyFrom(params)
    if hasattr(request, "message"):
        request.message.ClearField("message_id")
    serialized: bytes = request.SerializeToString(deterministic=True)
    return serialized.hex()


def refusal_error(ruling: Ruling) -> A2AError:
    """Error for a refused request; it discloses nothing of risk."""
    _, code, _, detail = REFUSAL_DETAILS[ruling.action]
    if ruling.action == "unavailable":
        return InternalError(detail, {"error": code})
    return InvalidRequestError(detail, {"error": code})


def _shortened_text(value: object) -> str | None:
    return value[:MAX_TEXT_CHARACTERS] if isinstance(value, str) and value else None

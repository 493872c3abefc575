"""Guards A2A agents: sends an event for each request, and enforces the risk answer. Needs the extra `a2a`.

Methods, task and context ids are read. Messages and artifacts are read only with an `OriginTracker`, which keeps them
in memory and sends hashes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, Unpack

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
from .events import AuditEvent, Caller, Effect, EventResource, Outcome
from .guard import REFUSAL_DETAILS, UNKNOWN_AGENT, Guard, GuardedRequest, GuardOptions, Ruling

T = TypeVar("T")
MAX_TEXT_CHARACTERS = 512
MAX_ANSWER_CHARACTERS = 262_144
"""Maximum number of characters remembered of one stream of answers."""

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
"""Methods of A2A 1.0; requests of 0.3, REST and gRPC arrive under these names."""


def _guarded(method: str, name: str) -> Any:

    async def on_request(self: TrustA2AHandler, params: Any, context: ServerCallContext) -> Any:
        return await self._call(method, params, context, getattr(self._handler, name))

    return on_request


def _guarded_stream(method: str, name: str) -> Any:

    def on_request(self: TrustA2AHandler, params: Any, context: ServerCallContext) -> AsyncGenerator[Event]:
        return self._stream(method, params, context, getattr(self._handler, name))

    return on_request


class TrustA2AHandler(Guard, RequestHandler):
    """Wraps a request handler, so that JSON-RPC, REST and gRPC are all guarded:
    `create_jsonrpc_routes(TrustA2AHandler(…))`.

    An event has type `a2a.message`, the method as action, the calling agent, and this agent as peer. A refusal is an
    A2A error; if HTTP clients should see 401 and 403, put `TrustMiddleware` with a client around the app, and give this
    handler only a sender.

    Args:
        handler: answers the requests.
        agent: id of the agent that this server is; `peer` of the events.
        caller: reads the calling agent from the context, in which the app's own authentication has put its identity;
            None = no agent, and the request passes without an event. Never read an unverified token here.
        needed: scopes that a method needs, by its name.
        untrusted: whether answers of this agent may hold what others wrote; None = unknown.
        options: as in `GuardOptions`. *calls* judges each request that does more than read; *origins* traces the parts
            of messages.
    """

    def __init__(
        self,
        handler: RequestHandler,
        agent: str,
        *,
        caller: Callable[[ServerCallContext], Caller | None],
        needed: Mapping[str, Collection[str]] | None = None,
        untrusted: bool | None = None,
        **options: Unpack[GuardOptions],
    ) -> None:
        super().__init__(**options)
        self.peer = agent
        self.untrusted = untrusted
        self._handler = handler
        self._caller = caller
        self._needed = needed or {}

    def __getattr__(self, name: str) -> Any:
        """Pass on every other attribute of the wrapped handler, such as its agent card, but no unguarded request."""
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
        request = await self._admit(method, params, context)
        if request is None:
            return await call(params, context)
        try:
            result = await call(params, context)
            request.read_result(result)
            return result
        except BaseException as error:
            request.record_error(error)
            raise
        finally:
            await request.finish()

    async def _stream(
        self,
        method: str,
        params: Any,
        context: ServerCallContext,
        call: Callable[[Any, ServerCallContext], AsyncGenerator[Event]],
    ) -> AsyncGenerator[Event]:
        request = await self._admit(method, params, context)
        stream = call(params, context)
        try:
            async for event in stream:
                if request is not None:
                    request.read_result(event)
                yield event
        except GeneratorExit:  # the listener has left; the agent did nothing wrong
            raise
        except BaseException as error:
            if request is not None:
                request.record_error(error)
            raise
        finally:
            await stream.aclose()
            if request is not None:
                await request.finish()

    async def _admit(self, method: str, params: Any, context: ServerCallContext) -> _Request | None:
        """Identify the caller and judge the call; None without a caller. Raises A2AError for a refused call."""
        caller = self._caller(context)
        if caller is None:
            self.count_unidentified()
            return None
        request = _Request(self, caller, method, params)
        await request.evaluate(A2A_METHOD_EFFECTS[method], self._needed.get(method))
        if self.calls is not None and A2A_METHOD_EFFECTS[method] != "read":
            sent = type(params)()
            sent.CopyFrom(params)
            if hasattr(sent, "message"):
                sent.message.ClearField("message_id")  # it changes when the message is sent again
            await request.judge_call(sent.SerializeToString(deterministic=True).hex())
        if request.ruling.refused:
            await request.finish()
            raise refusal_error(request.ruling)
        return request


@dataclass(eq=False, repr=False)
class _Request(GuardedRequest):
    guard: TrustA2AHandler
    method: str
    params: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        params = self.params
        self._message = getattr(params, "message", None)
        contexts = (_shortened_text(getattr(one, "context_id", None)) for one in (self._message, params))
        self._context = next(filter(None, contexts), None)
        ids = [getattr(self._message, "task_id", None), *(getattr(params, name, None) for name in ("task_id", "id"))]
        self._task = next((text for task_id in ids if (text := _shortened_text(task_id))), None)
        self._begins_conversation = self._context is None
        if not self._begins_conversation:
            self._look_up_message()
        self._answers: list[object] = []
        self._characters_left = MAX_ANSWER_CHARACTERS

    def _look_up_message(self) -> None:
        self.start_trace(self._context, self.method, {} if self._message is None else _parts_of(self._message))

    def read_result(self, result: object) -> None:
        """Read the answer, and the ids that the request did not have, such as the ID of a new task."""
        self._context = self._context or _shortened_text(getattr(result, "context_id", None))
        if self.is_traced and self._characters_left > 0:
            messages: list[Any] = []  # not the history, which the agent has already seen
            for one in getattr(result, "tasks", None) or (result,):
                if isinstance(one, (types.Message, types.Artifact)):
                    messages.append(one)
                if isinstance(one, (types.Task, types.TaskStatusUpdateEvent)) and one.status.HasField("message"):
                    messages.append(one.status.message)
                if isinstance(one, types.Task):
                    messages.extend(one.artifacts)
                if isinstance(one, types.TaskArtifactUpdateEvent):
                    messages.append(one.artifact)
            parts = [part for message in messages for part in _parts_of(message).values()]
            self._answers.append(parts)
            self._characters_left -= len(text_of(parts, self._characters_left))
        own = getattr(result, "id", None) if isinstance(result, types.Task) else getattr(result, "task_id", None)
        self._task = self._task or _shortened_text(own)

    def record_error(self, error: BaseException) -> None:
        self.outcome, self.error = "error", type(error).__name__[:100]

    async def finish(self) -> None:
        if self._begins_conversation:  # only its answer names the conversation
            self._look_up_message()
        succeeded = self.outcome == "success" and not self.ruling.refused
        await self.finish_trace(self._answers, self.guard.untrusted if succeeded else None)
        self.send_event()

    def new_event(self, time: datetime, outcome: Outcome) -> AuditEvent:
        return AuditEvent(
            time=time,
            agent=UNKNOWN_AGENT,
            outcome=outcome,
            type="a2a.message",
            action=self.method,
            effect=A2A_METHOD_EFFECTS[self.method],
            resource=EventResource(type="agent", id=self.guard.peer),
            peer=self.guard.peer,
            session=self._context,
            txn=self._task,
        )


def _parts_of(message: Any) -> dict[str, list[object]]:
    parts: dict[str, list[object]] = {"text": [], "url": [], "filename": [], "data": []}
    for part in message.parts:
        for name in ("text", "url", "filename"):
            if value := getattr(part, name):
                parts[name].append(value)
    parts["data"].extend(get_data_parts(message.parts))
    return parts


def refusal_error(ruling: Ruling) -> A2AError:
    """Return the error for a refused request; it discloses nothing about risk."""
    _, code, _, detail = REFUSAL_DETAILS[ruling.action]
    if ruling.action == "unavailable":
        return InternalError(detail, {"error": code})
    return InvalidRequestError(detail, {"error": code})


def _shortened_text(value: object) -> str | None:
    return value[:MAX_TEXT_CHARACTERS] if isinstance(value, str) and value else None

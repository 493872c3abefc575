"""ASGI middleware: one audit event per request, and the risk answer enforced. Needs no web framework."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any
from urllib.parse import parse_qs

import msgspec

from .call_trace import CallTrace
from .caller import Caller
from .events import AuditEvent, Effect, EventAgent, EventClient, EventResource, Outcome
from .guard import CallJudge, EventSink, Guard, RiskLookup, Ruling
from .origin_tracker import OriginTracker
from .refusal import Challenge, refusal_response
from .step_up_approvals import ApprovalSource
from .timing import Clock, SystemClock

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_BODY_BYTES = 131_072
"""Longer bodies are not read ahead of the app as a whole; what is read is looked at as a text."""
MAX_ANSWER_BYTES = 262_144
_NEVER_THE_SAME = object()
"""Arguments that have another hash each time."""
_READING_HEADERS = (b"content-type", b"content-encoding")
"""Headers by which an app reads a body: the same bytes are 5 as JSON and 9,999 as a form."""
_FORM = "application/x-www-form-urlencoded"

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

METHOD_EFFECTS: Mapping[str, Effect] = {
    "GET": "read",
    "HEAD": "read",
    "OPTIONS": "read",
    "POST": "write",
    "PUT": "write",
    "PATCH": "write",
    "DELETE": "delete",
}
MAX_TEXT_CHARACTERS = 512
_VARIABLE_SEGMENT = re.compile(r"\d+|[0-9a-fA-F]{8,}|[0-9a-fA-F-]{32,}|[^/]*\d[^/]{11,}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class TrustMiddleware:
    """ASGI middleware that looks up callers' risk. Place it inside the app's authentication, which verifies the claims.

    Args:
        app: the ASGI application.
        caller: reads the agent from the scope, where the app's own authentication has put verified claims
            (`caller_from_claims` helps); None = no agent, and the request passes without an event. Never read an
            unverified token here: anybody could act as anybody.
        client: asks for risk; None enforces nothing.
        sender: takes the events; None sends none.
        action: names the action; else method and route (the router's pattern, or the path with `{id}` for what varies).
        resource: names the resource; else the path, without its query.
        needed: scopes that a request needs, so that a policy that names scopes is applied to the letter.
        challenge: requirements of a step-up.
        approved: lets step-ups pass: `Approvals`, `shown_by_token`, or your own; None lets none pass.
        exclude: paths without risk look-up and events, exact or ending in `*`.
        origins: traces where values of queries and bodies came from, in conversations that `Caller.session` names; None
            reads neither them nor answers.
        untrusted: actions whose answers may hold what others wrote; None = it is not known of any.
        calls: asks about each request before the app has it (`AsyncCallVerdicts`); best with *origins*. The action is
            then named before the app runs.
    """

    def __init__(
        self,
        app: App,
        *,
        caller: Callable[[Scope], Caller | None],
        client: RiskLookup | None = None,
        sender: EventSink | None = None,
        action: Callable[[Scope], str] | None = None,
        resource: Callable[[Scope], EventResource | None] | None = None,
        needed: Callable[[Scope], Collection[str] | None] | None = None,
        challenge: Challenge | None = None,
        approved: ApprovalSource | None = None,
        exclude: Iterable[str] = ("/healthz", "/readyz"),
        origins: OriginTracker | None = None,
        untrusted: Collection[str] | None = None,
        calls: CallJudge | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.app = app
        self._caller = caller
        self._guard = Guard(client, sender, approved, calls)
        self._origins = origins
        self._untrusted = untrusted
        self._action = action or default_action
        self._resource = resource or default_resource
        self._needed = needed
        self._challenge = challenge or Challenge()
        self._exclude = tuple(exclude)
        self._clock = clock or SystemClock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._excluded(scope["path"]):
            await self.app(scope, receive, send)
            return
        caller = self._caller(scope)
        if caller is None:
            self._guard.count_unidentified()
            await self.app(scope, receive, send)
            return
        trace = RequestTrace(scope, receive, CallTrace(self._origins, caller))
        exchange = _MeasuredRequest(trace.receive, send, self._clock)
        needed = self._needed(scope) if self._needed else None
        ruling = await self._guard.evaluate(caller, _effect(scope), needed)
        action = self._action_before(scope) if self._guard.judges_calls or self._origins is not None else None
        try:
            if action is not None and not ruling.refused:
                await trace.start(action)
                ruling = await self._judge_call(scope, caller, trace, exchange, ruling, action)
            if ruling.refused:
                await self._refuse(scope, ruling, exchange)
            else:
                if action is not None:
                    exchange.read_answer_by(trace, None if self._untrusted is None else action in self._untrusted)
                await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.error_name = type(error).__name__
            raise
        finally:
            event = self._event(scope, caller, exchange, ruling, action or self._action(scope))
            trace.add_to_event(event)
            self._guard.send_event(event)

    def counts(self) -> Mapping[str, int]:
        """Counters by name; docs/client.md lists them."""
        return self._guard.counts()

    def _excluded(self, path: str) -> bool:
        return any(
            path == pattern or (pattern.endswith("*") and path.startswith(pattern[:-1])) for pattern in self._exclude
        )

    async def _refuse(self, scope: Scope, ruling: Ruling, exchange: _MeasuredRequest) -> None:
        status, headers, body = refusal_response(ruling.action, self._challenge)
        if scope["type"] == "websocket":  # closed before it is accepted: servers answer 403
            exchange.status = 403
            await exchange.receive()
            await exchange.send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        await exchange.send({"type": "http.response.start", "status": status, "headers": headers})
        await exchange.send({"type": "http.response.body", "body": body})

    def _action_before(self, scope: Scope) -> str:
        """The action, before the app has routed the request: the question and the event must call it the same."""
        route = _matched_route(self.app, scope)
        return self._action(scope if route is None else {**scope, "route": route})

    async def _judge_call(
        self,
        scope: Scope,
        caller: Caller,
        trace: RequestTrace,
        exchange: _MeasuredRequest,
        ruling: Ruling,
        action: str,
    ) -> Ruling:
        if not self._guard.judges_calls:
            return ruling
        asked = self._event(scope, caller, exchange, ruling, action)
        asked.bytes_in = _announced_bytes(scope)
        trace.add_to_event(asked)
        return await self._guard.judge_call(ruling, caller, asked, trace.hash_arguments())

    def _event(
        self, scope: Scope, caller: Caller, exchange: _MeasuredRequest, ruling: Ruling, action: str
    ) -> AuditEvent:
        outcome, error = ruling.event_outcome() if ruling.refused else exchange.outcome()
        event = AuditEvent(
            time=datetime.fromtimestamp(exchange.started_at, UTC),
            agent=EventAgent(id=caller.agent_id),
            type="api.call",
            action=action[:MAX_TEXT_CHARACTERS] or "-",
            outcome=outcome,
            error=error,
            caused_by=ruling.cause,
            effect=_effect(scope),
            resource=self._resource(scope),
            status=exchange.status,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            duration_ms=exchange.duration_ms(),
            client=_event_client(scope),
            trace_id=_trace_id(scope),
        )
        return caller.add_to_event(event)


class _MeasuredRequest:
    """Measures one request as it passes."""

    def __init__(self, receive: Receive, send: Send, clock: Clock) -> None:
        self._receive = receive
        self._send = send
        self._clock = clock
        self._started = clock.steady()
        self.started_at = clock.wall()
        self.status: int | None = None
        self.bytes_in = 0.0
        self.bytes_out = 0.0
        self.error_name: str | None = None
        self._reader: tuple[RequestTrace, bool | None] | None = None

    def read_answer_by(self, trace: RequestTrace, untrusted: bool | None) -> None:
        """Let *trace* read the app's answer before it is sent."""
        self._reader = trace, untrusted

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message.get("body", b""))
        elif message["type"] == "websocket.receive":
            self.bytes_in += len(message.get("bytes") or message.get("text") or b"")
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
        elif kind == "websocket.accept":
            self.status = 101
        elif kind == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
        elif kind == "websocket.send":
            self.bytes_out += len(message.get("bytes") or message.get("text") or b"")
        if self._reader is not None:
            trace, untrusted = self._reader
            await trace.read_answer(message, untrusted)
        await self._send(message)

    def duration_ms(self) -> float:
        return max(0.0, self._clock.steady() - self._started) * 1000.0

    def outcome(self) -> tuple[Outcome, str | None]:
        """Outcome and error name, by the rule of the gateway formats: 401 and 403 are denials, below 400 is success."""
        if self.error_name is not None and (self.status is None or self.error_name != "CancelledError"):
            self.status = self.status or 500
            return "error", self.error_name[:100]
        if self.status is None:
            return "error", "no_response"
        if self.status < 400:
            return "success", None
        return ("denied" if self.status in (401, 403) else "error"), None


def default_action(scope: Mapping[str, Any]) -> str:
    """Method and route: `GET /orders/{order_id}` by the router's pattern, else with `{id}` for parts that vary."""
    method = scope.get("method", "WEBSOCKET")
    pattern = getattr(scope.get("route"), "path", None)
    if isinstance(pattern, str) and pattern:
        return f"{method} {pattern}"
    return f"{method} " + "/".join(
        "{id}" if _VARIABLE_SEGMENT.fullmatch(part) else part for part in scope["path"].split("/")
    )


def default_resource(scope: Mapping[str, Any]) -> EventResource:
    """The path without its query, at the host that was asked for."""
    host = _header(scope, b"host").rpartition("@")[2][:MAX_TEXT_CHARACTERS]
    return EventResource(id=scope["path"][:MAX_TEXT_CHARACTERS] or "/", target=host.split(":")[0] or None)


def _matched_route(app: App, scope: Scope) -> object:
    """The route that the router of a Starlette or FastAPI app will put into the scope; None where that is not known."""
    for route in getattr(app, "routes", ()):
        match, child_scope = route.matches(scope)
        if getattr(match, "name", "") == "FULL":
            return child_scope.get("route")
    return None


def _announced_bytes(scope: Mapping[str, Any]) -> float | None:
    length = _header(scope, b"content-length")
    return float(length) if length.isascii() and length.isdigit() else None


def _effect(scope: Mapping[str, Any]) -> Effect:
    return METHOD_EFFECTS.get(scope.get("method", ""), "unknown")


def _event_client(scope: Mapping[str, Any]) -> EventClient | None:
    address = scope.get("client")
    agent = _header(scope, b"user-agent")[:MAX_TEXT_CHARACTERS]
    event_client = EventClient(ip=address[0] if address else None, user_agent=agent or None)
    return event_client if msgspec.structs.astuple(event_client) != (None, None, None) else None


def _trace_id(scope: Mapping[str, Any]) -> str | None:
    match = _TRACEPARENT.fullmatch(_header(scope, b"traceparent"))
    return match.group(1) if match else None


def _header(scope: Mapping[str, Any], name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope.get("headers", ()) if key == name), "")


class RequestTrace:
    """Reads a request before the app does, and its answer before the agent does."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, trace: CallTrace) -> None:
        self._scope = scope
        self._receive = receive
        self._trace = trace
        self._kept: list[Message] = []
        self._body = b""
        self._is_whole = True
        self._answer = b""
        self._answer_type = ""

    async def start(self, action: str) -> None:
        """Look up the values of the query and the body."""
        if self._trace.is_on and self._scope["type"] == "http":
            self._body = await self._read_body()
            self._trace.start(None, action, self._values())

    def hash_arguments(self) -> str | None:
        """Hash of method, path, query, body and its type, for a question; of a body that was not read whole it is
        another each time."""
        if not self._is_whole:
            return self._trace.hash_arguments(_NEVER_THE_SAME)
        scope = self._scope
        path, raw_path, query = scope.get("path"), scope.get("raw_path") or b"", scope.get("query_string", b"")
        reading = [pair for pair in scope.get("headers", ()) if pair[0] in _READING_HEADERS]
        texts = [value.decode("latin-1") for value in (raw_path, query, self._body, *chain.from_iterable(reading))]
        return self._trace.hash_arguments([scope.get("method"), path, *texts])

    def add_to_event(self, event: AuditEvent) -> None:
        """Write what is known of the call into its event."""
        self._trace.add_to_event(event)

    async def receive(self) -> Message:
        """The next message for the app: those that were read ahead come first."""
        return self._kept.pop(0) if self._kept else await self._receive()

    async def read_answer(self, message: Message, untrusted: bool | None) -> None:
        """Remember an answer when its last part is there."""
        if not self._trace.is_on:
            return
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            self._answer_type = "" if b"content-encoding" in headers else _media_type(headers.get(b"content-type", b""))
        elif message["type"] == "http.response.body":
            if _is_readable(self._answer_type):
                self._answer += message.get("body", b"")[: MAX_ANSWER_BYTES - len(self._answer)]
            if not message.get("more_body", False):
                await self._trace.finish(_values_of(self._answer, self._answer_type), untrusted)

    def _values(self) -> dict[str, object]:
        """Values of query and body. The agent chooses the type of its body, so that none is passed over."""
        headers = dict(self._scope.get("headers", ()))
        values = _form_values(self._scope.get("query_string", b"").decode("latin-1"))
        body = _values_of(self._body, _media_type(headers.get(b"content-type", b"")))
        for name, value in (body if isinstance(body, dict) else {"body": body}).items():
            values[name] = [values[name], value] if name in values else value
        return values

    async def _read_body(self) -> bytes:
        body, more = b"", True
        while more and len(body) <= MAX_BODY_BYTES:
            message = await self._receive()
            self._kept.append(message)
            body += message.get("body", b"")
            more = message["type"] == "http.request" and message.get("more_body", False)
        self._is_whole = not more
        return body


def _media_type(value: bytes) -> str:
    return value.decode("latin-1").partition(";")[0].strip().lower()


def _is_readable(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type == _FORM or _is_json(media_type)


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def _form_values(text: str) -> dict[str, object]:
    """Values by name, a list where a name comes more than once: nobody knows which of them an app takes."""
    return {name: values if len(values) > 1 else values[0] for name, values in parse_qs(text).items()}


def _values_of(body: bytes, media_type: str) -> object:
    """Values of a body; its text where it has no other shape, or was cut. An app may read JSON under any type."""
    if media_type == _FORM:
        return _form_values(body.decode(errors="replace"))
    if _is_json(media_type) or body.lstrip()[:1] in {b"{", b"["}:
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    return body.decode(errors="replace")

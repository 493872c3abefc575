"""Guards ASGI apps: sends one audit event per request, and enforces the risk answer. Needs no web framework."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any, Unpack
from urllib.parse import parse_qs

import msgspec

from .events import AuditEvent, Caller, Effect, EventClient, EventResource, Outcome
from .guard import UNKNOWN_AGENT, Challenge, Guard, GuardedRequest, GuardOptions, refusal_response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_BODY_BYTES = 131_072
"""Only the beginning of a longer body is read before the app; it is treated as text."""
MAX_ANSWER_BYTES = 262_144
_NEVER_THE_SAME = object()
"""Arguments with a different hash each time."""
_READING_HEADERS = (b"content-type", b"content-encoding")
"""Headers that decide how an app reads a body: the same bytes are 5 as JSON and 9,999 as a form."""
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


class TrustMiddleware(Guard):
    """ASGI middleware that looks up the risk of callers. Place it inside the app's authentication, which verifies the
    claims.

    Args:
        app: the ASGI application.
        caller: reads the agent from the scope, in which the app's own authentication has put verified claims
            (`caller_from_claims` helps); None = no agent, and the request passes without an event. Never read an
            unverified token here: any client could act as any agent.
        action: returns the action; the default is method and route (the router's pattern, or the path with `{id}` for
            variable parts).
        resource: returns the resource; the default is the path without its query.
        needed: scopes that a request needs, so that a policy that names scopes is applied exactly.
        challenge: requirements of a step-up.
        exclude: paths without risk look-up and events, exact or ending in `*`.
        untrusted: actions whose answers may hold what others wrote; None = unknown.
        options: as in `GuardOptions`. *calls* judges each request before the app receives it, and the action is then
            determined before the app runs. *origins* traces values of queries and bodies, in conversations that
            `Caller.session` names.
    """

    def __init__(
        self,
        app: App,
        *,
        caller: Callable[[Scope], Caller | None],
        action: Callable[[Scope], str] | None = None,
        resource: Callable[[Scope], EventResource | None] | None = None,
        needed: Callable[[Scope], Collection[str] | None] | None = None,
        challenge: Challenge | None = None,
        exclude: Iterable[str] = ("/healthz", "/readyz"),
        untrusted: Collection[str] | None = None,
        **options: Unpack[GuardOptions],
    ) -> None:
        super().__init__(**options)
        self.app = app
        self.untrusted = untrusted
        self.action = action or default_action
        self.resource = resource or default_resource
        self._caller = caller
        self._needed = needed
        self._challenge = challenge or Challenge()
        self._exclude = tuple(exclude)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        excluded = scope["type"] not in ("http", "websocket") or any(
            scope["path"] == pattern or (pattern.endswith("*") and scope["path"].startswith(pattern[:-1]))
            for pattern in self._exclude
        )
        caller = None if excluded else self._caller(scope)
        if caller is None:
            if not excluded:
                self.count_unidentified()
            await self.app(scope, receive, send)
            return
        request = _Request(self, caller, scope, receive, send)
        await request.evaluate(_effect(scope), self._needed(scope) if self._needed else None)
        try:
            if self.calls is not None or request.is_traced:
                await request.start()
            if request.ruling.refused:
                await self._refuse(scope, request)
            else:
                await self.app(scope, request.receive, request.send)
        except BaseException as error:
            request.set_outcome(error)
            raise
        else:
            request.set_outcome(None)
        finally:
            request.send_event()

    async def _refuse(self, scope: Scope, request: _Request) -> None:
        status, headers, body = refusal_response(request.ruling.action, self._challenge)
        if scope["type"] == "websocket":  # closed before it is accepted: servers answer 403
            request.status = 403
            await request.receive()
            await request.send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        await request.send({"type": "http.response.start", "status": status, "headers": headers})
        await request.send({"type": "http.response.body", "body": body})


@dataclass(eq=False, repr=False)
class _Request(GuardedRequest):
    guard: TrustMiddleware
    scope: Scope
    _receive: Receive
    _send: Send
    status: int | None = field(default=None, init=False)
    _action: str | None = field(default=None, init=False)
    _bytes_in: float | None = field(default=0.0, init=False)
    _bytes_out: float = field(default=0.0, init=False)
    _read_ahead: list[Message] = field(default_factory=list, init=False)
    _body: bytes = field(default=b"", init=False)
    _is_whole: bool = field(default=True, init=False)
    _answer: bytes = field(default=b"", init=False)
    _answer_type: str = field(default="", init=False)

    async def start(self) -> None:
        """Name the action before the app has routed the request, trace its values, and judge the call.

        The request and the event must name the same action.
        """
        scope = self.scope
        for route in getattr(self.guard.app, "routes", ()):  # of Starlette and FastAPI
            match, child_scope = route.matches(scope)
            if getattr(match, "name", "") == "FULL":
                if (matched := child_scope.get("route")) is not None:
                    scope = {**scope, "route": matched}
                break
        self._action = self.guard.action(scope)
        if self.ruling.refused:
            return
        if self.is_traced and self.scope["type"] == "http":
            self._body = await self._read_body()
            self.start_trace(None, self._action, self._values())
        if self.guard.calls is not None:
            announced = _header(self.scope, b"content-length")
            self._bytes_in = float(announced) if announced.isascii() and announced.isdigit() else None
            try:
                await self.judge_call(self._exact_arguments())
            finally:
                self._bytes_in = 0.0

    def new_event(self, time: datetime, outcome: Outcome) -> AuditEvent:
        action = self._action or self.guard.action(self.scope)
        address = self.scope.get("client")
        ip, user_agent = address[0] if address else None, _header(self.scope, b"user-agent")[:MAX_TEXT_CHARACTERS]
        trace = _TRACEPARENT.fullmatch(_header(self.scope, b"traceparent"))
        return AuditEvent(
            time=time,
            agent=UNKNOWN_AGENT,
            outcome=outcome,
            type="api.call",
            action=action[:MAX_TEXT_CHARACTERS] or "-",
            effect=_effect(self.scope),
            resource=self.guard.resource(self.scope),
            status=self.status,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            client=EventClient(ip=ip, user_agent=user_agent or None) if ip is not None or user_agent else None,
            trace_id=trace.group(1) if trace else None,
        )

    async def receive(self) -> Message:
        """Return the next message for the app. Messages that were read ahead come first."""
        message = self._read_ahead.pop(0) if self._read_ahead else await self._receive()
        self._bytes_in = (self._bytes_in or 0.0) + _size(message)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self._bytes_out += _size(message)
            if message["type"] == "websocket.accept":
                self.status = 101
        if self.is_traced and not self.ruling.refused:
            await self._read_answer(message)
        await self._send(message)

    def set_outcome(self, error: BaseException | None) -> None:
        """Set the outcome by the rule of the gateway formats: 401 and 403 are denials, below 400 is success."""
        name = None if error is None else type(error).__name__
        if self.ruling.refused:
            return
        if name is not None and (self.status is None or name != "CancelledError"):
            self.status = self.status or 500
            self.outcome, self.error = "error", name[:100]
        elif self.status is None:
            self.outcome, self.error = "error", "no_response"
        elif self.status >= 400:
            self.outcome = "denied" if self.status in (401, 403) else "error"

    def _exact_arguments(self) -> object:
        """Return method, path, query, body and its type. A body that was not read whole has a new hash each time."""
        if not self._is_whole:
            return _NEVER_THE_SAME
        scope = self.scope
        path, raw_path, query = scope.get("path"), scope.get("raw_path") or b"", scope.get("query_string", b"")
        reading = [pair for pair in scope.get("headers", ()) if pair[0] in _READING_HEADERS]
        texts = [value.decode("latin-1") for value in (raw_path, query, self._body, *chain.from_iterable(reading))]
        return [scope.get("method"), path, *texts]

    async def _read_answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            self._answer_type = "" if b"content-encoding" in headers else _media_type(headers.get(b"content-type", b""))
        elif message["type"] == "http.response.body":
            if self._answer_type.startswith("text/") or self._answer_type == _FORM or _is_json(self._answer_type):
                self._answer += message.get("body", b"")[: MAX_ANSWER_BYTES - len(self._answer)]
            if not message.get("more_body", False):
                untrusted = self.guard.untrusted
                is_untrusted = None if untrusted is None else self._action in untrusted
                await self.finish_trace(_values_of(self._answer, self._answer_type), is_untrusted)

    def _values(self) -> dict[str, object]:
        """Return the values of query and body. The body is parsed under any media type, since the agent chooses it."""
        headers = dict(self.scope.get("headers", ()))
        values = _form_values(self.scope.get("query_string", b"").decode("latin-1"))
        body = _values_of(self._body, _media_type(headers.get(b"content-type", b"")))
        for name, value in (body if isinstance(body, dict) else {"body": body}).items():
            values[name] = [values[name], value] if name in values else value
        return values

    async def _read_body(self) -> bytes:
        body, more = b"", True
        while more and len(body) <= MAX_BODY_BYTES:
            message = await self._receive()
            self._read_ahead.append(message)
            body += message.get("body", b"")
            more = message["type"] == "http.request" and message.get("more_body", False)
        self._is_whole = not more
        return body


def _size(message: Message) -> int:
    return len(message.get("body") or message.get("bytes") or message.get("text") or b"")


def default_action(scope: Mapping[str, Any]) -> str:
    """Return method and route: `GET /orders/{order_id}` by the router's pattern, else `{id}` for variable parts."""
    method = scope.get("method", "WEBSOCKET")
    pattern = getattr(scope.get("route"), "path", None)
    if isinstance(pattern, str) and pattern:
        return f"{method} {pattern}"
    return f"{method} " + "/".join(
        "{id}" if _VARIABLE_SEGMENT.fullmatch(part) else part for part in scope["path"].split("/")
    )


def default_resource(scope: Mapping[str, Any]) -> EventResource:
    """Return the path without its query, at the requested host."""
    host = _header(scope, b"host").rpartition("@")[2][:MAX_TEXT_CHARACTERS]
    return EventResource(id=scope["path"][:MAX_TEXT_CHARACTERS] or "/", target=host.split(":")[0] or None)


def _effect(scope: Mapping[str, Any]) -> Effect:
    return METHOD_EFFECTS.get(scope.get("method", ""), "unknown")


def _header(scope: Mapping[str, Any], name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope.get("headers", ()) if key == name), "")


def _media_type(value: bytes) -> str:
    return value.decode("latin-1").partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def _form_values(text: str) -> dict[str, object]:
    """Return values by name; a repeated name has a list, since apps differ in which value they take."""
    return {name: values if len(values) > 1 else values[0] for name, values in parse_qs(text).items()}


def _values_of(body: bytes, media_type: str) -> object:
    """Return the values of a body, else its text. JSON is read under any type, as apps may do."""
    if media_type == _FORM:
        return _form_values(body.decode(errors="replace"))
    if _is_json(media_type) or body.lstrip()[:1] in {b"{", b"["}:
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    return body.decode(errors="replace")

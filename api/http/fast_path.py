"""The bare ASGI layer in front of FastAPI: answers requests that cannot wait, and admits the others.

FastAPI's routing and dependencies cost several times what an answer from memory costs, and that answer is requested
while a token is being issued or a call waits. FastAPI also reads and parses a body before a dependency asks for a
token, so this layer authenticates first: no byte of a body is read before the caller is known.
"""

from __future__ import annotations

import ipaddress
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final
from urllib.parse import urlsplit

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.settings import is_loopback
from trustwatch.scoring.store.read_scope import NOBODY, reads_of

from ..settings.service_settings import ListenSettings
from .agent_lookup import decode_agent_id
from .auth.callers import SCOPE_SCORE_READ, AuthenticatedCaller
from .auth.proof_of_possession import ProofRefused
from .auth.token_verification import AuthenticationFailed
from .connection_guard import ConnectionGuard
from .dependencies import authenticate_request
from .problems import ProblemDetails, ProblemError, problem_of, problem_of_failure, send_problem
from .prometheus_metrics import ServiceMetrics
from .refused_callers import RefusedCallers
from .runtime import Runtime
from .slice import FastRoute, ServiceRegistry

JSON_HEADER: Final = (b"content-type", b"application/json")
_NO_STORE: Final = (b"cache-control", b"no-store")
REQUEST_ID_HEADER: Final = b"x-request-id"
REQUEST_ID_KEY: Final = "trustwatch.request_id"
"""Key of the request ID in the ASGI scope."""
_ID_PATTERN: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")


def given_request_id(scope: Scope) -> bytes:
    """Return the ID in a request's header if it is well-formed, else an empty text."""
    given = b""
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER:
            if given or not _ID_PATTERN.match(value):
                return b""
            given = value
    return given


def request_id_of(scope: Scope, new_id: Callable[[], str]) -> str:
    """Return the ID of a request, or a new one."""
    stored_id: str | None = scope.get(REQUEST_ID_KEY)
    return stored_id or given_request_id(scope).decode() or new_id()


def identify_request(scope: Scope, send: Send, new_id: Callable[[], str]) -> Send:
    """Bind the request's ID to all log lines of its task, and return a *send* that adds it to the answer."""
    request_id = given_request_id(scope) or new_id().encode()
    scope[REQUEST_ID_KEY] = request_id.decode()
    structlog.contextvars.bind_contextvars(request_id=scope[REQUEST_ID_KEY])

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            for name, _ in headers:
                if name == REQUEST_ID_HEADER:
                    break
            else:  # answers are made once and shared: never changed in place
                message = {**message, "headers": [*headers, (REQUEST_ID_HEADER, request_id)]}
        await send(message)

    return send_with_id


class RequestBodyTooLong(Exception):
    """The body has more bytes than a route accepts."""


async def read_request_body(receive: Receive, most: int) -> bytes | None:
    """Read a body of at most that many bytes; None if the client disconnected before it was complete.

    Raises RequestBodyTooLong.
    """
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            raise RequestBodyTooLong
        more = message.get("more_body", False)
    return bytes(body)


def _limit_body(receive: Receive, most: int) -> Receive:
    """Wrap *receive* to refuse, with 413, a body of more than *most* bytes."""
    left = most

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"the body may have {most} bytes")
        return message

    return counted


HOST_HEADER = b"host"
UNCHECKED_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths without a Host check: probes call them by any address of the machine."""


class AllowedHosts:
    """Check of the `Host` of requests without a valid token."""

    def __init__(self, listen: ListenSettings) -> None:
        public = urlsplit(listen.public_url).hostname if listen.public_url is not None else None
        names = {"localhost", listen.host, public or "", *listen.allowed_hosts}
        self._names = frozenset(_canonical(name) for name in names) - {""}
        address = _address(listen.host)
        self._any_address = address is not None and address.is_unspecified

    def check(self, scope: Scope) -> None:
        """Raise ProblemError unless the request names this service: 400 without exactly one Host, 421 for another."""
        given = [value for name, value in scope["headers"] if name == HOST_HEADER]
        if len(given) != 1:
            detail = "a request without a valid token must have exactly one Host header"
            raise ProblemError(ProblemDetails(400, "invalid_host", "Invalid Host", detail))
        host = host_name(given[0].decode("latin-1"))
        # If the service listens on every address, any address is allowed: a name can be made to resolve to this
        # machine, an address cannot.
        is_ours = host in self._names or is_loopback(host) or (self._any_address and _address(host) is not None)
        if not is_ours:
            detail = (
                "a request without a valid token must name this service: the address it listens on, localhost, the "
                "host of `listen.public_url`, or one of `listen.allowed_hosts`"
            )
            raise ProblemError(ProblemDetails(421, "misdirected_request", "Misdirected request", detail))


def host_name(host: str) -> str:
    """Return the name in a Host header, without port and in lower case; "" if it is invalid.

    >>> host_name("Trust.example.:8420"), host_name("[::1]:8420"), host_name("127.0.0.1")
    ('trust.example', '::1', '127.0.0.1')
    """
    try:
        return _canonical(urlsplit(f"//{host}").hostname or "") if set(host).isdisjoint("/?#@\\ ") else ""
    except ValueError:
        return ""


def _canonical(name: str) -> str:
    return name.strip("[]").rstrip(".").lower()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


MAX_REQUEST_BYTES = 64 * 1024
"""Bytes of a request body, unless its slice specifies another limit."""

BODILESS_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods of routes that read no body."""


class FastAgentRoute(ABC):
    """Answers requests about one agent in front of FastAPI: `/v1/agents/{agent_id}` and a suffix, by one method."""

    route: ClassVar[str]
    method: ClassVar[str]

    def __init__(self, services: ServiceRegistry) -> None:
        runtime, metrics = services.get(Runtime), services.get(ServiceMetrics)
        self._verifier = runtime.verifier
        self._metrics = metrics
        self._monotonic = runtime.monotonic
        self._new_id = runtime.new_id
        self._refused_callers = services.get(RefusedCallers)
        prefix, _, suffix = self.route.partition("{agent_id}")
        self._prefix, self._suffix = prefix.encode(), suffix.encode()
        self._id_start, self._id_end = len(prefix), -len(suffix)
        self._least_length = len(prefix) + len(suffix)
        self._count_answer = metrics.counter("trustwatch_http_requests_total", self.route, "200").inc
        self._observe_duration = metrics.histogram("trustwatch_http_request_seconds", self.route).observe

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """Return this route if it serves *path*."""
        if path.endswith(self._suffix) and path.startswith(self._prefix) and len(path) >= self._least_length:
            return self
        return None

    def template(self, path: bytes) -> str:  # noqa: ARG002 - there is one
        return self.route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._monotonic()
        try:
            if scope["method"] != self.method:
                detail, allowed = f"only {self.method} is answered here", {"Allow": self.method}
                raise ProblemError(ProblemDetails(405, "method_not_allowed", "Method not allowed", detail, allowed))
            caller = await authenticate_request(self._verifier, scope)
            caller.require(SCOPE_SCORE_READ)
            agent_id = decode_agent_id(scope["raw_path"][self._id_start : self._id_end])
            answer = await self._answer(caller, agent_id, scope, receive)
        except Exception as error:
            problem = problem_of_failure(error, self.route, self._new_id, scope, self._refused_callers)
            self._metrics.counter("trustwatch_http_requests_total", self.route, str(problem.status)).inc()
            await send_problem(problem, send, with_body=scope["method"] != "HEAD")
        else:
            if answer is None:
                return
            content_type, body = answer
            headers = [content_type, _NO_STORE, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            self._count_answer()
        self._observe_duration(self._monotonic() - start)

    @abstractmethod
    async def _answer(
        self, caller: AuthenticatedCaller, agent_id: str, scope: Scope, receive: Receive
    ) -> tuple[tuple[bytes, bytes], bytes] | None:
        """Return the `content-type` header and the body of the answer; None if the client disconnected early."""


@dataclass(eq=False, repr=False)
class FastPath:
    """The application that the server runs. It answers requests of fast routes, and admits all others to FastAPI.

    A request goes through `__call__` (ID, fast routes), `_forward` (metrics) and `_admit` (host, caller, length of the
    body) to FastAPI.
    """

    app: ASGIApp
    _runtime: Runtime
    _metrics: ServiceMetrics
    _guard: ConnectionGuard | None
    _routes: tuple[FastRoute, ...]
    _streamed_paths: frozenset[str]
    _body_limits: Mapping[str, int]
    _own_sign_in: tuple[str, ...]  # beginnings of paths whose applications authenticate by other means than tokens

    def __post_init__(self) -> None:
        self._hosts = AllowedHosts(self._runtime.settings.listen)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan of the application.

        Until its caller is known, a request can read no tenant's rows from the store.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope.get("raw_path") or b""
        send = identify_request(scope, send, self._runtime.new_id)
        with reads_of(NOBODY):
            for route in self._routes:
                if (handler := route.find_handler(path)) is not None:
                    await handler(scope, receive, send)
                    return
            await self._forward(scope, receive, send)

    def route_template(self, scope: Scope) -> str:
        """Return the route of a request."""
        path = scope.get("raw_path") or b""
        for route in self._routes:
            if route.find_handler(path) is not None:
                return route.template(path)
        return route_template(scope)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let FastAPI answer the request if it is admitted, and count the answer."""
        start = self._runtime.monotonic()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status == 307:
                    message["headers"] = [_without_origin(*header) for header in message["headers"]]
            await send(message)

        try:
            await self._admit(scope, receive, counted)
        finally:
            route = route_template(scope)
            self._metrics.counter("trustwatch_http_requests_total", route, str(status)).inc()
            self._metrics.histogram("trustwatch_http_request_seconds", route).observe(self._runtime.monotonic() - start)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to FastAPI, or answer with a problem if FastAPI may not read it.

        Routes that stream authenticate and bound the body themselves, and mounted applications authenticate by other
        means than tokens.
        """
        path = scope["path"]
        if path in self._streamed_paths:
            await self.app(scope, receive, send)
            return
        try:
            if path not in UNCHECKED_PATHS:
                await self._check_host(scope)
            if scope["method"] not in BODILESS_METHODS and not path.startswith(self._own_sign_in):
                await authenticate_request(self._runtime.verifier, scope)
                if self._guard is not None:
                    self._guard.admit(scope["client"])
        except TrustwatchError as error:
            await send_problem(problem_of(error), send, with_body=scope["method"] != "HEAD")
            return
        most = self._body_limits.get(path, MAX_REQUEST_BYTES)
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if length.isdigit() and int(length) > most:
            detail = f"the body may have {most} bytes"
            await send_problem(ProblemDetails(413, "body_too_large", "Body too large", detail), send, with_body=True)
        else:
            await self.app(scope, _limit_body(receive, most), send)

    async def _check_host(self, scope: Scope) -> None:
        """Raise ProblemError (400, 421) if the request has neither a `Host` of this service nor a valid token."""
        try:
            self._hosts.check(scope)
        except ProblemError as misdirected:
            given = (value.partition(b" ")[0].lower() for name, value in scope["headers"] if name == b"authorization")
            if not any(scheme in (b"bearer", b"dpop") for scheme in given):
                raise
            try:
                await authenticate_request(self._runtime.verifier, scope)
            except ProofRefused:  # of a token that is valid: its client learns what the proof lacks
                raise
            except AuthenticationFailed:
                raise misdirected from None


def route_template(scope: Scope) -> str:
    """Return the route that FastAPI found for a request, or (none)."""
    route = getattr(scope.get("route"), "path_format", "")
    return scope.get("root_path", "") + route if route else "(none)"


def _without_origin(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return a header unchanged, except `Location`, which loses the scheme and host that Starlette copies from the
    request."""
    if name != b"location":
        return name, value
    parts = urlsplit(value)
    path = b"/" + parts.path.lstrip(b"/")  # `//name` would be a host again
    return name, path + (b"?" + parts.query if parts.query else b"")

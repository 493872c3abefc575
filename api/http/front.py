"""The bare ASGI layer in front of FastAPI: answers `GET /v1/agents/{agent_id}/risk` itself, passes everything else on.

FastAPI's routing and dependencies cost several times what this answer costs, and the answer is asked for while a token
is being issued. The route is declared in FastAPI too, so that it is in the same OpenAPI document.
"""

from __future__ import annotations

import traceback
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...ingest.errors import TrustwatchError
from ..callers import SCORE_READ, Caller
from ..gateway import GatewayServer
from ..hooks import HookServer
from ..problems import CONTENT_TYPE, Problem, ProblemError, internal_problem, problem_of
from ..tokens import TokenVerifier, UnknownKey, bearer_token
from .answers import RiskAnswers
from .metrics import Metrics
from .services import Services

PREFIX = b"/v1/agents/"
SUFFIX = b"/risk"
ROUTE = "/v1/agents/{agent_id}/risk"
SHORTEST = len(PREFIX) + len(SUFFIX)
EVENTS, TRACES, LOGS = "/v1/events", "/v1/traces", "/v1/logs"
MAX_BODY = 8 * 1024 * 1024
"""Bytes of a request body, except those with events, which have their own bound."""

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")

_log = structlog.get_logger(__name__)


async def caller_of(verifier: TokenVerifier[Caller], scope: Scope) -> Caller:
    """The caller of a request. Waits only for a key that is not known yet; raises AuthenticationFailed."""
    authorization = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value
            break
    token = bearer_token(authorization)
    try:
        return verifier.verified(token)
    except UnknownKey:
        return await verifier.verify(token)


class Front:
    """The application that the server runs.

    Args:
        app: FastAPI, behind.
        services: of the application.
        answers: risk answers.
        metrics: counts every request, of both.
        answering: whether risk is answered at all; a worker holds none.
        hooks: authorization servers' hooks; None where none is answered.
        gateway: checks for gateways; None where none is answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        services: Services,
        answers: RiskAnswers,
        metrics: Metrics,
        *,
        answering: bool = True,
        hooks: HookServer | None = None,
        gateway: GatewayServer | None = None,
    ) -> None:
        self.app = app
        self._hooks = hooks
        self._gateway = gateway
        self._verifier = services.verifier
        self._monotonic = services.monotonic
        self._new_id = services.new_id
        self._answers = answers
        self._answering = answering
        self._metrics = metrics
        self._answered = metrics.counter("trustwatch_http_requests_total", ROUTE, "200").inc
        self._took = metrics.histogram("trustwatch_http_request_seconds", ROUTE).observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan of the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope.get("raw_path") or b""
        if self._gateway is not None and (way := self._gateway.way(path)):
            await self._gateway(way, scope, receive, send)
            return
        if self._answering and path.endswith(SUFFIX) and path.startswith(PREFIX) and len(path) >= SHORTEST:
            await self._risk(scope, path, send)
        elif self._hooks is not None and self._hooks.serves(path):
            await self._hooks(scope, receive, send)
        else:
            await self._pass(scope, receive, send)

    async def _risk(self, scope: Scope, path: bytes, send: Send) -> None:
        start = self._monotonic()
        try:
            body = await self._answer(scope, path)
        except Exception as error:
            problem = self._problem(error)
            self._metrics.counter("trustwatch_http_requests_total", ROUTE, str(problem.status)).inc()
            await _send_problem(problem, send, with_body=scope["method"] != "HEAD")
        else:
            length = (b"content-length", b"%d" % len(body))
            await send({"type": "http.response.start", "status": 200, "headers": [_JSON, _NO_STORE, length]})
            await send({"type": "http.response.body", "body": body})
            self._answered()
        self._took(self._monotonic() - start)

    async def _answer(self, scope: Scope, path: bytes) -> bytes:
        if scope["method"] != "GET":
            raise ProblemError(
                Problem(405, "method_not_allowed", "Method not allowed", "only GET is answered here", {"Allow": "GET"})
            )
        caller = await caller_of(self._verifier, scope)
        caller.require(SCORE_READ)
        agent_id = agent_id_of(path[len(PREFIX) : -len(SUFFIX)])
        query = scope["query_string"]
        tenant, issuer = selection(query) if query else (None, None)
        return self._answers.answer(caller, agent_id, tenant, issuer)

    async def _within_bounds(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in (EVENTS, TRACES, LOGS):  # bounded themselves, and take room in memory as the body arrives
            await self.app(scope, receive, send)
        elif declared_length(scope) > MAX_BODY:
            detail = f"the body may have {MAX_BODY} bytes"
            await _send_problem(Problem(413, "body_too_large", "Body too large", detail), send, with_body=True)
        else:
            await self.app(scope, bounded(receive, MAX_BODY), send)

    def _problem(self, error: Exception) -> Problem:
        problem = problem_of(error) if isinstance(error, TrustwatchError) else internal_problem()
        if problem.status != 500:
            return problem
        error_id = self._new_id()
        trace = "".join(traceback.format_exception(error))  # no local variables: one of them may be a token
        _log.error("request_failed", error_id=error_id, route=ROUTE, error=type(error).__name__, traceback=trace)
        return internal_problem(error_id)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._monotonic()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._within_bounds(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path_format", "")
            route = scope.get("root_path", "") + route if route else "(none)"
            self._metrics.counter("trustwatch_http_requests_total", route, str(status)).inc()
            self._metrics.histogram("trustwatch_http_request_seconds", route).observe(self._monotonic() - start)


def bounded(receive: Receive, most: int) -> Receive:
    """*receive* that refuses, with 413, a body of more than *most* bytes."""
    left = most

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"the body may have {most} bytes")
        return message

    return counted


def declared_length(scope: Scope) -> int:
    """Content-Length of a request; 0 where none is given."""
    given = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(given) if given.isdigit() else 0


def agent_id_of(raw: bytes) -> str:
    """An agent id out of a path, percent-decoded once: ids that are URLs come as `https%3A%2F%2F…`, or as they are.

    Raises:
        ProblemError: 400, it is empty or not UTF-8.
    """
    if not raw:
        raise ProblemError(Problem(400, "invalid_request", "Invalid request", "the path names no agent id"))
    try:
        return (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        raise ProblemError(
            Problem(400, "invalid_request", "Invalid request", "the agent id in the path is not UTF-8")
        ) from None


def selection(query: bytes) -> tuple[str | None, str | None]:
    """`tenant` and `issuer` of a query string; None = not named.

    Raises:
        ProblemError: 400, one is named twice, or the query is not UTF-8 or endless.
    """
    try:
        found = parse_qs(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        found = {"tenant": ["", ""]}
    named: dict[str, Any] = {name: found.get(name, [None]) for name in ("tenant", "issuer")}
    if any(len(values) > 1 for values in named.values()):
        detail = "the query must be UTF-8 and name `tenant` and `issuer` at most once"
        raise ProblemError(Problem(400, "invalid_request", "Invalid request", detail))
    return named["tenant"][0], named["issuer"][0]


async def _send_problem(problem: Problem, send: Send, *, with_body: bool) -> None:
    body = problem.body()
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    headers += [
        (b"content-type", CONTENT_TYPE.encode()),
        _NO_STORE,
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})

"""The bare ASGI layer in front of FastAPI: answers `GET /v1/agents/{agent_id}/risk` itself, passes everything else on.

FastAPI's routing and dependencies cost several times what this answer costs, and the answer is asked for while a token
is being issued. The route is declared in FastAPI too, so that it is in the same OpenAPI document.
"""

from __future__ import annotations

import traceback
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...ingest.errors import TrustwatchError
from ..access.gateways.gateway_server import GatewayServer
from ..access.hooks.hook_server import HookServer
from ..agents.risk_answer_cache import RiskAnswerCache
from .auth.callers import SCOPE_SCORE_READ
from .dependencies import authenticate_request
from .problems import CONTENT_TYPE, ProblemDetails, ProblemError, internal_problem, problem_of
from .prometheus_metrics import ServiceMetrics
from .request_body import declared_body_length, limit_body
from .runtime import Runtime

RISK_PATH_PREFIX = b"/v1/agents/"
RISK_PATH_SUFFIX = b"/risk"
RISK_ROUTE = "/v1/agents/{agent_id}/risk"
MIN_RISK_PATH_LENGTH = len(RISK_PATH_PREFIX) + len(RISK_PATH_SUFFIX)
EVENTS_PATH, TRACES_PATH, LOGS_PATH = "/v1/events", "/v1/traces", "/v1/logs"
MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""Bytes of a request body, except those with events, which have their own bound."""

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")

_log = structlog.get_logger(__name__)


class FastPath:
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
        services: Runtime,
        answers: RiskAnswerCache,
        metrics: ServiceMetrics,
        *,
        answering: bool = True,
        hooks: HookServer | None = None,
        gateway: GatewayServer | None = None,
    ) -> None:
        self.app = app
        self._hook_server = hooks
        self._gateway_server = gateway
        self._verifier = services.verifier
        self._monotonic = services.monotonic
        self._new_id = services.new_id
        self._risk_answers = answers
        self._answers_risk = answering
        self._metrics = metrics
        self._count_answer = metrics.counter("trustwatch_http_requests_total", RISK_ROUTE, "200").inc
        self._observe_duration = metrics.histogram("trustwatch_http_request_seconds", RISK_ROUTE).observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan of the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope.get("raw_path") or b""
        if self._gateway_server is not None and (way := self._gateway_server.route_of(path)):
            await self._gateway_server(way, scope, receive, send)
            return
        if (
            self._answers_risk
            and path.endswith(RISK_PATH_SUFFIX)
            and path.startswith(RISK_PATH_PREFIX)
            and len(path) >= MIN_RISK_PATH_LENGTH
        ):
            await self._answer_risk(scope, path, send)
        elif self._hook_server is not None and self._hook_server.handles(path):
            await self._hook_server(scope, receive, send)
        else:
            await self._forward(scope, receive, send)

    async def _answer_risk(self, scope: Scope, path: bytes, send: Send) -> None:
        start = self._monotonic()
        try:
            body = await self._risk_body(scope, path)
        except Exception as error:
            problem = self._problem_for(error)
            self._metrics.counter("trustwatch_http_requests_total", RISK_ROUTE, str(problem.status)).inc()
            await _send_problem(problem, send, with_body=scope["method"] != "HEAD")
        else:
            length = (b"content-length", b"%d" % len(body))
            await send({"type": "http.response.start", "status": 200, "headers": [_JSON, _NO_STORE, length]})
            await send({"type": "http.response.body", "body": body})
            self._count_answer()
        self._observe_duration(self._monotonic() - start)

    async def _risk_body(self, scope: Scope, path: bytes) -> bytes:
        if scope["method"] != "GET":
            raise ProblemError(
                ProblemDetails(
                    405, "method_not_allowed", "Method not allowed", "only GET is answered here", {"Allow": "GET"}
                )
            )
        caller = await authenticate_request(self._verifier, scope)
        caller.require(SCOPE_SCORE_READ)
        agent_id = decode_agent_id(path[len(RISK_PATH_PREFIX) : -len(RISK_PATH_SUFFIX)])
        query = scope["query_string"]
        tenant, issuer = parse_agent_selection(query) if query else (None, None)
        return self._risk_answers.answer(caller, agent_id, tenant, issuer)

    async def _forward_bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in (
            EVENTS_PATH,
            TRACES_PATH,
            LOGS_PATH,
        ):  # bounded themselves, and take room in memory as the body arrives
            await self.app(scope, receive, send)
        elif declared_body_length(scope) > MAX_REQUEST_BYTES:
            detail = f"the body may have {MAX_REQUEST_BYTES} bytes"
            await _send_problem(ProblemDetails(413, "body_too_large", "Body too large", detail), send, with_body=True)
        else:
            await self.app(scope, limit_body(receive, MAX_REQUEST_BYTES), send)

    def _problem_for(self, error: Exception) -> ProblemDetails:
        problem = problem_of(error) if isinstance(error, TrustwatchError) else internal_problem()
        if problem.status != 500:
            return problem
        error_id = self._new_id()
        trace = "".join(traceback.format_exception(error))  # no local variables: one of them may be a token
        _log.error("request_failed", error_id=error_id, route=RISK_ROUTE, error=type(error).__name__, traceback=trace)
        return internal_problem(error_id)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._monotonic()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._forward_bounded(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path_format", "")
            route = scope.get("root_path", "") + route if route else "(none)"
            self._metrics.counter("trustwatch_http_requests_total", route, str(status)).inc()
            self._metrics.histogram("trustwatch_http_request_seconds", route).observe(self._monotonic() - start)


def decode_agent_id(raw: bytes) -> str:
    """An agent id out of a path, percent-decoded once: ids that are URLs come as `https%3A%2F%2F…`, or as they are.

    Raises:
        ProblemError: 400, it is empty or not UTF-8.
    """
    if not raw:
        raise ProblemError(ProblemDetails(400, "invalid_request", "Invalid request", "the path names no agent id"))
    try:
        return (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        raise ProblemError(
            ProblemDetails(400, "invalid_request", "Invalid request", "the agent id in the path is not UTF-8")
        ) from None


def parse_agent_selection(query: bytes) -> tuple[str | None, str | None]:
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
        raise ProblemError(ProblemDetails(400, "invalid_request", "Invalid request", detail))
    return named["tenant"][0], named["issuer"][0]


async def _send_problem(problem: ProblemDetails, send: Send, *, with_body: bool) -> None:
    body = problem.body()
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    headers += [
        (b"content-type", CONTENT_TYPE.encode()),
        _NO_STORE,
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})

"""`POST /v1/agents/{agent_id}/calls/evaluate` in front of FastAPI, which declares it too, so that OpenAPI has it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from ..http.agent_paths import decode_agent_id, parse_agent_selection
from ..http.auth.bearer_tokens import TokenVerifier
from ..http.auth.callers import SCOPE_SCORE_READ, AuthenticatedCaller
from ..http.dependencies import authenticate_request
from ..http.problems import ProblemDetails, ProblemError, problem_of_failure, send_problem
from ..http.prometheus_metrics import ServiceMetrics
from ..http.refused_callers import RefusedCallers
from ..http.request_body import RequestBodyTooLong, read_request_body
from .call_answers import CallAnswers

CALL_PATH_PREFIX, CALL_PATH_SUFFIX = b"/v1/agents/", b"/calls/evaluate"
CALL_ROUTE = "/v1/agents/{agent_id}/calls/evaluate"
MAX_CALL_BYTES = 128 * 1024
"""Bytes of a question: 256 arguments with long names, and what an event has beside them."""
_MIN_PATH_LENGTH = len(CALL_PATH_PREFIX) + len(CALL_PATH_SUFFIX)

_HEADERS = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


class FastCallRoute:
    """Answers questions about calls from memory."""

    def __init__(
        self,
        answers: CallAnswers,
        verifier: TokenVerifier[AuthenticatedCaller],
        metrics: ServiceMetrics,
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
        refused_callers: RefusedCallers,
    ) -> None:
        self._answers = answers
        self._verifier = verifier
        self._metrics = metrics
        self._monotonic = monotonic
        self._new_id = new_id
        self._refused_callers = refused_callers
        self._observe_duration = metrics.histogram("trustwatch_http_request_seconds", CALL_ROUTE).observe

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """This route, where *path* is one of a question about a call."""
        fits = path.endswith(CALL_PATH_SUFFIX) and path.startswith(CALL_PATH_PREFIX) and len(path) >= _MIN_PATH_LENGTH
        return self if fits else None

    def template(self, path: bytes) -> str:  # noqa: ARG002 - there is one
        """See `FastRoute`."""
        return CALL_ROUTE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start, status = self._monotonic(), 200
        try:
            body = await self._answer(scope, receive)
        except Exception as error:
            problem = problem_of_failure(error, CALL_ROUTE, self._new_id, scope, self._refused_callers)
            status = problem.status
            await send_problem(problem, send, with_body=scope["method"] != "HEAD")
        else:
            if body is None:
                return
            length = (b"content-length", b"%d" % len(body))
            await send({"type": "http.response.start", "status": status, "headers": [*_HEADERS, length]})
            await send({"type": "http.response.body", "body": body})
        self._metrics.counter("trustwatch_http_requests_total", CALL_ROUTE, str(status)).inc()
        self._observe_duration(self._monotonic() - start)

    async def _answer(self, scope: Scope, receive: Receive) -> bytes | None:
        """The answer; None where the client went away before its question was whole."""
        if scope["method"] != "POST":
            detail = "only POST is answered here"
            raise ProblemError(
                ProblemDetails(405, "method_not_allowed", "Method not allowed", detail, {"Allow": "POST"})
            )
        caller = await authenticate_request(self._verifier, scope)
        caller.require(SCOPE_SCORE_READ)
        agent_id = decode_agent_id(scope["raw_path"][len(CALL_PATH_PREFIX) : -len(CALL_PATH_SUFFIX)])
        tenant, issuer = parse_agent_selection(scope["query_string"])
        try:
            body = await read_request_body(receive, MAX_CALL_BYTES)
        except RequestBodyTooLong:
            detail = f"the body may have {MAX_CALL_BYTES} bytes"
            raise ProblemError(ProblemDetails(413, "body_too_large", "Body too large", detail)) from None
        return None if body is None else await self._answers.answer(caller, agent_id, tenant, issuer, body)

"""Agents: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from trustwatch.scoring.records.erasures import Erasure

from ..events.intake import EventIntake
from ..http.agent_lookup import AgentResolver, decode_agent_id, parse_agent_selection
from ..http.auth.bearer_tokens import TokenVerifier
from ..http.auth.callers import SCOPE_SCORE_READ, AuthenticatedCaller
from ..http.dependencies import authenticate_request
from ..http.problems import ProblemDetails, ProblemError, problem_of_failure, send_problem
from ..http.prometheus_metrics import ServiceMetrics
from ..http.refused_callers import RefusedCallers
from ..http.responses import AnswerSigner, wants_signed
from ..http.runtime import Runtime
from ..http.slice import FastRoute, ServiceRegistry, Slice
from ..http.store_executor import StoreExecutor
from ..privacy.service import ErasureService
from .risk_answer_cache import RiskAnswerCache
from .routes import RISK_QUERY_PATH, router
from .service import AgentService

RISK_PATH_PREFIX = b"/v1/agents/"
RISK_PATH_SUFFIX = b"/risk"
RISK_ROUTE = "/v1/agents/{agent_id}/risk"
MIN_RISK_PATH_LENGTH = len(RISK_PATH_PREFIX) + len(RISK_PATH_SUFFIX)

_JSON = (b"content-type", b"application/json")
_SIGNED = (b"content-type", b"application/jwt")
_NO_STORE = (b"cache-control", b"no-store")


@dataclass(eq=False, repr=False)
class FastRiskRoute:
    """Answers risk questions from memory."""

    _answers: RiskAnswerCache
    _verifier: TokenVerifier[AuthenticatedCaller]
    _metrics: ServiceMetrics
    _monotonic: Callable[[], float]
    _new_id: Callable[[], str]
    _refused_callers: RefusedCallers
    _signer: AnswerSigner | None

    def __post_init__(self) -> None:
        self._count_answer = self._metrics.counter("trustwatch_http_requests_total", RISK_ROUTE, "200").inc
        self._observe_duration = self._metrics.histogram("trustwatch_http_request_seconds", RISK_ROUTE).observe

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """This route, where *path* is one of a risk answer."""
        if path.endswith(RISK_PATH_SUFFIX) and path.startswith(RISK_PATH_PREFIX) and len(path) >= MIN_RISK_PATH_LENGTH:
            return self
        return None

    def template(self, path: bytes) -> str:  # noqa: ARG002 - there is one
        """See `FastRoute`."""
        return RISK_ROUTE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's arguments
        """Answer one request."""
        start = self._monotonic()
        try:
            signer = self._signer if wants_signed(scope["headers"], can_sign=self._signer is not None) else None
            body = await self._risk_body(scope, signer)
        except Exception as error:
            problem = problem_of_failure(error, RISK_ROUTE, self._new_id, scope, self._refused_callers)
            self._metrics.counter("trustwatch_http_requests_total", RISK_ROUTE, str(problem.status)).inc()
            await send_problem(problem, send, with_body=scope["method"] != "HEAD")
        else:
            length = (b"content-length", b"%d" % len(body))
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [_JSON if signer is None else _SIGNED, _NO_STORE, length],
                }
            )
            await send({"type": "http.response.body", "body": body})
            self._count_answer()
        self._observe_duration(self._monotonic() - start)

    async def _risk_body(self, scope: Scope, signer: AnswerSigner | None) -> bytes:
        if scope["method"] != "GET":
            raise ProblemError(
                ProblemDetails(
                    405, "method_not_allowed", "Method not allowed", "only GET is answered here", {"Allow": "GET"}
                )
            )
        caller = await authenticate_request(self._verifier, scope)
        caller.require(SCOPE_SCORE_READ)
        agent_id = decode_agent_id(scope["raw_path"][len(RISK_PATH_PREFIX) : -len(RISK_PATH_SUFFIX)])
        query = scope["query_string"]
        parse = _remembered_selection if len(query) <= MAX_REMEMBERED_QUERY else parse_agent_selection
        tenant, issuer = parse(query) if query else (None, None)
        body = self._answers.answer(caller, agent_id, tenant, issuer)
        return body if signer is None else signer.sign("risk", caller.audience, body)


MAX_REMEMBERED_QUERY = 256
"""Bytes of a query string worth remembering: most requests name the same few tenants and issuers."""
_remembered_selection = lru_cache(maxsize=1024)(parse_agent_selection)


MAX_RISK_QUERY_BYTES = 1024 * 1024
"""Bytes of a batch of questions: up to 1,000, each with an id that may be a URL."""


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime = services.get(Runtime)
    answers = RiskAnswerCache(runtime)
    erasures = services.find(ErasureService)
    agents = AgentService(
        runtime,
        answers,
        services.get(AgentResolver),
        services.get(StoreExecutor),
        services.get(EventIntake),
        _nothing_is_erased if erasures is None else erasures.open_erasures,
        services.get(RefusedCallers),
    )
    return answers, agents


async def _nothing_is_erased() -> Sequence[Erasure]:
    return ()


def _fast_routes(services: ServiceRegistry) -> Sequence[FastRoute]:
    runtime, answers = services.get(Runtime), services.get(RiskAnswerCache)
    signer = services.find(AnswerSigner)
    metrics = services.get(ServiceMetrics)
    timing = runtime.monotonic, runtime.new_id, services.get(RefusedCallers)
    return (FastRiskRoute(answers, runtime.verifier, metrics, *timing, signer),)


SLICE = Slice(
    "agents",
    routers=(router,),
    body_limits={RISK_QUERY_PATH: MAX_RISK_QUERY_BYTES},
    services=_make_services,
    fast_routes=_fast_routes,
)

"""Agents: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence

from trustwatch.scoring.records.erasures import Erasure

from ..events.intake import EventIntake
from ..http.agent_lookup import AgentResolver
from ..http.auth.signed_answers import AnswerSigner
from ..http.prometheus_metrics import ServiceMetrics
from ..http.refused_callers import RefusedCallers
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import FastRoute, Slice
from ..http.store_executor import StoreExecutor
from ..privacy.service import ErasureService
from .fast_risk_route import FastRiskRoute
from .risk_answer_cache import RiskAnswerCache
from .routes import RISK_QUERY_PATH, router
from .service import AgentService

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

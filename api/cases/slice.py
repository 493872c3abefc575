"""Cases: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence

from ..access.decision_point import PolicyDecisionPoint
from ..access.service import ContainmentService
from ..agents.service import AgentService
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver
from ..http.prometheus_metrics import MetricValues, ServiceMetrics
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import LifespanService, Slice
from ..http.store_executor import StoreExecutor
from .agent_acts import CaseAgentActs
from .figures import CaseFigures
from .routes import router
from .service import CaseService
from .story import CaseStory


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime, executor, agents = services.get(Runtime), services.get(StoreExecutor), services.get(AgentService)
    figures = CaseFigures(runtime, executor, services.get(ServiceMetrics))
    cases = CaseService(
        runtime,
        executor,
        CaseAgentActs(agents, services.get(ContainmentService), services.find(FeedbackService), runtime.now_ms),
        services.get(PolicyDecisionPoint).audit_sink,
        services.get(AgentResolver),
        figures,
    )
    return figures, cases, CaseStory(runtime, executor, agents)


def _lifespans(services: ServiceRegistry) -> Sequence[LifespanService]:
    figures = services.find(CaseFigures)
    return () if figures is None else (figures,)


def _metric_values(services: ServiceRegistry) -> MetricValues:
    figures = services.find(CaseFigures)
    return {} if figures is None else figures.values()


SLICE = Slice("cases", routers=(router,), services=_make_services, lifespans=_lifespans, metrics=_metric_values)

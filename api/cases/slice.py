"""Cases: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence

from ..access.decision_point import PolicyDecisionPoint
from ..access.service import ContainmentService
from ..agents.service import AgentService
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from ..http.store_executor import StoreExecutor
from .agent_acts import CaseAgentActs
from .routes import router
from .service import CaseService
from .story import CaseStory


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime, executor, agents = services.get(Runtime), services.get(StoreExecutor), services.get(AgentService)
    cases = CaseService(
        runtime,
        executor,
        CaseAgentActs(agents, services.get(ContainmentService), services.find(FeedbackService), runtime.now_ms),
        services.get(PolicyDecisionPoint).audit_sink,
        services.get(AgentResolver),
    )
    return cases, CaseStory(runtime, executor, agents)


SLICE = Slice("cases", routers=(router,), services=_make_services)

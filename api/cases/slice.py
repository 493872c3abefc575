"""Cases: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from trustwatch.scoring.policy.interventions import ActiveInterventions
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName

from ..access.decision_point import PolicyDecisionPoint
from ..access.service import ContainmentService
from ..agents.service import AgentService
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver
from ..http.prometheus_metrics import LabelledValues, MetricValues, ServiceMetrics
from ..http.runtime import Runtime
from ..http.slice import LifespanService, ServiceRegistry, Slice
from ..http.store_executor import StoreExecutor
from .agent_acts import CaseAgentActs
from .figures import CaseFigures
from .routes import router
from .service import CaseService
from .timeline import CaseStory


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime, executor, agents = services.get(Runtime), services.get(StoreExecutor), services.get(AgentService)
    figures = CaseFigures(runtime, executor, services.get(ServiceMetrics))
    cases = CaseService(
        runtime,
        executor,
        CaseAgentActs(
            agents,
            services.get(ContainmentService),
            services.find(FeedbackService),
            runtime.now_ms,
            runtime.monotonic,
            partial(_held_at, services.get(PolicyDecisionPoint).approval_workflow.active_interventions, runtime.now_ms),
            partial(_level_of, runtime.risk_view),
        ),
        services.get(PolicyDecisionPoint).audit_sink,
        services.get(AgentResolver),
        figures,
    )
    return figures, cases, CaseStory(runtime, executor, cases, agents)


def _held_at(interventions: ActiveInterventions, now_ms: Callable[[], int], name: AgentName) -> int | None:
    pin = interventions.active_pin((name.tenant, name.issuer, name.agent_id), now_ms())
    return None if pin is None else pin.level


def _level_of(view: RiskView, name: AgentName) -> int | None:
    entry = view.get(name.tenant, name.issuer, name.agent_id)
    return None if entry is None else int(entry.summary.level)


def _lifespans(services: ServiceRegistry) -> Sequence[LifespanService]:
    figures = services.find(CaseFigures)
    return () if figures is None else (figures,)


def _metric_values(services: ServiceRegistry) -> MetricValues:
    figures = services.find(CaseFigures)
    budget = services.get(Runtime).settings.risk.budget
    values: dict[str, LabelledValues] = {} if figures is None else dict(figures.values())
    values["trustwatch_alert_budget"] = {(level,): getattr(budget, level) for level in ("medium", "high", "critical")}
    return values


SLICE = Slice("cases", routers=(router,), services=_make_services, lifespans=_lifespans, metrics=_metric_values)

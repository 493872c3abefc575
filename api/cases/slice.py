"""Cases: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ...scoring.delivery.notifiers.webhook_notifier import make_webhook_client
from ...scoring.policy.interventions import ActiveInterventions
from ...scoring.policy.risk_view import RiskView
from ...scoring.records.agents import AgentName
from ..access.decision_point import PolicyDecisionPoint
from ..access.service import ContainmentService
from ..agents.service import AgentService
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver
from ..http.prometheus_metrics import LabelledValues, MetricValues, ServiceMetrics
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import FastRoute, LifespanService, Slice
from ..http.store_executor import StoreExecutor
from .agent_acts import CaseAgentActs
from .described_paths import DESCRIBED_PATHS
from .figures import CaseFigures
from .routes import router
from .service import CaseService
from .slack_acts import SlackActs
from .slack_endpoint import SlackEndpoint
from .slack_replies import SlackReplies
from .story import CaseStory


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime, executor, agents = services.get(Runtime), services.get(StoreExecutor), services.get(AgentService)
    figures = CaseFigures(runtime, executor, services.get(ServiceMetrics))
    containment = services.get(ContainmentService)
    cases = CaseService(
        runtime,
        executor,
        CaseAgentActs(
            agents,
            containment,
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
    replies = services.find(SlackReplies) or SlackReplies(make_webhook_client(runtime.settings.outgoing.ca_file))
    slack = SlackEndpoint(runtime, SlackActs(runtime, cases, containment, replies))
    return figures, cases, CaseStory(runtime, executor, cases, agents), slack


def _held_at(interventions: ActiveInterventions, now_ms: Callable[[], int], name: AgentName) -> int | None:
    pin = interventions.active_pin((name.tenant, name.issuer, name.agent_id), now_ms())
    return None if pin is None else pin.level


def _level_of(view: RiskView, name: AgentName) -> int | None:
    entry = view.get(name.tenant, name.issuer, name.agent_id)
    return None if entry is None else int(entry.summary.level)


def _lifespans(services: ServiceRegistry) -> Sequence[LifespanService]:
    parts = services.find(CaseFigures), services.find(SlackEndpoint)
    return [service for service in parts if service is not None]


def _fast_routes(services: ServiceRegistry) -> Sequence[FastRoute]:
    endpoint = services.find(SlackEndpoint)
    return () if endpoint is None else (endpoint,)


def _metric_values(services: ServiceRegistry) -> MetricValues:
    figures, slack = services.find(CaseFigures), services.find(SlackEndpoint)
    budget = services.get(Runtime).settings.risk.alert_budget
    values: dict[str, LabelledValues] = {} if figures is None else dict(figures.values())
    values["trustwatch_alert_budget"] = {(level,): getattr(budget, level) for level in ("medium", "high", "critical")}
    if slack is not None:
        values["trustwatch_slack_interactions_total"] = {(what,): count for what, count in slack.outcomes.items()}
    return values


SLICE = Slice(
    "cases",
    routers=(router,),
    services=_make_services,
    lifespans=_lifespans,
    fast_routes=_fast_routes,
    metrics=_metric_values,
    described=DESCRIBED_PATHS,
)

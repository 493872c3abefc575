"""The overview: who needs a look now, what changed, and whether the service itself is well."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fastapi import APIRouter
from markupsafe import Markup
from starlette.responses import Response

from trustwatch.ingest.timestamps import MINUTE_MS
from trustwatch.scoring.records.agents import AgentSummary, RiskLevel
from trustwatch.scoring.records.decisions import Decision

from ...access.service import ContainmentService
from ...agents.service import AgentFilters, AgentService
from ...cases.service import CaseService
from ...charts import ChartAxis, ChartSeries, chart, chart_table
from ...decisions.service import DecisionService
from ...http.agent_lookup import visible_tenants
from ...http.auth.callers import SCOPE_ADMIN, AuthenticatedCaller
from ...http.runtime import component_states
from ...models.service import ModelService
from ...settings.event_source_settings import ANY_NAME
from ..escalations import group_escalations, level_step_of
from ..page_dependencies import PageReaderDep, PageRequest
from ..rendering import exact_time
from .health_page import silence_reports

MAX_SHOWN = 12
RISKIEST = AgentFilters(levels=("medium", "high", "critical"), order="risk")
RATE_TITLE = "Events per second"
MAX_DECISIONS_READ = 4 * MAX_SHOWN  # Newest decisions; those of one climb are shown as one change

router = APIRouter()


@router.get("/")
async def show_overview(visit: PageReaderDep) -> Response:
    """The whole page."""
    return visit.render("overview.html", **await _overview_values(visit))


@router.get("/overview")
async def show_overview_parts(visit: PageReaderDep) -> Response:
    """The parts of the page that change."""
    return visit.render("overview_parts.html", **await _overview_values(visit))


async def _overview_values(visit: PageRequest) -> dict[str, Any]:
    runtime, caller, activity = visit.runtime, visit.caller, visit.console.activity
    decisions, containment = visit.get(DecisionService), visit.get(ContainmentService)
    cases, models, book = visit.find(CaseService), visit.find(ModelService), runtime.live_policy.book
    newest = await decisions.list(caller, limit=MAX_DECISIONS_READ)
    pending = await containment.list(caller, "approval", "pending", limit=MAX_SHOWN)
    worst = (await visit.get(AgentService).list(caller, RISKIEST, MAX_SHOWN)).items
    reasons = await decisions.behind_levels(caller, worst)
    tenants = [tenant for tenant in await activity.known_tenants() if caller.may_see(tenant)]
    return {
        "counts": await activity.level_counts(visible_tenants(caller, None)),
        "riskiest": order_by_last_rise(worst, reasons),
        "deciding": reasons,
        "changes": group_escalations(newest.items, level_step_of)[:MAX_SHOWN],
        "cases": {} if cases is None else await cases.count_open(caller),
        "pending": len(pending.items),
        "pending_more": pending.next_cursor is not None,
        "pins": (await containment.list(caller, "pin", "active", limit=MAX_SHOWN)).items,
        "containment": await containment.containment_times(caller),
        "actuators": [actuator.name for actuator in runtime.settings.actuators],
        "modes": [(tenant, book.may_enforce(tenant)) for tenant in tenants],
        "policy": runtime.live_policy,
        "service": _service_values(visit) if may_see_service(caller) else None,
        "rate": activity.throughput(),
        "rate_chart": _rate_chart(activity.throughput_series()),
        "model_version": runtime.model_version,
        "learning": None if models is None else models.learning_for(caller),
        "words": [level.label for level in RiskLevel],
    }


def _rate_chart(rates: Sequence[tuple[int, float]]) -> Markup | None:
    """Events per second of the last hour; its table has a row for each minute, newest first: samples would be 720."""
    if len(rates) < 2:
        return None
    minutes: defaultdict[int, list[float]] = defaultdict(list)
    for at_ms, rate in rates:
        minutes[at_ms // MINUTE_MS].append(rate)
    rows = [
        [exact_time(minute * MINUTE_MS), f"{fmean(found):.1f}", f"{max(found):.1f}"]
        for minute, found in sorted(minutes.items(), reverse=True)
    ]
    sampled = "The drawing has a sample each five seconds; a row sums up a minute."
    return chart(
        RATE_TITLE,
        ChartAxis("time", kind="time"),
        ChartAxis("events/s", 0.0),
        [ChartSeries("events/s", [(at_ms / 1000, rate) for at_ms, rate in rates], "first", fill=True)],
        height=150,
        table=chart_table(RATE_TITLE, ["Minute", "Mean", "Highest"], rows, sampled=sampled),
    )


def may_see_service(caller: AuthenticatedCaller) -> bool:
    """True if a caller may see figures of the whole service: they add up all tenants."""
    return ANY_NAME in caller.tenants or SCOPE_ADMIN in caller.scopes


def order_by_last_rise(agents: Sequence[AgentSummary], reasons: Mapping[str, Decision]) -> list[AgentSummary]:
    """Highest level first, within a level the last to rise: the displayed risk decays, and says little of urgency."""

    def order(agent: AgentSummary) -> tuple[int, int]:
        decision = reasons.get(agent.decision_id)
        return -agent.level, -(agent.evaluated_ms if decision is None else decision.decided_ms)

    return sorted(agents, key=order)


def _service_values(visit: PageRequest) -> dict[str, Any]:
    runtime = visit.runtime
    status, now_ms = runtime.pipeline_status, runtime.now_ms()
    sources = silence_reports(visit.console.services, visit.caller)
    return {
        "components": component_states(runtime),
        "behind": status.records_behind,
        "fresh_ms": status.fresh_ms,
        "stale": bool(status.fresh_ms) and now_ms - status.fresh_ms >= runtime.settings.risk.staleness_s * 1000,
        "dropped": status.dropped_dead_letters,
        "silent": [source for source in sources if source.silent],
        "watched": len(sources),
    }

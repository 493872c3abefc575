"""The overview: who needs a look now, what changed, and whether the service itself is well."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from ....scoring.records.agents import AgentSummary, RiskLevel
from ....scoring.records.containment import Actuation
from ....scoring.records.decisions import Decision
from ....scoring.store.agent_store import AgentQuery
from ...decisions.service import decisions_behind_levels
from ...http.agent_lookup import visible_tenants
from ...http.auth.callers import ANY_NAME, SCOPE_ADMIN, SCOPE_SCORE_READ, AuthenticatedCaller
from ...http.dependencies import ApplicationContext
from ...http.runtime import component_states
from ..page_dependencies import ConsoleContext, ConsoleDep, PageReaderDep
from ..rendering import MenuEntry
from ..views.escalations import group_escalations, level_step_of

MENU_ENTRY = MenuEntry("Overview", "/console/", SCOPE_SCORE_READ)
MAX_SHOWN = 12
MAX_DECISIONS_READ = 4 * MAX_SHOWN
"""Newest decisions; those of one climb are shown as one change."""
MAX_ACTUATIONS_READ = 500
"""Newest actuations from which containment times are told."""

router = APIRouter()


class ContainmentTimes(NamedTuple):
    """Times from an event to what the authorization server confirmed because of it, s."""

    confirmed: int
    p50_s: float
    p99_s: float
    failed: int
    waiting: int


@router.get("/")
async def show_overview(request: Request, desk: ConsoleDep, visit: PageReaderDep) -> Response:
    """The whole page."""
    return desk.render_page(request, "overview.html", visit, **await _overview_values(desk, visit.caller))


@router.get("/overview")
async def show_overview_parts(request: Request, desk: ConsoleDep, visit: PageReaderDep) -> Response:
    """What of it moves."""
    return desk.render_page(request, "overview_parts.html", visit, **await _overview_values(desk, visit.caller))


async def _overview_values(desk: ConsoleContext, caller: AuthenticatedCaller) -> dict[str, Any]:
    services, read = desk.application.runtime, desk.application.call_store
    tenants = visible_tenants(caller, None)
    decisions = await read(services.store.decisions.page, tenants, None, MAX_DECISIONS_READ)
    pending = await read(services.store.interventions.page, tenants, "approval", "pending", None, MAX_SHOWN)
    pins = await read(services.store.interventions.page, tenants, "pin", "active", None, MAX_SHOWN)
    actuations = await read(services.store.actuations.page, tenants, None, None, MAX_ACTUATIONS_READ)
    rates = desk.activity.throughput_series()
    worst = await riskiest_agents(desk.application, tenants)
    reasons = await read(decisions_behind_levels, services.store, worst, tenants)
    return {
        "counts": await desk.activity.level_counts(tenants),
        "riskiest": order_by_last_rise(worst, reasons),
        "deciding": reasons,
        "changes": group_escalations(decisions.items, level_step_of)[:MAX_SHOWN],
        "pending": len(pending.items),
        "pending_more": pending.next_cursor is not None,
        "pins": pins.items,
        "containment": containment_times(actuations.items),
        "actuators": [one.name for one in services.settings.actuators],
        "modes": await _tenant_modes(desk, caller),
        "policy": services.live_policy,
        "service": _service_values(desk) if may_see_service(caller) else None,
        "rate": desk.activity.throughput(),
        "rates": {"x": [at_ms / 1000 for at_ms, _ in rates], "y": [rate for _, rate in rates], "label": "events/s"},
        "model_version": services.model_version,
        "words": [level.label for level in RiskLevel],
    }


def may_see_service(caller: AuthenticatedCaller) -> bool:
    """Whether figures of the whole service may be shown: they add up all tenants."""
    return ANY_NAME in caller.tenants or SCOPE_ADMIN in caller.scopes


async def riskiest_agents(
    parts: ApplicationContext, tenants: Collection[str] | None, most: int = MAX_SHOWN
) -> list[AgentSummary]:
    """Agents above low, the worst first."""
    found: list[AgentSummary] = []
    for level in (RiskLevel.CRITICAL, RiskLevel.HIGH, RiskLevel.MEDIUM):
        if len(found) >= most:
            break
        page = await parts.call_store(parts.runtime.store.agents.page, AgentQuery(tenants, (level,), limit=500))
        found += sorted(page.items, key=lambda one: (-one.risk_score, -one.evaluated_ms))
    return found[:most]


def order_by_last_rise(agents: Sequence[AgentSummary], reasons: Mapping[str, Decision]) -> list[AgentSummary]:
    """Of one level, who rose last comes first: the displayed risk decays, and says little of who needs a look."""

    def order(one: AgentSummary) -> tuple[int, int]:
        decision = reasons.get(one.decision_id)
        return -one.level, -(one.evaluated_ms if decision is None else decision.decided_ms)

    return sorted(agents, key=order)


def containment_times(actuations: Sequence[Actuation]) -> ContainmentTimes:
    """How fast what was wanted came about, as far as events led to it."""
    times = sorted(
        (one.confirmed_ms - one.caused_ms) / 1000 for one in actuations if one.caused_ms and one.confirmed_ms
    )
    states = [one.status for one in actuations]
    return ContainmentTimes(
        len(times), _quantile(times, 0.5), _quantile(times, 0.99), states.count("failed"), states.count("wanted")
    )


def _quantile(times: Sequence[float], share: float) -> float:
    return times[max(0, math.ceil(len(times) * share) - 1)] if times else math.nan


async def _tenant_modes(desk: ConsoleContext, caller: AuthenticatedCaller) -> list[tuple[str, bool]]:
    """(tenant, whether policy is acted on for any of its agents)."""
    book = desk.application.runtime.live_policy.book
    return [
        (tenant, book.may_enforce(tenant)) for tenant in await desk.activity.known_tenants() if caller.may_see(tenant)
    ]


def _service_values(desk: ConsoleContext) -> dict[str, Any]:
    services = desk.application.runtime
    status, now_ms = services.pipeline_status, services.now_ms()
    sources = [*desk.application.silence_watch, *services.ingest_status.report.silence]
    return {
        "components": component_states(services),
        "behind": status.records_behind,
        "fresh_ms": status.fresh_ms,
        "stale": bool(status.fresh_ms) and now_ms - status.fresh_ms >= services.settings.risk.staleness_s * 1000,
        "dropped": status.dropped_dead_letters,
        "silent": [one for one in sources if one.silent],
        "watched": len(sources),
    }

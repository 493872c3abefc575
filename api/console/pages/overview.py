"""The overview: who needs a look now, what changed, and whether the service itself is well."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from ....scoring.containment import Actuation
from ....scoring.records import AgentSummary, Decision, RiskLevel
from ....scoring.store import AgentQuery
from ...callers import ADMIN, ANY, SCORE_READ, Caller
from ...http.finding import visible_tenants
from ...http.gate import Parts
from ...http.route_service import components
from ..deciding import deciding
from ..gate import Console, Desk, Looking
from ..views.climbs import climbs, decision_step
from .entry import Entry

ENTRY = Entry("Overview", "/console/", SCORE_READ)
SHOWN = 12
LOOKED_AT = 4 * SHOWN
"""Newest decisions; those of one climb are shown as one change."""
MEASURED = 500
"""Newest actuations from which containment times are told."""

router = APIRouter()


class Containment(NamedTuple):
    """Times from an event to what the authorization server confirmed because of it, s."""

    confirmed: int
    p50_s: float
    p99_s: float
    failed: int
    waiting: int


@router.get("/")
async def overview(request: Request, desk: Desk, visit: Looking) -> Response:
    """The whole page."""
    return desk.page(request, "overview.html", visit, **await _values(desk, visit.caller))


@router.get("/overview")
async def parts(request: Request, desk: Desk, visit: Looking) -> Response:
    """What of it moves."""
    return desk.page(request, "overview_parts.html", visit, **await _values(desk, visit.caller))


async def _values(desk: Console, caller: Caller) -> dict[str, Any]:
    services, read = desk.parts.services, desk.parts.read
    tenants = visible_tenants(caller, None)
    decisions = await read(services.store.list_decisions, tenants, None, LOOKED_AT)
    pending = await read(services.store.list_interventions, tenants, "approval", "pending", None, SHOWN)
    pins = await read(services.store.list_interventions, tenants, "pin", "active", None, SHOWN)
    actuations = await read(services.store.list_actuations, tenants, None, None, MEASURED)
    rates = desk.figures.rates()
    worst = await riskiest(desk.parts, tenants)
    reasons = await read(deciding, services.store, worst, tenants)
    return {
        "counts": await desk.figures.levels(tenants),
        "riskiest": newest_first(worst, reasons),
        "deciding": reasons,
        "changes": climbs(decisions.items, decision_step)[:SHOWN],
        "pending": len(pending.items),
        "pending_more": pending.next_cursor is not None,
        "pins": pins.items,
        "containment": containment(actuations.items),
        "actuators": [one.name for one in services.settings.actuators],
        "modes": await _modes(desk, caller),
        "policy": services.policy,
        "service": _service(desk) if sees_service(caller) else None,
        "rate": desk.figures.rate(),
        "rates": {"x": [at_ms / 1000 for at_ms, _ in rates], "y": [rate for _, rate in rates], "label": "events/s"},
        "model_version": services.model_version,
        "words": [level.label for level in RiskLevel],
    }


def sees_service(caller: Caller) -> bool:
    """Whether figures of the whole service may be shown: they add up all tenants."""
    return ANY in caller.tenants or ADMIN in caller.scopes


async def riskiest(parts: Parts, tenants: Collection[str] | None, most: int = SHOWN) -> list[AgentSummary]:
    """Agents above low, the worst first."""
    found: list[AgentSummary] = []
    for level in (RiskLevel.CRITICAL, RiskLevel.HIGH, RiskLevel.MEDIUM):
        if len(found) >= most:
            break
        page = await parts.read(parts.services.store.list_agents, AgentQuery(tenants, (level,), limit=500))
        found += sorted(page.items, key=lambda one: (-one.risk_score, -one.evaluated_ms))
    return found[:most]


def newest_first(agents: Sequence[AgentSummary], reasons: Mapping[str, Decision]) -> list[AgentSummary]:
    """Of one level, who rose last comes first: the displayed risk decays, and says little of who needs a look."""

    def order(one: AgentSummary) -> tuple[int, int]:
        decision = reasons.get(one.decision_id)
        return -one.level, -(one.evaluated_ms if decision is None else decision.decided_ms)

    return sorted(agents, key=order)


def containment(actuations: Sequence[Actuation]) -> Containment:
    """How fast what was wanted came about, as far as events led to it."""
    times = sorted(
        (one.confirmed_ms - one.caused_ms) / 1000 for one in actuations if one.caused_ms and one.confirmed_ms
    )
    states = [one.status for one in actuations]
    return Containment(
        len(times), _rank(times, 0.5), _rank(times, 0.99), states.count("failed"), states.count("wanted")
    )


def _rank(times: Sequence[float], share: float) -> float:
    return times[max(0, math.ceil(len(times) * share) - 1)] if times else math.nan


async def _modes(desk: Console, caller: Caller) -> list[tuple[str, bool]]:
    """(tenant, whether policy is acted on for any of its agents)."""
    book = desk.parts.services.policy.book
    return [(tenant, book.may_enforce(tenant)) for tenant in await desk.figures.tenants() if caller.may_see(tenant)]


def _service(desk: Console) -> dict[str, Any]:
    services = desk.parts.services
    status, now_ms = services.status, services.now_ms()
    sources = [*desk.parts.silence, *services.ingest.report.silence]
    return {
        "components": components(services),
        "behind": status.behind,
        "fresh_ms": status.fresh_ms,
        "stale": bool(status.fresh_ms) and now_ms - status.fresh_ms >= services.settings.risk.staleness_s * 1000,
        "dropped": status.dropped_dead_letters,
        "silent": [one for one in sources if one.silent],
        "watched": len(sources),
    }

"""Decisions: the list, and one of them with what led to it and what followed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ....ingest.errors import TrustwatchError
from ....scoring.records.agents import RiskLevel
from ....scoring.records.commits import Delivery
from ....scoring.records.containment import Actuation, Intervention
from ....scoring.records.decisions import Decision
from ....scoring.store.sql_store import SqlStore
from ...decisions.routes import resolve_agent_key
from ...http.agent_lookup import not_found_error, visible_tenants
from ...http.auth.callers import SCOPE_ADMIN, SCOPE_FEEDBACK, SCOPE_SCORE_READ
from ...http.problems import ProblemError
from ..page_dependencies import ConsoleContext, ConsoleDep, PageReaderDep, PageRequest
from ..rendering import MenuEntry
from ..views.alert_display import ALERT_KEY_PREFIX, display_alerts
from ..views.decision_display import actuations_of_decision, describe_policy, display_decision
from ..views.filtered_pages import FilteredPage, read_filtered_page

MAX_NEIGHBOURS = 200
"""Decisions about the same agent among which the next and the one before are looked for."""

MENU_ENTRY = MenuEntry("Decisions", "/console/decisions", SCOPE_SCORE_READ)

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]
Cursor = Annotated[str, Query(max_length=8192)]


class DecisionFilters(NamedTuple):
    """Filters of the list; "" = any."""

    tenant: str
    agent: str
    level: str
    change: str
    issuer: str = ""


class DecisionConsequences(NamedTuple):
    """What there is beside a decision: its neighbours, and what it set off."""

    later: Decision | None
    earlier: Decision | None
    deliveries: list[Delivery]
    actuations: list[Actuation]
    interventions: list[Intervention]


@router.get("/decisions")
async def list_decisions(
    request: Request,
    desk: ConsoleDep,
    visit: PageReaderDep,
    tenant: Text = "",
    agent: Text = "",
    level: Text = "",
    change: Text = "",
    cursor: Cursor = "",
    issuer: Text = "",
) -> Response:
    """Changes of level, newest first. Of several agents with the id that is asked for, one has to be chosen."""
    wanted = DecisionFilters(tenant.strip(), agent.strip(), level, change, issuer)
    trouble, found, among = "", FilteredPage[Decision]([], None, 0), []
    try:
        found = await _search_decisions(desk, visit, wanted, cursor or None)
    except TrustwatchError as error:
        trouble = str(error)
        if isinstance(error, ProblemError):
            among = [wanted._replace(**one) for one in error.problem.members.get("candidates", ())]
    return desk.render_page(
        request,
        "decisions.html",
        visit,
        400 if trouble else 200,
        wanted=wanted,
        found=found,
        trouble=trouble,
        among=among,
        first_page=not cursor,
    )


async def _search_decisions(
    desk: ConsoleContext, visit: PageRequest, wanted: DecisionFilters, cursor: str | None
) -> FilteredPage[Decision]:
    parts, tenant = desk.application, wanted.tenant or None
    tenants, key = visible_tenants(visit.caller, tenant), None
    if wanted.agent:
        key = await resolve_agent_key(parts, visit.caller, wanted.agent, tenant, wanted.issuer or None)
        if key is None:
            return FilteredPage([], None, 0)
    store = parts.runtime.store
    return await parts.call_store(
        read_filtered_page,
        lambda at: store.decisions.page(tenants, key, 50, at),
        lambda one: matches_filters(one, wanted),
        cursor,
    )


def matches_filters(decision: Decision, wanted: DecisionFilters) -> bool:
    """Whether the list shows it; *wanted* levels that are no levels show all."""
    rises = decision.level > decision.previous_level
    if wanted.change in ("up", "down") and rises != (wanted.change == "up"):
        return False
    least = RiskLevel.__members__.get(wanted.level.upper())
    return least is None or max(decision.level, decision.previous_level) >= least


@router.get("/decisions/{decision_id}")
async def show_decision(decision_id: str, request: Request, desk: ConsoleDep, visit: PageReaderDep) -> Response:
    """One decision."""
    services, tenants = desk.application.runtime, visible_tenants(visit.caller, None)
    store = services.store
    found = await desk.application.call_store(store.decisions.get, decision_id, tenants)
    if found is None:
        raise not_found_error("decision")
    may_see_alerts = SCOPE_ADMIN in visit.caller.scopes
    may_judge = services.feedback_service is not None and _may_give_feedback(visit, found)
    followed = await desk.application.call_store(load_consequences, store, found, tenants, with_alerts=may_see_alerts)
    shown = display_decision(found, services.live_policy.book)
    return desk.render_page(
        request,
        "decision.html",
        visit,
        shown=shown,
        followed=followed,
        policy=describe_policy(shown.policy.policy),
        alerts=display_alerts(followed.deliveries),
        may_see_alerts=may_see_alerts,
        may_judge=may_judge,
        has_targets=bool(services.settings.webhooks),
        has_actuators=bool(services.settings.actuators),
    )


def load_consequences(
    store: SqlStore, decision: Decision, tenants: Collection[str] | None, *, with_alerts: bool
) -> DecisionConsequences:
    """Read what there is beside *decision*; blocks."""
    key = decision.agent.key
    deliveries = (
        store.outbox.page(tenants, key=f"{ALERT_KEY_PREFIX}{decision.decision_id}").items if with_alerts else []
    )
    actuations = actuations_of_decision(store.actuations.page(tenants, key).items, decision.decision_id)
    later, earlier = _neighbours(store.decisions.page(tenants, key, MAX_NEIGHBOURS).items, decision.decision_id)
    until_ms = later.decided_ms if later is not None else None
    interventions = [
        one
        for one in store.interventions.page(tenants, agent_key=key, limit=MAX_NEIGHBOURS).items
        if one.asked_ms >= decision.decided_ms and (until_ms is None or one.asked_ms < until_ms)
    ]
    return DecisionConsequences(later, earlier, deliveries, actuations, interventions)


def _neighbours(newest_first: list[Decision], decision_id: str) -> tuple[Decision | None, Decision | None]:
    """The decisions after and before the one of that id, as far as they are among those given."""
    ids = [one.decision_id for one in newest_first]
    if decision_id not in ids:
        return None, None
    at = ids.index(decision_id)
    later = newest_first[at - 1] if at > 0 else None
    return later, newest_first[at + 1] if at + 1 < len(ids) else None


def _may_give_feedback(visit: PageRequest, decision: Decision) -> bool:
    """Whether the person may say what it thinks of the decision: of one that raised the agent to medium or above."""
    return SCOPE_FEEDBACK in visit.caller.scopes and decision.level > max(decision.previous_level, RiskLevel.LOW)

"""Agents: the list, with filters."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from trustwatch.scoring.records.agents import RiskLevel

from ...agents.service import AgentFilters
from ...http.agent_lookup import visible_tenants
from ...http.auth.callers import SCOPE_SCORE_READ
from ..lists import list_columns
from ..page_dependencies import AgentServiceDep, ConsoleDep, DecisionServiceDep, PageReaderDep
from ..rendering import MenuEntry
from ..views.list_rows import agent_row
from ..views.table_file import check_form, gather_rows, table_file

MENU_ENTRY = MenuEntry("Agents", "/console/agents", SCOPE_SCORE_READ, key="a")
COLUMNS = {
    "level": "Level",
    "agent": "Agent",
    "type": "Type",
    "tenant": "Tenant",
    "risk": "Risk",
    "confidence": "Confidence",
    "events": "Events",
    "seen": "Last event",
    "why": "Why",
}
LEVEL_WORDS = tuple(level.label for level in RiskLevel)

router = APIRouter()


@router.get("/agents")
async def list_agents(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    agents: AgentServiceDep,
    decisions: DecisionServiceDep,
    level: Annotated[list[str] | None, Query(max_length=8)] = None,
    tenant: Annotated[str, Query(max_length=2048)] = "",
    agent_type: Annotated[str, Query(alias="type", max_length=2048)] = "",
    text: Annotated[str, Query(max_length=2048)] = "",
    cursor: Annotated[str | None, Query(max_length=8192)] = None,
) -> Response:
    """Agents by tenant and id; the worst first where all of them are on one page."""
    levels = [word for word in level or () if word in LEVEL_WORDS]
    filters = AgentFilters(tenant or None, levels or None, agent_type or None)
    page = await agents.search(visit.caller, filters, text, cursor)
    template = "agents_table.html" if "hx-request" in request.headers else "agents.html"
    tenants = [name for name in await console.activity.known_tenants() if visit.caller.may_see(name)]
    counts = await console.activity.level_counts(visible_tenants(visit.caller, None))
    all_shown = cursor is None and page.next_cursor is None
    if all_shown:
        page = page._replace(items=sorted(page.items, key=lambda agent: (-agent.level, -agent.risk_score)))
    return console.render_page(
        request,
        template,
        visit,
        listing=list_columns(request, COLUMNS, "agent"),
        all_shown=all_shown,
        filters={"level": levels, "tenant": tenant, "type": agent_type, "text": text},
        page=page,
        first_page=not cursor,
        tenants=tenants,
        words=LEVEL_WORDS,
        counts=counts,
        deciding=await decisions.behind_levels(visit.caller, page.items),
    )


@router.get("/agents/file.{form}")
async def download_agents(
    form: str,
    console: ConsoleDep,
    visit: PageReaderDep,
    agents: AgentServiceDep,
    level: Annotated[list[str] | None, Query(max_length=8)] = None,
    tenant: Annotated[str, Query(max_length=2048)] = "",
    agent_type: Annotated[str, Query(alias="type", max_length=2048)] = "",
    text: Annotated[str, Query(max_length=2048)] = "",
) -> Response:
    """Agents that fit as a file."""
    check_form(form)
    levels = [word for word in level or () if word in LEVEL_WORDS]
    filters = AgentFilters(tenant or None, levels or None, agent_type or None)
    rows, complete = await gather_rows(
        lambda cursor: agents.search(visit.caller, filters, text, cursor), agent_row, console.runtime.monotonic
    )
    return await table_file(form, "agents", rows, complete=complete)

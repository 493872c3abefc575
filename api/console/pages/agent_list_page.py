"""Agents: the list, with filters."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ....scoring.records.agents import AgentSummary, RiskLevel
from ....scoring.store.agent_store import AgentQuery
from ....scoring.store.database import Page
from ....scoring.store.sql_store import SqlStore
from ...decisions.service import decisions_behind_levels
from ...http.agent_lookup import visible_tenants
from ...http.auth.callers import SCOPE_SCORE_READ
from ..page_dependencies import ConsoleContext, ConsoleDep, PageReaderDep, PageRequest
from ..rendering import MenuEntry
from ..views.filtered_pages import read_filtered_page

MENU_ENTRY = MenuEntry("Agents", "/console/agents", SCOPE_SCORE_READ)
PAGE = 50
LEVEL_WORDS = tuple(level.label for level in RiskLevel)

router = APIRouter()


@router.get("/agents")
async def list_agents(
    request: Request,
    desk: ConsoleDep,
    visit: PageReaderDep,
    level: Annotated[list[str] | None, Query(max_length=8)] = None,
    tenant: Annotated[str, Query(max_length=2048)] = "",
    agent_type: Annotated[str, Query(alias="type", max_length=2048)] = "",
    text: Annotated[str, Query(max_length=2048)] = "",
    cursor: Annotated[str | None, Query(max_length=8192)] = None,
) -> Response:
    """Agents by tenant and id; the worst first where all of them are on one page."""
    wanted = {
        "level": [one for one in level or () if one in LEVEL_WORDS],
        "tenant": tenant,
        "type": agent_type,
        "text": text,
    }
    found = await _search_agents(desk, visit, wanted, cursor)
    template = "agents_table.html" if "hx-request" in request.headers else "agents.html"
    mine = [one for one in await desk.activity.known_tenants() if visit.caller.may_see(one)]
    decided = await desk.application.call_store(
        decisions_behind_levels, desk.application.runtime.store, found.items, visible_tenants(visit.caller, None)
    )
    counts = await desk.activity.level_counts(visible_tenants(visit.caller, None))
    all_shown = cursor is None and found.next_cursor is None
    if all_shown:
        found = found._replace(items=sorted(found.items, key=lambda one: (-one.level, -one.risk_score)))
    return desk.render_page(
        request,
        template,
        visit,
        all_shown=all_shown,
        wanted=wanted,
        found=found,
        first_page=not cursor,
        tenants=mine,
        words=LEVEL_WORDS,
        counts=counts,
        deciding=decided,
    )


async def _search_agents(desk: ConsoleContext, visit: PageRequest, wanted: dict[str, Any], cursor: str | None) -> Any:
    levels = [RiskLevel[one.upper()] for one in wanted["level"]] or None
    query = AgentQuery(visible_tenants(visit.caller, wanted["tenant"] or None), levels, wanted["type"] or None)
    keep = partial(_contains_text, wanted["text"].strip().casefold())
    pages = partial(_agent_page, desk.application.runtime.store, query, 500 if wanted["text"] else PAGE)
    return await desk.application.call_store(read_filtered_page, pages, keep, cursor, wanted=PAGE)


def _agent_page(store: SqlStore, query: AgentQuery, size: int, cursor: str | None) -> Page[AgentSummary]:
    return store.agents.page(msgspec.structs.replace(query, limit=size, cursor=cursor))


def _contains_text(text: str, agent: AgentSummary) -> bool:
    """Whether the text is part of the agent's id or type."""
    return not text or any(text in one.casefold() for one in (agent.name.agent_id, agent.agent_type))

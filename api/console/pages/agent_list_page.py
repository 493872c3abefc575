"""Agents: the list, with filters."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from trustwatch.scoring.records.agents import AgentSummary, RiskLevel
from trustwatch.scoring.store.agent_store import AgentOrder

from ...agents.service import AgentFilters, AgentService
from ...decisions.service import DecisionService
from ...http.agent_lookup import visible_tenants
from ...http.wire import Wire
from ..lists import list_columns, list_file, text_filters
from ..page_dependencies import PageReaderDep

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

_text_filters = text_filters("tenant", "type", "text")


def asked_agents(request: Request) -> dict[str, Any]:
    """Filters of the list as the address says them."""
    levels = [word for word in request.query_params.getlist("level") if word in LEVEL_WORDS]
    return {"level": levels, **_text_filters(request)}


AskedDep = Annotated[dict[str, Any], Depends(asked_agents)]


def _filters_of(asked: dict[str, Any]) -> AgentFilters:
    text = asked["text"]
    order: AgentOrder = "name" if text else "risk"
    return AgentFilters(asked["tenant"] or None, asked["level"] or None, asked["type"] or None, text=text, order=order)


@router.get("/agents")
async def list_agents(
    visit: PageReaderDep, asked: AskedDep, cursor: Annotated[str | None, Query(max_length=8192)] = None
) -> Response:
    """Agents, the riskiest first; those with a text by tenant and id."""
    caller, activity = visit.caller, visit.console.activity
    page = await visit.get(AgentService).list(caller, _filters_of(asked), cursor=cursor)
    return visit.render(
        "agents_table.html" if visit.is_part else "agents.html",
        listing=list_columns(visit.request, COLUMNS, "agent"),
        filters=asked,
        page=page,
        first_page=not cursor,
        tenants=[name for name in await activity.known_tenants() if caller.may_see(name)],
        words=LEVEL_WORDS,
        counts=await activity.level_counts(visible_tenants(caller, None)),
        deciding=await visit.get(DecisionService).behind_levels(caller, page.items),
    )


@router.get("/agents/file.{form}")
async def download_agents(form: str, visit: PageReaderDep, asked: AskedDep) -> Response:
    """Agents that fit as a file."""
    agents, filters = visit.get(AgentService), _filters_of(asked)
    return await list_file(
        form,
        "agents",
        lambda cursor: agents.list(visit.caller, filters, cursor=cursor),
        lambda agent: AgentFileRow.of(agent).model_dump(),
        visit.runtime.monotonic,
    )


class AgentFileRow(
    Wire,
    of=AgentSummary,
    rename={"level": "risk_level"},
    omit=("anomaly_score", "evaluated_ms", "reasons", "indicators", "counterfactual"),
):
    """An agent as files have it: names as in the API."""

"""The search box: it leads to the thing with that id, else to the agents or decisions that fit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import RedirectResponse

from ...access.service import ContainmentService
from ...agents.service import AgentFilters, AgentService
from ...cases.service import CaseService
from ...decisions.service import DecisionService
from ...http.agent_lookup import AgentSelector
from ...http.auth.callers import AuthenticatedCaller
from ...http.problems import ProblemError
from ..page_dependencies import PageReaderDep
from ..rendering import agent_url, url_with_query

router = APIRouter()


@router.get("/search")
async def search(visit: PageReaderDep, q: Annotated[str, Query(max_length=2048)] = "") -> RedirectResponse:
    """Lead to the case, decision, approval or agent of that id; else to a list.

    Agents with the text in their id or type are listed; if there are none, decisions that came with it (an address, a
    key, a target, ...) or follow the event of that id.
    """
    text, caller, agents, decisions = q.strip(), visit.caller, visit.get(AgentService), visit.get(DecisionService)
    if not text:
        return RedirectResponse("/console/agents", 303)
    cases = visit.find(CaseService)
    if cases is not None and await _find(cases.get, caller, text, 0):
        return RedirectResponse(f"/console/cases/{text}", 303)
    if await _find(decisions.get, caller, text):
        return RedirectResponse(f"/console/decisions/{text}", 303)
    if await visit.get(ContainmentService).find(caller, text):
        return RedirectResponse(url_with_query("/console/approvals", done=text), 303)
    if agent := await _find(agents.get, caller, AgentSelector(text)):
        return RedirectResponse(agent_url(*agent.name.identity), 303)
    fitting = await agents.list(caller, AgentFilters(text=text))
    if fitting.items or fitting.next_cursor:
        return RedirectResponse(url_with_query("/console/agents", text=text), 303)
    return RedirectResponse(url_with_query("/console/decisions", indicator=text), 303)


async def _find(get: Callable[..., Awaitable[Any]], caller: AuthenticatedCaller, *asked: Any) -> Any:
    """What there is of that id; None = nothing, or several that it does not tell apart."""
    try:
        return await get(caller, *asked)
    except ProblemError as error:
        return error.problem.code == "decision_pending"  # its page explains that it comes soon

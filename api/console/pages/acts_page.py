"""Acts of people: who did what to which agent, case, model or erasure, when and why."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.records.acts import Act
from trustwatch.scoring.store.database import MAX_PAGE, Page

from ...acts.service import ActSearch
from ...http.agent_lookup import AgentSelector
from ...http.auth.callers import SCOPE_ADMIN
from ...http.problems import ProblemError
from ...http.time_range import CHOICES, parse_time_range
from ..page_dependencies import ActServiceDep, ConsoleDep, PageAdministratorDep
from ..rendering import MenuEntry
from ..saved_views import display_list
from ..views import list_shapes
from ..views.act_display import KIND_WORDS, act_row, display_acts
from ..views.table_file import MAX_ROWS, check_form, gather_rows, table_file

MENU_ENTRY = MenuEntry("Acts", "/console/acts", SCOPE_ADMIN, key="w")

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]
Cursor = Annotated[str, Query(max_length=8192)]
TimeText = Annotated[str, Query(max_length=64)]


def asked_acts(
    by: Text = "",
    kind: Text = "",
    agent: Text = "",
    tenant: Text = "",
    issuer: Text = "",
    since: TimeText = "",
    until: TimeText = "",
) -> dict[str, str]:
    """Filters of the list as the address says them."""
    return {
        "by": by.strip(),
        "kind": kind,
        "agent": agent.strip(),
        "tenant": tenant.strip(),
        "issuer": issuer,
        "since": since.strip(),
        "until": until.strip(),
    }


AskedDep = Annotated[dict[str, str], Depends(asked_acts)]


def _search_of(asked: dict[str, str], now_ms: int) -> ActSearch:
    """Raises ProblemError (422) where a time can not be read."""
    times = parse_time_range(asked["since"], asked["until"], now_ms)
    agent = None
    if asked["agent"]:
        agent = AgentSelector(asked["agent"], asked["tenant"] or None, asked["issuer"] or None)
    return ActSearch(asked["by"], asked["kind"], agent, asked["tenant"], *times)


@router.get("/acts")
async def list_acts(
    request: Request,
    console: ConsoleDep,
    visit: PageAdministratorDep,
    acts: ActServiceDep,
    asked: AskedDep,
    cursor: Cursor = "",
) -> Response:
    """Acts, newest first. Of several agents with the id that is asked for, one has to be chosen."""
    trouble, page, among = "", Page[Act]([], None), []
    try:
        page = await acts.search(visit.caller, _search_of(asked, console.runtime.now_ms()), cursor=cursor or None)
    except TrustwatchError as error:
        trouble = str(error)
        if isinstance(error, ProblemError):
            among = [asked | name for name in error.problem.members.get("candidates", ())]
    return console.render_page(
        request,
        "acts.html",
        visit,
        400 if trouble else 200,
        listing=await display_list(console, visit, request, list_shapes.ACTS),
        filters=asked,
        choices=CHOICES,
        kinds=list(KIND_WORDS.items()),
        acts=display_acts(page.items),
        next_cursor=page.next_cursor,
        first_page=not cursor,
        trouble=trouble,
        among=among,
        most=MAX_ROWS,
    )


@router.get("/acts/file.{form}")
async def download_acts(
    form: str, console: ConsoleDep, visit: PageAdministratorDep, acts: ActServiceDep, asked: AskedDep
) -> Response:
    """The acts that fit as a file."""
    check_form(form)
    search = _search_of(asked, console.runtime.now_ms())
    rows, complete = await gather_rows(
        lambda cursor: acts.search(visit.caller, search, MAX_PAGE, cursor), act_row, console.runtime.monotonic
    )
    return await table_file(form, "acts", rows, complete=complete)

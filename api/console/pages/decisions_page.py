"""Decisions: the list, and one of them with what led to it and what followed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.records.decisions import Decision

from ...cases.service import CaseService
from ...decisions.service import DecisionFilters
from ...feedback.service import FeedbackService
from ...http.auth.callers import SCOPE_ADMIN, SCOPE_SCORE_READ
from ...http.filtered_pages import FilteredPage
from ...http.problems import ProblemError
from ...http.time_range import CHOICES, parse_time_range
from ..lists import list_columns, text_filters
from ..page_dependencies import ConsoleDep, DecisionServiceDep, PageReaderDep
from ..rendering import MenuEntry
from ..views.alert_display import display_alerts
from ..views.decision_display import describe_policy, display_decision
from ..views.list_rows import decision_row
from ..views.table_file import check_form, gather_rows, table_file

MENU_ENTRY = MenuEntry("Decisions", "/console/decisions", SCOPE_SCORE_READ, key="d")

router = APIRouter()

COLUMNS = {
    "decided": "Decided",
    "event": "Event",
    "agent": "Agent",
    "level": "Level",
    "reason": "Leading reason",
    "risk": "Risk",
    "mode": "Mode",
}
Cursor = Annotated[str, Query(max_length=8192)]
AskedDep = Annotated[
    dict[str, str], Depends(text_filters("tenant", "agent", "level", "change", "issuer", "since", "until"))
]


def _filters_of(asked: dict[str, str], now_ms: int) -> DecisionFilters:
    """Raises ProblemError (422) where a time can not be read."""
    times = parse_time_range(asked["since"], asked["until"], now_ms)
    return DecisionFilters(asked["tenant"], asked["agent"], asked["level"], asked["change"], asked["issuer"], *times)


@router.get("/decisions")
async def list_decisions(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    decisions: DecisionServiceDep,
    asked: AskedDep,
    cursor: Cursor = "",
) -> Response:
    """Changes of level, newest first. Of several agents with the id that is asked for, one has to be chosen."""
    trouble, page, among = "", FilteredPage[Decision]([], None, 0), []
    try:
        filters = _filters_of(asked, console.runtime.now_ms())
        page = await decisions.search(visit.caller, filters, cursor or None)
    except TrustwatchError as error:
        trouble = str(error)
        if isinstance(error, ProblemError):
            among = [asked | name for name in error.problem.members.get("candidates", ())]
    return console.render_page(
        request,
        "decisions.html",
        visit,
        400 if trouble else 200,
        listing=list_columns(request, COLUMNS, "decided"),
        filters=asked,
        choices=CHOICES,
        page=page,
        trouble=trouble,
        among=among,
        first_page=not cursor,
    )


@router.get("/decisions/file.{form}")
async def download_decisions(
    form: str, console: ConsoleDep, visit: PageReaderDep, decisions: DecisionServiceDep, asked: AskedDep
) -> Response:
    """Changes of level that fit as a file."""
    check_form(form)
    filters = _filters_of(asked, console.runtime.now_ms())
    rows, complete = await gather_rows(
        lambda cursor: decisions.search(visit.caller, filters, cursor), decision_row, console.runtime.monotonic
    )
    return await table_file(form, "decisions", rows, complete=complete)


@router.get("/decisions/{decision_id}")
async def show_decision(
    decision_id: str, request: Request, console: ConsoleDep, visit: PageReaderDep, decisions: DecisionServiceDep
) -> Response:
    """One decision."""
    runtime, caller = console.runtime, visit.caller
    decision = await decisions.get(caller, decision_id)
    consequences = await decisions.consequences(caller, decision)
    takes_feedback = console.services.find(FeedbackService) is not None
    cases = console.services.find(CaseService)
    shown = display_decision(decision, runtime.live_policy.book)
    return console.render_page(
        request,
        "decision.html",
        visit,
        shown=shown,
        followed=consequences,
        case_id=None if cases is None else await cases.case_of_decision(caller, decision_id),
        policy=describe_policy(shown.policy.policy),
        alerts=display_alerts(consequences.deliveries),
        may_see_alerts=SCOPE_ADMIN in caller.scopes,
        may_judge=takes_feedback and decisions.may_give_feedback(caller, decision),
        has_targets=bool(runtime.settings.webhooks),
        has_actuators=bool(runtime.settings.actuators),
    )

"""Trends: how levels changed over days, cases against the alert budget, leading reasons, how soon people acted."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from trustwatch.ingest.timestamps import DAY_MS

from ...cases.service import CaseService
from ...decisions.trends import LevelTrends
from ...http.agent_lookup import visible_tenants
from ...http.auth.callers import SCOPE_SCORE_READ
from ...http.problems import invalid_value_error
from ...http.store_executor import StoreExecutor
from ..console_sessions import PageRequest
from ..page_dependencies import ConsoleContext, ConsoleDep, DecisionTrendsDep, PageReaderDep
from ..rendering import MenuEntry
from ..views.model_display import format_day_number
from ..views.trend_display import SHOWN_LEVELS, cases_chart, changes_chart, days_of_cases, top_reasons

MENU_ENTRY = MenuEntry("Trends", "/console/trends", SCOPE_SCORE_READ, key="t")
RANGES: Final = (7, 30, 90)

router = APIRouter()


@router.get("/trends")
async def show_trends(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    trends: DecisionTrendsDep,
    days: Annotated[str, Query(max_length=8)] = "30",
) -> Response:
    """The last 7, 30 or 90 days. What takes longer to count than people wait is counted on by the next look."""
    if days not in map(str, RANGES):
        raise invalid_value_error("days", f"must be {', '.join(map(str, RANGES[:-1]))} or {RANGES[-1]}")
    counted = await trends.over(visit.caller, int(days))
    values = await _case_values(console, visit, counted)
    return console.render_page(
        request,
        "trends.html",
        visit,
        ranges=RANGES,
        chosen=int(days),
        counted_from_ms=counted.counted_from_ms,
        changes=list(reversed(counted.days)),
        changes_chart=changes_chart(counted.days),
        any_change=any(one.rises or one.falls for one in counted.days),
        levels=SHOWN_LEVELS,
        reasons=top_reasons(counted.reasons),
        day=format_day_number,
        **values,
    )


async def _case_values(console: ConsoleContext, visit: PageRequest, counted: LevelTrends) -> dict[str, Any]:
    """Figures of cases for the page; the days are those of the levels."""
    days, runtime = [one.day for one in counted.days], console.runtime
    cases = console.services.find(CaseService)
    # From the beginning of the first day on, as the levels are.
    since_today = runtime.now_ms() % DAY_MS / DAY_MS
    statistics = None if cases is None else await cases.statistics(visit.caller, len(days) - 1 + since_today)
    closed = {} if cases is None else await cases.closed_by_day(visit.caller, len(days) - 1 + since_today)
    agents = await console.services.get(StoreExecutor)(
        runtime.store.models.agent_days, days[0], visible_tenants(visit.caller, None)
    )
    budget = runtime.settings.risk.alert_budget.medium
    by_day = days_of_cases(days, statistics, closed, {day: budget * count / 1000 for day, count in agents.items()})
    return {
        "statistics": statistics,
        "cases": list(reversed(by_day)),
        "cases_chart": cases_chart(by_day),
        "any_case": any(one.opened or one.closed for one in by_day),
        "budget": budget,
        "knows_budget": bool(agents),
    }

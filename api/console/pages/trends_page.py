"""Trends: how levels changed over days, cases against the alert budget, leading reasons, how soon people acted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

from fastapi import APIRouter, Query
from markupsafe import Markup
from starlette.responses import Response

from trustwatch.ingest.timestamps import DAY_MS, DAY_S
from trustwatch.scoring.records.agents import RiskLevel

from ...cases.service import CaseService
from ...charts import ChartAxis, ChartSeries, chart
from ...decisions.trends import DayOfChanges, DecisionTrends
from ...http.agent_lookup import visible_tenants
from ...http.problems import invalid_value_error
from ...http.store_executor import StoreExecutor
from ..page_dependencies import PageReaderDep

RANGES: Final = (7, 30, 90)
SHOWN_LEVELS: Final = (RiskLevel.MEDIUM, RiskLevel.HIGH, RiskLevel.CRITICAL)
MAX_REASONS: Final = 12
DAYS: Final = ChartAxis("day (UTC)", kind="utc")

router = APIRouter()


class DayOfCases(NamedTuple):
    """Cases of one day of UTC since 1970; *accepted*: false alerts that the budget allows for, None = not counted."""

    day: int
    opened: int
    closed: int
    accepted: float | None


@router.get("/trends")
async def show_trends(visit: PageReaderDep, days: Annotated[str, Query(max_length=8)] = "30") -> Response:
    """The last 7, 30 or 90 days. What takes longer to count than people wait is counted on by the next look."""
    if days not in map(str, RANGES):
        raise invalid_value_error("days", f"must be {', '.join(map(str, RANGES[:-1]))} or {RANGES[-1]}")
    counted = await visit.get(DecisionTrends).over(visit.caller, int(days))
    numbers, runtime, cases = [one.day for one in counted.days], visit.runtime, visit.find(CaseService)
    since = len(numbers) - 1 + runtime.now_ms() % DAY_MS / DAY_MS  # from the beginning of the first day, as levels are
    statistics = None if cases is None else await cases.statistics(visit.caller, since)
    opened = {} if statistics is None else statistics.by_day
    closed = {} if cases is None else await cases.closed_by_day(visit.caller, since)
    tenants = visible_tenants(visit.caller, None)
    agents = await visit.get(StoreExecutor)(runtime.store.models.agent_days, numbers[0], tenants)
    budget = runtime.settings.risk.budget.medium
    accepted = {day: budget * count / 1000 for day, count in agents.items()}
    by_day = [DayOfCases(day, opened.get(day, 0), closed.get(day, 0), accepted.get(day)) for day in numbers]
    return visit.render(
        "trends.html",
        ranges=RANGES,
        chosen=int(days),
        counted_from_ms=counted.counted_from_ms,
        changes_chart=_changes_chart(counted.days),
        any_change=any(one.rises or one.falls for one in counted.days),
        reasons=counted.reasons[:MAX_REASONS],
        all_rises=sum(amount for _, amount in counted.reasons),
        statistics=statistics,
        cases_chart=_cases_chart(by_day),
        any_case=any(one.opened or one.closed for one in by_day),
        budget=budget,
        knows_budget=bool(agents),
    )


def _changes_chart(days: Sequence[DayOfChanges]) -> Markup:
    """Rises by day, stacked by the level that they came to."""
    series = [
        ChartSeries(level.label, [(one.day * DAY_S, one.rises.get(level, 0)) for one in days], level.label)
        for level in SHOWN_LEVELS
    ]
    falls = ChartSeries("falls, of any level", [(one.day * DAY_S, one.falls) for one in days], drawn=False)
    title, rises = "Rises of agents by day, by the level they came to", ChartAxis("rises", 0.0, kind="count")
    return chart(title, DAYS, rises, [*series, falls], bars=True)


def _cases_chart(days: Sequence[DayOfCases]) -> Markup:
    """Cases that were opened and closed by day, against the false alerts that the budget accepts."""
    series = [
        ChartSeries("opened", [(one.day * DAY_S, one.opened) for one in days], "first"),
        ChartSeries("closed", [(one.day * DAY_S, one.closed) for one in days], "second dashed"),
    ]
    accepted = [(one.day * DAY_S, one.accepted) for one in days if one.accepted is not None]
    if accepted:
        series.append(ChartSeries("false alerts that the budget accepts", accepted, "allowed"))
    return chart("Cases by day", DAYS, ChartAxis("cases", 0.0, kind="count"), series)

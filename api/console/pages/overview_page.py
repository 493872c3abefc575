"""The overview (who needs attention, what changed, whether the service works), trends, and the search box."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import fmean
from typing import Annotated, Any, Final, NamedTuple

from fastapi import APIRouter, Query
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.timestamps import DAY_MS, DAY_S, MINUTE_MS
from trustwatch.scoring.records.agents import AgentSummary, RiskLevel
from trustwatch.scoring.records.decisions import Decision

from ...access.service import ContainmentService
from ...agents.service import AgentFilters, AgentService
from ...cases.service import CaseService
from ...charts import ChartAxis, ChartSeries, chart, chart_table
from ...decisions.service import DayOfChanges, DecisionService, DecisionTrends
from ...http.agent_lookup import AgentSelector, visible_tenants
from ...http.auth.callers import SCOPE_ADMIN, AuthenticatedCaller
from ...http.problems import ProblemError, invalid_value_error
from ...http.runtime import component_states
from ...http.store_executor import StoreExecutor
from ...models.service import ModelService
from ...settings.access_settings import ANY_NAME
from ..lists import group_escalations, level_step_of
from ..page_dependencies import PageReaderDep, PageRequest
from ..rendering import agent_url, exact_time, url_with_query
from .health_page import silence_reports

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
    """Return the object with that id; None if there is none, or more than one."""
    try:
        return await get(caller, *asked)
    except ProblemError as error:
        return error.problem.code == "decision_pending"  # its page explains that it comes soon


RANGES: Final = (7, 30, 90)
SHOWN_LEVELS: Final = (RiskLevel.MEDIUM, RiskLevel.HIGH, RiskLevel.CRITICAL)
MAX_REASONS: Final = 12
DAYS: Final = ChartAxis("day (UTC)", kind="utc")


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
    """Daily rises, stacked by the level that they reached."""
    series = [
        ChartSeries(level.label, [(one.day * DAY_S, one.rises.get(level, 0)) for one in days], level.label)
        for level in SHOWN_LEVELS
    ]
    falls = ChartSeries("falls, of any level", [(one.day * DAY_S, one.falls) for one in days], drawn=False)
    title, rises = "Rises of agents by day, by the level they came to", ChartAxis("rises", 0.0, kind="count")
    return chart(title, DAYS, rises, [*series, falls], bars=True)


def _cases_chart(days: Sequence[DayOfCases]) -> Markup:
    """Cases opened and closed per day, against the false alerts that the budget accepts."""
    series = [
        ChartSeries("opened", [(one.day * DAY_S, one.opened) for one in days], "first"),
        ChartSeries("closed", [(one.day * DAY_S, one.closed) for one in days], "second dashed"),
    ]
    accepted = [(one.day * DAY_S, one.accepted) for one in days if one.accepted is not None]
    if accepted:
        series.append(ChartSeries("false alerts that the budget accepts", accepted, "allowed"))
    return chart("Cases by day", DAYS, ChartAxis("cases", 0.0, kind="count"), series)


MAX_SHOWN = 12
RISKIEST = AgentFilters(levels=("medium", "high", "critical"), order="risk")
RATE_TITLE = "Events per second"
MAX_DECISIONS_READ = 4 * MAX_SHOWN  # Newest decisions; those of one climb are shown as one change


@router.get("/")
async def show_overview(visit: PageReaderDep) -> Response:
    """The whole page."""
    return visit.render("overview.html", **await _overview_values(visit))


@router.get("/overview")
async def show_overview_parts(visit: PageReaderDep) -> Response:
    """The parts of the page that change."""
    return visit.render("overview_parts.html", **await _overview_values(visit))


async def _overview_values(visit: PageRequest) -> dict[str, Any]:
    runtime, caller, activity = visit.runtime, visit.caller, visit.console.activity
    decisions, containment = visit.get(DecisionService), visit.get(ContainmentService)
    cases, models, book = visit.find(CaseService), visit.find(ModelService), runtime.live_policy.book
    newest = await decisions.list(caller, limit=MAX_DECISIONS_READ)
    pending = await containment.list(caller, "approval", "pending", limit=MAX_SHOWN)
    worst = (await visit.get(AgentService).list(caller, RISKIEST, MAX_SHOWN)).items
    reasons = await decisions.behind_levels(caller, worst)
    tenants = [tenant for tenant in await activity.known_tenants() if caller.may_see(tenant)]
    return {
        "counts": await activity.level_counts(visible_tenants(caller, None)),
        "riskiest": order_by_last_rise(worst, reasons),
        "deciding": reasons,
        "changes": group_escalations(newest.items, level_step_of)[:MAX_SHOWN],
        "cases": {} if cases is None else await cases.count_open(caller),
        "pending": len(pending.items),
        "pending_more": pending.next_cursor is not None,
        "pins": (await containment.list(caller, "pin", "active", limit=MAX_SHOWN)).items,
        "containment": await containment.containment_times(caller),
        "actuators": [actuator.name for actuator in runtime.settings.actuators],
        "modes": [(tenant, book.may_enforce(tenant)) for tenant in tenants],
        "policy": runtime.live_policy,
        "service": _service_values(visit) if may_see_service(caller) else None,
        "rate": activity.throughput(),
        "rate_chart": _rate_chart(activity.throughput_series()),
        "model_version": runtime.model_version,
        "learning": None if models is None else models.learning_for(caller),
        "words": [level.label for level in RiskLevel],
    }


def _rate_chart(rates: Sequence[tuple[int, float]]) -> Markup | None:
    """Events per second of the last hour; its table has a row for each minute, newest first: samples would be 720."""
    if len(rates) < 2:
        return None
    minutes: defaultdict[int, list[float]] = defaultdict(list)
    for at_ms, rate in rates:
        minutes[at_ms // MINUTE_MS].append(rate)
    rows = [
        [exact_time(minute * MINUTE_MS), f"{fmean(found):.1f}", f"{max(found):.1f}"]
        for minute, found in sorted(minutes.items(), reverse=True)
    ]
    sampled = "The drawing has a sample each five seconds; a row sums up a minute."
    return chart(
        RATE_TITLE,
        ChartAxis("time", kind="time"),
        ChartAxis("events/s", 0.0),
        [ChartSeries("events/s", [(at_ms / 1000, rate) for at_ms, rate in rates], "first", fill=True)],
        height=150,
        table=chart_table(RATE_TITLE, ["Minute", "Mean", "Highest"], rows, sampled=sampled),
    )


def may_see_service(caller: AuthenticatedCaller) -> bool:
    """True if a caller may see figures of the whole service: they add up all tenants."""
    return ANY_NAME in caller.tenants or SCOPE_ADMIN in caller.scopes


def order_by_last_rise(agents: Sequence[AgentSummary], reasons: Mapping[str, Decision]) -> list[AgentSummary]:
    """Highest level first, within a level the last to rise first: the decayed risk does not show urgency."""

    def order(agent: AgentSummary) -> tuple[int, int]:
        decision = reasons.get(agent.decision_id)
        return -agent.level, -(agent.evaluated_ms if decision is None else decision.decided_ms)

    return sorted(agents, key=order)


def _service_values(visit: PageRequest) -> dict[str, Any]:
    runtime = visit.runtime
    status, now_ms = runtime.pipeline_status, runtime.now_ms()
    sources = silence_reports(visit.console.services, visit.caller)
    return {
        "components": component_states(runtime),
        "behind": status.records_behind,
        "fresh_ms": status.fresh_ms,
        "stale": bool(status.fresh_ms) and now_ms - status.fresh_ms >= runtime.settings.risk.staleness_s * 1000,
        "dropped": status.dropped_dead_letters,
        "silent": [source for source in sources if source.silent],
        "watched": len(sources),
    }

"""The overview (who needs attention, what changed, whether the service works), trends, search, and health."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from statistics import fmean
from typing import Annotated, Any, Final, NamedTuple

from fastapi import APIRouter, Query
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.timestamps import DAY_MS, DAY_S, MINUTE_MS
from trustwatch.scoring.records.agents import AgentSummary, RiskLevel

from ...access.service import ContainmentService
from ...agents.service import AgentFilters, AgentService
from ...alerts.service import AlertService
from ...cases.service import CaseService
from ...charts import ChartAxis, ChartSeries, chart, chart_table
from ...decisions.service import DayOfChanges, DecisionService, DecisionTrends
from ...events.ingest_status import IngestStatus, SilenceDetector, SilenceReport
from ...http.agent_lookup import AgentSelector, visible_tenants
from ...http.auth.callers import SCOPE_ADMIN, AuthenticatedCaller
from ...http.problems import ProblemError, invalid_value_error
from ...http.prometheus_metrics import ServiceMetrics
from ...http.runtime import Runtime, component_states
from ...http.slice import ServiceRegistry
from ...http.store_executor import StoreExecutor
from ...models.service import ModelService
from ...settings.access_settings import ANY_NAME, EventSourceSettings
from ...settings.effective import settings_yaml
from ..lists import group_escalations, level_step_of
from ..page_dependencies import PageAdministratorDep, PageReaderDep, PageRequest
from ..rendering import agent_url, exact_time, url_with_query

router = APIRouter()


@router.get("/search")
async def search(visit: PageReaderDep, q: Annotated[str, Query(max_length=2048)] = "") -> RedirectResponse:
    """Redirect to the case, decision, approval or agent with that id, otherwise to a list.

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
    """Return the object with that id, or None if there is none or more than one."""
    try:
        return await get(caller, *asked)
    except ProblemError as error:
        return error.problem.code == "decision_pending"  # its page explains that it comes soon


RANGES: Final = (7, 30, 90)
SHOWN_LEVELS: Final = (RiskLevel.MEDIUM, RiskLevel.HIGH, RiskLevel.CRITICAL)
MAX_REASONS: Final = 12
DAYS: Final = ChartAxis("day (UTC)", kind="utc")


class DayOfCases(NamedTuple):
    """Cases of one UTC day since 1970; *accepted*: false alerts that the budget allows for, None = not counted."""

    day: int
    opened: int
    closed: int
    accepted: float | None


@router.get("/trends")
async def show_trends(visit: PageReaderDep, days: Annotated[str, Query(max_length=8)] = "30") -> Response:
    """Show the last 7, 30 or 90 days. A count that takes too long is continued when the page is next loaded."""
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
    series = [
        ChartSeries(level.label, [(one.day * DAY_S, one.rises.get(level, 0)) for one in days], level.label)
        for level in SHOWN_LEVELS
    ]
    falls = ChartSeries("falls, of any level", [(one.day * DAY_S, one.falls) for one in days], drawn=False)
    title, rises = "Rises of agents by day, by the level they came to", ChartAxis("rises", 0.0, kind="count")
    return chart(title, DAYS, rises, [*series, falls], bars=True)


def _cases_chart(days: Sequence[DayOfCases]) -> Markup:
    """Chart cases opened and closed per day, against the false alerts that the budget accepts."""
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
    return visit.render("overview.html", **await _overview_values(visit))


@router.get("/overview")
async def show_overview_parts(visit: PageReaderDep) -> Response:
    return visit.render("overview_parts.html", **await _overview_values(visit))


async def _overview_values(visit: PageRequest) -> dict[str, Any]:
    runtime, caller, activity = visit.runtime, visit.caller, visit.console.activity
    decisions, containment = visit.get(DecisionService), visit.get(ContainmentService)
    cases, models, book = visit.find(CaseService), visit.find(ModelService), runtime.live_policy.book
    newest = await decisions.list(caller, limit=MAX_DECISIONS_READ)
    pending = await containment.list(caller, "approval", "pending", limit=MAX_SHOWN)
    worst = (await visit.get(AgentService).list(caller, RISKIEST, MAX_SHOWN)).items
    reasons = await decisions.behind_levels(caller, worst)

    def urgency(agent: AgentSummary) -> tuple[int, int]:
        """Sorts by highest level, then by latest rise, because decayed risk does not show urgency."""
        decision = reasons.get(agent.decision_id)
        return -agent.level, -(agent.evaluated_ms if decision is None else decision.decided_ms)

    tenants = [tenant for tenant in await activity.known_tenants() if caller.may_see(tenant)]
    # Figures of the whole service include all tenants.
    may_see_service = ANY_NAME in caller.tenants or SCOPE_ADMIN in caller.scopes
    return {
        "counts": await activity.level_counts(visible_tenants(caller, None)),
        "riskiest": sorted(worst, key=urgency),
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
        "service": _service_values(visit) if may_see_service else None,
        "rate": activity.throughput(),
        "rate_chart": _rate_chart(activity.throughput_series()),
        "model_version": runtime.model_version,
        "learning": None if models is None else models.learning_for(caller),
        "words": [level.label for level in RiskLevel],
    }


def _rate_chart(rates: Sequence[tuple[int, float]]) -> Markup | None:
    """Chart events per second of the last hour. Its table has a row for each minute, newest first, because there are
    720 samples.
    """
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


def _freshness(runtime: Runtime) -> dict[str, Any]:
    fresh_ms, stale_after_ms = runtime.pipeline_status.fresh_ms, runtime.settings.risk.staleness_s * 1000
    return {"fresh_ms": fresh_ms, "stale": bool(fresh_ms) and runtime.now_ms() - fresh_ms >= stale_after_ms}


def _service_values(visit: PageRequest) -> dict[str, Any]:
    runtime = visit.runtime
    status = runtime.pipeline_status
    sources = _silence_reports(visit.console.services, visit.caller)
    return {
        "components": component_states(runtime),
        "behind": status.records_behind,
        **_freshness(runtime),
        "dropped": status.dropped_dead_letters,
        "silent": [source for source in sources if source.silent],
        "watched": len(sources),
    }


_COMPONENTS: Final[Mapping[str, tuple[str, str]]] = {
    "log": (
        "accepts events and orders of people",
        "accepts nothing: senders get 503 and must retry. Check the disk or the brokers, and the log.",
    ),
    "pipeline": (
        "judges what arrives",
        "does not report: answers become stale. Events are still accepted, and judged once it works again.",
    ),
    "issuers": (
        "the keys of at least one issuer are loaded",
        "no issuer's keys are loaded: every token is refused. Check whether this machine reaches its key set.",
    ),
    "archive": ("writes its files", "writes no files. Check its directory and the log."),
}
_OTHER: Final = ("works", "does not work. The log of the service has the reason.")
"""Texts about a part of the service while it works and while it does not."""

_TROUBLES: Final[Sequence[tuple[str, str, *tuple[str, ...]]]] = (
    ("trustwatch_dead_letters_dropped_total", "dead letters that were dropped: the store was full"),
    ("trustwatch_audit_events_total", "own audit events that were lost", "dropped"),
    (
        "trustwatch_pipeline_records_total",
        "of the pipeline",
        *("vectors_dropped", "identity_conflicts", "fenced", "ticks_not_sent", "heartbeats_not_sent"),
    ),
    ("trustwatch_events_total", "events that were rejected", "rejected"),
    ("trustwatch_limited_requests_total", "requests that were refused for now"),
    ("trustwatch_ingest_records_total", "records of foreign topics that were rejected", "rejected"),
    ("trustwatch_verdict_failures_total", "requests for verdicts that failed"),
    ("trustwatch_approvals_failed_total", "approvals that could not be requested or used"),
    ("trustwatch_deliveries_total", "attempts to deliver an alert that failed", "failed", "gone", "retry"),
    ("trustwatch_actuations_total", "attempts of actuators that failed", "failed", "retry"),
    ("trustwatch_security_events_total", "tokens of streams that were not accepted", "failed", "retry"),
    ("trustwatch_policy_errors_total", "token policy files that were invalid"),
    ("trustwatch_issuer_keys_skipped_total", "keys of issuers that could not be read"),
    ("trustwatch_connections_closed_total", "connections that were closed before their client was done"),
)
"""Metrics of losses, refusals and failures, with their text and the label values that count (none = all)."""


@router.get("/health")
async def show_health(visit: PageAdministratorDep) -> Response:
    """Show the state of the process that answers. Data about other tenants is only for people with access to all
    tenants.
    """
    runtime, sees_all, services = visit.runtime, ANY_NAME in visit.caller.tenants, visit.console.services
    schema, store_trouble, began = None, "", runtime.monotonic()
    try:
        schema = await visit.get(StoreExecutor)(runtime.store.schema_revision)
    except Unavailable as error:
        store_trouble = str(error)
    answers_in_s = runtime.monotonic() - began
    ingest, sources = visit.find(IngestStatus), _silence_reports(services, visit.caller)
    known, topics = _known_sources(runtime.settings.brokers.topics, visit.caller), None
    if ingest is not None and ingest.alive is not None and (known or sees_all):
        topics = [report for report in ingest.report.sources if report.name in known]
    components = [
        {"name": name, "fine": fine, "words": _COMPONENTS.get(name, _OTHER)[not fine], "since_ms": since_ms}
        for name, (fine, since_ms) in visit.console.activity.note_components().items()
    ]
    return visit.render(
        "health.html",
        components=sorted(components, key=lambda one: bool(one["fine"])),
        work=_work_values(runtime),
        answers_in_s=answers_in_s,
        store_trouble=store_trouble,
        learning=runtime.learning(),
        restart_needed=runtime.settings_reloads.restart_needed if sees_all else (),
        policy=runtime.live_policy,
        stops=[] if store_trouble else await visit.get(AlertService).target_stops(),
        targets=len(runtime.settings.webhooks),
        sources=sources,
        silent=[source for source in sources if source.silent],
        topics=topics,
        topics_are_read=ingest is not None and ingest.alive,
        troubles=_count_troubles(visit.get(ServiceMetrics)) if sees_all else None,
        versions=[
            ("Trustwatch", version("trustwatch")),
            ("Python", platform.python_version()),
            ("Model", runtime.scoring_version),
            ("Token policy", runtime.live_policy.book.version),
            ("Tables of the store", schema or "none"),
        ],
        settings=settings_yaml(runtime.settings) if sees_all else None,
        sees_all=sees_all,
    )


def _count_troubles(metrics: ServiceMetrics) -> list[tuple[str, str, float, str]]:
    """Return word, label, count and metric of each problem counted since the process started that is not 0."""
    values = metrics.values()
    return [
        (words, ", ".join(labels), count, metric)
        for metric, words, *wanted in _TROUBLES
        for labels, count in sorted(values[metric].items())
        if count and (not wanted or set(wanted) & set(labels))
    ]


def _work_values(runtime: Runtime) -> dict[str, Any]:
    status, log = runtime.pipeline_status, runtime.event_log
    return {
        "log_kind": "topics of brokers" if runtime.settings.distributed else "files on this machine",
        "next_offset": log.log.next_offset,
        "waiting_bytes": log.waiting_bytes,
        "behind": status.records_behind if runtime.log_lag is None else runtime.log_lag(),
        **_freshness(runtime),
        "reported_ms": status.last_report_ms,
        "starting": status.starting,
        "waiting_for": status.waiting_for,
        "store_kind": "SQLite" if runtime.settings.store.url is None else "PostgreSQL",
        "agents": len(runtime.risk_view),
    }


def _silence_reports(services: ServiceRegistry, caller: AuthenticatedCaller) -> list[SilenceReport]:
    """Return the sources watched for silence that *caller* may see: callers, and foreign topics read here."""
    ingest, settings = services.find(IngestStatus), services.get(Runtime).settings
    callers = _known_sources(settings.callers, caller)
    topics = _known_sources(settings.brokers.topics, caller)
    return [
        *(report for report in services.get(SilenceDetector) if report.name in callers),
        *(report for report in (() if ingest is None else ingest.report.silence) if report.name in topics),
    ]


def _known_sources(sources: Iterable[EventSourceSettings], caller: AuthenticatedCaller) -> frozenset[str]:
    """Return the sources authorized for a tenant of *caller*. A source for `*` belongs to no tenant: only callers of
    all tenants see it.
    """
    if ANY_NAME in caller.tenants:
        return frozenset(source.name for source in sources)
    return frozenset(source.name for source in sources if caller.tenants & set(source.tenants))

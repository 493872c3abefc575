"""Agents: the list, and one agent with its reasons, usual behavior, contacts, token policy, and actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from trustwatch.scoring.records.agents import AgentSummary, Indicator, RiskLevel, decode_indicators
from trustwatch.scoring.records.containment import OPEN_INTERVENTION_STATUSES
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.agent_store import AgentOrder

from ...access.service import ContainmentService
from ...agents.recent_events import MAX_EVENTS_AFTER, MAX_EVENTS_BEFORE, DecisionMoment
from ...agents.risk_answer_cache import shows_reasons
from ...agents.service import AgentFilters, AgentService
from ...cases.case_reports import CaseSearch
from ...cases.service import CaseService
from ...charts import ChartAxis, ChartSeries, chart, chart_table
from ...decisions.service import CHOICES, DecisionFilters, DecisionService, parse_time_range
from ...events.event_origin import delegated_by, event_sizes, origin_of
from ...feedback.service import FeedbackService
from ...http.agent_lookup import AgentSelector, visible_tenants
from ...http.auth.callers import SCOPE_FEEDBACK
from ...http.store_executor import BulkWork
from ...http.wire import Wire
from ..lists import list_columns, list_file, text_filters
from ..live_updates import agent_event_name
from ..page_dependencies import FormDep, PageReaderDep, PageRequest, PageReviewerDep, TimeText, number_of_form
from ..rendering import agent_url, exact_time
from .decisions_page import describe_scope

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


def _asked_agents(request: Request) -> dict[str, Any]:
    levels = [word for word in request.query_params.getlist("level") if word in LEVEL_WORDS]
    return {"level": levels, **_text_filters(request)}


AskedDep = Annotated[dict[str, Any], Depends(_asked_agents)]


def _filters_of(asked: dict[str, Any]) -> AgentFilters:
    text = asked["text"]
    order: AgentOrder = "name" if text else "risk"
    return AgentFilters(asked["tenant"] or None, asked["level"] or None, asked["type"] or None, text=text, order=order)


@router.get("/agents")
async def list_agents(
    visit: PageReaderDep, asked: AskedDep, cursor: Annotated[str | None, Query(max_length=8192)] = None
) -> Response:
    """Show the agents, the riskiest first, filtered by text in tenant and id."""
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
    agents, filters = visit.get(AgentService), _filters_of(asked)
    return await list_file(
        form,
        "agents",
        lambda cursor: agents.list(visit.caller, filters, cursor=cursor),
        lambda agent: AgentFileRow.of(agent).model_dump(),
        visit.runtime.monotonic,
        visit.get(BulkWork),
        visit.caller,
    )


class AgentFileRow(
    Wire,
    of=AgentSummary,
    rename={"level": "risk_level"},
    omit=("anomaly_score", "evaluated_ms", "reasons", "indicators", "counterfactual"),
):
    """A row of the agents file, with the names of the API."""


MAX_DECISIONS = 100
EDGE_WORDS = {"delegated": "delegated to", "called": "called"}
RISK_TITLE = "Risk over time"
CONFIRMATIONS = {
    "released": "The release is logged. The level follows as soon as it is read, usually within a second.",
    "pinned": "The level is fixed. Policy acts on it from now on.",
    "unpinned": "The level is no longer fixed. Policy acts on the measured level.",
}

IdParam = Annotated[str, Query(alias="id", max_length=2048)]
NameParam = Annotated[str | None, Query(max_length=2048)]


def _agent_of_query(agent_id: IdParam = "", tenant: NameParam = None, issuer: NameParam = None) -> AgentSelector:
    return AgentSelector(agent_id, tenant, issuer)


AgentQueryDep = Annotated[AgentSelector, Depends(_agent_of_query)]


@router.get("/agent")
async def show_agent(
    visit: PageReaderDep, agent: AgentQueryDep, said: str = "", since: TimeText = "7d", until: TimeText = ""
) -> Response:
    """Show the whole page; *since* and *until* bound its graph."""
    summary = await visit.get(AgentService).get(visit.caller, agent)
    values = await _page_values(visit, summary) | await _graph_values(visit, summary, since, until)
    reached = await visit.get(ContainmentService).blast_radius(visit.caller, _selector_of(summary), depth=1)
    return visit.render(
        "agent.html", said=CONFIRMATIONS.get(said, ""), principals=reached.radius.principals, choices=CHOICES, **values
    )


@router.get("/agent/graph")
async def show_agent_graph(
    visit: PageReaderDep, agent: AgentQueryDep, since: TimeText = "7d", until: TimeText = ""
) -> Response:
    """Show the agents that it had contact with in a time range."""
    summary = await visit.get(AgentService).get(visit.caller, agent)
    return visit.render("agent_graph.html", **await _graph_values(visit, summary, since, until))


@router.get("/agent/parts")
async def show_agent_parts(visit: PageReaderDep, agent: AgentQueryDep) -> Response:
    summary = await visit.get(AgentService).get(visit.caller, agent)
    return visit.render("agent_parts.html", **await _page_values(visit, summary))


@router.get("/agent/events")
async def show_agent_events(visit: PageReaderDep, agent: AgentQueryDep) -> Response:
    """Show recent events, which take longest to find."""
    agents = visit.get(AgentService)
    summary = await agents.get(visit.caller, agent)
    name, moment = summary.name, DecisionMoment()
    behind = await visit.get(DecisionService).behind_levels(visit.caller, [summary])
    set_by = behind.get(summary.decision_id)
    if set_by is not None:
        moment = DecisionMoment(set_by.event_time_ms, set_by.partition, set_by.offset)
    indicators = _indicators_of(summary, set_by)
    return visit.render(
        "agent_events.html",
        recent=await agents.recent_events(visit.caller, name, moment),
        set_by=set_by,
        interval_s=visit.runtime.settings.archive.interval_s,
        where=agent_url(name.tenant, name.issuer, name.agent_id, "agent/events"),
        news=frozenset((one.kind, one.value) for one in indicators if one.status in ("new", "not_remembered")),
        origin_of=origin_of,
        event_sizes=event_sizes,
        delegated_by=delegated_by,
        most_before=MAX_EVENTS_BEFORE,
        most_after=MAX_EVENTS_AFTER,
    )


@router.post("/agent/release")
async def release_agent(visit: PageReviewerDep, form: FormDep) -> Response:
    """Release the agent with a reason, as `POST /v1/agents/{id}/release` does."""
    agent, note = _agent_of_form(form), form.get("why", "").strip()
    await visit.get(AgentService).release(visit.caller, agent, note, note_required=True)
    return _redirect_to_agent(agent, "released")


@router.post("/agent/pin")
async def pin_agent(visit: PageReviewerDep, form: FormDep) -> Response:
    """Pin the level that the policy uses, as `POST /v1/agents/{id}/pin` does."""
    agent, level, why = _agent_of_form(form), form.get("level", ""), form.get("why", "").strip()
    await visit.get(ContainmentService).pin(visit.caller, agent, level, why, number_of_form(form, "valid_s"))
    return _redirect_to_agent(agent, "pinned")


@router.post("/agent/unpin")
async def unpin_agent(visit: PageReviewerDep, form: FormDep) -> Response:
    agent = _agent_of_form(form)
    await visit.get(ContainmentService).unpin(visit.caller, agent, form.get("why", "").strip())
    return _redirect_to_agent(agent, "unpinned")


def _indicators_of(summary: AgentSummary, set_by: Decision | None) -> Sequence[Indicator]:
    """Return the indicators of the remaining risk, or those of the decision that set the level."""
    if shows_reasons(summary):
        return decode_indicators(summary.indicators)
    return () if set_by is None else set_by.indicators


def _selector_of(summary: AgentSummary) -> AgentSelector:
    return AgentSelector(summary.name.agent_id, summary.name.tenant, summary.name.issuer)


def _agent_of_form(form: Any) -> AgentSelector:
    return AgentSelector(form.get("id", ""), form.get("tenant", ""), form.get("issuer", ""))


def _redirect_to_agent(agent: AgentSelector, said: str) -> Response:
    return RedirectResponse(agent_url(agent.tenant or "", agent.issuer, agent.agent_id, said=said), 303)


async def _page_values(visit: PageRequest, summary: AgentSummary) -> dict[str, Any]:
    caller, name, agent, now_ms = visit.caller, summary.name, _selector_of(summary), visit.runtime.now_ms()
    agents, containment = visit.get(AgentService), visit.get(ContainmentService)
    cases, feedback = visit.find(CaseService), visit.find(FeedbackService)
    decisions = await visit.get(DecisionService).list(caller, DecisionFilters(agent=agent), MAX_DECISIONS)
    interventions = (await containment.list(caller, agent=agent)).items
    pins = [one for one in interventions if one.kind == "pin"]
    set_by = next((decision for decision in decisions.items if decision.decision_id == summary.decision_id), None)
    open_cases = [] if cases is None else (await cases.search(caller, CaseSearch("unresolved", agent=agent), 1)).items
    return {
        "set_by": set_by,
        "indicators": _indicators_of(summary, set_by),
        "agent": summary,
        "name": name,
        "answer": msgspec.json.decode(agents.answer(caller, agent)),
        "decisions": decisions.items,
        "decisions_more": decisions.next_cursor is not None,
        "risk_chart": _risk_chart(visit, summary, decisions.items),
        "profile": await agents.baseline(caller, name),
        "open": [one for one in interventions if one.status in OPEN_INTERVENTION_STATUSES],
        "ended": [one for one in interventions if one.status not in OPEN_INTERVENTION_STATUSES],
        "pin": next((one for one in pins if one.status == "active" and one.expires_ms > now_ms), None),
        "actuations": (await containment.actuations(caller, agent=agent)).items,
        "informed_actuators": containment.informed_actuators(name),
        "case_id": open_cases[0].case.case_id if open_cases else None,
        "rules": () if feedback is None else await feedback.active_rules_of(caller, summary),
        "scope": describe_scope,
        "event": agent_event_name(name.tenant, name.agent_id),
        "may_judge": visit.has(SCOPE_FEEDBACK),
    }


async def _graph_values(visit: PageRequest, summary: AgentSummary, since: str, until: str) -> dict[str, Any]:
    """Raises ProblemError (422): a time is invalid."""
    times = parse_time_range(since, until, visit.runtime.now_ms())
    graph = await visit.get(ContainmentService).agent_graph(visit.caller, _selector_of(summary), *times)
    around = {one.name.agent_id: one for one in graph.agents}
    ties = [(around[edge.source], edge, around[edge.target]) for edge in graph.edges]
    return {
        "graph": graph,
        "ties": sorted(ties, key=lambda tie: (max(abs(tie[0].layer), abs(tie[2].layer)), -tie[1].risk)),
        "words": EDGE_WORDS,
        "range": {"since": since, "until": until},
    }


def _risk_chart(visit: PageRequest, summary: AgentSummary, decisions: list[Decision]) -> Markup | None:
    """Chart the risk at each known time: samples of this process, decisions, and now. Return None if it has not
    changed.
    """
    risks = dict(visit.console.activity.risk_series.points(summary.name.key))
    risks |= {decision.event_time_ms: decision.risk_score for decision in decisions}
    risks[summary.evaluated_ms] = summary.risk_score
    points = [(at_ms / 1000, round(risk, 4)) for at_ms, risk in sorted(risks.items()) if at_ms]
    if len(points) < 2:
        return None
    levels = {one.event_time_ms / 1000: RiskLevel(one.level).label for one in reversed(decisions)}
    rows = [[exact_time(round(at * 1000)), f"{risk:.2f}", levels.get(at, "–")] for at, risk in reversed(points)]
    return chart(
        RISK_TITLE,
        ChartAxis("time", kind="time"),
        ChartAxis("risk", 0.0, 1.0),
        [ChartSeries("risk", points, "first", steps=True, fill=True)],
        marks=[
            {"x": one.event_time_ms / 1000, "y": one.risk_score, "level": RiskLevel(one.level).label}
            for one in reversed(decisions)
        ],
        table=chart_table(RISK_TITLE, ["Time", "Risk", "Decision"], rows),
    )

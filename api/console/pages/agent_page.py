"""One agent: what it is at, why, what is usual for it, whom it reached, what its tokens are worth, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from trustwatch.scoring.records.agents import AgentSummary, RiskLevel
from trustwatch.scoring.records.containment import OPEN_INTERVENTION_STATUSES, Intervention
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import Feedback
from trustwatch.scoring.records.indicators import Indicator, decode_indicators

from ...access.service import ContainmentService
from ...agents.recent_events import MAX_EVENTS_AFTER, MAX_EVENTS_BEFORE, DecisionMoment
from ...agents.risk_answer_cache import shows_reasons
from ...agents.service import AgentService
from ...cases.case_reports import CaseSearch
from ...cases.service import CaseService
from ...charts import ChartAxis, ChartSeries, chart, chart_table
from ...decisions.service import DecisionService
from ...events.event_origin import delegated_by, event_sizes, origin_of
from ...feedback.service import FeedbackService
from ...http.agent_lookup import AgentSelector
from ...http.auth.callers import SCOPE_FEEDBACK, AuthenticatedCaller
from ...http.time_range import CHOICES, parse_time_range
from ..console_sessions import PageRequest
from ..live_updates import agent_event_name
from ..page_dependencies import (
    AgentServiceDep,
    ConsoleContext,
    ConsoleDep,
    ContainmentServiceDep,
    DecisionServiceDep,
    FormDep,
    PageReaderDep,
    PageReviewerDep,
    number_of_form,
)
from ..rendering import agent_url, exact_time
from ..views.feedback_display import describe_scope
from ..views.indicator_display import display_indicators, new_names

MENU_ENTRY = None
MAX_DECISIONS = 100
EDGE_WORDS = {"delegated": "delegated to", "called": "called"}
RISK_TITLE = "Risk over time"
CONFIRMATIONS = {
    "released": "The release is logged. The level follows as soon as it is read, usually within a second.",
    "pinned": "The level is fixed. Policy acts on it from now on.",
    "unpinned": "The level is no longer fixed. Policy acts on what is measured.",
}

router = APIRouter()

IdParam = Annotated[str, Query(alias="id", max_length=2048)]
TimeText = Annotated[str, Query(max_length=64)]
NameParam = Annotated[str | None, Query(max_length=2048)]


def agent_of_query(agent_id: IdParam = "", tenant: NameParam = None, issuer: NameParam = None) -> AgentSelector:
    """The agent that the query of a page names."""
    return AgentSelector(agent_id, tenant, issuer)


AgentQueryDep = Annotated[AgentSelector, Depends(agent_of_query)]


@router.get("/agent")
async def show_agent(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    agents: AgentServiceDep,
    agent: AgentQueryDep,
    said: str = "",
    since: TimeText = "7d",
    until: TimeText = "",
) -> Response:
    """The whole page; *since* and *until* bound its graph."""
    summary = await agents.get(visit.caller, agent)
    values = await _page_values(console, visit, summary) | await _graph_values(console, visit, summary, since, until)
    named = AgentSelector(summary.name.agent_id, summary.name.tenant, summary.name.issuer)
    radius = (await console.services.get(ContainmentService).blast_radius(visit.caller, named, depth=1)).radius
    return console.render_page(
        request,
        "agent.html",
        visit,
        said=CONFIRMATIONS.get(said, ""),
        principals=radius.principals,
        choices=CHOICES,
        **values,
    )


@router.get("/agent/graph")
async def show_agent_graph(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    agents: AgentServiceDep,
    agent: AgentQueryDep,
    since: TimeText = "7d",
    until: TimeText = "",
) -> Response:
    """The agents around it in a time."""
    summary = await agents.get(visit.caller, agent)
    values = await _graph_values(console, visit, summary, since, until)
    return console.render_page(request, "agent_graph.html", visit, **values)


@router.get("/agent/parts")
async def show_agent_parts(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    agents: AgentServiceDep,
    agent: AgentQueryDep,
) -> Response:
    """The parts of the page that change."""
    summary = await agents.get(visit.caller, agent)
    return console.render_page(request, "agent_parts.html", visit, **await _page_values(console, visit, summary))


@router.get("/agent/events")
async def show_agent_events(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    agents: AgentServiceDep,
    decisions: DecisionServiceDep,
    agent: AgentQueryDep,
) -> Response:
    """Recent events, which take longest to find."""
    summary = await agents.get(visit.caller, agent)
    set_by = (await decisions.behind_levels(visit.caller, [summary])).get(summary.decision_id)
    recent = await agents.recent_events(visit.caller, summary.name, _moment_of(set_by))
    interval_s = console.runtime.settings.archive.interval_s
    where = agent_url(summary.name.tenant, summary.name.issuer, summary.name.agent_id, "agent/events")
    return console.render_page(
        request,
        "agent_events.html",
        visit,
        recent=recent,
        set_by=set_by,
        interval_s=interval_s,
        where=where,
        news=new_names(_indicators_of(summary, set_by)),
        origin_of=origin_of,
        event_sizes=event_sizes,
        delegated_by=delegated_by,
        most_before=MAX_EVENTS_BEFORE,
        most_after=MAX_EVENTS_AFTER,
    )


@router.post("/agent/release")
async def release_agent(visit: PageReviewerDep, agents: AgentServiceDep, form: FormDep) -> Response:
    """Vouch for the agent, as `POST /v1/agents/{id}/release` does, and say why."""
    note = form.get("why", "").strip()
    await agents.release(visit.caller, _agent_of_form(form), note, note_required=True)
    return _redirect_to_agent(form, "released")


@router.post("/agent/pin")
async def pin_agent(visit: PageReviewerDep, containment: ContainmentServiceDep, form: FormDep) -> Response:
    """Fix the level that policy acts on, as `POST /v1/agents/{id}/pin` does."""
    level, why, valid_s = form.get("level", ""), form.get("why", "").strip(), number_of_form(form, "valid_s")
    await containment.pin(visit.caller, _agent_of_form(form), level, why, valid_s)
    return _redirect_to_agent(form, "pinned")


@router.post("/agent/unpin")
async def unpin_agent(visit: PageReviewerDep, containment: ContainmentServiceDep, form: FormDep) -> Response:
    """Act on the measured level again."""
    await containment.unpin(visit.caller, _agent_of_form(form), form.get("why", "").strip())
    return _redirect_to_agent(form, "unpinned")


def _indicators_of(summary: AgentSummary, set_by: Decision | None) -> Sequence[Indicator]:
    """Indicators of the risk that is left, else of the decision that set the level."""
    if shows_reasons(summary):
        return decode_indicators(summary.indicators)
    return () if set_by is None else set_by.indicators


def _agent_of_form(form: Any) -> AgentSelector:
    return AgentSelector(form.get("id", ""), form.get("tenant", ""), form.get("issuer", ""))


def _redirect_to_agent(form: Any, said: str) -> Response:
    agent = _agent_of_form(form)
    return RedirectResponse(f"{agent_url(agent.tenant or '', agent.issuer, agent.agent_id)}&said={said}", 303)


async def _page_values(console: ConsoleContext, visit: PageRequest, summary: AgentSummary) -> dict[str, Any]:
    caller, name, services = visit.caller, summary.name, console.services
    agent = AgentSelector(name.agent_id, name.tenant, name.issuer)
    agents, containment = services.get(AgentService), services.get(ContainmentService)
    decisions = await services.get(DecisionService).list(caller, agent, limit=MAX_DECISIONS)
    interventions = (await containment.list(caller, agent=agent)).items
    actuations = await containment.actuations(caller, agent=agent)
    set_by = next((decision for decision in decisions.items if decision.decision_id == summary.decision_id), None)
    return {
        "set_by": set_by,
        "indicators": display_indicators(_indicators_of(summary, set_by)),
        "agent": summary,
        "name": name,
        "answer": msgspec.json.decode(agents.answer(caller, agent)),
        "decisions": decisions.items,
        "decisions_more": decisions.next_cursor is not None,
        "risk_chart": _risk_chart(console, summary, decisions.items),
        "profile": await agents.baseline(caller, name),
        "open": [intervention for intervention in interventions if intervention.status in OPEN_INTERVENTION_STATUSES],
        "ended": [one for one in interventions if one.status not in OPEN_INTERVENTION_STATUSES],
        "pin": next(
            (intervention for intervention in interventions if _is_active_pin(intervention, console.runtime.now_ms())),
            None,
        ),
        "actuations": actuations.items,
        "told_to": containment.informed_actuators(name),
        "case_id": await _open_case_id(console, caller, agent),
        "rules": await _active_rules(console, caller, summary),
        "scope": describe_scope,
        "half_life_ms": console.runtime.settings.risk.half_life_s * 1000,
        "event": agent_event_name(name.tenant, name.agent_id),
        "may_judge": SCOPE_FEEDBACK in caller.scopes,
    }


async def _graph_values(
    console: ConsoleContext, visit: PageRequest, summary: AgentSummary, since: str, until: str
) -> dict[str, Any]:
    """Raises ProblemError (422) where a time can not be read."""
    times, name = parse_time_range(since, until, console.runtime.now_ms()), summary.name
    agent = AgentSelector(name.agent_id, name.tenant, name.issuer)
    graph = await console.services.get(ContainmentService).agent_graph(visit.caller, agent, *times)
    around = {one.name.agent_id: one for one in graph.agents}
    ties = [(around[edge.source], edge, around[edge.target]) for edge in graph.edges]
    return {
        "graph": graph,
        "ties": sorted(ties, key=lambda tie: (max(abs(tie[0].layer), abs(tie[2].layer)), -tie[1].risk)),
        "words": EDGE_WORDS,
        "range": {"since": since, "until": until},
    }


async def _open_case_id(console: ConsoleContext, caller: AuthenticatedCaller, agent: AgentSelector) -> str | None:
    """The case of the agent that is not closed and changed last."""
    cases = console.services.find(CaseService)
    if cases is None:
        return None
    page = await cases.search(caller, CaseSearch("unresolved", agent=agent), limit=1)
    return page.items[0].case.case_id if page.items else None


async def _active_rules(
    console: ConsoleContext, caller: AuthenticatedCaller, summary: AgentSummary
) -> Sequence[Feedback]:
    feedback = console.services.find(FeedbackService)
    return () if feedback is None else await feedback.active_rules_of(caller, summary)


def _is_active_pin(intervention: Intervention, now_ms: int) -> bool:
    return intervention.kind == "pin" and intervention.status == "active" and intervention.expires_ms > now_ms


def _moment_of(decision: Decision | None) -> DecisionMoment:
    if decision is None:
        return DecisionMoment()
    return DecisionMoment(decision.event_time_ms, decision.partition, decision.offset)


def _risk_chart(console: ConsoleContext, summary: AgentSummary, decisions: list[Decision]) -> Markup | None:
    """Risk at each time that is known: what this process saw, decisions, and now. None = it has not moved."""
    risks = {point.at_ms: point.risk for point in console.activity.risk_series.points(summary.name.key)}
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

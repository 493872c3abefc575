"""One agent: what it is at, why, what is usual for it, whom it reached, what its tokens are worth, and what to do."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import RedirectResponse, Response

from ....ingest.errors import Unavailable
from ....ingest.timestamps import DAY_MS
from ....scoring.records.agents import AgentName, AgentRow, AgentSummary, RiskLevel
from ....scoring.records.containment import OPEN_INTERVENTION_STATUSES, Intervention
from ....scoring.records.decisions import Decision
from ....scoring.records.feedback import Feedback
from ....scoring.store.blast_radius import BlastRadius, find_blast_radius
from ...access import routes as route_containment
from ...access.schemas import JustificationIn, PinIn
from ...agents import routes as route_agents
from ...agents.baseline_profile import read_baseline_profile
from ...agents.recent_events import AgentEventHistory, DecisionMoment, event_locations, load_event_history
from ...agents.schemas import ReleaseIn
from ...http.agent_lookup import ambiguous_agent_error, find_agent_entry, not_found_error, visible_tenants
from ...http.auth.callers import ANY_NAME, SCOPE_FEEDBACK, AuthenticatedCaller
from ...http.problems import ProblemDetails, ProblemError
from ..live_updates import agent_event_name
from ..page_dependencies import ConsoleContext, ConsoleDep, FormDep, PageReaderDep, PageRequest, PageReviewerDep
from ..rendering import agent_url
from ..views.blast_radius_drawing import draw_blast_radius
from ..views.feedback_display import describe_scope

MENU_ENTRY = None
MAX_DECISIONS = 100
MAX_RULES = 200
"""Rules in force of its tenant among which those about an agent are looked for."""
CONFIRMATIONS = {
    "released": "The release is logged. The level follows as soon as it is read, usually within a second.",
    "pinned": "The level is fixed. Policy acts on it from now on.",
    "unpinned": "The level is no longer fixed. Policy acts on what is measured.",
}

router = APIRouter()

FormBody = TypeVar("FormBody", bound=BaseModel)
Id = Annotated[str, Query(alias="id", max_length=2048)]
Tenant = Annotated[str | None, Query(max_length=2048)]
Issuer = Annotated[str | None, Query(max_length=2048)]


@router.get("/agent")
async def show_agent(
    request: Request,
    desk: ConsoleDep,
    visit: PageReaderDep,
    agent_id: Id = "",
    tenant: Tenant = None,
    issuer: Issuer = None,
    said: str = "",
) -> Response:
    """The whole page."""
    summary = await find_agent(desk, visit.caller, agent_id, tenant, issuer)
    values = await _page_values(desk, visit, summary)
    return desk.render_page(request, "agent.html", visit, said=CONFIRMATIONS.get(said, ""), **values)


@router.get("/agent/parts")
async def show_agent_parts(
    request: Request,
    desk: ConsoleDep,
    visit: PageReaderDep,
    agent_id: Id = "",
    tenant: Tenant = None,
    issuer: Issuer = None,
) -> Response:
    """What of the page moves."""
    summary = await find_agent(desk, visit.caller, agent_id, tenant, issuer)
    return desk.render_page(request, "agent_parts.html", visit, **await _page_values(desk, visit, summary))


@router.get("/agent/events")
async def show_agent_events(
    request: Request,
    desk: ConsoleDep,
    visit: PageReaderDep,
    agent_id: Id = "",
    tenant: Tenant = None,
    issuer: Issuer = None,
) -> Response:
    """Recent events, which take longest to find."""
    summary = await find_agent(desk, visit.caller, agent_id, tenant, issuer)
    tenants = visible_tenants(visit.caller, None)
    set_by = None
    if summary.level >= RiskLevel.MEDIUM and summary.decision_id:
        set_by = await desk.application.call_store(
            desk.application.runtime.store.decision, summary.decision_id, tenants
        )
    recent = await _load_events(desk, summary.name, set_by)
    interval_s = desk.application.runtime.settings.archive.interval_s
    where = agent_url(summary.name.tenant, summary.name.issuer, summary.name.agent_id, "agent/events")
    return desk.render_page(
        request, "agent_events.html", visit, recent=recent, set_by=set_by, interval_s=interval_s, where=where
    )


@router.post("/agent/release")
async def release_agent(desk: ConsoleDep, visit: PageReviewerDep, form: FormDep) -> Response:
    """Vouch for the agent, as `POST /v1/agents/{id}/release` does."""
    agent_id, tenant, issuer = _agent_of_form(form)
    note = form.get("why", "").strip()
    if not note:
        raise _invalid_form_error("say why: the reason is kept with the decision")
    await route_agents.release_agent(
        agent_id, desk.application, visit.caller, form_body(ReleaseIn, note=note), tenant, issuer
    )
    return _redirect_to_agent(form, "released")


@router.post("/agent/pin")
async def pin_agent(desk: ConsoleDep, visit: PageReviewerDep, form: FormDep) -> Response:
    """Fix the level that policy acts on, as `POST /v1/agents/{id}/pin` does."""
    agent_id, tenant, issuer = _agent_of_form(form)
    wish = form_body(PinIn, level=form.get("level"), why=form.get("why", "").strip(), valid_s=form.get("valid_s"))
    await route_containment.pin_agent(agent_id, desk.application, visit.caller, wish, tenant, issuer)
    return _redirect_to_agent(form, "pinned")


@router.post("/agent/unpin")
async def unpin_agent(desk: ConsoleDep, visit: PageReviewerDep, form: FormDep) -> Response:
    """Act on the measured level again."""
    agent_id, tenant, issuer = _agent_of_form(form)
    wish = form_body(JustificationIn, why=form.get("why", "").strip())
    await route_containment.unpin_agent(agent_id, desk.application, visit.caller, wish, tenant, issuer)
    return _redirect_to_agent(form, "unpinned")


def form_body(model: type[FormBody], **values: Any) -> FormBody:
    """A body as the API takes it, from a form. Raises ProblemError: 422 with what to change."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise _invalid_form_error(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _invalid_form_error(detail: str) -> ProblemError:
    return ProblemError(ProblemDetails(422, "invalid_form", "Not accepted", detail))


def _agent_of_form(form: Any) -> tuple[str, str, str]:
    return form.get("id", ""), form.get("tenant", ""), form.get("issuer", "")


def _redirect_to_agent(form: Any, said: str) -> Response:
    agent_id, tenant, issuer = _agent_of_form(form)
    return RedirectResponse(f"{agent_url(tenant, issuer, agent_id)}&said={said}", 303)


async def find_agent(
    desk: ConsoleContext, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None
) -> AgentSummary:
    """The agent that is meant, from memory or the store. Raises as the API's routes do."""
    entry = find_agent_entry(desk.application.runtime.risk_view, caller, agent_id, tenant, issuer)
    if entry is not None:
        return entry.summary
    tenants = visible_tenants(caller, tenant)
    stored = await desk.application.call_store(desk.application.runtime.store.find_agents, agent_id, tenants)
    stored = [one for one in stored if issuer is None or one.name.issuer == issuer]
    if len(stored) > 1:
        raise ambiguous_agent_error([one.name for one in stored])
    if not stored:
        raise not_found_error("agent, or none that you may see")
    return stored[0]


async def _page_values(desk: ConsoleContext, visit: PageRequest, summary: AgentSummary) -> dict[str, Any]:
    services, read, name = desk.application.runtime, desk.application.call_store, summary.name
    tenants = visible_tenants(visit.caller, None)
    decisions = await read(services.store.list_decisions, tenants, name.key, MAX_DECISIONS)
    row: AgentRow | None = await read(services.store.agent, name.tenant, name.issuer, name.agent_id, tenants)
    made = await read(services.store.list_interventions, tenants, None, None, name.key, 50)
    actuations = await read(services.store.list_actuations, tenants, name.key)
    reached = await _load_blast_radius(desk, name)
    answer = msgspec.json.decode(
        desk.application.risk_answers.answer(visit.caller, name.agent_id, name.tenant, name.issuer)
    )
    return {
        "set_by": next((one for one in decisions.items if one.decision_id == summary.decision_id), None),
        "agent": summary,
        "name": name,
        "answer": answer,
        "decisions": decisions.items,
        "decisions_more": decisions.next_cursor is not None,
        "chart": _risk_chart(desk, summary, decisions.items),
        "profile": read_baseline_profile(row),
        "open": [one for one in made.items if one.status in OPEN_INTERVENTION_STATUSES],
        "pin": next((one for one in made.items if _is_active_pin(one, services.now_ms())), None),
        "actuations": actuations.items,
        "reached": reached,
        "told_to": _informed_actuators(desk, name),
        "rules": await _active_rules(desk, summary),
        "scope": describe_scope,
        "graph": draw_blast_radius(name.agent_id, RiskLevel(summary.level), reached.agents) if reached.agents else "",
        "half_life_ms": services.settings.risk.half_life_s * 1000,
        "event": agent_event_name(name.tenant, name.agent_id),
        "may_judge": SCOPE_FEEDBACK in visit.caller.scopes,
    }


def _informed_actuators(desk: ConsoleContext, name: AgentName) -> list[str]:
    """Authorization servers that are told of this agent's level; without one nobody takes back a token that is out."""
    return [
        one.name
        for one in desk.application.runtime.settings.actuators
        if name.issuer in one.issuers and (name.tenant in one.tenants or ANY_NAME in one.tenants)
    ]


async def _active_rules(desk: ConsoleContext, summary: AgentSummary) -> list[Feedback]:
    """Rules in force that make something of this agent count as usual: its own, and those for its peer group."""
    tenants, store = frozenset({summary.name.tenant}), desk.application.runtime.store
    found = await desk.application.call_store(
        store.list_feedback, tenants, "active", "false_positive", None, None, MAX_RULES
    )
    return [
        one
        for one in found.items
        if (one.agent.key == summary.name.key if one.kind == "agent" else one.agent_type == summary.agent_type)
    ]


def _is_active_pin(made: Intervention, now_ms: int) -> bool:
    return made.kind == "pin" and made.status == "active" and made.expires_ms > now_ms


async def _load_blast_radius(desk: ConsoleContext, name: AgentName) -> BlastRadius:
    """Whom it reached in the last week, with their own levels."""
    view, since_ms = desk.application.runtime.risk_view, desk.application.runtime.now_ms() - 7 * DAY_MS

    def level_of(one: AgentName) -> RiskLevel | None:
        entry = view.get(one.tenant, one.issuer, one.agent_id)
        return None if entry is None else RiskLevel(entry.summary.level)

    return await desk.application.call_store(
        find_blast_radius, desk.application.runtime.store, name, level_of, since_ms=since_ms
    )


async def _load_events(desk: ConsoleContext, name: AgentName, set_by: Decision | None) -> AgentEventHistory:
    """In a thread, as all that reads; what the erasures take away is known before anything is looked at."""
    services, read = desk.application.runtime, desk.application.call_store
    moment = (
        DecisionMoment() if set_by is None else DecisionMoment(set_by.event_time_ms, set_by.partition, set_by.offset)
    )
    erasures = () if services.erasure_service is None else await services.erasure_service.open_erasures()
    try:
        return await read(load_event_history, event_locations(services.settings), name, moment, erasures)
    except OSError as error:
        raise Unavailable(f"the event log can not be read: {error}") from None


def _risk_chart(desk: ConsoleContext, summary: AgentSummary, decisions: list[Decision]) -> dict[str, list[Any]]:
    """Risk at each time that is known: what this process saw, decisions, and now."""
    points = {point.at_ms: point.risk for point in desk.activity.risk_series.points(summary.name.key)}
    points |= {one.event_time_ms: one.risk_score for one in decisions}
    points[summary.evaluated_ms] = summary.risk_score
    times = sorted(at_ms for at_ms in points if at_ms)
    return {
        "x": [at_ms / 1000 for at_ms in times],
        "y": [round(points[at_ms], 4) for at_ms in times],
        "marks": [
            {"x": one.event_time_ms / 1000, "y": one.risk_score, "level": RiskLevel(one.level).label}
            for one in reversed(decisions)
        ],
    }

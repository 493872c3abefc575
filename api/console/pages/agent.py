"""One agent: what it is at, why, what is usual for it, whom it reached, what its tokens are worth, and what to do."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import RedirectResponse, Response

from ....ingest.errors import Unavailable
from ....scoring.blast_radius import BlastRadius, blast_radius
from ....scoring.containment import OPEN, Intervention
from ....scoring.feedback import Feedback
from ....scoring.records import AgentName, AgentRow, AgentSummary, Decision, RiskLevel
from ...callers import ANY, FEEDBACK, Caller
from ...http import route_agents, route_containment
from ...http.containment_schemas import PinIn, WhyIn
from ...http.finding import ambiguous, find_entry, no_such, visible_tenants
from ...http.schemas import ReleaseIn
from ...problems import Problem, ProblemError
from ..gate import Console, Desk, Form, Judging, Looking, Visit
from ..graph import graph
from ..history import History, Moment, history, places_of
from ..live import event_of
from ..profile import profile_of
from ..render import agent_url
from ..views.feedback import scope_words

ENTRY = None
DAY_MS = 86_400_000
DECISIONS = 100
RULES = 200
"""Rules in force of its tenant among which those about an agent are looked for."""
SAID = {
    "released": "The release is logged. The level follows as soon as it is read, usually within a second.",
    "pinned": "The level is fixed. Policy acts on it from now on.",
    "unpinned": "The level is no longer fixed. Policy acts on what is measured.",
}

router = APIRouter()

Body = TypeVar("Body", bound=BaseModel)
Id = Annotated[str, Query(alias="id", max_length=2048)]
Tenant = Annotated[str | None, Query(max_length=2048)]
Issuer = Annotated[str | None, Query(max_length=2048)]


@router.get("/agent")
async def agent(
    request: Request,
    desk: Desk,
    visit: Looking,
    agent_id: Id = "",
    tenant: Tenant = None,
    issuer: Issuer = None,
    said: str = "",
) -> Response:
    """The whole page."""
    summary = await found(desk, visit.caller, agent_id, tenant, issuer)
    values = await _values(desk, visit, summary)
    return desk.page(request, "agent.html", visit, said=SAID.get(said, ""), **values)


@router.get("/agent/parts")
async def parts(
    request: Request, desk: Desk, visit: Looking, agent_id: Id = "", tenant: Tenant = None, issuer: Issuer = None
) -> Response:
    """What of the page moves."""
    summary = await found(desk, visit.caller, agent_id, tenant, issuer)
    return desk.page(request, "agent_parts.html", visit, **await _values(desk, visit, summary))


@router.get("/agent/events")
async def events(
    request: Request, desk: Desk, visit: Looking, agent_id: Id = "", tenant: Tenant = None, issuer: Issuer = None
) -> Response:
    """Recent events, which take longest to find."""
    summary = await found(desk, visit.caller, agent_id, tenant, issuer)
    tenants = visible_tenants(visit.caller, None)
    set_by = None
    if summary.level >= RiskLevel.MEDIUM and summary.decision_id:
        set_by = await desk.parts.read(desk.parts.services.store.decision, summary.decision_id, tenants)
    recent = await _recent(desk, summary.name, set_by)
    interval_s = desk.parts.services.settings.archive.interval_s
    where = agent_url(summary.name.tenant, summary.name.issuer, summary.name.agent_id, "agent/events")
    return desk.page(
        request, "agent_events.html", visit, recent=recent, set_by=set_by, interval_s=interval_s, where=where
    )


@router.post("/agent/release")
async def release(desk: Desk, visit: Judging, form: Form) -> Response:
    """Vouch for the agent, as `POST /v1/agents/{id}/release` does."""
    agent_id, tenant, issuer = _named(form)
    note = form.get("why", "").strip()
    if not note:
        raise _wrong("say why: the reason is kept with the decision")
    await route_agents.release(agent_id, desk.parts, visit.caller, filled(ReleaseIn, note=note), tenant, issuer)
    return _back(form, "released")


@router.post("/agent/pin")
async def pin(desk: Desk, visit: Judging, form: Form) -> Response:
    """Fix the level that policy acts on, as `POST /v1/agents/{id}/pin` does."""
    agent_id, tenant, issuer = _named(form)
    wish = filled(PinIn, level=form.get("level"), why=form.get("why", "").strip(), valid_s=form.get("valid_s"))
    await route_containment.pin(agent_id, desk.parts, visit.caller, wish, tenant, issuer)
    return _back(form, "pinned")


@router.post("/agent/unpin")
async def unpin(desk: Desk, visit: Judging, form: Form) -> Response:
    """Act on the measured level again."""
    agent_id, tenant, issuer = _named(form)
    wish = filled(WhyIn, why=form.get("why", "").strip())
    await route_containment.unpin(agent_id, desk.parts, visit.caller, wish, tenant, issuer)
    return _back(form, "unpinned")


def filled(model: type[Body], **values: Any) -> Body:
    """A body as the API takes it, from a form. Raises ProblemError: 422 with what to change."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _wrong(detail: str) -> ProblemError:
    return ProblemError(Problem(422, "invalid_form", "Not accepted", detail))


def _named(form: Any) -> tuple[str, str, str]:
    return form.get("id", ""), form.get("tenant", ""), form.get("issuer", "")


def _back(form: Any, said: str) -> Response:
    agent_id, tenant, issuer = _named(form)
    return RedirectResponse(f"{agent_url(tenant, issuer, agent_id)}&said={said}", 303)


async def found(desk: Console, caller: Caller, agent_id: str, tenant: str | None, issuer: str | None) -> AgentSummary:
    """The agent that is meant, from memory or the store. Raises as the API's routes do."""
    entry = find_entry(desk.parts.services.view, caller, agent_id, tenant, issuer)
    if entry is not None:
        return entry.summary
    tenants = visible_tenants(caller, tenant)
    stored = await desk.parts.read(desk.parts.services.store.find_agents, agent_id, tenants)
    stored = [one for one in stored if issuer is None or one.name.issuer == issuer]
    if len(stored) > 1:
        raise ambiguous([one.name for one in stored])
    if not stored:
        raise no_such("agent, or none that you may see")
    return stored[0]


async def _values(desk: Console, visit: Visit, summary: AgentSummary) -> dict[str, Any]:
    services, read, name = desk.parts.services, desk.parts.read, summary.name
    tenants = visible_tenants(visit.caller, None)
    decisions = await read(services.store.list_decisions, tenants, name.key, DECISIONS)
    row: AgentRow | None = await read(services.store.agent, name.tenant, name.issuer, name.agent_id, tenants)
    made = await read(services.store.list_interventions, tenants, None, None, name.key, 50)
    actuations = await read(services.store.list_actuations, tenants, name.key)
    reached = await _reached(desk, name)
    answer = msgspec.json.decode(desk.parts.answers.answer(visit.caller, name.agent_id, name.tenant, name.issuer))
    return {
        "set_by": next((one for one in decisions.items if one.decision_id == summary.decision_id), None),
        "agent": summary,
        "name": name,
        "answer": answer,
        "decisions": decisions.items,
        "decisions_more": decisions.next_cursor is not None,
        "chart": _chart(desk, summary, decisions.items),
        "profile": profile_of(row),
        "open": [one for one in made.items if one.status in OPEN],
        "pin": next((one for one in made.items if _holds(one, services.now_ms())), None),
        "actuations": actuations.items,
        "reached": reached,
        "told_to": _told_to(desk, name),
        "rules": await _rules(desk, summary),
        "scope": scope_words,
        "graph": graph(name.agent_id, RiskLevel(summary.level), reached.agents) if reached.agents else "",
        "half_life_ms": services.settings.risk.half_life_s * 1000,
        "event": event_of(name.tenant, name.agent_id),
        "may_judge": FEEDBACK in visit.caller.scopes,
    }


def _told_to(desk: Console, name: AgentName) -> list[str]:
    """Authorization servers that are told of this agent's level; without one nobody takes back a token that is out."""
    return [
        one.name
        for one in desk.parts.services.settings.actuators
        if name.issuer in one.issuers and (name.tenant in one.tenants or ANY in one.tenants)
    ]


async def _rules(desk: Console, summary: AgentSummary) -> list[Feedback]:
    """Rules in force that make something of this agent count as usual: its own, and those for its peer group."""
    tenants, store = frozenset({summary.name.tenant}), desk.parts.services.store
    found = await desk.parts.read(store.list_feedback, tenants, "active", "false_positive", None, None, RULES)
    return [
        one
        for one in found.items
        if (one.agent.key == summary.name.key if one.kind == "agent" else one.agent_type == summary.agent_type)
    ]


def _holds(made: Intervention, now_ms: int) -> bool:
    return made.kind == "pin" and made.status == "active" and made.expires_ms > now_ms


async def _reached(desk: Console, name: AgentName) -> BlastRadius:
    """Whom it reached in the last week, with their own levels."""
    view, since_ms = desk.parts.services.view, desk.parts.services.now_ms() - 7 * DAY_MS

    def level_of(one: AgentName) -> RiskLevel | None:
        entry = view.get(one.tenant, one.issuer, one.agent_id)
        return None if entry is None else RiskLevel(entry.summary.level)

    return await desk.parts.read(blast_radius, desk.parts.services.store, name, level_of, since_ms=since_ms)


async def _recent(desk: Console, name: AgentName, set_by: Decision | None) -> History:
    """In a thread, as all that reads; what the erasures take away is known before anything is looked at."""
    services, read = desk.parts.services, desk.parts.read
    moment = Moment() if set_by is None else Moment(set_by.event_time_ms, set_by.partition, set_by.offset)
    erasures = () if services.erasures is None else await services.erasures.unfinished()
    try:
        return await read(history, places_of(services.settings), name, moment, erasures)
    except OSError as error:
        raise Unavailable(f"the event log can not be read: {error}") from None


def _chart(desk: Console, summary: AgentSummary, decisions: list[Decision]) -> dict[str, list[Any]]:
    """Risk at each time that is known: what this process saw, decisions, and now."""
    points = {point.at_ms: point.risk for point in desk.figures.trail.points(summary.name.key)}
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

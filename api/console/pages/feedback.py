"""Feedback: a verdict on a decision, what it would have changed, its adoption; rules in force, and their end."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from ....scoring.feedback.values import Status
from ....scoring.records import Decision
from ...callers import FEEDBACK, SCORE_READ
from ...feedback import Told, author_of
from ...http.finding import no_such, visible_tenants
from ...http.route_feedback import desk_of
from ...problems import ProblemError
from ..gate import Console, Desk, Form, Judging, Looking, Visit
from ..render import with_query
from ..views.decisions import evidence_shown
from ..views.feedback import PERIODS, choices, draft_of, preview_shown, rise_to, scope_words, things
from .entry import Entry

ENTRY = Entry("Feedback", "/console/feedback", SCORE_READ)
LOOKED_BACK = 100
"""Decisions of an agent among which those that led to the marked one are looked for."""
HELD: tuple[Status, ...] = ("adopting", "active", "revoking")

router = APIRouter()

Cursor = Annotated[str, Query(max_length=8192)]
Id = Annotated[str, Query(max_length=200)]


@router.get("/feedback")
async def feedback(request: Request, desk: Desk, visit: Looking, done: Id = "", cursor: Cursor = "") -> Response:
    """Rules in force, then everything that was said."""
    return await _list(request, desk, visit, done=done, cursor=cursor or None)


async def _list(
    request: Request,
    desk: Console,
    visit: Visit,
    *,
    done: str = "",
    cursor: str | None = None,
    trouble: str = "",
    status: int = 200,
) -> Response:
    rules, tenants = desk_of(desk.parts), visible_tenants(visit.caller, None)
    held: list[Told] = []
    for state in HELD:
        held += (await rules.list(tenants, state, limit=200)).items
    page = await rules.list(tenants, limit=50, cursor=cursor)
    told = next((one for one in (*held, *page.items) if one.feedback.feedback_id == done), None)
    return desk.page(
        request,
        "feedback.html",
        visit,
        status,
        held=sorted(held, key=_ends),
        said=[one for one in page.items if one.feedback.status not in HELD],
        next_cursor=page.next_cursor,
        first_page=cursor is None,
        told=told,
        trouble=trouble,
        may_judge=FEEDBACK in visit.caller.scopes,
        scope=scope_words,
    )


def _ends(told: Told) -> int:
    return told.feedback.expires_ms


@router.post("/feedback/{feedback_id}/revoke")
async def revoke(feedback_id: str, request: Request, desk: Desk, visit: Judging, form: Form) -> Response:
    """End a rule, or take a label back."""
    try:
        await desk_of(desk.parts).revoke(feedback_id, author_of(visit.caller), form.get("reason", ""))
    except ProblemError as error:
        return await _list(request, desk, visit, trouble=f"Nothing was done: {error}.", status=error.problem.status)
    return RedirectResponse(with_query("/console/feedback", done=feedback_id), 303)


@router.get("/decisions/{decision_id}/feedback")
async def form_page(
    decision_id: str, request: Request, desk: Desk, visit: Judging, verdict: Id = "false_positive"
) -> Response:
    """The form about one decision."""
    return await _form(request, desk, visit, decision_id, verdict=verdict)


async def _form(
    request: Request,
    desk: Console,
    visit: Visit,
    decision_id: str,
    *,
    verdict: str,
    trouble: str = "",
    status: int = 200,
) -> Response:
    decision = await _decision(desk, visit, decision_id)
    rise = await _rise(desk, visit, decision)
    bounds = desk.parts.services.settings.feedback
    return desk.page(
        request,
        "feedback_form.html",
        visit,
        status,
        decision=decision,
        rise=rise,
        choices=choices(rise),
        things=things(rise),
        signals=evidence_shown(decision.evidence).signals,
        verdict=verdict,
        trouble=trouble,
        bounds=bounds,
        periods=[(seconds, words) for seconds, words in PERIODS if seconds <= bounds.max_days * 86_400],
    )


@router.post("/decisions/{decision_id}/feedback/preview")
async def preview(decision_id: str, request: Request, desk: Desk, visit: Judging, form: Form) -> Response:
    """Begin a preview; what comes back asks how it fares until it is over."""
    row = await desk_of(desk.parts).start_preview(decision_id, draft_of(form), author_of(visit.caller))
    return desk.page(request, "feedback_preview.html", visit, preview=preview_shown(row), decision_id=decision_id)


@router.get("/feedback/previews/{preview_id}")
async def how_it_fares(preview_id: str, request: Request, desk: Desk, visit: Judging) -> Response:
    """A preview as it is now."""
    row = await desk_of(desk.parts).preview(preview_id, visible_tenants(visit.caller, None))
    return desk.page(request, "feedback_preview.html", visit, preview=preview_shown(row), decision_id=row.decision_id)


@router.post("/decisions/{decision_id}/feedback")
async def adopt(decision_id: str, request: Request, desk: Desk, visit: Judging, form: Form) -> Response:
    """Say it for good."""
    draft = draft_of(form)
    try:
        made = await desk_of(desk.parts).adopt(decision_id, draft, author_of(visit.caller))
    except ProblemError as error:
        return await _form(
            request,
            desk,
            visit,
            decision_id,
            verdict=draft.verdict,
            trouble=f"Nothing was said yet: {error}.",
            status=error.problem.status,
        )
    return RedirectResponse(with_query("/console/feedback", done=made.feedback.feedback_id), 303)


async def _rise(desk: Console, visit: Visit, decision: Decision) -> tuple[Decision, ...]:
    """The decision, and those before it by which its agent rose."""
    tenants = visible_tenants(visit.caller, None)
    found = await desk.parts.read(desk.parts.services.store.list_decisions, tenants, decision.agent.key, LOOKED_BACK)
    return rise_to(decision, found.items)


async def _decision(desk: Console, visit: Visit, decision_id: str) -> Decision:
    tenants = visible_tenants(visit.caller, None)
    found = await desk.parts.read(desk.parts.services.store.decision, decision_id, tenants)
    if found is None:
        raise no_such("decision")
    return found

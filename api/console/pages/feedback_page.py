"""Feedback: a verdict on a decision, what it would have changed, its adoption; rules in force, and their end."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from ....scoring.records.decisions import Decision
from ....scoring.records.feedback import FeedbackState
from ...feedback.routes import feedback_service_of
from ...feedback.service import FeedbackStatus
from ...http.agent_lookup import not_found_error, visible_tenants
from ...http.auth.callers import SCOPE_FEEDBACK, SCOPE_SCORE_READ
from ...http.problems import ProblemError
from ...http.separation_of_duties import reviewer_of
from ..page_dependencies import ConsoleContext, ConsoleDep, FormDep, PageReaderDep, PageRequest, PageReviewerDep
from ..rendering import MenuEntry, url_with_query
from ..views.decision_display import display_evidence
from ..views.feedback_display import (
    PERIODS,
    describe_scope,
    display_preview,
    draft_from_form,
    escalation_to,
    feature_choices,
    named_resources,
)

MENU_ENTRY = MenuEntry("Feedback", "/console/feedback", SCOPE_SCORE_READ)
MAX_EARLIER_DECISIONS = 100
"""Decisions of an agent among which those that led to the marked one are looked for."""
OPEN_STATUSES: tuple[FeedbackState, ...] = ("adopting", "active", "revoking")

router = APIRouter()

Cursor = Annotated[str, Query(max_length=8192)]
Id = Annotated[str, Query(max_length=200)]


@router.get("/feedback")
async def list_feedback(
    request: Request, desk: ConsoleDep, visit: PageReaderDep, done: Id = "", cursor: Cursor = ""
) -> Response:
    """Rules in force, then everything that was said."""
    return await _feedback_page(request, desk, visit, done=done, cursor=cursor or None)


async def _feedback_page(
    request: Request,
    desk: ConsoleContext,
    visit: PageRequest,
    *,
    done: str = "",
    cursor: str | None = None,
    trouble: str = "",
    status: int = 200,
) -> Response:
    rules, tenants = feedback_service_of(desk.application), visible_tenants(visit.caller, None)
    held: list[FeedbackStatus] = []
    for state in OPEN_STATUSES:
        held += (await rules.list(tenants, state, limit=200)).items
    page = await rules.list(tenants, limit=50, cursor=cursor)
    told = next((one for one in (*held, *page.items) if one.feedback.feedback_id == done), None)
    return desk.render_page(
        request,
        "feedback.html",
        visit,
        status,
        held=sorted(held, key=_expiry),
        said=[one for one in page.items if one.feedback.status not in OPEN_STATUSES],
        next_cursor=page.next_cursor,
        first_page=cursor is None,
        told=told,
        trouble=trouble,
        may_judge=SCOPE_FEEDBACK in visit.caller.scopes,
        scope=describe_scope,
    )


def _expiry(told: FeedbackStatus) -> int:
    return told.feedback.expires_ms


@router.post("/feedback/{feedback_id}/revoke")
async def revoke_feedback(
    feedback_id: str, request: Request, desk: ConsoleDep, visit: PageReviewerDep, form: FormDep
) -> Response:
    """End a rule, or take a label back."""
    try:
        await feedback_service_of(desk.application).revoke(
            feedback_id, reviewer_of(visit.caller), form.get("reason", "")
        )
    except ProblemError as error:
        return await _feedback_page(
            request, desk, visit, trouble=f"Nothing was done: {error}.", status=error.problem.status
        )
    return RedirectResponse(url_with_query("/console/feedback", done=feedback_id), 303)


@router.get("/decisions/{decision_id}/feedback")
async def show_feedback_form(
    decision_id: str, request: Request, desk: ConsoleDep, visit: PageReviewerDep, verdict: Id = "false_positive"
) -> Response:
    """The form about one decision."""
    return await _feedback_form_page(request, desk, visit, decision_id, verdict=verdict)


async def _feedback_form_page(
    request: Request,
    desk: ConsoleContext,
    visit: PageRequest,
    decision_id: str,
    *,
    verdict: str,
    trouble: str = "",
    status: int = 200,
) -> Response:
    decision = await _find_decision(desk, visit, decision_id)
    rise = await _escalation_of(desk, visit, decision)
    bounds = desk.application.runtime.settings.feedback
    return desk.render_page(
        request,
        "feedback_form.html",
        visit,
        status,
        decision=decision,
        rise=rise,
        choices=feature_choices(rise),
        things=named_resources(rise),
        signals=display_evidence(decision.evidence).signals,
        verdict=verdict,
        trouble=trouble,
        bounds=bounds,
        periods=[(seconds, words) for seconds, words in PERIODS if seconds <= bounds.max_days * 86_400],
    )


@router.post("/decisions/{decision_id}/feedback/preview")
async def start_preview(
    decision_id: str, request: Request, desk: ConsoleDep, visit: PageReviewerDep, form: FormDep
) -> Response:
    """Begin a preview; what comes back asks how it fares until it is over."""
    row = await feedback_service_of(desk.application).start_preview(
        decision_id, draft_from_form(form), reviewer_of(visit.caller)
    )
    return desk.render_page(
        request, "feedback_preview.html", visit, preview=display_preview(row), decision_id=decision_id
    )


@router.get("/feedback/previews/{preview_id}")
async def show_preview(preview_id: str, request: Request, desk: ConsoleDep, visit: PageReviewerDep) -> Response:
    """A preview as it is now."""
    row = await feedback_service_of(desk.application).get_preview(preview_id, visible_tenants(visit.caller, None))
    return desk.render_page(
        request, "feedback_preview.html", visit, preview=display_preview(row), decision_id=row.decision_id
    )


@router.post("/decisions/{decision_id}/feedback")
async def adopt_feedback(
    decision_id: str, request: Request, desk: ConsoleDep, visit: PageReviewerDep, form: FormDep
) -> Response:
    """Say it for good."""
    draft = draft_from_form(form)
    try:
        made = await feedback_service_of(desk.application).adopt(decision_id, draft, reviewer_of(visit.caller))
    except ProblemError as error:
        return await _feedback_form_page(
            request,
            desk,
            visit,
            decision_id,
            verdict=draft.verdict,
            trouble=f"Nothing was said yet: {error}.",
            status=error.problem.status,
        )
    return RedirectResponse(url_with_query("/console/feedback", done=made.feedback.feedback_id), 303)


async def _escalation_of(desk: ConsoleContext, visit: PageRequest, decision: Decision) -> tuple[Decision, ...]:
    """The decision, and those before it by which its agent rose."""
    tenants = visible_tenants(visit.caller, None)
    found = await desk.application.call_store(
        desk.application.runtime.store.decisions.page, tenants, decision.agent.key, MAX_EARLIER_DECISIONS
    )
    return escalation_to(decision, found.items)


async def _find_decision(desk: ConsoleContext, visit: PageRequest, decision_id: str) -> Decision:
    tenants = visible_tenants(visit.caller, None)
    found = await desk.application.call_store(desk.application.runtime.store.decisions.get, decision_id, tenants)
    if found is None:
        raise not_found_error("decision")
    return found

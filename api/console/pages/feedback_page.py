"""Feedback: a verdict on a decision, what it would have changed, its adoption; rules in force, and their end."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from trustwatch.scoring.records.feedback import FeedbackState

from ...decisions.service import DecisionService
from ...feedback.drafts import MAX_BROAD_RULE_HOURS
from ...feedback.preview_runner import PREVIEW_DAYS
from ...feedback.service import FeedbackService, FeedbackStatus
from ...http.auth.callers import SCOPE_FEEDBACK, SCOPE_SCORE_READ
from ...http.problems import ProblemError
from ..console_sessions import PageRequest
from ..page_dependencies import (
    ConsoleContext,
    ConsoleDep,
    FeedbackServiceDep,
    FormDep,
    PageReaderDep,
    PageReviewerDep,
)
from ..rendering import MenuEntry, url_with_query
from ..views.decision_display import display_evidence
from ..views.feedback_display import (
    PERIODS,
    describe_scope,
    display_preview,
    draft_from_form,
    feature_choices,
    named_resources,
)

MENU_ENTRY = MenuEntry("Feedback", "/console/feedback", SCOPE_SCORE_READ, key="f")
OPEN_STATUSES: tuple[FeedbackState, ...] = ("adopting", "active", "revoking")

router = APIRouter()

Cursor = Annotated[str, Query(max_length=8192)]
Id = Annotated[str, Query(max_length=200)]


@router.get("/feedback")
async def list_feedback(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    feedback: FeedbackServiceDep,
    done: Id = "",
    cursor: Cursor = "",
) -> Response:
    """Rules in force, then everything that was said."""
    return await _feedback_page(request, console, visit, feedback, done=done, cursor=cursor or None)


async def _feedback_page(
    request: Request,
    console: ConsoleContext,
    visit: PageRequest,
    feedback: FeedbackService,
    *,
    done: str = "",
    cursor: str | None = None,
    trouble: str = "",
    status: int = 200,
) -> Response:
    open_feedback: list[FeedbackStatus] = []
    for state in OPEN_STATUSES:
        open_feedback += (await feedback.list(visit.caller, state, limit=200)).items
    page = await feedback.list(visit.caller, limit=50, cursor=cursor)
    changed = next((entry for entry in (*open_feedback, *page.items) if entry.feedback.feedback_id == done), None)
    return console.render_page(
        request,
        "feedback.html",
        visit,
        status,
        active_rules=sorted(open_feedback, key=_expiry),
        ended=[entry for entry in page.items if entry.feedback.status not in OPEN_STATUSES],
        next_cursor=page.next_cursor,
        first_page=cursor is None,
        changed=changed,
        trouble=trouble,
        may_judge=SCOPE_FEEDBACK in visit.caller.scopes,
        scope=describe_scope,
    )


def _expiry(status: FeedbackStatus) -> int:
    return status.feedback.expires_ms


@router.post("/feedback/{feedback_id}/revoke")
async def revoke_feedback(
    feedback_id: str,
    request: Request,
    console: ConsoleDep,
    visit: PageReviewerDep,
    feedback: FeedbackServiceDep,
    form: FormDep,
) -> Response:
    """End a rule, or take a label back."""
    try:
        await feedback.revoke(visit.caller, feedback_id, form.get("reason", ""))
    except ProblemError as error:
        return await _feedback_page(
            request, console, visit, feedback, trouble=f"Nothing was done: {error}.", status=error.problem.status
        )
    return RedirectResponse(url_with_query("/console/feedback", done=feedback_id), 303)


@router.get("/decisions/{decision_id}/feedback")
async def show_feedback_form(
    decision_id: str, request: Request, console: ConsoleDep, visit: PageReviewerDep, verdict: Id = ""
) -> Response:
    """The form about one decision."""
    return await _feedback_form_page(request, console, visit, decision_id, verdict=verdict)


async def _feedback_form_page(
    request: Request,
    console: ConsoleContext,
    visit: PageRequest,
    decision_id: str,
    *,
    verdict: str,
    trouble: str = "",
    status: int = 200,
) -> Response:
    decisions = console.services.get(DecisionService)
    decision = await decisions.get(visit.caller, decision_id)
    rise = await decisions.escalation(visit.caller, decision)
    return console.render_page(
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
        broad_hours=MAX_BROAD_RULE_HOURS,
        preview_days=PREVIEW_DAYS,
        periods=PERIODS,
    )


@router.post("/decisions/{decision_id}/feedback/preview")
async def start_preview(
    decision_id: str,
    request: Request,
    console: ConsoleDep,
    visit: PageReviewerDep,
    feedback: FeedbackServiceDep,
    form: FormDep,
) -> Response:
    """Start a preview; the answer is a part of a page that asks for its progress until it is over."""
    preview = await feedback.start_preview(visit.caller, decision_id, draft_from_form(form))
    return console.render_page(
        request, "feedback_preview.html", visit, preview=display_preview(preview), decision_id=decision_id
    )


@router.get("/feedback/previews/{preview_id}")
async def show_preview(
    preview_id: str, request: Request, console: ConsoleDep, visit: PageReviewerDep, feedback: FeedbackServiceDep
) -> Response:
    """A preview as it is now."""
    preview = await feedback.get_preview(visit.caller, preview_id)
    return console.render_page(
        request, "feedback_preview.html", visit, preview=display_preview(preview), decision_id=preview.decision_id
    )


@router.post("/decisions/{decision_id}/feedback")
async def adopt_feedback(
    decision_id: str,
    request: Request,
    console: ConsoleDep,
    visit: PageReviewerDep,
    feedback: FeedbackServiceDep,
    form: FormDep,
) -> Response:
    """Adopt the feedback of the form."""
    draft = draft_from_form(form)
    try:
        adopted = await feedback.adopt(visit.caller, decision_id, draft)
    except ProblemError as error:
        return await _feedback_form_page(
            request,
            console,
            visit,
            decision_id,
            verdict=draft.verdict,
            trouble=f"Nothing was said yet: {error}.",
            status=error.problem.status,
        )
    return RedirectResponse(url_with_query("/console/feedback", done=adopted.feedback.feedback_id), 303)

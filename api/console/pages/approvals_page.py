"""Approvals that wait for a person, those that were given or refused, and pins in force."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import RedirectResponse, Response

from ....scoring.records.containment import Intervention
from ....scoring.store.database import Page
from ...access import routes
from ...access.approval_workflow import InterventionNotOpen
from ...access.schemas import ApprovalIn, InterventionOut, JustificationIn
from ...http.agent_lookup import visible_tenants
from ...http.auth.callers import SCOPE_FEEDBACK, SCOPE_SCORE_READ
from ...http.problems import ProblemDetails, ProblemError
from ..page_dependencies import ConsoleContext, ConsoleDep, FormDep, PageReaderDep, PageRequest, PageReviewerDep
from ..rendering import MenuEntry, url_with_query

FormSchema = TypeVar("FormSchema", bound=BaseModel)

PERIODS = ((900, "15 minutes"), (3_600, "1 hour"), (14_400, "4 hours"), (86_400, "1 day"), (604_800, "7 days"))
DEFAULT_PERIOD_S = 3_600

MENU_ENTRY = MenuEntry("Approvals", "/console/approvals", SCOPE_SCORE_READ)

router = APIRouter()

Cursor = Annotated[str, Query(max_length=8192)]


@router.get("/approvals")
async def list_approvals(
    request: Request,
    desk: ConsoleDep,
    visit: PageReaderDep,
    done: Annotated[str, Query(max_length=200)] = "",
    cursor: Cursor = "",
    shown: Annotated[str, Query(max_length=10)] = "",
) -> Response:
    """What waits first, then what was decided. *shown*: how many wait on the page that asks for news."""
    return await _approvals_page(request, desk, visit, done=done, cursor=cursor or None, shown=shown)


async def _approvals_page(
    request: Request,
    desk: ConsoleContext,
    visit: PageRequest,
    *,
    done: str = "",
    cursor: str | None = None,
    trouble: str = "",
    status: int = 200,
    shown: str = "",
) -> Response:
    store, read = desk.application.runtime.store, desk.application.call_store
    tenants, now_ms = visible_tenants(visit.caller, None), desk.application.runtime.now_ms()
    pending = await read(store.interventions.page, tenants, "approval", "pending", None, 200)
    pins = await read(store.interventions.page, tenants, "pin", "active", None, 200)
    history = await read(store.interventions.page, tenants, "approval", None, None, 50, cursor)
    told = await read(store.interventions.get, done, tenants) if done else None
    return desk.render_page(
        request,
        "approvals.html",
        visit,
        status,
        waiting=_unexpired(pending, now_ms),
        pins=_unexpired(pins, now_ms),
        history=[one for one in history.items if one.status != "pending" or one.expires_ms <= now_ms],
        next_cursor=history.next_cursor,
        told=told,
        trouble=trouble,
        periods=PERIODS,
        usual_s=DEFAULT_PERIOD_S,
        may_decide=SCOPE_FEEDBACK in visit.caller.scopes,
        shown=shown,
    )


def _unexpired(page: Page[Intervention], now_ms: int) -> list[Intervention]:
    """Those whose time is not over; who expires first comes first."""
    return sorted((one for one in page.items if one.expires_ms > now_ms), key=lambda one: one.expires_ms)


@router.post("/approvals/{intervention_id}")
async def decide_approval(
    intervention_id: str, request: Request, desk: ConsoleDep, visit: PageReviewerDep, form: FormDep
) -> Response:
    """Approve, reject or withdraw, as the button says."""
    return await _redirect_or_explain(request, desk, visit, form, partial(_carry_out_decision, intervention_id))


@router.post("/unpin")
async def unpin_agent(request: Request, desk: ConsoleDep, visit: PageReviewerDep, form: FormDep) -> Response:
    """End the pin of an agent."""
    return await _redirect_or_explain(request, desk, visit, form, _carry_out_unpin)


FormAction = Callable[[ConsoleContext, PageRequest, Mapping[str, str]], Awaitable[InterventionOut]]


async def _carry_out_decision(
    intervention_id: str, desk: ConsoleContext, visit: PageRequest, form: Mapping[str, str]
) -> InterventionOut:
    why, parts, caller = form.get("why", ""), desk.application, visit.caller
    match form.get("action", ""):
        case "approve":
            wish = _form_schema(ApprovalIn, why=why, valid_s=form.get("valid_s", DEFAULT_PERIOD_S))
            return await routes.approve_request(intervention_id, parts, caller, wish)
        case "reject":
            return await routes.reject_request(intervention_id, parts, caller, _form_schema(JustificationIn, why=why))
        case "withdraw":
            return await routes.withdraw_approval(
                intervention_id, parts, caller, _form_schema(JustificationIn, why=why)
            )
    raise ProblemError(ProblemDetails(400, "invalid_form", "Invalid form", "choose to approve or to reject"))


async def _carry_out_unpin(desk: ConsoleContext, visit: PageRequest, form: Mapping[str, str]) -> InterventionOut:
    wish = _form_schema(JustificationIn, why=form.get("why", ""))
    tenant, issuer = form.get("tenant"), form.get("issuer")
    return await routes.unpin_agent(form.get("agent", ""), desk.application, visit.caller, wish, tenant, issuer)


async def _redirect_or_explain(
    request: Request, desk: ConsoleContext, visit: PageRequest, form: Mapping[str, str], work: FormAction
) -> Response:
    """Back to the page, which says what was done, or why not."""
    try:
        made = await work(desk, visit, form)
    except InterventionNotOpen as error:
        return await _approvals_page(request, desk, visit, trouble=f"Nothing was done: {error}.", status=409)
    except ProblemError as error:
        return await _approvals_page(
            request, desk, visit, trouble=f"Nothing was done: {error}.", status=error.problem.status
        )
    return RedirectResponse(url_with_query("/console/approvals", done=made.intervention_id), 303)


def _form_schema(kind: type[FormSchema], **members: object) -> FormSchema:
    """What a form asks for. Raises ProblemError with what is wrong, in words."""
    try:
        return kind.model_validate(members)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        text = "say why: it is kept with the decision" if name == "why" else f"{name}: {first['msg']}"
        raise ProblemError(ProblemDetails(422, "invalid_form", "Invalid form", text)) from None

"""Approvals that wait for a person, those that were given or refused, and pins in force."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import RedirectResponse, Response

from ....scoring.containment import Intervention
from ....scoring.store import Page
from ...callers import FEEDBACK, SCORE_READ
from ...guard.approvals import NotOpen
from ...http import route_containment as containment
from ...http.containment_schemas import ApproveIn, InterventionOut, WhyIn
from ...http.finding import visible_tenants
from ...problems import Problem, ProblemError
from ..gate import Console, Desk, Form, Judging, Looking, Visit
from ..render import with_query
from .entry import Entry

T = TypeVar("T", bound=BaseModel)

PERIODS = ((900, "15 minutes"), (3_600, "1 hour"), (14_400, "4 hours"), (86_400, "1 day"), (604_800, "7 days"))
USUAL_S = 3_600

ENTRY = Entry("Approvals", "/console/approvals", SCORE_READ)

router = APIRouter()

Cursor = Annotated[str, Query(max_length=8192)]


@router.get("/approvals")
async def approvals(
    request: Request,
    desk: Desk,
    visit: Looking,
    done: Annotated[str, Query(max_length=200)] = "",
    cursor: Cursor = "",
    shown: Annotated[str, Query(max_length=10)] = "",
) -> Response:
    """What waits first, then what was decided. *shown*: how many wait on the page that asks for news."""
    return await _page(request, desk, visit, done=done, cursor=cursor or None, shown=shown)


async def _page(
    request: Request,
    desk: Console,
    visit: Visit,
    *,
    done: str = "",
    cursor: str | None = None,
    trouble: str = "",
    status: int = 200,
    shown: str = "",
) -> Response:
    store, read = desk.parts.services.store, desk.parts.read
    tenants, now_ms = visible_tenants(visit.caller, None), desk.parts.services.now_ms()
    pending = await read(store.list_interventions, tenants, "approval", "pending", None, 200)
    pins = await read(store.list_interventions, tenants, "pin", "active", None, 200)
    history = await read(store.list_interventions, tenants, "approval", None, None, 50, cursor)
    told = await read(store.intervention, done, tenants) if done else None
    return desk.page(
        request,
        "approvals.html",
        visit,
        status,
        waiting=_open(pending, now_ms),
        pins=_open(pins, now_ms),
        history=[one for one in history.items if one.status != "pending" or one.expires_ms <= now_ms],
        next_cursor=history.next_cursor,
        told=told,
        trouble=trouble,
        periods=PERIODS,
        usual_s=USUAL_S,
        may_decide=FEEDBACK in visit.caller.scopes,
        shown=shown,
    )


def _open(page: Page[Intervention], now_ms: int) -> list[Intervention]:
    """Those whose time is not over; who expires first comes first."""
    return sorted((one for one in page.items if one.expires_ms > now_ms), key=lambda one: one.expires_ms)


@router.post("/approvals/{intervention_id}")
async def decide(intervention_id: str, request: Request, desk: Desk, visit: Judging, form: Form) -> Response:
    """Approve, reject or withdraw, as the button says."""
    return await _answered(request, desk, visit, form, partial(_decide, intervention_id))


@router.post("/unpin")
async def unpin(request: Request, desk: Desk, visit: Judging, form: Form) -> Response:
    """End the pin of an agent."""
    return await _answered(request, desk, visit, form, _unpin)


Work = Callable[[Console, Visit, Mapping[str, str]], Awaitable[InterventionOut]]


async def _decide(intervention_id: str, desk: Console, visit: Visit, form: Mapping[str, str]) -> InterventionOut:
    why, parts, caller = form.get("why", ""), desk.parts, visit.caller
    match form.get("action", ""):
        case "approve":
            wish = _wish(ApproveIn, why=why, valid_s=form.get("valid_s", USUAL_S))
            return await containment.approve(intervention_id, parts, caller, wish)
        case "reject":
            return await containment.reject(intervention_id, parts, caller, _wish(WhyIn, why=why))
        case "withdraw":
            return await containment.withdraw(intervention_id, parts, caller, _wish(WhyIn, why=why))
    raise ProblemError(Problem(400, "invalid_form", "Invalid form", "choose to approve or to reject"))


async def _unpin(desk: Console, visit: Visit, form: Mapping[str, str]) -> InterventionOut:
    wish = _wish(WhyIn, why=form.get("why", ""))
    tenant, issuer = form.get("tenant"), form.get("issuer")
    return await containment.unpin(form.get("agent", ""), desk.parts, visit.caller, wish, tenant, issuer)


async def _answered(request: Request, desk: Console, visit: Visit, form: Mapping[str, str], work: Work) -> Response:
    """Back to the page, which says what was done, or why not."""
    try:
        made = await work(desk, visit, form)
    except NotOpen as error:
        return await _page(request, desk, visit, trouble=f"Nothing was done: {error}.", status=409)
    except ProblemError as error:
        return await _page(request, desk, visit, trouble=f"Nothing was done: {error}.", status=error.problem.status)
    return RedirectResponse(with_query("/console/approvals", done=made.intervention_id), 303)


def _wish(kind: type[T], **members: object) -> T:
    """What a form asks for. Raises ProblemError with what is wrong, in words."""
    try:
        return kind.model_validate(members)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        text = "say why: it is kept with the decision" if name == "why" else f"{name}: {first['msg']}"
        raise ProblemError(Problem(422, "invalid_form", "Invalid form", text)) from None

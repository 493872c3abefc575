"""Approvals that wait for a person, those that were decided, and active pins."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Annotated, Final, get_args

from fastapi import APIRouter, Depends, Query
from starlette.responses import RedirectResponse, Response

from trustwatch.scoring.records.containment import Intervention, InterventionStatus
from trustwatch.scoring.store.database import Page

from ...access.approval_workflow import without_path_scopes
from ...access.service import ContainmentService
from ...http.agent_lookup import AgentSelector
from ...http.auth.callers import SCOPE_FEEDBACK, AuthenticatedCaller
from ...http.problems import ProblemDetails, ProblemError, invalid_value_error
from ..lists import text_filters
from ..page_dependencies import Cursor, FormDep, PageReaderDep, PageRequest, PageReviewerDep, number_of_form
from ..rendering import url_with_query

PERIODS: Final = ((900, "15 minutes"), (3_600, "1 hour"), (14_400, "4 hours"), (86_400, "1 day"), (604_800, "7 days"))
DEFAULT_PERIOD_S: Final = 3_600

router = APIRouter()


@router.get("/approvals")
async def list_approvals(
    visit: PageReaderDep,
    asked: Annotated[dict[str, str], Depends(text_filters("status"))],
    done: Annotated[str, Query(max_length=200)] = "",
    cursor: Cursor = "",
    shown: Annotated[str, Query(max_length=10)] = "",
) -> Response:
    """Show pending approvals first, then those decided; only those of a `status`, if it is given.

    *shown*: how many wait on the page that asks for news.
    """
    only = asked["status"]
    if only and only not in get_args(InterventionStatus):
        raise invalid_value_error("status", f"must be one of {', '.join(get_args(InterventionStatus))}")
    return await _approvals_page(visit, only=only, done=done, cursor=cursor or None, shown=shown)


async def _approvals_page(
    visit: PageRequest,
    *,
    only: str = "",
    done: str = "",
    cursor: str | None = None,
    trouble: str = "",
    status: int = 200,
    shown: str = "",
) -> Response:
    containment, caller, now_ms = visit.get(ContainmentService), visit.caller, visit.runtime.now_ms()
    pending = await containment.list(caller, "approval", "pending", limit=200)
    pins = await containment.list(caller, "pin", "active", limit=200)
    history = await containment.list(caller, "approval", only or None, limit=50, cursor=cursor)
    return visit.render(
        "approvals.html",
        status,
        only=only,
        waiting=_unexpired(pending, now_ms),
        pins=_unexpired(pins, now_ms),
        history=[one for one in history.items if one.status != "pending" or one.expires_ms <= now_ms],
        next_cursor=history.next_cursor,
        changed=await containment.find(caller, done) if done else None,
        trouble=trouble,
        periods=PERIODS,
        usual_s=DEFAULT_PERIOD_S,
        may_decide=visit.has(SCOPE_FEEDBACK),
        shown=shown,
        scopes_without_path=without_path_scopes,
    )


def _unexpired(page: Page[Intervention], now_ms: int) -> list[Intervention]:
    return sorted((one for one in page.items if one.expires_ms > now_ms), key=lambda one: one.expires_ms)


@router.post("/approvals/{intervention_id}")
async def decide_approval(intervention_id: str, visit: PageReviewerDep, form: FormDep) -> Response:
    """Approve, reject or withdraw, depending on the button."""
    order = _decide(visit.get(ContainmentService), visit.caller, intervention_id, form)
    return await _redirect_or_explain(visit, order)


@router.post("/unpin")
async def unpin_agent(visit: PageReviewerDep, form: FormDep) -> Response:
    agent = AgentSelector(form.get("agent", ""), form.get("tenant"), form.get("issuer"))
    order = visit.get(ContainmentService).unpin(visit.caller, agent, form.get("why", ""))
    return await _redirect_or_explain(visit, order)


async def _decide(
    containment: ContainmentService, caller: AuthenticatedCaller, intervention_id: str, form: Mapping[str, str]
) -> Intervention:
    why = form.get("why", "")
    match form.get("action", ""):
        case "approve":
            valid_s = number_of_form(form, "valid_s", str(DEFAULT_PERIOD_S))
            trusts = form.get("trust_path") == "yes"
            once = form.get("one_use") == "yes"
            return await containment.approve(caller, intervention_id, why, valid_s, trust_path=trusts, one_use=once)
        case "reject":
            return await containment.reject(caller, intervention_id, why)
        case "withdraw":
            return await containment.withdraw(caller, intervention_id, why)
    raise ProblemError(ProblemDetails(400, "invalid_form", "Invalid form", "choose to approve or to reject"))


async def _redirect_or_explain(visit: PageRequest, order: Awaitable[Intervention]) -> Response:
    """Redirect to the page, which confirms the action, or render it with the error."""
    try:
        intervention = await order
    except ProblemError as error:
        return await _approvals_page(visit, trouble=f"Nothing was done: {error}.", status=error.problem.status)
    return RedirectResponse(url_with_query("/console/approvals", done=intervention.intervention_id), 303)

"""The model: versions, what they learned, whether they still fit, and the alert budget against what happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from ....scoring.lifecycle.figures import from_dict
from ...callers import ADMIN, SCORE_READ
from ...http.finding import require_all_tenants, visible_tenants
from ...http.route_models import author, desk_of, sees_all, shown, told
from ...lifecycle import ModelDesk
from ...problems import ProblemError
from ..gate import Administering, Console, Desk, Form, Looking, Visit
from ..render import with_query
from ..views import models as views
from .entry import Entry

ENTRY = Entry("Model", "/console/models", SCORE_READ)
DAYS = 30
LEVELS = ("medium", "high", "critical")
MOST_WHY = 2000

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]


@router.get("/models")
async def models(
    request: Request, desk: Desk, visit: Looking, level: Text = "medium", ordered: Text = "", before: Text = ""
) -> Response:
    """Versions, the version in force, drift and budget. A page that waits for another version than *before* asks again
    until there is one, and is told nothing meanwhile.
    """
    if before and "hx-request" in request.headers and desk_of(desk.parts).version == before:
        return Response(status_code=204)
    return await _page(request, desk, visit, level=level, ordered=ordered, before=before)


async def _page(
    request: Request,
    desk: Console,
    visit: Visit,
    *,
    level: str = "medium",
    ordered: str = "",
    before: str = "",
    trouble: str = "",
    status: int = 200,
) -> Response:
    parts, rules = desk.parts, desk_of(desk.parts)
    tenants, level = visible_tenants(visit.caller, None), level if level in LEVELS else "medium"
    versions = await parts.read(rules.versions, 50)
    budget = await parts.read(rules.budget, DAYS, level, tenants)
    drift = await parts.read(rules.drift, DAYS, tenants)
    everybody = sees_all(visit.caller)
    entries = (await parts.read(rules.history, 20)).items if everybody else []
    lifecycle, days = parts.services.settings.lifecycle, views.totals(budget)
    return desk.page(
        request,
        "models.html",
        visit,
        status,
        everybody=everybody,
        versions=[shown(one, visit.caller) for one in versions.items],
        in_force=rules.version,
        level=level,
        days=days,
        chart=views.budget_chart(days, level) if days else None,
        beyond=views.beyond(budget)[:30],
        accepted=float(getattr(parts.services.settings.risk.alert_budget, level)),
        history=entries,
        drifted=views.drifted(drift, lifecycle.drift.features, lifecycle.drift.scores),
        bounds=lifecycle.drift,
        keeper=lifecycle.enabled,
        day=views.day_words,
        group=views.group_words,
        ordered=ordered,
        before=before,
        trouble=trouble,
        may_order=ADMIN in visit.caller.scopes and everybody,
    )


@router.post("/models/rollback")
async def rollback(request: Request, desk: Desk, visit: Administering, form: Form) -> Response:
    """Order that the version before comes back."""
    why = form.get("why", "")[:MOST_WHY]
    return await _ordered(request, desk, visit, "rollback", lambda rules, by: rules.rollback(by, why))


@router.post("/models/train")
async def train(request: Request, desk: Desk, visit: Administering, form: Form) -> Response:
    """Order a training from the keeper."""
    why = form.get("why", "")[:MOST_WHY]
    return await _ordered(request, desk, visit, "training", lambda rules, by: rules.train(by, why))


@router.post("/models/{version}/promote")
async def promote(version: str, request: Request, desk: Desk, visit: Administering, form: Form) -> Response:
    """Order that a version comes into force."""
    why, force = form.get("why", "")[:MOST_WHY], form.get("force") == "yes"
    return await _ordered(
        request, desk, visit, "promotion", lambda rules, by: rules.promote(version, by, why, force=force)
    )


async def _ordered(
    request: Request, desk: Console, visit: Visit, what: str, order: Callable[[ModelDesk, str], Awaitable[object]]
) -> Response:
    """Back to the page, which says that it was ordered, or why not."""
    require_all_tenants(visit.caller)
    before = desk_of(desk.parts).version
    try:
        with told():
            await order(desk_of(desk.parts), author(visit.caller))
    except ProblemError as error:
        return await _page(request, desk, visit, trouble=f"Nothing was ordered: {error}.", status=error.problem.status)
    return RedirectResponse(
        with_query("/console/models", ordered=what, before="" if what == "training" else before), 303
    )


@router.get("/models/{version}")
async def model(version: str, request: Request, desk: Desk, visit: Looking, group: Text = "") -> Response:
    """One version with its calibration, and whether its figures allow it to come into force."""
    rules, everybody = desk_of(desk.parts), sees_all(visit.caller)
    with told():
        found = await desk.parts.read(rules.view, version, visible_tenants(visit.caller, None))
        judged = await desk.parts.read(rules.judgement, version) if everybody and not found.in_force else None
    one = shown(found.model, visit.caller)
    curves = views.shown_curves(found.curves, found.known, {group} - {""})
    return desk.page(
        request,
        "model.html",
        visit,
        found=found,
        one=one,
        trained=views.trained_words(one),
        everybody=everybody,
        calibration=views.calibration_chart(curves) if curves else None,
        chosen=group,
        groups=views.groups_of(found.curves, found.known),
        rests_on=[*(("Known agents", one) for one in found.known), *(("Newcomers", one) for one in found.curves)],
        honesty=views.honesty_chart(found.observed) if found.observed else None,
        group=views.group_words,
        judged=judged,
        figures=from_dict(one.figures),
        levels_told=LEVELS,
        in_force=rules.version,
        may_order=ADMIN in visit.caller.scopes and everybody,
    )

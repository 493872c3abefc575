"""The model: versions, what they learned, whether they still fit, and the alert budget against what happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from ....scoring.learning.promotion import comparison_from_dict
from ...http.agent_lookup import require_all_tenants, visible_tenants
from ...http.auth.callers import SCOPE_ADMIN, SCOPE_SCORE_READ
from ...http.problems import ProblemError
from ...models.routes import (
    model_service_of,
    ordering_name,
    redact_version,
    sees_all_tenants,
    service_errors_as_problems,
)
from ...models.service import ModelService
from ..page_dependencies import ConsoleContext, ConsoleDep, FormDep, PageAdministratorDep, PageReaderDep, PageRequest
from ..rendering import MenuEntry, url_with_query
from ..views import model_display

MENU_ENTRY = MenuEntry("Model", "/console/models", SCOPE_SCORE_READ)
SHOWN_DAYS = 30
BUDGET_LEVELS = ("medium", "high", "critical")
MAX_REASON_LENGTH = 2000

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]


@router.get("/models")
async def list_models(
    request: Request,
    desk: ConsoleDep,
    visit: PageReaderDep,
    level: Text = "medium",
    ordered: Text = "",
    before: Text = "",
) -> Response:
    """Versions, the version in force, drift and budget. A page that waits for another version than *before* asks again
    until there is one, and is told nothing meanwhile.
    """
    if before and "hx-request" in request.headers and model_service_of(desk.application).version == before:
        return Response(status_code=204)
    return await _models_page(request, desk, visit, level=level, ordered=ordered, before=before)


async def _models_page(
    request: Request,
    desk: ConsoleContext,
    visit: PageRequest,
    *,
    level: str = "medium",
    ordered: str = "",
    before: str = "",
    trouble: str = "",
    status: int = 200,
) -> Response:
    parts, rules = desk.application, model_service_of(desk.application)
    tenants, level = visible_tenants(visit.caller, None), level if level in BUDGET_LEVELS else "medium"
    versions = await parts.call_store(rules.versions, 50)
    budget = await parts.call_store(rules.budget, SHOWN_DAYS, level, tenants)
    drift = await parts.call_store(rules.drift, SHOWN_DAYS, tenants)
    everybody = sees_all_tenants(visit.caller)
    entries = (await parts.call_store(rules.history, 20)).items if everybody else []
    lifecycle, days = parts.runtime.settings.lifecycle, model_display.budget_totals(budget)
    return desk.render_page(
        request,
        "models.html",
        visit,
        status,
        everybody=everybody,
        versions=[redact_version(one, visit.caller) for one in versions.items],
        in_force=rules.version,
        level=level,
        days=days,
        chart=model_display.budget_chart(days, level) if days else None,
        beyond=model_display.days_beyond_budget(budget)[:30],
        accepted=parts.runtime.settings.risk.alert_budget.by_level()[level],
        history=entries,
        drifted=model_display.largest_drifts(drift, lifecycle.drift.features, lifecycle.drift.scores),
        bounds=lifecycle.drift,
        keeper=lifecycle.enabled,
        day=model_display.format_day_number,
        group=model_display.describe_group,
        ordered=ordered,
        before=before,
        trouble=trouble,
        may_order=SCOPE_ADMIN in visit.caller.scopes and everybody,
    )


@router.post("/models/rollback")
async def order_rollback(request: Request, desk: ConsoleDep, visit: PageAdministratorDep, form: FormDep) -> Response:
    """Order that the version before comes back."""
    why = form.get("why", "")[:MAX_REASON_LENGTH]
    return await _redirect_or_explain_order(request, desk, visit, "rollback", lambda rules, by: rules.rollback(by, why))


@router.post("/models/train")
async def order_training(request: Request, desk: ConsoleDep, visit: PageAdministratorDep, form: FormDep) -> Response:
    """Order a training from the keeper."""
    why = form.get("why", "")[:MAX_REASON_LENGTH]
    return await _redirect_or_explain_order(
        request, desk, visit, "training", lambda rules, by: rules.request_training(by, why)
    )


@router.post("/models/{version}/promote")
async def order_promotion(
    version: str, request: Request, desk: ConsoleDep, visit: PageAdministratorDep, form: FormDep
) -> Response:
    """Order that a version comes into force."""
    why, force = form.get("why", "")[:MAX_REASON_LENGTH], form.get("force") == "yes"
    return await _redirect_or_explain_order(
        request, desk, visit, "promotion", lambda rules, by: rules.promote(version, by, why, force=force)
    )


async def _redirect_or_explain_order(
    request: Request,
    desk: ConsoleContext,
    visit: PageRequest,
    what: str,
    order: Callable[[ModelService, str], Awaitable[object]],
) -> Response:
    """Back to the page, which says that it was ordered, or why not."""
    require_all_tenants(visit.caller)
    before = model_service_of(desk.application).version
    try:
        with service_errors_as_problems():
            await order(model_service_of(desk.application), ordering_name(visit.caller))
    except ProblemError as error:
        return await _models_page(
            request, desk, visit, trouble=f"Nothing was ordered: {error}.", status=error.problem.status
        )
    return RedirectResponse(
        url_with_query("/console/models", ordered=what, before="" if what == "training" else before), 303
    )


@router.get("/models/{version}")
async def show_model(
    version: str, request: Request, desk: ConsoleDep, visit: PageReaderDep, group: Text = ""
) -> Response:
    """One version with its calibration, and whether its figures allow it to come into force."""
    rules, everybody = model_service_of(desk.application), sees_all_tenants(visit.caller)
    with service_errors_as_problems():
        found = await desk.application.call_store(rules.version_view, version, visible_tenants(visit.caller, None))
        judged = (
            await desk.application.call_store(rules.judgement, version) if everybody and not found.in_force else None
        )
    one = redact_version(found.model, visit.caller)
    curves = model_display.select_curves(found.curves, found.known_agent_curves, {group} - {""})
    return desk.render_page(
        request,
        "model.html",
        visit,
        found=found,
        one=one,
        trained=model_display.describe_training(one),
        everybody=everybody,
        calibration=model_display.calibration_chart(curves) if curves else None,
        chosen=group,
        groups=model_display.group_labels(found.curves, found.known_agent_curves),
        rests_on=[
            *(("Known agents", one) for one in found.known_agent_curves),
            *(("Newcomers", one) for one in found.curves),
        ],
        honesty=model_display.reliability_chart(found.observed) if found.observed else None,
        group=model_display.describe_group,
        judged=judged,
        figures=comparison_from_dict(one.figures),
        levels_told=BUDGET_LEVELS,
        in_force=rules.version,
        may_order=SCOPE_ADMIN in visit.caller.scopes and everybody,
    )

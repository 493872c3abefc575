"""The model: versions, what they learned, whether they still fit, and the alert budget against what happened."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from trustwatch.scoring.learning.promotion import comparison_from_dict

from ...http.auth.callers import SCOPE_ADMIN, SCOPE_SCORE_READ
from ...http.problems import ProblemError
from ...models.service import MAX_REASON_LENGTH, ModelService, sees_all_tenants
from ..console_sessions import PageRequest
from ..page_dependencies import (
    ConsoleContext,
    ConsoleDep,
    FormDep,
    ModelServiceDep,
    PageAdministratorDep,
    PageReaderDep,
)
from ..rendering import MenuEntry, url_with_query
from ..views import model_display

MENU_ENTRY = MenuEntry("Model", "/console/models", SCOPE_SCORE_READ, key="m")
SHOWN_DAYS = 30
BUDGET_LEVELS = ("medium", "high", "critical")

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]


@router.get("/models")
async def list_models(
    request: Request,
    console: ConsoleDep,
    visit: PageReaderDep,
    models: ModelServiceDep,
    level: Text = "medium",
    ordered: Text = "",
    before: Text = "",
) -> Response:
    """Versions, the version in force, drift and budget. A page that waits for another version than *before* asks again
    until there is one, and is told nothing meanwhile.
    """
    if before and "hx-request" in request.headers and models.version == before:
        return Response(status_code=204)
    return await _models_page(request, console, visit, models, level=level, ordered=ordered, before=before)


async def _models_page(
    request: Request,
    console: ConsoleContext,
    visit: PageRequest,
    models: ModelService,
    *,
    level: str = "medium",
    ordered: str = "",
    before: str = "",
    trouble: str = "",
    status: int = 200,
) -> Response:
    level = level if level in BUDGET_LEVELS else "medium"
    versions = await models.versions(visit.caller, 50)
    budget = await models.budget(visit.caller, SHOWN_DAYS, level)
    drift = await models.drift(visit.caller, SHOWN_DAYS)
    everybody = sees_all_tenants(visit.caller)
    days = model_display.budget_totals(budget.days)
    return console.render_page(
        request,
        "models.html",
        visit,
        status,
        everybody=everybody,
        versions=versions.items,
        in_force=models.version,
        level=level,
        days=days,
        chart=model_display.budget_chart(days, level) if days else None,
        beyond=model_display.days_beyond_budget(budget.days)[:30],
        accepted=budget.accepted,
        history=(await models.history(visit.caller, 20)).items if everybody else [],
        drifted=model_display.largest_drifts(drift.days, drift.feature_threshold, drift.score_threshold),
        bounds={"features": drift.feature_threshold, "scores": drift.score_threshold},
        trains_models=models.trains_models,
        learning=models.learning_for(visit.caller),
        day=model_display.format_day_number,
        group=model_display.describe_group,
        ordered=ordered,
        before=before,
        trouble=trouble,
        may_order=SCOPE_ADMIN in visit.caller.scopes and everybody,
    )


@router.post("/models/rollback")
async def order_rollback(
    request: Request, console: ConsoleDep, visit: PageAdministratorDep, models: ModelServiceDep, form: FormDep
) -> Response:
    """Order that the version before comes back."""
    order = models.rollback(visit.caller, _reason_of(form))
    return await _redirect_or_explain_order(request, console, visit, models, "rollback", order)


@router.post("/models/train")
async def order_training(
    request: Request, console: ConsoleDep, visit: PageAdministratorDep, models: ModelServiceDep, form: FormDep
) -> Response:
    """Order a training from the model worker."""
    order = models.train(visit.caller, _reason_of(form))
    return await _redirect_or_explain_order(request, console, visit, models, "training", order)


@router.post("/models/{version}/promote")
async def order_promotion(
    version: str,
    request: Request,
    console: ConsoleDep,
    visit: PageAdministratorDep,
    models: ModelServiceDep,
    form: FormDep,
) -> Response:
    """Order that a version comes into force."""
    order = models.promote(visit.caller, version, _reason_of(form), force=form.get("force") == "yes")
    return await _redirect_or_explain_order(request, console, visit, models, "promotion", order)


def _reason_of(form: Mapping[str, str]) -> str:
    return form.get("why", "")[:MAX_REASON_LENGTH]


async def _redirect_or_explain_order(
    request: Request,
    console: ConsoleContext,
    visit: PageRequest,
    models: ModelService,
    kind: str,
    order: Awaitable[object],
) -> Response:
    """Redirect to the page, which says that it was ordered, or render it with the reason why not."""
    before = models.version
    try:
        await order
    except ProblemError as error:
        return await _models_page(
            request, console, visit, models, trouble=f"Nothing was ordered: {error}.", status=error.problem.status
        )
    return RedirectResponse(
        url_with_query("/console/models", ordered=kind, before="" if kind == "training" else before), 303
    )


@router.get("/models/{version}")
async def show_model(
    version: str, request: Request, console: ConsoleDep, visit: PageReaderDep, models: ModelServiceDep, group: Text = ""
) -> Response:
    """One version with its calibration, and whether its figures allow it to come into force."""
    view = await models.version_detail(visit.caller, version)
    everybody = sees_all_tenants(visit.caller)
    curves = model_display.select_curves(view.curves, view.known_agent_curves, {group} - {""})
    return console.render_page(
        request,
        "model.html",
        visit,
        view=view,
        model=view.model,
        trained=model_display.describe_training(view.model),
        everybody=everybody,
        calibration=model_display.calibration_chart(curves) if curves else None,
        chosen=group,
        groups=model_display.group_labels(view.curves, view.known_agent_curves),
        rests_on=[
            *(("Known agents", curve) for curve in view.known_agent_curves),
            *(("Newcomers", curve) for curve in view.curves),
        ],
        honesty=model_display.reliability_chart(view.observed) if view.observed else None,
        group=model_display.describe_group,
        judged=None if view.in_force else view.judgement,
        figures=comparison_from_dict(view.model.figures),
        levels_told=BUDGET_LEVELS,
        in_force=models.version,
        may_order=SCOPE_ADMIN in visit.caller.scopes and everybody,
    )

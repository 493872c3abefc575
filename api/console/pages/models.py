"""The model: versions, what they learned, whether they still fit, and the alert budget against what happened."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ...callers import SCORE_READ
from ...http.finding import visible_tenants
from ...http.route_models import desk_of, told
from ..gate import Desk, Looking
from ..views import models as views
from .entry import Entry

ENTRY = Entry("Model", "/console/models", SCORE_READ)
DAYS = 30
LEVELS = ("medium", "high", "critical")

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]


@router.get("/models")
async def models(request: Request, desk: Desk, visit: Looking, level: Text = "medium") -> Response:
    """Versions, the version in force, drift and budget."""
    parts, rules = desk.parts, desk_of(desk.parts)
    tenants, level = visible_tenants(visit.caller, None), level if level in LEVELS else "medium"
    versions = await parts.read(rules.versions, 50)
    budget = await parts.read(rules.budget, DAYS, level, tenants)
    drift = await parts.read(rules.drift, DAYS, tenants)
    history = await parts.read(rules.history, 20)
    lifecycle, days = parts.services.settings.lifecycle, views.totals(budget)
    return desk.page(
        request, "models.html", visit, versions=versions.items, in_force=rules.version, level=level, levels_told=LEVELS,
        days=days, chart=views.budget_chart(days, level) if days else None, beyond=views.beyond(budget)[:30],
        accepted=float(getattr(parts.services.settings.risk.alert_budget, level)), history=history.items,
        drifted=views.drifted(drift, lifecycle.drift.features, lifecycle.drift.scores), bounds=lifecycle.drift,
        keeper=lifecycle.enabled, day=views.day_words, group=views.group_words,
    )  # fmt: skip


@router.get("/models/{version}")
async def model(version: str, request: Request, desk: Desk, visit: Looking, group: Text = "") -> Response:
    """One version with its calibration."""
    with told():
        found = await desk.parts.read(
            desk_of(desk.parts).view, version, visible_tenants(visit.caller, None)
        )  # fmt: skip
    curves = views.shown_curves(found.curves, {group} - {""})
    return desk.page(
        request, "model.html", visit, found=found, one=found.model, trained=views.trained_words(found.model),
        calibration=views.calibration_chart(curves) if curves else None, curves=found.curves, chosen=group,
        honesty=views.honesty_chart(found.observed) if found.observed else None, group=views.group_words,
    )  # fmt: skip

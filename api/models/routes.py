"""Models: versions, calibration, drift, the budget's control chart; training, promotion, roll-back."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from ..http.dependencies import AdministratorDep, ReaderDep, provided
from ..http.schemas import (
    COMMON_PROBLEMS,
    CursorParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from .schemas import (
    BudgetPageOut,
    DriftPageOut,
    ModelDetailOut,
    ModelHistoryEntryOut,
    ModelOrderIn,
    ModelOrderOut,
    ModelPageOut,
    PromotionIn,
    budget_day_out,
    drift_out,
    model_detail_out,
    model_history_entry_out,
    model_out,
)
from .service import ModelService

router = APIRouter(tags=["models"], responses=COMMON_PROBLEMS)
DaysWindowParam = Annotated[int, Query(ge=1, le=366, description="days up to today")]
BudgetLevelParam = Literal["medium", "high", "critical"]


ModelServiceDep = Annotated[ModelService, Depends(provided(ModelService))]


@router.get("/v1/models", summary="List versions of the model")
async def list_models(
    caller: ReaderDep, models: ModelServiceDep, limit: LimitParam = 50, cursor: CursorParam = None
) -> ModelPageOut:
    """Versions, newest first, with their figures in shadow. Scope `trust.score:read`.

    What a version learned from and how it fares are figures of all tenants: empty for a caller that is not of all.
    """
    page = await models.versions(caller, limit, cursor)
    return ModelPageOut(
        items=[model_out(model, models.version) for model in page.items],
        next_cursor=page.next_cursor,
        in_force=models.version,
        keeper=models.trains_models,
        learning=models.learning_for(caller),
    )


@router.get("/v1/models/history", summary="What happened to versions")
async def list_model_history(
    caller: ReaderDep, models: ModelServiceDep, limit: LimitParam = 50, cursor: CursorParam = None
) -> PageOut[ModelHistoryEntryOut]:
    """Newest first; lines are only ever added. Scope `trust.score:read`, of all tenants: it tells who ordered what."""
    page = await models.history(caller, limit, cursor)
    return PageOut(items=[model_history_entry_out(entry) for entry in page.items], next_cursor=page.next_cursor)


@router.get("/v1/models/drift", summary="Drift of features and scores")
async def get_drift(
    caller: ReaderDep, models: ModelServiceDep, days: DaysWindowParam = 30, tenant: TenantParam = None
) -> DriftPageOut:
    """Drift of the version in force, by day and peer group. Scope `trust.score:read`."""
    report = await models.drift(caller, days, tenant)
    return DriftPageOut(
        items=[drift_out(day) for day in report.days],
        thresholds={"features": report.feature_threshold, "scores": report.score_threshold},
    )


@router.get("/v1/models/budget", summary="The alert budget as a control chart")
async def get_alert_budget(
    caller: ReaderDep,
    models: ModelServiceDep,
    days: DaysWindowParam = 30,
    level: BudgetLevelParam = "medium",
    tenant: TenantParam = None,
) -> BudgetPageOut:
    """Expected and observed alerts by day and peer group, with limits. Scope `trust.score:read`."""
    chart = await models.budget(caller, days, level, tenant)
    return BudgetPageOut(level=level, budget=chart.accepted, items=[budget_day_out(day) for day in chart.days])


REFUSED_ORDER_RESPONSES = problem_responses({409: "refused; `reasons` says why"})


@router.post("/v1/models/train", status_code=202, responses=REFUSED_ORDER_RESPONSES, summary="Train a new version")
async def order_training(order: ModelOrderIn, caller: AdministratorDep, models: ModelServiceDep) -> ModelOrderOut:
    """Ask the model worker for a training; its version appears as a challenger. Scope `trust.admin`, of all tenants."""
    await models.train(caller, order.why)
    return ModelOrderOut(version=None, by=caller.recorded_name, status="ordered")


@router.post(
    "/v1/models/rollback", status_code=202, responses=REFUSED_ORDER_RESPONSES, summary="Go back to the version before"
)
async def order_rollback(order: ModelOrderIn, caller: AdministratorDep, models: ModelServiceDep) -> ModelOrderOut:
    """The version that was in force before comes back at a recorded offset. Scope `trust.admin`, of all tenants."""
    version = await models.rollback(caller, order.why)
    return ModelOrderOut(version=version, by=caller.recorded_name, status="ordered")


@router.post(
    "/v1/models/{version}/promote",
    status_code=202,
    responses=REFUSED_ORDER_RESPONSES | problem_responses({404: "no such version"}),
    summary="Put a version in force",
)
async def order_promotion(
    version: str, order: PromotionIn, caller: AdministratorDep, models: ModelServiceDep
) -> ModelOrderOut:
    """It comes into force at a recorded offset, if its figures in shadow allow it. Scope `trust.admin`.

    `force` overrules the figures and needs `why`; another salt or feature table can not be overruled.
    """
    await models.promote(caller, version, order.why, force=order.force)
    return ModelOrderOut(version=version, by=caller.recorded_name, status="ordered")


@router.get("/v1/models/{version}", responses=problem_responses({404: "no such version"}), summary="One version")
async def get_model(
    version: str, caller: ReaderDep, models: ModelServiceDep, tenant: TenantParam = None
) -> ModelDetailOut:
    """A version with its calibration curve, promised against observed, and its history. Scope `trust.score:read`.

    `trained`, `figures`, `judgement` and `history` are of all tenants: empty for a caller that is not of all.
    """
    return model_detail_out(await models.version_detail(caller, version, tenant), models.version)

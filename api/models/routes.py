"""Models: versions, calibration, drift, the budget's control chart; training, promotion, roll-back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from trustwatch.ingest.timestamps import format_day, format_rfc3339
from trustwatch.scoring.learning.budget_chart import BudgetDay
from trustwatch.scoring.learning.promotion import PromotionAssessment
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelVersion, PeerGroupDay

from ..http.dependencies import AdministratorDep, ReaderDep, provided
from ..http.schemas import (
    COMMON_PROBLEMS,
    NEXT_CURSOR,
    CursorParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from ..http.slice import Slice
from ..http.wire import TimeText, Wire
from .service import ModelService, ModelVersionView

DayText = Annotated[str, Field(description="day of UTC", examples=["2026-11-24"])]


class TrainingWindowOut(Wire):
    """The history that a version learned from."""

    from_at: TimeText
    to_at: TimeText


class ModelOut(Wire, of=ModelVersion):
    """One version."""

    in_force: bool = Field(description="whether events are judged by it now")
    window: TrainingWindowOut = Field(description="the history that it learned from")


class ModelPageOut(Wire):
    """A page of versions, newest first."""

    items: list[ModelOut] = Field(description="the versions of this page")
    next_cursor: str | None = NEXT_CURSOR
    in_force: str = Field(description="version that judges now", examples=["2026-11-24.1"])
    keeper: bool = Field(description="whether a process trains and runs models in shadow here (`lifecycle.enabled`)")
    learning: str | None = Field(description="history so far while no model is active, for callers of all tenants")


class ModelHistoryEntryOut(Wire, of=ModelHistoryEntry):
    """One line of the history, which is only ever added to."""

    act: str


class PromotionJudgementOut(Wire, of=PromotionAssessment):
    """Judgement by figures: the version may be promoted if `reasons` is empty."""


class ModelDetailOut(
    Wire, of=ModelVersionView, rename={"curves": "calibration", "known_agent_curves": "calibration_known"}
):
    """One version with its calibration and what became of it."""

    window: TrainingWindowOut = Field(description="the history that it learned from")


class DriftOut(Wire, of=PeerGroupDay):
    """One peer group on one day against the training history."""

    day: DayText
    judged: bool = Field(description="whether the day is over and held enough events")
    scores: float | None = Field(description="population stability index of p-values against uniform")
    features: dict[str, float] = Field(description="population stability index of features", examples=[{"pace": 0.31}])
    drifted: list[str] = Field(description="what is beyond its threshold; `scores` represents p-values")


class DriftPageOut(BaseModel):
    """Drift by day and group, oldest first."""

    items: list[DriftOut] = Field(description="days and groups")
    thresholds: dict[str, float] = Field(
        description="values from which on a group has drifted", examples=[{"scores": 0.2}]
    )


class BudgetOut(Wire, of=BudgetDay):
    """The false-alert budget of one peer group and day."""

    day: DayText


class BudgetPageOut(BaseModel):
    """The control chart, oldest day first."""

    level: Literal["medium", "high", "critical"] = Field(description="level from which on alerts count")
    budget: float = Field(description="alerts accepted per 1,000 agent-days")
    items: list[BudgetOut] = Field(description="days and groups")


class ModelOrderIn(BaseModel):
    """Order about a model, with its reason."""

    why: str = Field(default="", max_length=2000, description="the reason", examples=["a better curve"])


class PromotionIn(ModelOrderIn):
    """A promotion. One that the figures do not allow needs `force` and a reason."""

    force: bool = Field(False, description="promote although the figures do not allow it; needs a reason")


class ModelOrderOut(Wire):
    """An accepted order. It is done when `GET /v1/models` says so."""

    version: str | None = Field(description="null = it has no name yet", examples=["2026-11-24.1"])
    by: str = Field(description="who ordered it", examples=["analyst"])
    status: Literal["ordered"] = Field(description="accepted")


def _window(model: ModelVersion) -> dict[str, str]:
    return {"from_at": format_rfc3339(model.from_ms), "to_at": format_rfc3339(model.to_ms)}


def drift_out(group_day: PeerGroupDay) -> DriftOut:
    """Drift of a group and day as it is answered."""
    empty: dict[str, Any] = {"judged": False, "scores": None, "features": {}, "drifted": []}
    drift = {name: group_day.drift.get(name, value) for name, value in empty.items()}
    return DriftOut.of(group_day, day=format_day(group_day.day), **drift)


router = APIRouter(tags=["models"], responses=COMMON_PROBLEMS)
DaysWindowParam = Annotated[int, Query(ge=1, le=366, description="days up to today")]
BudgetLevelParam = Annotated[
    Literal["medium", "high", "critical"], Query(description="level from which on alerts count")
]
VersionParam = Annotated[str, Path(description="version of the model, percent-encoded once")]

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
        items=[
            ModelOut.of(model, in_force=model.version == models.version, window=_window(model)) for model in page.items
        ],
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
    return PageOut(items=[ModelHistoryEntryOut.of(entry) for entry in page.items], next_cursor=page.next_cursor)


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
    return BudgetPageOut(
        level=level, budget=chart.accepted, items=[BudgetOut.of(day, day=format_day(day.day)) for day in chart.days]
    )


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
    version: VersionParam, order: PromotionIn, caller: AdministratorDep, models: ModelServiceDep
) -> ModelOrderOut:
    """It comes into force at a recorded offset, if its figures in shadow allow it. Scope `trust.admin`.

    `force` overrules the figures and needs `why`; another salt or feature table can not be overruled.
    """
    await models.promote(caller, version, order.why, force=order.force)
    return ModelOrderOut(version=version, by=caller.recorded_name, status="ordered")


@router.get("/v1/models/{version}", responses=problem_responses({404: "no such version"}), summary="One version")
async def get_model(
    version: VersionParam, caller: ReaderDep, models: ModelServiceDep, tenant: TenantParam = None
) -> ModelDetailOut:
    """A version with its calibration curve, promised against observed, and its history. Scope `trust.score:read`.

    `trained`, `figures`, `judgement` and `history` are of all tenants: empty for a caller that is not of all.
    """
    view = await models.version_detail(caller, version, tenant)
    shown = view if view.model.status == "challenger" else view._replace(judgement=None)
    return ModelDetailOut.of(shown, window=_window(view.model))


SLICE = Slice("models", routers=(router,))

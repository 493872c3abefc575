"""Models: versions, calibration, drift, the budget's control chart; training, promotion, roll-back."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from trustwatch.ingest.timestamps import format_day, format_rfc3339
from trustwatch.scoring.learning.budget_chart import BudgetDay
from trustwatch.scoring.learning.promotion import DRIFTED_FEATURES, DRIFTED_SCORES, PromotionAssessment
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

DayText = Annotated[str, Field(description="day, UTC", examples=["2026-11-24"])]


class TrainingWindowOut(Wire):
    """The history that a version was trained on."""

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
    in_force: str = Field(description="active version", examples=["2026-11-24.1"])
    keeper: bool = Field(description="whether a process trains and runs models in shadow here (`lifecycle.enabled`)")
    learning: str | None = Field(description="history so far while no model is active, for callers of all tenants")


class ModelHistoryEntryOut(Wire, of=ModelHistoryEntry):
    """One line of the history, which is only ever added to."""

    act: str


class PromotionJudgementOut(Wire, of=PromotionAssessment):
    """The judgment of the figures. The version may be promoted if `reasons` is empty."""


class ModelDetailOut(
    Wire, of=ModelVersionView, rename={"curves": "calibration", "known_agent_curves": "calibration_known"}
):
    """A version with its calibration and history."""

    window: TrainingWindowOut = Field(description="the history that it learned from")


class DriftOut(Wire, of=PeerGroupDay):
    """One peer group on one day against the training history."""

    day: DayText
    judged: bool = Field(description="whether the day is over and held enough events")
    scores: float | None = Field(description="population stability index of p-values against uniform")
    features: dict[str, float] = Field(description="population stability index of features", examples=[{"pace": 0.31}])
    drifted: list[str] = Field(description="what exceeds its threshold; `scores` means p-values")


class DriftPageOut(BaseModel):
    """Daily drift by group, oldest first."""

    items: list[DriftOut] = Field(description="one item per day and peer group")
    thresholds: dict[str, float] = Field(
        description="values at and above which a group has drifted", examples=[{"scores": 0.2}]
    )


class BudgetOut(Wire, of=BudgetDay):
    """The false-alert budget of one peer group and day."""

    day: DayText


class BudgetPageOut(BaseModel):
    """The control chart, oldest day first."""

    level: Literal["medium", "high", "critical"] = Field(description="level from which on alerts count")
    budget: float = Field(description="alerts accepted per 1,000 agent-days")
    items: list[BudgetOut] = Field(description="one item per day and peer group")


class ModelOrderIn(BaseModel):
    """Order about a model, with its reason."""

    why: str = Field(default="", max_length=2000, description="the reason", examples=["a better curve"])


class PromotionIn(ModelOrderIn):
    """A promotion. One that the figures do not allow needs `force` and a reason."""

    force: bool = Field(False, description="promote even if the figures do not allow it; requires a reason")


class ModelOrderOut(Wire):
    """An accepted order. `GET /v1/models` shows when it is done."""

    version: str | None = Field(description="version; null until it has a name", examples=["2026-11-24.1"])
    by: str = Field(description="who ordered it", examples=["analyst"])
    status: Literal["ordered"] = Field(description="accepted")


def _window(model: ModelVersion) -> dict[str, str]:
    return {"from_at": format_rfc3339(model.from_ms), "to_at": format_rfc3339(model.to_ms)}


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
    """Newest first, with their figures in shadow mode.

    Its training data and figures cover all tenants: empty for a caller that is not bound to all.
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


@router.get("/v1/models/history", summary="List the history of versions")
async def list_model_history(
    caller: ReaderDep, models: ModelServiceDep, limit: LimitParam = 50, cursor: CursorParam = None
) -> PageOut[ModelHistoryEntryOut]:
    """Newest first. Entries never change. Requires the scope `trust.score:read` for all tenants."""
    page = await models.history(caller, limit, cursor)
    return PageOut(items=[ModelHistoryEntryOut.of(entry) for entry in page.items], next_cursor=page.next_cursor)


@router.get("/v1/models/drift", summary="Retrieve the drift of features and scores")
async def get_drift(
    caller: ReaderDep, models: ModelServiceDep, days: DaysWindowParam = 30, tenant: TenantParam = None
) -> DriftPageOut:
    """Returns the daily drift of the active version by peer group."""
    measured, keys = await models.drift(caller, days, tenant), ("judged", "scores", "features", "drifted")
    return DriftPageOut(
        items=[DriftOut.of(day, day=format_day(day.day), **{key: day.drift[key] for key in keys}) for day in measured],
        thresholds={"features": DRIFTED_FEATURES, "scores": DRIFTED_SCORES},
    )


@router.get("/v1/models/budget", summary="Retrieve the alert budget as a control chart")
async def get_alert_budget(
    caller: ReaderDep,
    models: ModelServiceDep,
    days: DaysWindowParam = 30,
    level: BudgetLevelParam = "medium",
    tenant: TenantParam = None,
) -> BudgetPageOut:
    """Returns daily expected and observed alerts by peer group, with limits."""
    chart = await models.budget(caller, days, level, tenant)
    return BudgetPageOut(
        level=level, budget=chart.accepted, items=[BudgetOut.of(day, day=format_day(day.day)) for day in chart.days]
    )


REFUSED_ORDER_RESPONSES = problem_responses({409: "The request was refused. `reasons` states why."})


@router.post("/v1/models/train", status_code=202, responses=REFUSED_ORDER_RESPONSES, summary="Train a new version")
async def order_training(order: ModelOrderIn, caller: AdministratorDep, models: ModelServiceDep) -> ModelOrderOut:
    """Requests a new version, which becomes a challenger. Requires the scope `trust.admin` for all tenants."""
    await models.train(caller, order.why)
    return ModelOrderOut(version=None, by=caller.recorded_name, status="ordered")


@router.post(
    "/v1/models/rollback", status_code=202, responses=REFUSED_ORDER_RESPONSES, summary="Roll back to the last version"
)
async def order_rollback(order: ModelOrderIn, caller: AdministratorDep, models: ModelServiceDep) -> ModelOrderOut:
    """Activates the previous version at a recorded offset. Requires the scope `trust.admin` for all tenants."""
    version = await models.rollback(caller, order.why)
    return ModelOrderOut(version=version, by=caller.recorded_name, status="ordered")


@router.post(
    "/v1/models/{version}/promote",
    status_code=202,
    responses=REFUSED_ORDER_RESPONSES | problem_responses({404: "The version does not exist."}),
    summary="Promote a version",
)
async def order_promotion(
    version: VersionParam, order: PromotionIn, caller: AdministratorDep, models: ModelServiceDep
) -> ModelOrderOut:
    """Activates the version at a recorded offset, if its figures in shadow mode allow it.

    `force` overrides the figures and requires `why`. A different salt or feature table cannot be overridden.
    """
    await models.promote(caller, version, order.why, force=order.force)
    return ModelOrderOut(version=version, by=caller.recorded_name, status="ordered")


@router.get("/v1/models/{version}", responses=problem_responses({404: "no such version"}), summary="Retrieve a version")
async def get_model(
    version: VersionParam, caller: ReaderDep, models: ModelServiceDep, tenant: TenantParam = None
) -> ModelDetailOut:
    """Returns a version with its calibration curve (promised and observed) and its history.

    `trained`, `figures`, `judgement` and `history` cover all tenants: empty for a caller not bound to all.
    """
    view = await models.version_detail(caller, version, tenant)
    shown = view if view.model.status == "challenger" else view._replace(judgement=None)
    return ModelDetailOut.of(shown, window=_window(view.model))


SLICE = Slice("models", routers=(router,))

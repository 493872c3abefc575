"""Models: versions, calibration, drift, the budget's control chart; training, promotion, roll-back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query

from ...scoring.records.models import ModelVersion
from ..http.agent_lookup import require_all_tenants, visible_tenants
from ..http.auth.callers import ANY_NAME, AuthenticatedCaller
from ..http.dependencies import AdministratorDep, ApplicationContext, ContextDep, ReaderDep
from ..http.problems import ProblemDetails, ProblemError
from ..http.schemas import (
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
    ObservedShareOut,
    PromotionIn,
    PromotionJudgementOut,
    budget_day_out,
    calibration_curve_out,
    drift_out,
    model_history_entry_out,
    model_out,
    model_switch_out,
)
from .service import ModelService, PromotionRefused, UnknownModelVersion

router = APIRouter(tags=["models"])
DaysWindowParam = Annotated[int, Query(ge=1, le=366, description="days up to today")]
BudgetLevelParam = Literal["medium", "high", "critical"]


def model_service_of(parts: ApplicationContext) -> ModelService:
    """The desk of models. Raises ProblemError where there is none."""
    desk = parts.runtime.model_service
    if desk is None:
        raise ProblemError(ProblemDetails(404, "no_models", "No models", "this service keeps no models"))
    return desk


@contextmanager
def service_errors_as_problems() -> Iterator[None]:
    """Errors of the desk as problems."""
    try:
        yield
    except UnknownModelVersion as error:
        raise ProblemError(ProblemDetails(404, error.code, "No such model", str(error))) from None
    except PromotionRefused as error:
        members = {"reasons": error.reasons}
        raise ProblemError(ProblemDetails(409, error.code, "Not promoted", str(error), members=members)) from None


@router.get("/v1/models", summary="List versions of the model")
async def list_models(
    parts: ContextDep, caller: ReaderDep, limit: LimitParam = 50, cursor: CursorParam = None
) -> ModelPageOut:
    """Versions, newest first, with their figures in shadow. Scope `trust.score:read`.

    What a version learned from and how it fares are figures of all tenants: empty for a caller that is not of all.
    """
    visible_tenants(caller, None)  # who speaks for nobody sees nothing
    desk = model_service_of(parts)
    page = await parts.call_store(desk.versions, limit, cursor)
    items = [model_out(redact_version(one, caller), desk.version) for one in page.items]
    keeper = parts.runtime.settings.lifecycle.enabled
    return ModelPageOut(items=items, next_cursor=page.next_cursor, in_force=desk.version, keeper=keeper)


@router.get("/v1/models/history", summary="What happened to versions")
async def list_model_history(
    parts: ContextDep, caller: ReaderDep, limit: LimitParam = 50, cursor: CursorParam = None
) -> PageOut[ModelHistoryEntryOut]:
    """Newest first; lines are only ever added. Scope `trust.score:read`, of all tenants: it tells who ordered what."""
    require_all_tenants(caller)
    page = await parts.call_store(model_service_of(parts).history, limit, cursor)
    return PageOut(items=[model_history_entry_out(one) for one in page.items], next_cursor=page.next_cursor)


@router.get("/v1/models/drift", summary="Drift of features and scores")
async def get_drift(
    parts: ContextDep, caller: ReaderDep, days: DaysWindowParam = 30, tenant: TenantParam = None
) -> DriftPageOut:
    """Of the version in force, by day and peer group. Scope `trust.score:read`."""
    found = await parts.call_store(model_service_of(parts).drift, days, visible_tenants(caller, tenant))
    bounds = parts.runtime.settings.lifecycle.drift
    return DriftPageOut(
        items=[drift_out(one) for one in found], thresholds={"features": bounds.features, "scores": bounds.scores}
    )


@router.get("/v1/models/budget", summary="The alert budget as a control chart")
async def get_alert_budget(
    parts: ContextDep,
    caller: ReaderDep,
    days: DaysWindowParam = 30,
    level: BudgetLevelParam = "medium",
    tenant: TenantParam = None,
) -> BudgetPageOut:
    """Expected and observed alerts by day and peer group, with limits. Scope `trust.score:read`."""
    rows = await parts.call_store(model_service_of(parts).budget, days, level, visible_tenants(caller, tenant))
    accepted = parts.runtime.settings.risk.alert_budget.by_level()[level]
    return BudgetPageOut(level=level, budget=accepted, items=[budget_day_out(row) for row in rows])


REFUSED_ORDER_RESPONSES = problem_responses({409: "refused; `reasons` says why"})


@router.post("/v1/models/train", status_code=202, responses=REFUSED_ORDER_RESPONSES, summary="Train a new version")
async def order_training(order: ModelOrderIn, parts: ContextDep, caller: AdministratorDep) -> ModelOrderOut:
    """Ask the keeper for a training now; its version appears as a challenger. Scope `trust.admin`, of all tenants."""
    require_all_tenants(caller)
    by = ordering_name(caller)
    with service_errors_as_problems():
        await model_service_of(parts).request_training(by, order.why)
    return ModelOrderOut(version=None, by=by, status="ordered")


@router.post(
    "/v1/models/rollback", status_code=202, responses=REFUSED_ORDER_RESPONSES, summary="Go back to the version before"
)
async def order_rollback(order: ModelOrderIn, parts: ContextDep, caller: AdministratorDep) -> ModelOrderOut:
    """The version that was in force before comes back at a recorded offset. Scope `trust.admin`, of all tenants."""
    require_all_tenants(caller)
    by = ordering_name(caller)
    with service_errors_as_problems():
        version = await model_service_of(parts).rollback(by, order.why)
    return ModelOrderOut(version=version, by=by, status="ordered")


@router.post(
    "/v1/models/{version}/promote",
    status_code=202,
    responses=REFUSED_ORDER_RESPONSES | problem_responses({404: "no such version"}),
    summary="Put a version in force",
)
async def order_promotion(
    version: str, order: PromotionIn, parts: ContextDep, caller: AdministratorDep
) -> ModelOrderOut:
    """It comes into force at a recorded offset, if its figures in shadow allow it. Scope `trust.admin`.

    `force` overrules the figures and needs `why`; another salt or feature table can not be overruled.
    """
    require_all_tenants(caller)
    by = ordering_name(caller)
    with service_errors_as_problems():
        await model_service_of(parts).promote(version, by, order.why, force=order.force)
    return ModelOrderOut(version=version, by=by, status="ordered")


def ordering_name(caller: AuthenticatedCaller) -> str:
    """Who orders, for the history."""
    return caller.name or caller.subject


@router.get("/v1/models/{version}", responses=problem_responses({404: "no such version"}), summary="One version")
async def get_model(version: str, parts: ContextDep, caller: ReaderDep, tenant: TenantParam = None) -> ModelDetailOut:
    """A version with its calibration curve, promised against observed, and its history. Scope `trust.score:read`.

    `trained`, `figures`, `judgement` and `history` are of all tenants: empty for a caller that is not of all.
    """
    desk, everybody = model_service_of(parts), sees_all_tenants(caller)
    with service_errors_as_problems():
        found = await parts.call_store(desk.version_view, version, visible_tenants(caller, tenant))
        judges = everybody and found.model.status == "challenger"
        judged = await parts.call_store(desk.judgement, version) if judges else None
    return ModelDetailOut(
        **model_out(redact_version(found.model, caller), desk.version).model_dump(),
        on_disk=found.on_disk,
        judgement=None if judged is None else PromotionJudgementOut(**judged._asdict()),
        calibration=[calibration_curve_out(one) for one in found.curves],
        calibration_known=[calibration_curve_out(one) for one in found.known_agent_curves],
        observed=[ObservedShareOut(**one._asdict()) for one in found.observed],
        history=[model_history_entry_out(one) for one in found.history] if everybody else [],
        switches=[model_switch_out(one) for one in found.switches],
    )


def sees_all_tenants(caller: AuthenticatedCaller) -> bool:
    """Whether it may see figures that are of all tenants together, and who ordered what."""
    return ANY_NAME in caller.tenants


def redact_version(one: ModelVersion, caller: AuthenticatedCaller) -> ModelVersion:
    """A version as *caller* may see it."""
    return one if sees_all_tenants(caller) else msgspec.structs.replace(one, trained={}, figures={})

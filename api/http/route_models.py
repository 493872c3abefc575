"""Models: versions, calibration, drift, the budget's control chart; training, promotion, roll-back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query

from ...scoring.lifecycle.budget import BudgetDay
from ...scoring.lifecycle.curve import GroupCurve
from ...scoring.lifecycle.records import GroupDay, ModelEntry, ModelSwitch, ModelVersion
from ..callers import ANY, Caller
from ..lifecycle import ModelDesk, NoSuchModel, NotPromoted
from ..problems import Problem, ProblemError
from .finding import require_all_tenants, visible_tenants
from .gate import Admin, Part, Parts, Reader
from .model_schemas import (
    BudgetOut,
    BudgetPageOut,
    CurveOut,
    DriftOut,
    DriftPageOut,
    EntryOut,
    JudgementOut,
    ModelDetailOut,
    ModelOut,
    ModelsOut,
    ObservedOut,
    OrderIn,
    OrderOut,
    PointOut,
    PromoteIn,
    SwitchOut,
    WindowOut,
)
from .route_agents import Cursor, Limit, Tenant
from .schemas import PageOut, problems
from .times import iso_ms, iso_or_none

router = APIRouter(tags=["models"])
Days = Annotated[int, Query(ge=1, le=366, description="days up to today")]
Budgeted = Literal["medium", "high", "critical"]


def desk_of(parts: Parts) -> ModelDesk:
    """The desk of models. Raises ProblemError where there is none."""
    desk = parts.services.models
    if desk is None:
        raise ProblemError(Problem(404, "no_models", "No models", "this service keeps no models"))
    return desk


@contextmanager
def told() -> Iterator[None]:
    """Errors of the desk as problems."""
    try:
        yield
    except NoSuchModel as error:
        raise ProblemError(Problem(404, error.code, "No such model", str(error))) from None
    except NotPromoted as error:
        members = {"reasons": error.reasons}
        raise ProblemError(Problem(409, error.code, "Not promoted", str(error), members=members)) from None


@router.get("/v1/models", summary="List versions of the model")
async def models(parts: Part, caller: Reader, limit: Limit = 50, cursor: Cursor = None) -> ModelsOut:
    """Versions, newest first, with their figures in shadow. Scope `trust.score:read`.

    What a version learned from and how it fares are figures of all tenants: empty for a caller that is not of all.
    """
    visible_tenants(caller, None)  # who speaks for nobody sees nothing
    desk = desk_of(parts)
    page = await parts.read(desk.versions, limit, cursor)
    items = [model_out(shown(one, caller), desk.version) for one in page.items]
    keeper = parts.services.settings.lifecycle.enabled
    return ModelsOut(items=items, next_cursor=page.next_cursor, in_force=desk.version, keeper=keeper)


@router.get("/v1/models/history", summary="What happened to versions")
async def history(parts: Part, caller: Reader, limit: Limit = 50, cursor: Cursor = None) -> PageOut[EntryOut]:
    """Newest first; lines are only ever added. Scope `trust.score:read`, of all tenants: it tells who ordered what."""
    require_all_tenants(caller)
    page = await parts.read(desk_of(parts).history, limit, cursor)
    return PageOut(items=[entry_out(one) for one in page.items], next_cursor=page.next_cursor)


@router.get("/v1/models/drift", summary="Drift of features and scores")
async def drift(parts: Part, caller: Reader, days: Days = 30, tenant: Tenant = None) -> DriftPageOut:
    """Of the version in force, by day and peer group. Scope `trust.score:read`."""
    found = await parts.read(desk_of(parts).drift, days, visible_tenants(caller, tenant))
    bounds = parts.services.settings.lifecycle.drift
    return DriftPageOut(
        items=[drift_out(one) for one in found], thresholds={"features": bounds.features, "scores": bounds.scores}
    )


@router.get("/v1/models/budget", summary="The alert budget as a control chart")
async def budget(
    parts: Part, caller: Reader, days: Days = 30, level: Budgeted = "medium", tenant: Tenant = None
) -> BudgetPageOut:
    """Expected and observed alerts by day and peer group, with limits. Scope `trust.score:read`."""
    rows = await parts.read(desk_of(parts).budget, days, level, visible_tenants(caller, tenant))
    accepted = float(getattr(parts.services.settings.risk.alert_budget, level))
    return BudgetPageOut(level=level, budget=accepted, items=[budget_out(row) for row in rows])


REFUSED = problems({409: "refused; `reasons` says why"})


@router.post("/v1/models/train", status_code=202, responses=REFUSED, summary="Train a new version")
async def train(order: OrderIn, parts: Part, caller: Admin) -> OrderOut:
    """Ask the keeper for a training now; its version appears as a challenger. Scope `trust.admin`, of all tenants."""
    require_all_tenants(caller)
    by = author(caller)
    with told():
        await desk_of(parts).train(by, order.why)
    return OrderOut(version=None, by=by, status="ordered")


@router.post("/v1/models/rollback", status_code=202, responses=REFUSED, summary="Go back to the version before")
async def rollback(order: OrderIn, parts: Part, caller: Admin) -> OrderOut:
    """The version that was in force before comes back at a recorded offset. Scope `trust.admin`, of all tenants."""
    require_all_tenants(caller)
    by = author(caller)
    with told():
        version = await desk_of(parts).rollback(by, order.why)
    return OrderOut(version=version, by=by, status="ordered")


@router.post(
    "/v1/models/{version}/promote",
    status_code=202,
    responses=REFUSED | problems({404: "no such version"}),
    summary="Put a version in force",
)
async def promote(version: str, order: PromoteIn, parts: Part, caller: Admin) -> OrderOut:
    """It comes into force at a recorded offset, if its figures in shadow allow it. Scope `trust.admin`.

    `force` overrules the figures and needs `why`; another salt or feature table can not be overruled.
    """
    require_all_tenants(caller)
    by = author(caller)
    with told():
        await desk_of(parts).promote(version, by, order.why, force=order.force)
    return OrderOut(version=version, by=by, status="ordered")


def author(caller: Caller) -> str:
    """Who orders, for the history."""
    return caller.name or caller.subject


@router.get("/v1/models/{version}", responses=problems({404: "no such version"}), summary="One version")
async def model(version: str, parts: Part, caller: Reader, tenant: Tenant = None) -> ModelDetailOut:
    """A version with its calibration curve, promised against observed, and its history. Scope `trust.score:read`.

    `trained`, `figures`, `judgement` and `history` are of all tenants: empty for a caller that is not of all.
    """
    desk, everybody = desk_of(parts), sees_all(caller)
    with told():
        found = await parts.read(desk.view, version, visible_tenants(caller, tenant))
        judges = everybody and found.model.status == "challenger"
        judged = await parts.read(desk.judgement, version) if judges else None
    return ModelDetailOut(
        **model_out(shown(found.model, caller), desk.version).model_dump(),
        on_disk=found.on_disk,
        judgement=None if judged is None else JudgementOut(**judged._asdict()),
        calibration=[_curve_out(one) for one in found.curves],
        calibration_known=[_curve_out(one) for one in found.known],
        observed=[ObservedOut(**one._asdict()) for one in found.observed],
        history=[entry_out(one) for one in found.history] if everybody else [],
        switches=[switch_out(one) for one in found.switches],
    )


def _curve_out(one: GroupCurve) -> CurveOut:
    points = [PointOut(**point._asdict()) for point in one.points]
    return CurveOut(tenant=one.tenant, agent_type=one.agent_type, events=one.events, points=points)


def sees_all(caller: Caller) -> bool:
    """Whether it may see figures that are of all tenants together, and who ordered what."""
    return ANY in caller.tenants


def shown(one: ModelVersion, caller: Caller) -> ModelVersion:
    """A version as *caller* may see it."""
    return one if sees_all(caller) else msgspec.structs.replace(one, trained={}, figures={})


def model_out(one: ModelVersion, in_force: str) -> ModelOut:
    """A version as it is answered."""
    return ModelOut(
        version=one.version,
        status=one.status,
        in_force=one.version == in_force,
        digest=one.digest,
        window=WindowOut(from_at=iso_ms(one.from_ms), to_at=iso_ms(one.to_ms)),
        created_at=iso_ms(one.created_ms),
        promoted_at=iso_or_none(one.promoted_ms),
        changed_at=iso_or_none(one.changed_ms),
        trained=one.trained,
        figures=one.figures,
    )


def entry_out(one: ModelEntry) -> EntryOut:
    """A line of history as it is answered."""
    return EntryOut(at=iso_ms(one.at_ms), version=one.version, act=one.act, by=one.by, why=one.why, detail=one.detail)


def switch_out(one: ModelSwitch) -> SwitchOut:
    """A switch as it is answered."""
    return SwitchOut(
        partition=one.partition, epoch=one.epoch, offset=one.offset, version=one.version, at=iso_ms(one.at_ms)
    )


def drift_out(one: GroupDay) -> DriftOut:
    """Drift of a group and day as it is answered."""
    said = one.drift
    return DriftOut(
        version=one.version,
        day=day_out(one.day),
        tenant=one.tenant,
        agent_type=one.agent_type,
        events=one.events,
        judged=bool(said.get("judged")),
        scores=said.get("scores"),
        features=said.get("features", {}),
        drifted=said.get("drifted", []),
    )


def budget_out(row: BudgetDay) -> BudgetOut:
    """A row of the control chart as it is answered."""
    return BudgetOut(**row._asdict() | {"day": day_out(row.day)})


def day_out(day: int) -> str:
    """A day of UTC.

    >>> day_out(20_000)
    '2024-10-04'
    """
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()

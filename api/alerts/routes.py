"""Alerts: how each of them fares at each target, and a test of the targets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from ..http.agent_lookup import AgentSelector
from ..http.dependencies import AdministratorDep, provided
from ..http.schemas import (
    AMBIGUOUS_AGENT_RESPONSES,
    COMMON_PROBLEMS,
    CursorParam,
    IssuerParam,
    LimitParam,
    PageOut,
    TenantParam,
    problem_responses,
)
from .schemas import AlertTestIn, AlertTestsOut, DeliveryOut, DeliveryStatus, SentAlertTestOut, delivery_out
from .service import AlertService, DeliveryFilters

router = APIRouter(tags=["alerts"], responses=COMMON_PROBLEMS)

AlertServiceDep = Annotated[AlertService, Depends(provided(AlertService))]


@router.get("/v1/deliveries", responses=AMBIGUOUS_AGENT_RESPONSES, summary="How alerts fare")
async def list_deliveries(
    caller: AdministratorDep,
    alerts: AlertServiceDep,
    tenant: TenantParam = None,
    status: DeliveryStatus | None = None,
    target: Annotated[str | None, Query(max_length=2048, description="name of the target")] = None,
    agent_id: Annotated[str | None, Query(max_length=2048, description="alerts about this agent")] = None,
    issuer: IssuerParam = None,
    key: Annotated[str | None, Query(max_length=4096, description="key of one alert")] = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[DeliveryOut]:
    """Deliveries to configured targets, newest first. Scope `trust.admin`."""
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    page = await alerts.list(caller, DeliveryFilters(tenant, status, target, agent, key), limit, cursor)
    return PageOut(items=[delivery_out(delivery) for delivery in page.items], next_cursor=page.next_cursor)


@router.post(
    "/v1/alerts/test",
    status_code=202,
    responses=problem_responses({404: "no such target, or none at all"}),
    summary="Send a test alert",
)
async def send_test_alert(caller: AdministratorDep, alerts: AlertServiceDep, test: AlertTestIn) -> AlertTestsOut:
    """A clearly marked test alert to one target, or to all, on the way that every alert takes. Scope `trust.admin`.

    `GET /v1/deliveries?key=…` says how it fares. The administrators of the caller's (first) tenant see it.
    """
    rows = await alerts.send_test(caller, test.target)
    return AlertTestsOut(items=[SentAlertTestOut(key=row.key, target=row.target) for row in rows])

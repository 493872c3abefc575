"""Alerts: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.scoring.records.commits import Delivery, OutboxRow

from ..http.agent_lookup import AgentResolver, AgentSelector
from ..http.dependencies import AdministratorDep, provided
from ..http.runtime import Runtime
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
from ..http.slice import ServiceRegistry, Slice
from ..http.store_executor import BulkWork, StoreExecutor
from ..http.wire import TIME_EXAMPLE, Wire, time_or_none
from .service import AlertService, DeliveryFilters

DeliveryStatus = Literal["pending", "delivered", "failed", "suppressed", "dead"]


class DeliveryOut(Wire, of=Delivery, rename={"group": "reason"}):
    """The delivery of one alert to one target."""

    status: DeliveryStatus
    type: str = Field(description="type of the alert", examples=["io.trustwatch.risk.changed.v1"])
    subject: str = Field(description="what the alert is about", examples=["agent-payment-processor-v2.1"])
    next_attempt_at: str | None = Field(
        description="time of the next attempt, if there is one", examples=[TIME_EXAMPLE]
    )
    last_error: str | None = Field(description="why the last attempt failed", examples=["the receiver answered 503"])
    why: str | None = Field(description="why it was not delivered", examples=["the receiver answered 503"])


class AlertTestIn(BaseModel):
    """Target to which a test alert is sent."""

    model_config = ConfigDict(extra="forbid")

    target: str | None = Field(
        None, max_length=2048, description="name of the target in the settings; null for all targets", examples=["soc"]
    )


class SentAlertTestOut(Wire, of=OutboxRow, only=("key", "target")):
    """A test alert that is being delivered."""

    key: str = Field(description="key of the delivery, the same at every attempt")
    target: str = Field(description="name of the receiver in the settings", examples=["soc"])


class AlertTestsOut(BaseModel):
    """Test alerts that are on their way, one per target."""

    items: list[SentAlertTestOut] = Field(description="one test alert for each target")


class _CloudEventHead(msgspec.Struct):
    """Attributes of a CloudEvent that a list shows."""

    type: str = ""
    subject: str = ""


def delivery_out(delivery: Delivery) -> DeliveryOut:
    head = _CloudEventHead()
    with suppress(msgspec.MsgspecError):  # not our alert: its state is shown anyway
        head = msgspec.json.decode(delivery.payload, type=_CloudEventHead)
    error = delivery.last_error or None
    return DeliveryOut.of(
        delivery,
        type=head.type,
        subject=head.subject,
        next_attempt_at=time_or_none(delivery.next_attempt_ms) if delivery.status == "pending" else None,
        last_error=None if delivery.status == "suppressed" else error,
        why=error,
    )


router = APIRouter(tags=["alerts"], responses=COMMON_PROBLEMS)

AlertServiceDep = Annotated[AlertService, Depends(provided(AlertService))]


@router.get("/v1/deliveries", responses=AMBIGUOUS_AGENT_RESPONSES, summary="List deliveries of alerts")
async def list_deliveries(
    caller: AdministratorDep,
    alerts: AlertServiceDep,
    tenant: TenantParam = None,
    status: Annotated[DeliveryStatus | None, Query(description="Only those with this status.")] = None,
    target: Annotated[str | None, Query(max_length=2048, description="name of the target")] = None,
    agent_id: Annotated[str | None, Query(max_length=2048, description="alerts about this agent")] = None,
    issuer: IssuerParam = None,
    key: Annotated[str | None, Query(max_length=4096, description="key of one alert")] = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PageOut[DeliveryOut]:
    """Deliveries to configured targets, newest first."""
    agent = None if agent_id is None else AgentSelector(agent_id, tenant, issuer)
    page = await alerts.list(caller, DeliveryFilters(tenant, status, target, agent, key), limit, cursor)
    return PageOut(items=[delivery_out(delivery) for delivery in page.items], next_cursor=page.next_cursor)


@router.post(
    "/v1/alerts/test",
    status_code=202,
    responses=problem_responses({404: "The target does not exist, or no target is configured."}),
    summary="Send a test alert",
)
async def send_test_alert(caller: AdministratorDep, alerts: AlertServiceDep, test: AlertTestIn) -> AlertTestsOut:
    """Sends a test alert, marked as such, to one target or to all, in the same way as any alert.

    `GET /v1/deliveries?key=…` returns its status. It is visible to administrators of the caller's (first) tenant.
    """
    rows = await alerts.send_test(caller, test.target)
    return AlertTestsOut(items=[SentAlertTestOut.of(row) for row in rows])


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    return (
        AlertService(
            services.get(Runtime), services.get(AgentResolver), services.get(StoreExecutor), services.get(BulkWork)
        ),
    )


SLICE = Slice("alerts", routers=(router,), services=_make_services)

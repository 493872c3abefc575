"""Alerts: how each of them fares at each target, and a test of the targets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ...scoring.delivery.notifiers.alert_events import build_test_alert_row
from ...scoring.records.agents import RiskLevel
from ..decisions.routes import resolve_agent_key
from ..http.agent_lookup import visible_tenants
from ..http.auth.callers import ANY_NAME, AuthenticatedCaller
from ..http.dependencies import AdministratorDep, ContextDep
from ..http.problems import ProblemDetails, ProblemError
from ..http.schemas import CursorParam, IssuerParam, LimitParam, PageOut, TenantParam
from ..settings.service_settings import WebhookSettings
from .schemas import AlertTestIn, AlertTestsOut, DeliveryOut, DeliveryStatus, SentAlertTestOut, delivery_out

router = APIRouter(tags=["alerts"])


@router.get("/v1/deliveries", summary="How alerts fare")
async def list_deliveries(
    parts: ContextDep,
    caller: AdministratorDep,
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
    tenants, about = visible_tenants(caller, tenant), None
    if agent_id is not None:
        about = await resolve_agent_key(parts, caller, agent_id, tenant, issuer)
        if about is None:
            return PageOut(items=[], next_cursor=None)
    page = await parts.call_store(
        parts.runtime.store.outbox.page, tenants, status, target, limit, cursor, agent_key=about, key=key
    )
    return PageOut(items=[delivery_out(delivery) for delivery in page.items], next_cursor=page.next_cursor)


@router.post("/v1/alerts/test", status_code=202, summary="Send a test alert")
async def send_test_alert(asked: AlertTestIn, parts: ContextDep, caller: AdministratorDep) -> AlertTestsOut:
    """A clearly marked test alert to one target, or to all, on the way that every alert takes. Scope `trust.admin`.

    `GET /v1/deliveries?key=…` says how it fares. The administrators of the caller's (first) tenant see it.
    """
    services = parts.runtime
    targets = _select_targets(services.settings.webhooks, asked.target)
    test_id, now, tenant = services.new_id(), services.now_ms(), _owning_tenant(caller)
    source = services.settings.listen.url()
    rows = [
        build_test_alert_row(test_id, target.name, caller.name, now, source, _accepted_level(target), tenant)
        for target in targets
    ]
    await parts.call_store(services.store.outbox.enqueue, rows)
    return AlertTestsOut(items=[SentAlertTestOut(key=row.key, target=row.target) for row in rows])


def _select_targets(webhooks: tuple[WebhookSettings, ...], name: str | None) -> list[WebhookSettings]:
    """The target of that name, or all. Raises ProblemError where there is none."""
    chosen = [webhook for webhook in webhooks if name in (None, webhook.name)]
    if not chosen:
        names = ", ".join(webhook.name for webhook in webhooks) or "none: `webhooks` of the settings is empty"
        raise ProblemError(
            ProblemDetails(404, "not_found", "Not found", f"there is no such target; configured are {names}")
        )
    return chosen


def _owning_tenant(caller: AuthenticatedCaller) -> str:
    """Tenant whose administrators see the test; "" = those of all."""
    tenants = visible_tenants(caller, None)
    return "" if tenants is None or ANY_NAME in tenants else min(tenants)


def _accepted_level(target: WebhookSettings) -> RiskLevel:
    """A level that the target takes, since it takes no others."""
    return max(RiskLevel[level.upper()] for level in target.levels)

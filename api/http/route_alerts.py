"""Alerts: how each of them fares at each target, and a test of the targets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ...scoring.notify import try_out_row
from ...scoring.records import RiskLevel
from ..callers import ANY, Caller
from ..problems import Problem, ProblemError
from ..settings import WebhookSettings
from .convert import delivery_out
from .finding import visible_tenants
from .gate import Admin, Part
from .route_agents import Cursor, Issuer, Limit, Tenant
from .route_decisions import key_of
from .schemas import DeliveryOut, DeliveryStatus, PageOut, SentTestOut, TestIn, TestsOut

router = APIRouter(tags=["alerts"])


@router.get("/v1/deliveries", summary="How alerts fare")
async def deliveries(
    parts: Part,
    caller: Admin,
    tenant: Tenant = None,
    status: DeliveryStatus | None = None,
    target: Annotated[str | None, Query(max_length=2048, description="name of the target")] = None,
    agent_id: Annotated[str | None, Query(max_length=2048, description="alerts about this agent")] = None,
    issuer: Issuer = None,
    key: Annotated[str | None, Query(max_length=4096, description="key of one alert")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOut[DeliveryOut]:
    """Deliveries to configured targets, newest first. Scope `trust.admin`."""
    tenants, about = visible_tenants(caller, tenant), None
    if agent_id is not None:
        about = await key_of(parts, caller, agent_id, tenant, issuer)
        if about is None:
            return PageOut(items=[], next_cursor=None)
    page = await parts.read(
        parts.services.store.list_deliveries, tenants, status, target, limit, cursor, agent_key=about, key=key
    )
    return PageOut(items=[delivery_out(delivery) for delivery in page.items], next_cursor=page.next_cursor)


@router.post("/v1/alerts/test", status_code=202, summary="Send a test alert")
async def test(asked: TestIn, parts: Part, caller: Admin) -> TestsOut:
    """A clearly marked test alert to one target, or to all, on the way that every alert takes. Scope `trust.admin`.

    `GET /v1/deliveries?key=…` says how it fares. The administrators of the caller's (first) tenant see it.
    """
    services = parts.services
    targets = _chosen(services.settings.webhooks, asked.target)
    test_id, now, tenant = services.new_id(), services.now_ms(), _owner(caller)
    source = services.settings.listen.url()
    rows = [try_out_row(test_id, target.name, caller.name, now, source, _level(target), tenant) for target in targets]
    await parts.read(services.store.enqueue, rows)
    return TestsOut(items=[SentTestOut(key=row.key, target=row.target) for row in rows])


def _chosen(webhooks: tuple[WebhookSettings, ...], name: str | None) -> list[WebhookSettings]:
    """The target of that name, or all. Raises ProblemError where there is none."""
    chosen = [webhook for webhook in webhooks if name in (None, webhook.name)]
    if not chosen:
        names = ", ".join(webhook.name for webhook in webhooks) or "none: `webhooks` of the settings is empty"
        raise ProblemError(Problem(404, "not_found", "Not found", f"there is no such target; configured are {names}"))
    return chosen


def _owner(caller: Caller) -> str:
    """Tenant whose administrators see the test; "" = those of all."""
    tenants = visible_tenants(caller, None)
    return "" if tenants is None or ANY in tenants else min(tenants)


def _level(target: WebhookSettings) -> RiskLevel:
    """A level that the target takes, since it takes no others."""
    return max(RiskLevel[level.upper()] for level in target.levels)

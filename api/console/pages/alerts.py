"""Alerts: what left, how it fares at every target, and a test of the targets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from ....ingest.errors import TrustwatchError
from ....scoring.records import Delivery
from ...callers import ADMIN
from ...http.finding import visible_tenants
from ...http.route_alerts import test as send_test
from ...http.schemas import TestIn
from ..gate import Administering, Console, Desk, Form
from ..render import with_query
from ..views.deliveries import alert_climbs, alerts_shown
from ..views.scanning import Narrowed, narrowed
from .entry import Entry

STATUSES = ("pending", "delivered", "failed", "suppressed", "dead")

ENTRY = Entry("Alerts", "/console/alerts", ADMIN)

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]
Cursor = Annotated[str, Query(max_length=8192)]


@router.get("/alerts")
async def alerts(
    request: Request,
    desk: Desk,
    visit: Administering,
    tenant: Text = "",
    status: Text = "",
    target: Text = "",
    key: Text = "",
    cursor: Cursor = "",
    tested: Text = "",
) -> Response:
    """Alerts, newest first, each with its state at every target."""
    services, trouble = desk.parts.services, ""
    targets = [one.name for one in services.settings.webhooks]
    found = Narrowed[Delivery]([], None, 0)
    wanted = {"tenant": tenant.strip(), "status": status if status in STATUSES else "", "target": target, "key": key}
    try:
        tenants = visible_tenants(visit.caller, wanted["tenant"] or None)
        found = await desk.parts.read(
            narrowed,
            lambda at: services.store.list_deliveries(
                tenants, wanted["status"] or None, target or None, 50, at, key=key or None
            ),
            lambda one: one.kind == "alert",
            cursor or None,
        )
    except TrustwatchError as error:
        trouble = str(error)
    return desk.page(
        request,
        "alerts.html",
        visit,
        400 if trouble else 200,
        wanted=wanted,
        climbs=alert_climbs(alerts_shown(found.items)),
        found=found,
        statuses=STATUSES,
        targets=targets,
        options=[(name, name) for name in targets],
        stopped=await _stopped(desk),
        trouble=trouble,
        tested=tested,
        first_page=not cursor,
    )


async def _stopped(desk: Console) -> set[str]:
    """Configured targets that refused for good, and get nothing until their settings change."""
    stopped = await desk.parts.read(desk.parts.services.store.stopped_targets)
    return {one.name for one in desk.parts.services.settings.webhooks if one.name in stopped}


@router.post("/alerts/test")
async def test(desk: Desk, visit: Administering, form: Form) -> Response:
    """A test alert to one target, or to all."""
    sent = await send_test(TestIn(target=form.get("target") or None), desk.parts, visit.caller)
    only = sent.items[0].key if len(sent.items) == 1 else None
    return RedirectResponse(with_query("/console/alerts", key=only, tested=str(len(sent.items))), 303)

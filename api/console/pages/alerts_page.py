"""Alerts: what left, how it fares at every target, and a test of the targets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.records.commits import Delivery

from ...alerts.service import DeliveryFilters
from ...http.auth.callers import SCOPE_ADMIN
from ...http.filtered_pages import FilteredPage
from ..page_dependencies import AlertServiceDep, ConsoleDep, FormDep, PageAdministratorDep
from ..rendering import MenuEntry, url_with_query
from ..views.alert_display import alert_escalations, display_alerts

STATUSES = ("pending", "delivered", "failed", "suppressed", "dead")

MENU_ENTRY = MenuEntry("Alerts", "/console/alerts", SCOPE_ADMIN, key="l")

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]
Cursor = Annotated[str, Query(max_length=8192)]


@router.get("/alerts")
async def list_alerts(
    request: Request,
    console: ConsoleDep,
    visit: PageAdministratorDep,
    alerts: AlertServiceDep,
    tenant: Text = "",
    status: Text = "",
    target: Text = "",
    key: Text = "",
    cursor: Cursor = "",
    tested: Text = "",
) -> Response:
    """Alerts, newest first, each with its state at every target."""
    trouble, page = "", FilteredPage[Delivery]([], None, 0)
    targets = [webhook.name for webhook in console.runtime.settings.webhooks]
    filters = {"tenant": tenant.strip(), "status": status if status in STATUSES else "", "target": target, "key": key}
    try:
        page = await alerts.search(
            visit.caller,
            DeliveryFilters(filters["tenant"] or None, filters["status"] or None, target or None, key=key or None),
            cursor or None,
        )
    except TrustwatchError as error:
        trouble = str(error)
    return console.render_page(
        request,
        "alerts.html",
        visit,
        400 if trouble else 200,
        filters=filters,
        climbs=alert_escalations(display_alerts(page.items)),
        page=page,
        statuses=STATUSES,
        targets=targets,
        options=[(name, name) for name in targets],
        stopped=await alerts.stopped_targets(),
        trouble=trouble,
        tested=tested,
        first_page=not cursor,
    )


@router.post("/alerts/test")
async def send_test_alert(visit: PageAdministratorDep, alerts: AlertServiceDep, form: FormDep) -> Response:
    """A test alert to one target, or to all."""
    rows = await alerts.send_test(visit.caller, form.get("target") or None)
    only = rows[0].key if len(rows) == 1 else None
    return RedirectResponse(url_with_query("/console/alerts", key=only, tested=str(len(rows))), 303)

"""Alerts: what left, how it fares at every target, and a test of the targets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from ....ingest.errors import TrustwatchError
from ....scoring.records.commits import Delivery
from ...alerts.routes import send_test_alert as send_test
from ...alerts.schemas import AlertTestIn
from ...http.agent_lookup import visible_tenants
from ...http.auth.callers import SCOPE_ADMIN
from ..page_dependencies import ConsoleContext, ConsoleDep, FormDep, PageAdministratorDep
from ..rendering import MenuEntry, url_with_query
from ..views.alert_display import alert_escalations, display_alerts
from ..views.filtered_pages import FilteredPage, read_filtered_page

STATUSES = ("pending", "delivered", "failed", "suppressed", "dead")

MENU_ENTRY = MenuEntry("Alerts", "/console/alerts", SCOPE_ADMIN)

router = APIRouter()

Text = Annotated[str, Query(max_length=2048)]
Cursor = Annotated[str, Query(max_length=8192)]


@router.get("/alerts")
async def list_alerts(
    request: Request,
    desk: ConsoleDep,
    visit: PageAdministratorDep,
    tenant: Text = "",
    status: Text = "",
    target: Text = "",
    key: Text = "",
    cursor: Cursor = "",
    tested: Text = "",
) -> Response:
    """Alerts, newest first, each with its state at every target."""
    services, trouble = desk.application.runtime, ""
    targets = [one.name for one in services.settings.webhooks]
    found = FilteredPage[Delivery]([], None, 0)
    wanted = {"tenant": tenant.strip(), "status": status if status in STATUSES else "", "target": target, "key": key}
    try:
        tenants = visible_tenants(visit.caller, wanted["tenant"] or None)
        found = await desk.application.call_store(
            read_filtered_page,
            lambda at: services.store.outbox.page(
                tenants, wanted["status"] or None, target or None, 50, at, key=key or None
            ),
            lambda one: one.kind == "alert",
            cursor or None,
        )
    except TrustwatchError as error:
        trouble = str(error)
    return desk.render_page(
        request,
        "alerts.html",
        visit,
        400 if trouble else 200,
        wanted=wanted,
        climbs=alert_escalations(display_alerts(found.items)),
        found=found,
        statuses=STATUSES,
        targets=targets,
        options=[(name, name) for name in targets],
        stopped=await _stopped_targets(desk),
        trouble=trouble,
        tested=tested,
        first_page=not cursor,
    )


async def _stopped_targets(desk: ConsoleContext) -> set[str]:
    """Configured targets that refused for good, and get nothing until their settings change."""
    stopped = await desk.application.call_store(desk.application.runtime.store.outbox.stopped_targets)
    return {one.name for one in desk.application.runtime.settings.webhooks if one.name in stopped}


@router.post("/alerts/test")
async def send_test_alert(desk: ConsoleDep, visit: PageAdministratorDep, form: FormDep) -> Response:
    """A test alert to one target, or to all."""
    sent = await send_test(AlertTestIn(target=form.get("target") or None), desk.application, visit.caller)
    only = sent.items[0].key if len(sent.items) == 1 else None
    return RedirectResponse(url_with_query("/console/alerts", key=only, tested=str(len(sent.items))), 303)

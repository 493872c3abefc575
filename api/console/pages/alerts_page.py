"""Alerts: what left, how it fares at every target, and a test of the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from fastapi import APIRouter, Depends
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.delivery.notifiers.alert_content import AlertContent, parse_alert
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.commits import ALERT_KEY_PREFIX, Delivery

from ...alerts.service import AlertService, DeliveryFilters
from ...http.store_executor import FilteredPage
from ..escalations import LevelStep, group_escalations
from ..lists import text_filters
from ..page_dependencies import Cursor, FormDep, PageAdministratorDep, Text
from ..rendering import url_with_query

STATUS_WORDS: Final = {
    "dead": "given up",
    "failed": "refused for good",
    "pending": "waits for its next attempt",
    "suppressed": "held back: told before within the cool-down",
    "delivered": "arrived",
}
"""States of a delivery, the worst first."""

router = APIRouter()

AskedDep = Annotated[dict[str, str], Depends(text_filters("tenant", "status", "target", "key"))]


class ShownAlert(NamedTuple):
    """One alert at all its targets: its first delivery stands for what all have in common."""

    content: AlertContent
    deliveries: Sequence[Delivery]

    @property
    def first(self) -> Delivery:
        """The delivery that tells what all have in common."""
        return self.deliveries[0]

    @property
    def decision_id(self) -> str:
        """The decision that it is about; "" = none."""
        key = self.first.key
        return key.removeprefix(ALERT_KEY_PREFIX) if key.startswith(ALERT_KEY_PREFIX) else ""

    @property
    def step(self) -> LevelStep | None:
        """The change of an agent's level that it is about; None = it is about none."""
        if self.content.kind != "level" or self.content.previous is None:
            return None
        return LevelStep(self.content.identity, self.content.previous, self.content.level, self.first.created_ms)


def group_alerts(deliveries: Sequence[Delivery]) -> list[ShownAlert]:
    """*deliveries* put together by alert, in the order in which alerts come first."""
    by_key: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        by_key.setdefault(delivery.key, []).append(delivery)
    return [ShownAlert(_content_of(rows[0]), rows) for rows in by_key.values()]


def _content_of(delivery: Delivery) -> AlertContent:
    """Content of an alert; an actuator's row is no alert, and is described by its kind alone."""
    try:
        decoded: Any = msgspec.json.decode(delivery.payload)
    except msgspec.DecodeError:
        decoded = {}
    event = decoded if isinstance(decoded, dict) and "specversion" in decoded else {}
    content = parse_alert(event)
    if event:
        return content
    level = RiskLevel(delivery.level).label
    title = f"Token policy of {level}" if delivery.kind == "action" else f"{delivery.kind.capitalize()} of {level}"
    subject = decoded.get("agent_id", "") if isinstance(decoded, dict) else ""
    return replace(content, title=title, subject=str(subject))


def delivery_words(delivery: Delivery) -> str:
    """The state of a delivery in a sentence."""
    if delivery.status == "pending" and delivery.attempts == 0:
        return "waits for its first attempt"
    return STATUS_WORDS.get(delivery.status, delivery.status)


@router.get("/alerts")
async def list_alerts(visit: PageAdministratorDep, asked: AskedDep, cursor: Cursor = "", tested: Text = "") -> Response:
    """Alerts, newest first, each with its state at every target."""
    trouble, page, alerts = "", FilteredPage[Delivery]([], None, 0), visit.get(AlertService)
    targets = [webhook.name for webhook in visit.runtime.settings.webhooks]
    filters = asked | {"status": asked["status"] if asked["status"] in STATUS_WORDS else ""}
    try:
        tenant, status, target, key = (filters[name] or None for name in ("tenant", "status", "target", "key"))
        page = await alerts.search(visit.caller, DeliveryFilters(tenant, status, target, key=key), cursor or None)
    except TrustwatchError as error:
        trouble = str(error)
    return visit.render(
        "alerts.html",
        400 if trouble else 200,
        filters=filters,
        climbs=group_escalations(group_alerts(page.items), lambda alert: alert.step),
        page=page,
        state_words=delivery_words,
        targets=targets,
        options=[(name, name) for name in targets],
        stopped=await alerts.stopped_targets(),
        trouble=trouble,
        tested=tested,
        first_page=not cursor,
    )


@router.post("/alerts/test")
async def send_test_alert(visit: PageAdministratorDep, form: FormDep) -> Response:
    """A test alert to one target, or to all."""
    rows = await visit.get(AlertService).send_test(visit.caller, form.get("target") or None)
    only = rows[0].key if len(rows) == 1 else None
    return RedirectResponse(url_with_query("/console/alerts", key=only, tested=str(len(rows))), 303)

"""Bodies of the routes of alerts."""

from __future__ import annotations

from typing import Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.commits import Delivery

from ..http.schemas import Level, TimeText, format_rfc3339_or_none, level_word

DeliveryStatus = Literal["pending", "delivered", "failed", "suppressed", "dead"]


class DeliveryOut(BaseModel):
    """Delivery of one alert to one target. `why` says why it was held back, or how the last attempt failed."""

    key: str
    type: str
    subject: str
    target: str
    kind: str
    tenant: str
    level: Level
    reason: str
    created_at: TimeText
    status: DeliveryStatus
    attempts: int
    next_attempt_at: TimeText | None
    last_error: str | None
    why: str | None
    delivered_at: TimeText | None
    suppressed_before: int


class AlertTestIn(BaseModel):
    """Target to which a test alert is sent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"target": "soc"}})

    target: str | None = Field(None, max_length=2048, description="its name in the settings; null is all")


class SentAlertTestOut(BaseModel):
    """A test alert that is on its way; `key` is that of its delivery."""

    key: str
    target: str


class AlertTestsOut(BaseModel):
    """Test alerts that are on their way, one per target."""

    items: list[SentAlertTestOut]


class _CloudEventHead(msgspec.Struct):
    """Attributes of a CloudEvent that a list shows."""

    type: str = ""
    subject: str = ""


def _cloud_event_head(payload: bytes) -> _CloudEventHead:
    try:
        return msgspec.json.decode(payload, type=_CloudEventHead)
    except msgspec.MsgspecError:  # none of our alerts: how it fares is shown all the same
        return _CloudEventHead()


def delivery_out(delivery: Delivery) -> DeliveryOut:
    """The state of a delivery."""
    head = _cloud_event_head(delivery.payload)
    held_back = delivery.status == "suppressed"
    return DeliveryOut(
        key=delivery.key,
        type=head.type,
        subject=head.subject,
        target=delivery.target,
        kind=delivery.kind,
        tenant=delivery.tenant,
        level=level_word(delivery.level),
        reason=delivery.group,
        created_at=format_rfc3339(delivery.created_ms),
        status=delivery.status,  # type: ignore[arg-type] # the store writes no other word; pydantic checks it
        attempts=delivery.attempts,
        next_attempt_at=format_rfc3339_or_none(delivery.next_attempt_ms) if delivery.status == "pending" else None,
        last_error=None if held_back else delivery.last_error or None,
        why=delivery.last_error or None,
        delivered_at=format_rfc3339_or_none(delivery.delivered_ms),
        suppressed_before=delivery.suppressed_before,
    )

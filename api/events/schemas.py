"""Examples that OpenAPI shows."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.dead_letters import DeadLetter

from ..http.schemas import TimeText, format_rfc3339_or_none
from .origin_keys import IssuedOriginKey

EVENT_EXAMPLE: dict[str, Any] = {
    "id": "evt-0193",
    "time": "2026-11-24T22:23:14.123Z",
    "type": "tool.call",
    "tenant": "acme-corp",
    "agent": {"id": "agent-payment-processor-v2.1", "issuer": "https://as.example"},
    "action": "process_payment",
    "effect": "write",
    "resource": {"type": "account", "id": "acct-42"},
    "outcome": "success",
}

RECEIPT_EXAMPLE: dict[str, Any] = {
    "accepted": 1,
    "duplicate": 0,
    "rejected": 1,
    "skipped": 0,
    "rejections": [
        {
            "index": 1,
            "path": "$.outcome",
            "reason": "Invalid enum value 'ok'",
            "dead_letter_id": "01KAW43D1JQ4V1S0Z3Y8M4C2QK",
        }
    ],
    "rejections_omitted": 0,
}


class RejectionOut(BaseModel):
    """One record that was refused."""

    index: int = Field(description="place in the body, from 0; skipped records do not count")
    path: str = Field(examples=["$.agent.id"])
    reason: str
    dead_letter_id: str


class ReceiptOut(BaseModel):
    """Outcome of a body: everything counted here is durable."""

    model_config = ConfigDict(json_schema_extra={"example": RECEIPT_EXAMPLE})

    accepted: int
    duplicate: int
    rejected: int
    skipped: int = Field(description="records that are no audit events by design; of foreign formats alone")
    rejections: list[RejectionOut]
    rejections_omitted: int


class DeadLetterOut(BaseModel):
    """A record that was refused."""

    letter_id: str
    received_at: TimeText
    source: str
    reason: str
    path: str
    size: int
    replayed_at: TimeText | None
    raw: str | None = Field(None, description="base64; only where one dead letter is asked for")


class OriginKeyOut(BaseModel):
    """Key of a tenant for keyed hashes of values."""

    tenant: str
    key: str = Field(description="secret, 64 hexadecimal digits, for HMAC-SHA-256")
    epoch: int = Field(description="number of the period, which begins and ends with the clock")
    expires_at: TimeText = Field(description="ask again then: within the hour, and when the period ends")


def origin_key_out(tenant: str, issued: IssuedOriginKey) -> OriginKeyOut:
    """A key that was issued for *tenant*."""
    expires_at = format_rfc3339(int(issued.expires_at * 1000))
    return OriginKeyOut(tenant=tenant, key=issued.key, epoch=issued.epoch, expires_at=expires_at)


def dead_letter_out(letter: DeadLetter, *, with_raw: bool) -> DeadLetterOut:
    """A dead letter; its bytes only where they are asked for."""
    return DeadLetterOut(
        letter_id=letter.letter_id,
        received_at=format_rfc3339(letter.received_ms),
        source=letter.source,
        reason=letter.reason,
        path=letter.path,
        size=len(letter.raw),
        replayed_at=format_rfc3339_or_none(letter.replayed_ms),
        raw=base64.b64encode(letter.raw).decode() if with_raw else None,
    )

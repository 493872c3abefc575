"""Bodies for PagerDuty's Events API v2, and for what takes the same."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from ..records import RiskLevel
from .facts import Facts, cut, text

MAX_SUMMARY, MAX_NAME = 1_024, 255
MAX_DETAILS = 256 * 1024
"""Bytes of details; PagerDuty refuses a body above 512 KB as a whole."""

SEVERITIES: Final = {
    RiskLevel.UNKNOWN: "info",
    RiskLevel.LOW: "info",
    RiskLevel.MEDIUM: "warning",
    RiskLevel.HIGH: "error",
    RiskLevel.CRITICAL: "critical",
}


def pagerduty_body(alert: Facts, routing_key: str) -> dict[str, Any] | None:
    """*alert* as an event; None where PagerDuty has nothing to do.

    A rise to medium or above triggers, a fall below medium resolves, under one key per agent. A fall that stays at
    medium or above leaves the incident as it is.

    Args:
        alert: what happened.
        routing_key: the integration key, a secret.
    """
    key = {"routing_key": routing_key, "dedup_key": dedup_key(alert)}
    if alert.clears:
        return {**key, "event_action": "resolve"}
    if not alert.raises:
        return None
    links = [{"href": url, "text": cut(label, MAX_NAME)} for label, url in alert.links]
    return {
        **key,
        "event_action": "trigger",
        "client": "Trustwatch",
        "client_url": alert.source,
        "links": links,
        "payload": _payload(alert),
    }


def dedup_key(alert: Facts) -> str:
    """Key of the incident: the same for all alerts about one agent of one issuer and tenant.

    A hash, since ids are longer than the 255 characters that PagerDuty takes. Its parts are length-prefixed, so that
    two agents never share one.
    """
    parts = "".join(f"{len(part)}:{part}" for part in alert.identity)
    return f"trustwatch-{alert.kind}-{hashlib.sha256(parts.encode(errors='surrogatepass')).hexdigest()}"


def _payload(alert: Facts) -> dict[str, Any]:
    payload = {
        "summary": cut(alert.title + "".join(f"; {reason}" for reason in alert.reasons), MAX_SUMMARY),
        "source": cut(alert.subject or alert.source or "trustwatch", MAX_NAME),
        "severity": SEVERITIES[alert.level],
        "component": cut(text(alert.data.get("agent_type")), MAX_NAME),
        "group": cut(text(alert.data.get("tenant")), MAX_NAME),
        "class": cut(alert.type, MAX_NAME),
        "timestamp": alert.time,
        "custom_details": _details(alert),
    }
    return {name: value for name, value in payload.items() if value}


def _details(alert: Facts) -> dict[str, Any]:
    """The alert's data; only what people are shown, where that would be too long."""
    whole = {"type": alert.type, "id": alert.event_id, **alert.data}
    if len(msgspec.json.encode(whole)) <= MAX_DETAILS:
        return whole
    return {cut(label, MAX_NAME): cut(value, 2_048) for label, value in alert.shown}

"""Bodies for PagerDuty's Events API v2, and for what takes the same."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from ...records.agents import RiskLevel
from .alert_content import AlertContent, display_text, truncate

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


def render_pagerduty(alert: AlertContent, routing_key: str) -> dict[str, Any] | None:
    """*alert* as an event; None where PagerDuty has nothing to do.

    A rise to medium or above triggers under one key per case (per agent, where there is none). The incident is resolved
    when all agents of the case are below medium, or a person closes it, and acknowledged when a person does that here.
    Any other fall leaves the incident as it is.

    Args:
        alert: what happened.
        routing_key: the integration key, a secret.
    """
    key = {"routing_key": routing_key, "dedup_key": incident_key(alert)}
    if alert.resolves_case:
        return {**key, "event_action": "resolve"}
    if alert.kind == "case" and alert.data.get("action") == "acknowledged":
        return {**key, "event_action": "acknowledge"}
    if not alert.needs_attention:
        return None
    links = [{"href": url, "text": truncate(label, MAX_NAME)} for label, url in alert.links]
    return {
        **key,
        "event_action": "trigger",
        "client": "Trustwatch",
        "client_url": dict(alert.links).get("Console", alert.source),
        "links": links,
        "payload": _payload(alert),
    }


def incident_key(alert: AlertContent) -> str:
    """Key of the incident: that of the case, or of the agent where there is none."""
    case_id = alert.case.get("case_id")
    if isinstance(case_id, str) and case_id:
        return f"trustwatch-case-{hashlib.sha256(case_id.encode(errors='surrogatepass')).hexdigest()}"
    return dedup_key(alert)


def dedup_key(alert: AlertContent) -> str:
    """Key of what an alert is about: the same for all alerts about one agent of one issuer and tenant.

    A hash, since ids are longer than the 255 characters that PagerDuty takes. Its parts are length-prefixed, so that
    two agents never share one.
    """
    parts = "".join(f"{len(part)}:{part}" for part in alert.identity)
    return f"trustwatch-{alert.kind}-{hashlib.sha256(parts.encode(errors='surrogatepass')).hexdigest()}"


def _payload(alert: AlertContent) -> dict[str, Any]:
    payload = {
        "summary": truncate(alert.title + "".join(f"; {reason}" for reason in alert.reasons), MAX_SUMMARY),
        "source": truncate(alert.subject or alert.source or "trustwatch", MAX_NAME),
        "severity": SEVERITIES[alert.level],
        "component": truncate(display_text(alert.data.get("agent_type")), MAX_NAME),
        "group": truncate(display_text(alert.data.get("tenant")), MAX_NAME),
        "class": truncate(alert.type, MAX_NAME),
        "timestamp": alert.time,
        "custom_details": _details(alert),
    }
    return {name: value for name, value in payload.items() if value}


def _details(alert: AlertContent) -> dict[str, Any]:
    """The alert's data; only what people are shown, where that would be too long."""
    whole = {"type": alert.type, "id": alert.event_id, **alert.data}
    if len(msgspec.json.encode(whole)) <= MAX_DETAILS:
        return whole
    return {truncate(label, MAX_NAME): truncate(value, 2_048) for label, value in alert.fields}

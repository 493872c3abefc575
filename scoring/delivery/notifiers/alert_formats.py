"""Rendering of a stored alert as the bytes that one kind of target takes.

It happens at delivery, so that the outbox holds one format and a target whose format changes is right at once.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from ...records.agents import RiskLevel
from .alert_content import MAX_LISTED_ITEMS, AlertContent, dedup_key, display_text, parse_alert, text_or_empty, truncate
from .alert_events import CLOUDEVENTS_CONTENT_TYPE, with_console_link

# OCSF: Detection Findings, with only the members that 1.5 to 1.8 share. The object `ai_agent` comes with 1.9, which is
# not released: validators of released versions would refuse it. So the agent is a resource of type `ai_agent`, and the
# object, in the form of 1.9, is a member of `unmapped`.

OCSF_VERSION = "1.5.0"
CLASS_UID, CATEGORY_UID = 2004, 2
PRODUCT: Final = {
    "name": "Trustwatch",
    "vendor_name": "Trustwatch",
    "uid": "trustwatch",
    "version": version("trustwatch"),
}

_CREATE, _UPDATE, _CLOSE = (1, "Create"), (2, "Update"), (3, "Close")
_STATUS = {_CREATE: (1, "New"), _UPDATE: (2, "In Progress"), _CLOSE: (4, "Resolved")}
_SEVERITY: Final = {
    RiskLevel.UNKNOWN: (0, "Unknown"),
    RiskLevel.LOW: (2, "Low"),
    RiskLevel.MEDIUM: (3, "Medium"),
    RiskLevel.HIGH: (4, "High"),
    RiskLevel.CRITICAL: (5, "Critical"),
}
_RISK: Final = {
    RiskLevel.LOW: (1, "Low"),
    RiskLevel.MEDIUM: (2, "Medium"),
    RiskLevel.HIGH: (3, "High"),
    RiskLevel.CRITICAL: (4, "Critical"),
}
_BEHAVIORAL = (2, "Behavioral")
_RESOURCE_UID = (10, "Resource UID")
_SUBNET, _OTHER_OBSERVABLE = (12, "Subnet"), 99
_OBSERVABLES: Final = {"address": (2, "IP Address"), "software": (16, "HTTP User-Agent"), "key": (30, "Fingerprint")}
"""Types of indicators that the framework has; a network is a subnet if it is not an autonomous system."""
_MAPPED_MEMBERS = frozenset({"reasons", "tenant", "issuer", "agent_id", "agent_type"})


def render_ocsf(alert: AlertContent) -> dict[str, Any]:
    """*alert* as a Detection Finding. Alerts about one agent update one finding; its return to low closes it."""
    was_alerting = alert.previous is not None and alert.previous >= RiskLevel.MEDIUM
    activity = _CLOSE if alert.resolves else _UPDATE if was_alerting else _CREATE
    try:
        at_ms = int(datetime.fromisoformat(alert.time).timestamp() * 1000)
    except (ValueError, OverflowError):
        at_ms = 0  # it is not a time
    severity = (1, "Informational") if alert.kind == "test" else _SEVERITY[alert.level]
    body: dict[str, Any] = {
        "class_uid": CLASS_UID,
        "class_name": "Detection Finding",
        "category_uid": CATEGORY_UID,
        "category_name": "Findings",
        **_enum_members("activity", activity, "activity_name"),
        "type_uid": CLASS_UID * 100 + activity[0],
        "type_name": f"Detection Finding: {activity[1]}",
        "time": at_ms,
        **_enum_members("severity", severity, "severity"),
        **_enum_members("status", _STATUS[activity], "status"),
        "message": alert.title,
        "is_alert": alert.needs_attention and alert.kind != "test",
        "metadata": _metadata(alert),
        "finding_info": _finding(alert, at_ms),
        "unmapped": {name: value for name, value in alert.data.items() if name not in _MAPPED_MEMBERS},
    }
    if alert.kind == "test":
        body["comment"] = "; ".join(alert.reasons)
    if agent := text_or_empty(alert.data.get("agent_id")):
        kind = _enum_members("type", (0, "Unknown"), "type")
        body["unmapped"]["ai_agent"] = {"uid": agent, "name": agent, **kind}
    return body | _scores(alert) | _agent_members(alert)


def _enum_members(member: str, value: tuple[int, str], name: str) -> dict[str, Any]:
    return {f"{member}_id": value[0], name: value[1]}


def _metadata(alert: AlertContent) -> dict[str, Any]:
    optional = {
        "uid": alert.event_id,
        "event_code": alert.type,
        "tenant_uid": display_text(alert.data.get("tenant")),
        "original_time": alert.time,
        "labels": ["test"] if alert.kind == "test" else [],
    }
    return {"version": OCSF_VERSION, "product": dict(PRODUCT), **_without_empty(optional)}


def _finding(alert: AlertContent, at_ms: int) -> dict[str, Any]:
    name = display_text(alert.data.get("model_version"))
    analytic = {"name": "Trustwatch", "uid": name, "version": name, **_enum_members("type", _BEHAVIORAL, "type")}
    links = dict(alert.links)
    optional = {
        "title": alert.title,
        "desc": "; ".join(alert.reasons),
        "src_url": links.get("Console") or links.get("Decision", ""),
        "types": [alert.type] if alert.type else [],
        "analytic": _without_empty(analytic) if alert.kind == "level" else {},
    }
    return {"uid": dedup_key(alert), "modified_time": at_ms, **_without_empty(optional)}


def _scores(alert: AlertContent) -> dict[str, Any]:
    """Risk and confidence as whole numbers of 0 to 100, as the framework has them."""
    scores: dict[str, Any] = {}
    for name, ours in (("risk_score", "risk_score"), ("confidence_score", "confidence")):
        value = alert.data.get(ours)
        if isinstance(value, int | float) and 0 <= value <= 1:
            scores[name] = round(value * 100)
    if alert.kind == "level" and alert.level in _RISK:
        scores |= _enum_members("risk_level", _RISK[alert.level], "risk_level")
    return scores


def _agent_members(alert: AlertContent) -> dict[str, Any]:
    """The agent as resource and observable, the indicators as observables, the reasons as evidence."""
    about: dict[str, Any] = {}
    agent = text_or_empty(alert.data.get("agent_id"))
    if agent:
        data = {name: display_text(alert.data.get(name)) for name in ("tenant", "issuer", "agent_type")}
        labels = [f"agent_type={data['agent_type']}"] if data["agent_type"] else []
        optional = {"namespace": data["issuer"], "labels": labels, "data": _without_empty(data)}
        resource = {"uid": agent, "name": agent, "type": "ai_agent", **_without_empty(optional)}
        about["resources"] = [resource]
        observable = {"name": "resources[].uid", "value": agent, **_enum_members("type", _RESOURCE_UID, "type")}
        about["observables"] = [observable, *_indicators(alert)]
    reasons = alert.data.get("reasons")
    listed = reasons if isinstance(reasons, list) else []
    evidences = [{"data": dict(reason)} for reason in listed if isinstance(reason, Mapping) and reason]
    return about | ({"evidences": evidences} if evidences else {})


def _indicators(alert: AlertContent) -> list[dict[str, Any]]:
    """Indicators as observables; what the framework has no type for is of another one, by its name."""
    given, observables = alert.data.get("indicators"), []
    for indicator in (given if isinstance(given, list) else [])[:MAX_LISTED_ITEMS]:
        if isinstance(indicator, Mapping):
            kind, value = display_text(indicator.get("kind")), text_or_empty(indicator.get("value"))
            if kind and value:
                observable = {"name": "unmapped.indicators[].value", "value": value}
                observables.append(observable | _enum_members("type", _observable_type(kind, value), "type"))
    return observables


def _observable_type(kind: str, value: str) -> tuple[int, str]:
    if kind == "network" and "/" in value:
        return _SUBNET
    if kind == "address":
        try:
            ipaddress.ip_address(value)
        except ValueError:
            return _OTHER_OBSERVABLE, kind
    return _OBSERVABLES.get(kind, (_OTHER_OBSERVABLE, kind))


def _without_empty(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value not in ("", [], {})}


# PagerDuty: Events API v2, and what takes the same bodies

MAX_SUMMARY, MAX_NAME = 1_024, 255
MAX_DETAILS = 256 * 1024  # Bytes of details; PagerDuty refuses a body above 512 KB as a whole

SEVERITIES: Final = {
    RiskLevel.UNKNOWN: "info",
    RiskLevel.LOW: "info",
    RiskLevel.MEDIUM: "warning",
    RiskLevel.HIGH: "error",
    RiskLevel.CRITICAL: "critical",
}


def render_pagerduty(alert: AlertContent, routing_key: str) -> dict[str, Any] | None:
    """*alert* as an event; None if PagerDuty has nothing to do.

    A rise to medium or above triggers under one key per case (per agent, if there is none). The incident is resolved
    when all agents of the case are below medium, or a person closes it, and acknowledged when a person does that here.
    Any other fall leaves the incident as it is.
    """
    case_id, incident = alert.case.get("case_id"), dedup_key(alert)
    if isinstance(case_id, str) and case_id:
        incident = f"trustwatch-case-{hashlib.sha256(case_id.encode(errors='surrogatepass')).hexdigest()}"
    key = {"routing_key": routing_key, "dedup_key": incident}
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
        "payload": _pagerduty_payload(alert),
    }


def _pagerduty_payload(alert: AlertContent) -> dict[str, Any]:
    details = {"type": alert.type, "id": alert.event_id, **alert.data}
    if len(msgspec.json.encode(details)) > MAX_DETAILS:
        details = {truncate(label, MAX_NAME): truncate(value, 2_048) for label, value in alert.fields}
    payload = {
        "summary": truncate(alert.title + "".join(f"; {reason}" for reason in alert.reasons), MAX_SUMMARY),
        "source": truncate(alert.subject or alert.source or "trustwatch", MAX_NAME),
        "severity": SEVERITIES[alert.level],
        "component": truncate(display_text(alert.data.get("agent_type")), MAX_NAME),
        "group": truncate(display_text(alert.data.get("tenant")), MAX_NAME),
        "class": truncate(alert.type, MAX_NAME),
        "timestamp": alert.time,
        "custom_details": details,
    }
    return {name: value for name, value in payload.items() if value}


# Slack: incoming webhooks, and chats that take the same bodies. Names come from agents, who may be hostile: blocks have
# them as `plain_text`, which formats nothing; in `text`, which chats read as mark-up, they are escaped.

MAX_HEADER, MAX_FIELD, MAX_SECTION, MAX_TEXT = 150, 2_000, 3_000, 4_000
"""Slack's limits in characters; a message beyond them is refused as a whole. The last one is what Slack advises."""

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ZERO_WIDTH_SPACE = "\u200b"  # zero width: shown as nothing, and ends what would be mark-up or a mention (`@channel`)
_ESCAPES = str.maketrans(_ENTITIES | {char: char + _ZERO_WIDTH_SPACE for char in "*_~`@#[]!|\\"})
_LEVEL_SYMBOLS = {
    RiskLevel.UNKNOWN: "⚪",
    RiskLevel.LOW: "🟢",
    RiskLevel.MEDIUM: "🟡",
    RiskLevel.HIGH: "🟠",
    RiskLevel.CRITICAL: "🔴",
}


def render_slack(alert: AlertContent) -> dict[str, Any]:
    """*alert* as the body of a POST to an incoming webhook."""
    sign = _LEVEL_SYMBOLS[alert.level]
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain_text(f"{sign} {alert.title}", MAX_HEADER)}]
    for rows in filter(None, (alert.fields, alert.indicators)):
        fields = [_plain_text(f"{label}: {value}", MAX_FIELD) for label, value in rows]
        blocks.append({"type": "section", "fields": fields})
    if alert.reasons:
        blocks.append({"type": "section", "text": _plain_text("\n".join(f"• {r}" for r in alert.reasons), MAX_SECTION)})
    links = ""
    for label, url in alert.links:
        link = f"<{url.replace('&', '&amp;')}|{escape_markup(truncate(label, 75))}>"
        longer = f"{links} · {link}" if links else link
        if len(longer) <= MAX_SECTION:  # a link that is cut would lead elsewhere
            links = longer
    if links:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": links, "verbatim": True}})
    # Each part is cut before it is escaped, so that no entity is cut in two.
    fallback = "\n".join(escape_markup(truncate(part, 200)) for part in (alert.title, *alert.reasons[:3]))
    return {"text": fallback[:MAX_TEXT], "blocks": blocks}


def escape_markup(value: str) -> str:
    """*value* so that no chat reads mark-up, a link or a mention in it.

    >>> escape_markup("<!channel> & co")
    '&lt;!\\u200bchannel&gt; &amp; co'
    """
    return value.translate(_ESCAPES)


def _plain_text(value: str, most: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": truncate(value, most), "emoji": False}


# Choice of the format

AlertFormat = Literal["cloudevents", "slack", "pagerduty", "ocsf"]
ALERT_FORMATS: tuple[AlertFormat, ...] = get_args(AlertFormat)

SIGNED_FORMATS: frozenset[AlertFormat] = frozenset({"cloudevents", "ocsf"})
"""Formats of receivers that check a signature. The others know us by a secret in the URL or the body."""

STATEFUL_FORMATS: frozenset[AlertFormat] = frozenset({"pagerduty", "ocsf"})
"""Formats that keep one incident or finding per agent: there nothing repeats, and each end has to be sent."""

JSON_CONTENT_TYPE = "application/json"


class RenderedAlert(NamedTuple):
    """Body of a request to a target."""

    body: bytes
    content_type: str


def render_alert(
    payload: bytes, alert_format: AlertFormat, suppressed_before: int = 0, routing_key: str = "", console: str = ""
) -> RenderedAlert | None:
    """*payload* (a CloudEvent as JSON) as *alert_format*; None if that kind of target has nothing to do.

    Raises:
        msgspec.DecodeError: the payload is not a JSON object. Nothing else makes it fail.
    """
    event = with_console_link(msgspec.json.decode(payload, type=dict[str, Any]), console)
    data = event.get("data")
    if isinstance(data, dict):
        data["suppressed_before"] = suppressed_before
    alert, body = parse_alert(event), None
    match alert_format:
        case "cloudevents":
            return RenderedAlert(msgspec.json.encode(event), CLOUDEVENTS_CONTENT_TYPE)
        case "slack":
            body = render_slack(alert)
        case "pagerduty":
            body = render_pagerduty(alert, routing_key)
        case "ocsf" if alert.kind != "case":
            body = render_ocsf(alert)
    return None if body is None else RenderedAlert(msgspec.json.encode(body), JSON_CONTENT_TYPE)

"""Detection Findings of the Open Cybersecurity Schema Framework, for SIEMs and data lakes.

Only members that OCSF 1.5 to 1.8 have alike are used. The object `ai_agent` comes with 1.9, which is not released: a
finding that had it would be refused by whoever validates by a released version. So the agent is a resource of type
`ai_agent`, and the object stands, as 1.9 has it, among the members that the framework has no place for (`unmapped`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final

from ...records.agents import RiskLevel
from .alert_content import MAX_LISTED_ITEMS, AlertContent, display_text, text_or_empty
from .pagerduty import dedup_key

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
"""Types of indicators that the framework has; a network is a subnet where it is no autonomous system."""
_MAPPED_MEMBERS = frozenset({"reasons", "tenant", "issuer", "agent_id", "agent_type"})


def render_ocsf(alert: AlertContent) -> dict[str, Any]:
    """*alert* as a Detection Finding. Alerts about one agent update one finding; its return to low closes it."""
    activity, at_ms = _activity(alert), _parse_ms(alert.time)
    body: dict[str, Any] = {
        "class_uid": CLASS_UID,
        "class_name": "Detection Finding",
        "category_uid": CATEGORY_UID,
        "category_name": "Findings",
        **_enum_members("activity", activity, "activity_name"),
        "type_uid": CLASS_UID * 100 + activity[0],
        "type_name": f"Detection Finding: {activity[1]}",
        "time": at_ms,
        **_severity(alert),
        **_enum_members("status", _STATUS[activity], "status"),
        "message": alert.title,
        "is_alert": alert.needs_attention and alert.kind != "test",
        "metadata": _metadata(alert),
        "finding_info": _finding(alert, at_ms),
        "unmapped": {
            **{name: value for name, value in alert.data.items() if name not in _MAPPED_MEMBERS},
            **_ai_agent(alert),
        },
    }
    if alert.kind == "test":
        body["comment"] = "; ".join(alert.reasons)
    return body | _scores(alert) | _agent_members(alert)


def _activity(alert: AlertContent) -> tuple[int, str]:
    if alert.resolves:
        return _CLOSE
    was_alerting = alert.previous is not None and alert.previous >= RiskLevel.MEDIUM
    return _UPDATE if was_alerting else _CREATE


def _severity(alert: AlertContent) -> dict[str, Any]:
    severity = (1, "Informational") if alert.kind == "test" else _SEVERITY[alert.level]
    return _enum_members("severity", severity, "severity")


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
        about["resources"] = [_agent_resource(alert, agent)]
        observable = {"name": "resources[].uid", "value": agent, **_enum_members("type", _RESOURCE_UID, "type")}
        about["observables"] = [observable, *_indicators(alert)]
    reasons = alert.data.get("reasons")
    listed = reasons if isinstance(reasons, list) else []
    evidences = [{"data": dict(reason)} for reason in listed if isinstance(reason, Mapping) and reason]
    return about | ({"evidences": evidences} if evidences else {})


def _ai_agent(alert: AlertContent) -> dict[str, Any]:
    """The agent as the object `ai_agent` of OCSF 1.9; its framework is not known to us."""
    agent = text_or_empty(alert.data.get("agent_id"))
    return {"ai_agent": {"uid": agent, "name": agent, **_enum_members("type", (0, "Unknown"), "type")}} if agent else {}


def _indicators(alert: AlertContent) -> list[dict[str, Any]]:
    """Indicators as observables; what the framework has no type for is of another one, by its name."""
    given = alert.data.get("indicators")
    named = [
        (display_text(indicator.get("kind")), text_or_empty(indicator.get("value")))
        for indicator in (given if isinstance(given, list) else [])[:MAX_LISTED_ITEMS]
        if isinstance(indicator, Mapping)
    ]
    return [
        {
            "name": "unmapped.indicators[].value",
            "value": value,
            **_enum_members("type", _observable_type(kind, value), "type"),
        }
        for kind, value in named
        if kind and value
    ]


def _observable_type(kind: str, value: str) -> tuple[int, str]:
    if kind == "address" and not _is_address(value):
        return _OTHER_OBSERVABLE, kind
    if kind == "network" and "/" in value:
        return _SUBNET
    return _OBSERVABLES.get(kind, (_OTHER_OBSERVABLE, kind))


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _agent_resource(alert: AlertContent, agent: str) -> dict[str, Any]:
    data = {name: display_text(alert.data.get(name)) for name in ("tenant", "issuer", "agent_type")}
    role = data["agent_type"]
    optional = {
        "namespace": data["issuer"],
        "labels": [f"agent_type={role}"] if role else [],
        "data": _without_empty(data),
    }
    return {"uid": agent, "name": agent, "type": "ai_agent", **_without_empty(optional)}


def _without_empty(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value not in ("", [], {})}


def _parse_ms(time: str) -> int:
    """UTC milliseconds of an RFC 3339 time; 0 where it is none."""
    try:
        return int(datetime.fromisoformat(time).timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0

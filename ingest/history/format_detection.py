"""The format of records, told by what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import MalformedEvent
from ..formats.keycloak_events import KEYCLOAK_LOGGER
from ..formats.log_lines import AGENTGATEWAY_SIGN, decode_object, shipper_text
from ..formats.wrapped_records import without_envelope

Record = Mapping[str, Any]
MAX_SHOWN_MEMBERS = 8


def _has(*names: str) -> Callable[[Record], bool]:
    return lambda record: all(name in record for name in names)


def _is_native(record: Record) -> bool:
    agent = record.get("agent")
    return isinstance(agent, dict) and "id" in agent and "action" in record


def _is_keycloak(record: Record) -> bool:
    return "realmId" in record and ("operationType" in record or ("type" in record and "clientId" in record))


def _is_hydra(record: Record) -> bool:
    request = record.get("http_request")
    path = request.get("path") if isinstance(request, dict) else None
    return record.get("service_name") == "Ory Hydra" or "/oauth2/" in str(path)


def _is_caddy(record: Record) -> bool:
    return str(record.get("logger", "")).startswith("http.log.access") and "request" in record


def _is_entra_audit(record: Record) -> bool:
    return any(
        names <= record.keys() for names in ({"initiatedBy", "targetResources"}, {"InitiatedBy", "TargetResources"})
    )


def _is_okta(record: Record) -> bool:
    return any(
        names <= record.keys()
        for names in ({"uuid", "published", "eventType", "actor"}, {"uuid", "event_type", "actor.id"})
    )


def _is_auth0(record: Record) -> bool:
    identified = "log_id" in record or "_id" in record
    return identified and {"date", "type"} <= record.keys() and bool({"client_id", "tenant_name"} & record.keys())


def _is_gcp_audit(record: Record) -> bool:
    payload = record.get("protoPayload", record.get("protopayload_auditlog"))
    return isinstance(payload, dict) and "methodName" in payload


def _is_workspace(record: Record) -> bool:
    identity = record.get("id")
    return isinstance(identity, dict) and "applicationName" in identity and "events" in record


def _is_langfuse(record: Record) -> bool:
    return "type" in record and any(
        names <= record.keys() for names in ({"traceId", "startTime"}, {"trace_id", "start_time", "level"})
    )


SIGNS: Mapping[str, Callable[[Record], bool]] = {
    "native": _is_native,
    "cloudevents": _has("specversion", "type", "source"),
    "otlp": lambda record: "resourceSpans" in record or "resourceLogs" in record,
    "aws-cloudtrail": _has("eventSource", "eventName", "eventTime"),
    "okta": _is_okta,
    "auth0": _is_auth0,
    "gcp-audit": _is_gcp_audit,
    "google-workspace": _is_workspace,
    "ocsf": _has("class_uid", "metadata"),
    "langsmith": _has("run_type", "start_time", "trace_id"),
    "langfuse": _is_langfuse,
    "contextforge": _has("action", "resource_type", "user_id", "success", "requires_review"),
    "entra-signin": _has("createdDateTime", "appId", "status", "conditionalAccessStatus"),
    "entra-signin-table": _has("TimeGenerated", "AppId", "ResultType", "ConditionalAccessStatus"),
    "entra-audit": _is_entra_audit,
    "github-audit": _has("@timestamp", "action", "_document_id"),
    "kubernetes-audit": _has("auditID", "stage", "verb", "user"),
    "keycloak": _is_keycloak,
    "hydra": _is_hydra,
    "envoy": _has("response_code", "start_time", "method"),
    "kong": _has("latencies", "started_at", "request"),
    "apisix": _has("start_time", "request", "response", "client_ip"),
    "caddy": _is_caddy,
    "agentgateway": _has("src.addr", "http.method"),
}
"""Signs of each format in a JSON record; the first that holds counts. Ours (`native`, `cloudevents`) come first."""

_SIGNS_OF_LINES = {"keycloak": f"[{KEYCLOAK_LOGGER}]", "agentgateway": AGENTGATEWAY_SIGN}


def record_format(raw: bytes) -> str | None:
    """The format of one record; None where nothing tells it."""
    if raw.lstrip()[:1] != b"{":
        return _line_format(raw.decode(errors="replace"))
    try:
        record = decode_object(raw)
        return _object_format(record) or _object_format(without_envelope(record)) or _text_format(record)
    except MalformedEvent:
        return None


def _object_format(record: Record) -> str | None:
    return next((name for name, shows in SIGNS.items() if shows(record)), None)


def _text_format(record: Record) -> str | None:
    text = shipper_text(record)
    return None if text is None else _line_format(text)


def _line_format(line: str) -> str | None:
    return next((name for name, sign in _SIGNS_OF_LINES.items() if sign in line), None)


def most_common_format(records: Iterable[bytes]) -> str | None:
    """The format that most records show; None where none shows any."""
    counts = Counter(name for name in map(record_format, records) if name is not None)
    return counts.most_common(1)[0][0] if counts else None


_LOSSY_EXPORTS = {
    (
        "Event ID",
        "Event source",
    ): "CloudTrail's console leaves roles out of this table: take `aws cloudtrail lookup-events`",
    ("Date (UTC)", "Request ID"): "this table of the Entra portal names too little: download JSON there",
    ("TimeGenerated [UTC]",): "its times are written as one country does: take `az monitor log-analytics query`",
}
"""First columns of tables that can not be read, and what can be had in their place."""


def export_advice(raw: bytes) -> str | None:
    """Advice for whoever has a table of a portal that leaves out what is needed; None for every other record."""
    try:
        names = decode_object(raw).keys()
    except MalformedEvent:
        return None
    return next((advice for columns, advice in _LOSSY_EXPORTS.items() if {*columns} <= names), None)


def describe_record(raw: bytes) -> str:
    """A record in words, for somebody who has to say which format it is: names alone, never values."""
    if raw.lstrip()[:1] != b"{":
        return "a line of text"
    try:
        names = list(decode_object(raw))
    except MalformedEvent:
        return "no JSON"
    shown = ", ".join(f"`{name:.60}`" for name in names[:MAX_SHOWN_MEMBERS])
    return f"an object with {shown}{', …' if len(names) > MAX_SHOWN_MEMBERS else ''}" if names else "an empty object"

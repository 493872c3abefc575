"""Signs by which a JSON record shows its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Record = Mapping[str, Any]
SignReader = Callable[[Record], bool]


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


def _is_github(record: Record) -> bool:
    return {"@timestamp", "action"} <= record.keys() and bool({"_document_id", "actor"} & record.keys())


def _is_okta(record: Record) -> bool:
    return any(
        names <= record.keys()
        for names in ({"uuid", "published", "eventType", "actor"}, {"uuid", "event_type", "actor.id"})
    )


def _is_auth0(record: Record) -> bool:
    return {"date", "type"} <= record.keys() and ("log_id" in record or {"_id", "isMobile"} <= record.keys())


def _is_gcp_audit(record: Record) -> bool:
    payload = record.get("protoPayload", record.get("protopayload_auditlog"))
    return isinstance(payload, dict) and "methodName" in payload


def _is_workspace(record: Record) -> bool:
    identity = record.get("id")
    return isinstance(identity, dict) and "applicationName" in identity and "events" in record


OBSERVATION_TYPES = (
    *("TOOL", "GENERATION", "SPAN", "EVENT", "AGENT"),
    *("CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL"),
)
"""Types of observations of Langfuse."""


def _is_observation(record: Record) -> bool:
    return record.get("type") in OBSERVATION_TYPES and any(
        names <= record.keys() for names in ({"traceId", "startTime"}, {"trace_id", "start_time"})
    )


def _is_langfuse(record: Record) -> bool:
    observations = record.get("observations")
    if isinstance(observations, list) and observations and isinstance(observations[0], dict):
        return _is_observation(observations[0])
    return _is_observation(record)


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
    "github-audit": _is_github,
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

"""Mappings of products' logs, as their manuals and real records show them: `presets/NAME.yaml`, read on first use.

A preset is what settings have under `mapping`, `define` with expressions that others name by `$NAME`, and `base`, the
preset that it changes.

- An agent acts without a person: a client, role, service account or application; each preset lists the machine actors
  of its log. A person is at most the principal of a client. Records that name no agent are skipped, because a log also
  has lines about unknown callers.
- An action is the tool, or the method with the route: paths hold ids, and each would be a separate action. The path is
  the resource, without its query.
- Only an id that the product alone chooses identifies an event. A client may send its own `x-request-id`, and events
  that repeat it would be dropped as duplicates.
- Nothing of requests and answers passes, except the name of the object: logs hold policies, variables, and secrets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from ..settings_reading import decode_yaml
from .record_mapping import MappingSpec

GATEWAY_FORMATS = ("envoy", "agentgateway", "kong", "apisix", "caddy", "contextforge")
AUDIT_LOG_FORMATS = (
    "aws-cloudtrail",
    "okta",
    "auth0",
    "gcp-audit",
    "google-workspace",
    "ocsf",
    "langsmith",
    "langfuse",
    "entra-signin",
    "entra-signin-table",
    "entra-audit",
    "github-audit",
    "kubernetes-audit",
)

_DEFINED = re.compile(r"\$([A-Z][A-Z0-9_]*)")
_FOLDER = Path(__file__).parent / "presets"


@cache
def read_preset(name: str) -> MappingSpec:
    """Read the mapping in `presets/NAME.yaml`."""
    raw = decode_yaml((_FOLDER / f"{name}.yaml").read_bytes(), name)
    base = raw.pop("base", None)
    defined: dict[str, str] = {}

    def expand(text: str) -> str:
        return _DEFINED.sub(lambda match: defined[match[1]], text)

    for word, text in raw.pop("define", {}).items():
        defined[word] = expand(text)
    members = {member: expand(text) for member, text in raw["members"].items()}
    spec = msgspec.convert({**raw, "members": members, "when": expand(raw.get("when", ""))}, MappingSpec)
    return spec if base is None else spec.merged_over(read_preset(base))


Record = Mapping[str, Any]
SignReader = Callable[[Record], bool]

OBSERVATION_TYPES = (
    *("TOOL", "GENERATION", "SPAN", "EVENT", "AGENT"),
    *("CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL"),
)
"""Types of observations of Langfuse."""


def _has(*alternatives: str) -> SignReader:
    """Return a reader that looks for all members of one of *alternatives*, whose names are separated by blanks."""
    member_names = [frozenset(names.split()) for names in alternatives]
    return lambda record: any(names <= record.keys() for names in member_names)


def _inside(record: Record, *names: str) -> Record:
    """Return the object in the first member of *names* that the record has; {} if that is not an object."""
    inner = next((record[name] for name in names if name in record), None)
    return inner if isinstance(inner, dict) else {}


_has_keys_of_observation = _has("traceId startTime", "trace_id start_time")


def _is_observation(record: Record) -> bool:
    return record.get("type") in OBSERVATION_TYPES and _has_keys_of_observation(record)


def _is_langfuse(record: Record) -> bool:
    observations = record.get("observations")
    first = observations[0] if isinstance(observations, list) and observations else None
    return _is_observation(first if isinstance(first, dict) else record)


SIGNS: Mapping[str, SignReader] = {
    "native": lambda record: "id" in _inside(record, "agent") and "action" in record,
    "cloudevents": _has("specversion type source"),
    "otlp": _has("resourceSpans", "resourceLogs"),
    "aws-cloudtrail": _has("eventSource eventName eventTime"),
    "okta": _has("uuid published eventType actor", "uuid event_type actor.id"),
    "auth0": _has("date type log_id", "date type _id isMobile"),
    "gcp-audit": lambda record: "methodName" in _inside(record, "protoPayload", "protopayload_auditlog"),
    "google-workspace": lambda record: "applicationName" in _inside(record, "id") and "events" in record,
    "ocsf": _has("class_uid metadata"),
    "langsmith": _has("run_type start_time trace_id"),
    "langfuse": _is_langfuse,
    "contextforge": _has("action resource_type user_id success requires_review"),
    "entra-signin": _has("createdDateTime appId status conditionalAccessStatus"),
    "entra-signin-table": _has("TimeGenerated AppId ResultType ConditionalAccessStatus"),
    "entra-audit": _has("initiatedBy targetResources", "InitiatedBy TargetResources"),
    "github-audit": _has("@timestamp action _document_id", "@timestamp action actor"),
    "kubernetes-audit": _has("auditID stage verb user"),
    "keycloak": _has("realmId operationType", "realmId type clientId"),
    "hydra": lambda record: (
        record.get("service_name") == "Ory Hydra" or "/oauth2/" in str(_inside(record, "http_request").get("path"))
    ),
    "envoy": _has("response_code start_time method"),
    "kong": _has("latencies started_at request"),
    "apisix": _has("start_time request response client_ip"),
    "caddy": lambda record: str(record.get("logger", "")).startswith("http.log.access") and "request" in record,
    "agentgateway": _has("src.addr http.method"),
}
"""Signs of each format in a JSON record; the first that holds counts. Ours (`native`, `cloudevents`) come first."""

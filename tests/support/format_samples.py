"""Records of foreign formats, what became of them, and lines that running servers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.formats.format_registry import create_parser
from trustwatch.ingest.formats.record_mapping import MappingSpec

LINES = Path(__file__).parents[1] / "ingest" / "formats" / "lines"
"""What running servers wrote: Keycloak 26.7.3, Ory Hydra 2.3.0 and node-oidc-provider of `scripts/services`."""


AUDIT_LOG_SAMPLES = {
    "aws-cloudtrail": ("aws_cloudtrail.json", "Records"),
    "okta": ("okta.json", "events"),
    "auth0": ("auth0.json", "records"),
    "gcp-audit": ("gcp_audit.json", "records"),
    "google-workspace": ("google_workspace.json", "items"),
    "ocsf": ("ocsf.json", "records"),
    "langsmith": ("langsmith.json", "records"),
    "langfuse": ("langfuse.json", "records"),
    "entra-signin": ("entra_signin.json", "value"),
    "entra-signin-table": ("entra_signin_table.json", "records"),
    "entra-audit": ("entra_audit.json", "value"),
    "github-audit": ("github_audit.json", "records"),
    "kubernetes-audit": ("kubernetes_audit.json", "items"),
}
"""By format: the file in `LINES`, written by hand in the shape that the vendor documents, and the member of it that
holds the records. What may not pass has `SECRET` in it."""


def audit_log_records(name: str) -> list[dict[str, Any]]:
    """Records of the sample of a format."""
    file, member = AUDIT_LOG_SAMPLES[name]
    records: list[dict[str, Any]] = json.loads((LINES / file).read_bytes())[member]
    return records


class Taken(NamedTuple):
    """What became of a value: native events, how many records were skipped, and reasons of refusals."""

    events: list[dict[str, Any]]
    skipped: int
    refusals: list[str]


def taken(name: str, value: bytes | str | object, spec: MappingSpec | None = None) -> Taken:
    """A value through a format; every event is one that the door takes. Objects are sent as JSON."""
    raw = (
        value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else json.dumps(value).encode()
    )
    parcels, skipped = create_parser(name, spec)(raw, {})
    events, refusals = [], []
    for parcel in parcels:
        assert parcel.to_native is not None
        try:
            native = parcel.to_native()
        except MalformedEvent as error:
            refusals.append(f"{error.path}: {error.reason}")
        else:
            decode_event(native)
            events.append(json.loads(native))
    return Taken(events, skipped, refusals)


EventRow = tuple[str, str | None, str | None, str, str, str | None, str]
"""Agent, its type, principal, type, action, effect, outcome."""


def event_rows(found: Taken) -> list[EventRow]:
    return [
        (
            event["agent"]["id"],
            event["agent"].get("type"),
            event.get("principal", {}).get("id"),
            event["type"],
            event["action"],
            event.get("effect"),
            event["outcome"],
        )
        for event in found.events
    ]


def one(name: str, value: bytes | str | object, **members: str) -> dict[str, Any]:
    """The only event of a value, without its id."""
    spec = MappingSpec(members={member.replace("__", "."): text for member, text in members.items()})
    events, skipped, refusals = taken(name, value, spec)
    assert (len(events), skipped, refusals) == (1, 0, [])
    events[0].pop("id")
    return events[0]


LOGIN = {
    "id": "05e40b6c",
    "time": 1795610231555,
    "type": "CLIENT_LOGIN",
    "realmId": "r-1",
    "clientId": "app-1",
    "userId": "u-1",
    "ipAddress": "10.42.0.14",
    "details": {
        "token_id": "trrtcc:7efd",
        "grant_type": "client_credentials",
        "scope": "email profile",
        "client_auth_method": "client-jwt",
        "client_jwt_kid": "k1",
        "username": "service-account-app-1",
    },
}
QUOTED = (
    'type="CLIENT_LOGIN", realmId="r-1", realmName="agents", clientId="app-1", userId="u-1", ipAddress="10.42.0.14",'
    ' token_id="trrtcc:7efd", grant_type="client_credentials", scope="email profile", client_auth_method="client-jwt",'
    ' client_jwt_kid="k1", username="service-account-app-1", authSessionParentId="s", authSessionTabId="t"'
)
OLD = (
    "type=CLIENT_LOGIN, realmId=agents, clientId=app-1, userId=u-1, ipAddress=10.42.0.14, token_id=trrtcc:7efd,"
    " grant_type=client_credentials, scope='email profile', client_auth_method=client-jwt, client_jwt_kid=k1,"
    " username=service-account-app-1"
)
AT = "2026-11-25 12:37:11,555 INFO  [org.keycloak.events] (executor-thread-1) "
ADMIN: dict[str, Any] = {
    "id": "a-1",
    "time": 1795610231630,
    "realmId": "r-1",
    "operationType": "UPDATE",
    "resourceType": "CLIENT",
    "resourcePath": "clients/c-1",
    "representation": '{"clientId": "app-1", "secret": "hunter2"}',
    "authDetails": {"realmId": "m", "clientId": "788ea4dc", "userId": "u-9", "ipAddress": "10.0.0.1"},
}


START = 1_764_000_000_123_456_789
TRACE, SPAN = "435cf05aec2200ec45146f118d82a2bd", "61b840ab7a229146"
TOOL = {
    "mcp.method.name": "tools/call",
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": "read_file",
    "gen_ai.agent.id": "agent-7",
    "gen_ai.agent.version": "2",
    "gen_ai.conversation.id": "conv-1",
    "server.address": "files.example",
    "gen_ai.tool.call.arguments": "secret",
    "gen_ai.input.messages": ["secret"],
    "gen_ai.usage.input_tokens": 12,
    "gen_ai.request.model": "m-1",
    "enduser.id": "ann",
}


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    """As OTLP/JSON writes them; whole numbers are texts."""
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue", list: "arrayValue"}
    return [
        {"key": key, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}
        for key, value in values.items()
    ]


def span(values: dict[str, Any], *, kind: Any = 3, resource: dict[str, Any] | None = None, **more: Any) -> Any:
    made = {
        "traceId": TRACE,
        "spanId": SPAN,
        "name": "n",
        "kind": kind,
        "startTimeUnixNano": str(START),
        "endTimeUnixNano": str(START + 31_000_000),
        "attributes": attributes(values),
        **more,
    }
    about = {"attributes": attributes({"service.name": "svc"} if resource is None else resource)}
    return {"resourceSpans": [{"resource": about, "scopeSpans": [{"scope": {"name": "sdk"}, "spans": [made]}]}]}


def logs(scope: str, *records: dict[str, Any]) -> Any:
    made = [
        {"timeUnixNano": str(START), "traceId": TRACE, "attributes": attributes(record), "body": {"stringValue": "b"}}
        for record in records
    ]
    return {"resourceLogs": [{"resource": {}, "scopeLogs": [{"scope": {"name": scope}, "logRecords": made}]}]}


def hydra(name: str, **values: Any) -> Any:
    """A span of Hydra with one event."""
    event = {"timeUnixNano": str(START), "name": name, "attributes": attributes(values)}
    return span({"http.route": "/oauth2/token"}, kind=2, events=[event])

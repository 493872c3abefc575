"""Auth0, OCSF, traces of LangSmith and Langfuse, ContextForge; what stands in envelopes, in tables, and in others.

The records in `lines/` were written by hand in the shape that each vendor documents:

- Auth0: auth0.com/docs/tenant-logs, one page for each type of event
- OCSF: schema.ocsf.io, "API Activity", "Authentication", the object `ai_agent`; AWS Security Lake's mapping
- LangSmith: docs.langchain.com/langsmith, "Run (span) data format"
- Langfuse: langfuse.com/docs, "Observations API v2", "Blob storage export field reference"
- ContextForge: its audit trail, `/api/logs/audit-trails`, of its source

Whatever may not pass has `SECRET` in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.formats.format_registry import record_format
from trustwatch.ingest.history.record_files import recognise_file

from ...support.format_samples import audit_log_records, event_rows, one, taken

ANN = "ann@example.com"
TOOL_CALL = {
    "id": "c1",
    "timestamp": "2026-03-02T08:00:00.123456",
    "correlation_id": "x",
    "action": "EXECUTE",
    "resource_type": "tool",
    "resource_id": "t1",
    "resource_name": "get_weather",
    "user_id": "bot@acme",
    "user_email": None,
    "success": True,
    "requires_review": False,
    "data_classification": None,
}


def test_auth0() -> None:
    """Clients are agents, and agents of its own; the dashboard and sign-ins of people are none."""
    found = taken("auth0", audit_log_records("auth0"))
    machine, web, user, kind = "m2mAgent1", "webAgent", "auth0|ann", "oauth-client"

    assert event_rows(found) == [
        (machine, kind, None, "token.request", "client_credentials", "unknown", "success"),
        (machine, kind, None, "token.request", "client_credentials", "unknown", "denied"),
        (web, kind, user, "token.request", "authorization_code", "unknown", "success"),
        (web, kind, user, "token.refresh", "refresh_token", "unknown", "success"),
        ("agt_42", "agent", user, "token.exchange", "token_exchange", "unknown", "success"),
        (machine, kind, None, "client.change", "Update a client", "admin", "success"),
        (machine, kind, None, "admin", "failed delete", "delete", "denied"),
        (machine, kind, None, "api.call", "Get users", "read", "success"),
        (web, kind, user, "token.revoke", "token.revoke", None, "success"),
    ]
    assert found.skipped == 2
    assert [event["agent"].get("self_asserted") for event in found.events] == [None, True, *[None] * 7]
    assert [event.get("scopes") for event in found.events[:2]] == [{"granted": ["read:orders", "write:orders"]}, None]
    refused = {**audit_log_records("auth0")[1], "description": "Client is not authorized to access the API"}
    assert "self_asserted" not in one("auth0", refused)["agent"]
    streamed = [{"log_id": record["log_id"], "data": record} for record in audit_log_records("auth0")]
    assert taken("auth0", streamed).events == found.events


def test_ocsf() -> None:
    """The AI agent, else the role, the application, the account that is no person's; findings are skipped."""
    found = taken("ocsf", audit_log_records("ocsf"))
    role, user = "arn:aws:iam::111122223333:role/orders-agent", "arn:aws:iam::111122223333:user/ci"
    logon = "Authentication:Logon"

    assert event_rows(found) == [
        (role, "role", None, "api.call", "s3:GetObject", "read", "success"),
        (user, "iam-user", None, "api.call", "dynamodb:DeleteTable", "delete", "denied"),
        ("svc-7", "Service", None, "token.request", logon, "unknown", "success"),
        ("svc-7", "Service", None, "token.request", logon, "unknown", "denied"),
        ("agent-9", "LangChain", ANN, "tool.call", "booking:tools/call", "unknown", "success"),
        ("app-5", "application", "ann", "api.call", "eks:CreateCluster", "write", "success"),
    ]
    assert found.skipped == 2
    agent = found.events[4]
    assert (agent["agent"]["version"], agent["agent"]["instance"], agent["attributes"]["model"]) == (
        "2.1",
        "i-3",
        "m-1",
    )
    written_out = {**audit_log_records("ocsf")[0], "time": "2026-03-02T08:00:01Z"}
    assert one("ocsf", written_out) == one("ocsf", audit_log_records("ocsf")[0])


def test_traces() -> None:
    """Calls of tools and models; who writes a trace names the agent, so none is vouched for."""
    runs, observations = (taken(name, audit_log_records(name)) for name in ("langsmith", "langfuse"))

    assert event_rows(runs) == [
        ("order-agent", None, ANN, "tool.call", "search_orders", "unknown", "success"),
        ("planner", None, None, "api.call", "llm", "unknown", "success"),
        ("order-agent", None, ANN, "tool.call", "refund", "unknown", "error"),
        ("order-agent", None, ANN, "api.call", "retriever", "read", "success"),
        ("support-bot", None, None, "tool.call", "search_orders", "unknown", "success"),
    ]
    assert event_rows(observations) == [
        ("order-agent", None, ANN, "tool.call", "search_orders", "unknown", "success"),
        ("planner", None, ANN, "api.call", "GENERATION", "unknown", "success"),
        ("support", None, ANN, "tool.call", "refund", "unknown", "error"),
        ("support", None, ANN, "api.call", "RETRIEVER", "read", "success"),
        ("shop", None, ANN, "tool.call", "search_orders", "unknown", "success"),
    ]
    assert all(event["agent"]["self_asserted"] for event in runs.events + observations.events)
    assert [found.events[1]["time"] for found in (runs, observations)] == [
        "2026-03-02T08:00:02.123456Z",
        "2026-03-02T08:00:02.963000Z",
    ]
    assert one("langfuse", {**audit_log_records("langfuse")[0], "latency": "0.25"})["duration_ms"] == 250
    assert runs.events[0]["duration_ms"] == 400
    assert "duration_ms" not in one("langsmith", {**audit_log_records("langsmith")[0], "end_time": None})


def test_contextforge() -> None:
    """Calls of tools, and what is changed at the gateway; numbers and texts are truth values of a database."""
    call = one("contextforge", TOOL_CALL)
    assert (call["agent"]["id"], call["type"], call["action"], call["outcome"]) == (
        "bot@acme",
        "tool.call",
        "get_weather",
        "success",
    )
    assert call["time"] == "2026-03-02T08:00:00.123456Z"
    made = one("contextforge", {**TOOL_CALL, "action": "DELETE", "resource_type": "server", "success": 0})
    assert (made["type"], made["action"], made["effect"], made["outcome"]) == (
        "admin",
        "DELETE server",
        "delete",
        "error",
    )


ENVOY = {
    "start_time": "2026-03-02T08:00:00Z",
    "method": "GET",
    "response_code": 200,
    "jwt.sub": "a",
    "x-envoy-origin-path": "/x",
}
LINE = "2026-03-02T08:00:00Z\tinfo\trequest gateway=d src.addr=[::1]:5 http.method=POST http.status=200 jwt.sub=bot"
CLOUDTRAIL = audit_log_records("aws-cloudtrail")[0]
AS_TEXT = json.dumps(CLOUDTRAIL)


@pytest.mark.parametrize(
    ("name", "record", "wrapped"),
    [
        ("envoy", ENVOY, {"log": json.dumps(ENVOY) + "\n", "stream": "stdout", "time": "2026-03-02T09:00:00Z"}),
        ("envoy", ENVOY, {"_index": "edge", "_id": "1", "_source": ENVOY}),
        ("agentgateway", LINE, {"log": LINE + "\n", "stream": "stdout", "time": "2026-03-02T09:00:00Z"}),
        ("contextforge", TOOL_CALL, {"time": 1, "host": "h", "event": TOOL_CALL}),
        ("aws-cloudtrail", CLOUDTRAIL, {"time": 1, "sourcetype": "aws:cloudtrail", "event": CLOUDTRAIL}),
        ("aws-cloudtrail", CLOUDTRAIL, {"time": 1, "sourcetype": "aws:cloudtrail", "event": AS_TEXT}),
        ("aws-cloudtrail", CLOUDTRAIL, {"preview": False, "result": {"_raw": AS_TEXT}}),
        ("aws-cloudtrail", CLOUDTRAIL, {"EventId": "x", "EventName": "y", "CloudTrailEvent": AS_TEXT}),
        ("aws-cloudtrail", CLOUDTRAIL, {"_index": "i", "_source": {"event": {"original": AS_TEXT}, "aws": {}}}),
        ("kubernetes-audit", audit_log_records("kubernetes-audit")[0], None),
    ],
)
def test_envelopes_are_opened(name: str, record: Any, wrapped: Any) -> None:
    """Shippers, Splunk, Elastic, `lookup-events`, and Azure's around a text: the format is told, the event the same."""
    if wrapped is None:
        wrapped = {"operationName": "x", "properties": {"log": json.dumps(record), "stream": "stdout"}}
    assert record_format(json.dumps(wrapped).encode()) == name
    assert one(name, wrapped) == one(name, record)


@pytest.mark.parametrize(
    ("name", "member", "page"),
    [
        ("auth0", "logs", {"start": 0, "limit": 50}),
        ("gcp-audit", "entries", {"nextPageToken": "x"}),
        ("langsmith", "runs", {"cursors": {}}),
        ("langfuse", "data", {"meta": {"page": 1}}),
        ("langfuse", "observations", {"id": "tr1", "scores": []}),
    ],
)
def test_pages_of_their_apis_are_unwrapped(name: str, member: str, page: dict[str, Any]) -> None:
    records = audit_log_records(name)
    page_events = taken(name, {member: records, **page}).events
    assert [event["action"] for event in page_events] == [event["action"] for event in taken(name, records).events]


@pytest.mark.parametrize("member", ["data", "runs", "observations", "logs", "entries", "hits", "Events"])
def test_records_of_others_with_a_list_of_such_a_name_stay_whole(tmp_path: Path, member: str) -> None:
    own = {"timestamp": "2026-03-02T08:00:00Z", "id": "1", "name": "n", "total": 2, member: [{"a": 1}, {"a": 2}]}
    path = tmp_path / "own.jsonl"
    path.write_text((json.dumps(own) + "\n") * 3)
    assert [json.loads(record) for record in recognise_file(path).records()] == [own] * 3


def test_what_a_record_logs_is_no_record_of_its_own() -> None:
    """A text in it may be anybody's: it changes neither who acted nor whether that is told."""
    victim = json.dumps({**ENVOY, "jwt.sub": "victim"})
    for text in (victim, "{", '{"a": 1}', "words"):
        assert one("envoy", {**ENVOY, "response_code": 403, "message": text})["agent"]["id"] == "a"
        held = json.dumps({**ENVOY, "response_code": 403, "message": text})
        assert one("envoy", {"log": held})["agent"]["id"] == "a"
        bare = {name: value for name, value in ENVOY.items() if name != "method"}
        assert one("envoy", {**bare, "message": text})["agent"]["id"] == "a"
    line = {"jwt.sub": "a", "http.method": "GET", "http.status": 200, "time": "2026-03-02T08:00:00Z"}
    assert one("agentgateway", {**line, "message": "x src.addr=1 client_id=victim"})["agent"]["id"] == "a"
    finding = audit_log_records("ocsf")[0]
    assert one("ocsf", {"time": 1, "event": {**finding, "message": "{"}}) == one("ocsf", finding)
    for text in (json.dumps({**finding, "actor": {"app_uid": "victim"}}), "{", '{"a": 1}'):
        assert one("ocsf", {**finding, "message": text}) == one("ocsf", finding)


@pytest.mark.parametrize(
    ("change", "kind", "outcome", "asserted"),
    [
        ({"type": "ferrt"}, "token.refresh", "denied", None),
        ({"type": "fepotpft"}, "token.request", "denied", True),
        ({"type": "ciba_exchange_succeeded"}, "token.request", "success", None),
        ({"type": "ciba_exchange_failed"}, "token.request", "denied", True),
        ({"type": "frrt"}, "token.revoke", "error", True),
    ],
)
def test_further_exchanges_of_auth0(change: dict[str, str], kind: str, outcome: str, asserted: bool | None) -> None:
    """None is lost; who revokes without success may name any client."""
    event = one("auth0", {**audit_log_records("auth0")[0], **change})
    assert (event["type"], event["outcome"], event["agent"].get("self_asserted")) == (kind, outcome, asserted)


def test_the_table_of_okta() -> None:
    """Its columns have names of their own, and a column for each member of a target."""
    row = {
        "timestamp": "2026-03-02T08:00:00.000Z",
        "uuid": "u1",
        "event_type": "app.oauth2.as.token.grant.access_token",
        "outcome": {"result": "SUCCESS"},
        "actor.id": "0oaX",
        "actor": {"id": "0oaX", "type": "PublicClientApp", "alternate_id": "0oaX"},
        "client": {"ip_address": "203.0.113.1", "user_agent": {"raw_user_agent": "sdk/1"}},
        "debug_context": {"debug_data": {"grant_type": "refresh_token"}},
        "target1": {"id": "00u", "type": "User", "alternate_id": ANN},
        "target0": {"id": "AT.SECRET", "type": "access_token"},
    }
    event = one("okta", row)
    assert record_format(json.dumps(row).encode()) == "okta"
    assert (event["agent"]["id"], event["type"], event["principal"]) == ("0oaX", "token.refresh", {"id": ANN})
    assert event["client"] == {"ip": "203.0.113.1", "user_agent": "sdk/1"} and "SECRET" not in json.dumps(event)

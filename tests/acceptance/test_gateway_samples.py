"""Real records of gateways through their presets; skipped where the samples are not beside the project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.columns import OWN_DENIAL, ColumnEncoder
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.formats.format_registry import create_parser
from trustwatch.ingest.formats.record_mapping import MappingSpec

from ..support.checkout import ROOT

SHARED = Path(os.environ.get("TRUSTWATCH_SHARED") or ROOT.parent / "shared")
SAMPLES = SHARED / "samples"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not (SAMPLES / "envoy").is_dir(), reason=f"{SAMPLES} is missing; set TRUSTWATCH_SHARED"),
]

ENVOY = "envoy/generated_envoy_1.40.0_ext_authz_access.jsonl"


def parsed(name: str, raw: bytes, **members: str) -> tuple[list[dict[str, Any]], int]:
    """Native events of one record under a preset, and how many of it are skipped. All are valid events."""
    spec = MappingSpec(members={member.replace("__", "."): text for member, text in members.items()})
    parcels, skipped = create_parser(name, spec)(raw, {})
    natives = [parcel.to_native() for parcel in parcels if parcel.to_native is not None]
    for native in natives:
        decode_event(native)
    return [json.loads(native) for native in natives], skipped


def read(path: str) -> bytes:
    return (SAMPLES / path).read_bytes()


def test_envoy_with_identity() -> None:
    """Allowed, denied by us with 204 and 403, without a token, and our check down: five outcomes that must not mix."""
    found = [parsed("envoy", line) for line in read(ENVOY).splitlines()]

    events = [event for events, _ in found for event in events]
    assert [skipped for _, skipped in found] == [0, 0, 0, 1, 0]
    assert [(e["outcome"], e.get("error")) for e in events] == [
        ("success", None),
        ("denied", "ext_authz_denied"),
        ("denied", "ext_authz_denied"),
        ("error", "ext_authz_error"),
    ]
    first = events[0]
    assert first.pop("id").startswith("record-")
    assert first == {
        "time": "2026-11-24T22:56:21.143Z",
        "agent": {"id": "agent-42"},
        "principal": {"id": "user-1"},
        "type": "tool.call",
        "action": "get_weather",
        "effect": "unknown",
        "resource": {"id": "/mcp", "target": "127.0.0.1"},
        "outcome": "success",
        "status": 200,
        "bytes_in": 7,
        "bytes_out": 2,
        "duration_ms": 15,
        "client": {"ip": "127.0.0.1", "user_agent": "curl/8.14.1"},
        "attributes": {"request_id": "acc5ee3d-8d25-4189-9c43-8770921f86d8"},
    }


def test_envoys_refusals_by_us_and_our_outages_are_no_behaviour() -> None:
    """Of the four events with an identity only the call that was let through counts for the agent."""
    events = [event for line in read(ENVOY).splitlines() for event in parsed("envoy", line)[0]]
    columns = ColumnEncoder(bytes(16)).encode([decode_event(json.dumps(event).encode()) for event in events])

    assert columns.codes[:, OWN_DENIAL].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("name", ["ai_gateway_llm_access_log", "ai_gateway_mcp_access_log"])
def test_envoy_ai_gateway(name: str) -> None:
    """By default it logs no identity: skipped, until the mapping says where it stands."""
    raw = read(f"envoy/{name}.json")

    (event,), skipped = parsed("envoy", raw, agent__id="host(downstream_remote_address)")

    assert parsed("envoy", raw) == ([], 1)
    assert skipped == 0 and event["agent"] == {"id": "127.0.0.1"} and event["outcome"] == "success"
    if "mcp" in name:
        assert (event["type"], event["action"], event["resource"]["target"]) == ("tool.call", "tools/call", "context7")
    else:
        assert (event["type"], event["attributes"]["model"]) == ("api.call", "gpt-4o-mini")
        assert (event["attributes"]["input_tokens"], event["attributes"]["output_tokens"]) == (15, 7)


def test_envoy_gateways_default_keys_are_all_known() -> None:
    """What the preset reads besides identity is what every default install writes."""
    template = json.loads(read("envoy/envoy_gateway_default_json_format.json"))
    real = json.loads(read(ENVOY).splitlines()[0])

    assert set(template) <= set(real)


def agentgateway_lines() -> list[bytes]:
    """All lines; the manual wraps one of them and leaves out its beginning."""
    names = sorted(path.name for path in (SAMPLES / "agentgateway").glob("*.log") if "denied" not in path.name)
    lines = [line for name in names for line in read(f"agentgateway/{name}").splitlines() if line]
    wrapped = b" ".join(read("agentgateway/mcp_auth_denied.log").split(b"\n")).strip()
    return [*lines, b"2026-02-12T16:09:55.675307Z\tinfo\t" + wrapped]


def test_agentgateway() -> None:
    """The same keys from its lines and as JSON; a line without identity is skipped."""
    events = []
    for line in agentgateway_lines():
        (event,), _ = parsed("agentgateway", line, agent__id='host("src.addr")')
        events.append(event)
        assert parsed("agentgateway", line) == ([], 1)
        (named,), _ = parsed("agentgateway", line + b" jwt.sub=agent-7")
        assert named["agent"] == {"id": "agent-7"}

    assert [(e["type"], e["action"], e["outcome"], e["status"], e["duration_ms"]) for e in events] == [
        ("a2a.message", "message/stream", "success", 200, 3.0),
        ("api.call", "chat", "success", 200, 2603.0),
        ("api.call", "chat", "error", 429, 2603.0),
        ("api.call", "tools/list", "success", 202, 10.0),
        ("api.call", "POST default/mcp", "denied", 403, 0.0),
    ]
    assert events[-1]["error"] == "authentication failure: no bearer token found"
    assert events[3]["resource"] == {"id": "/sse", "target": "localhost"}


def test_kong() -> None:
    """Its sample has no consumer: skipped as it stands, an event once there is one. Headers stay outside."""
    record = json.loads(read("kong/log_record.json"))
    named = {**record, "consumer": {"id": "c", "username": "bot", "custom_id": "agent-7"}}

    (event,), _ = parsed("kong", json.dumps(named).encode())

    assert parsed("kong", json.dumps(record).encode()) == ([], 1)
    assert event == {
        "id": "2f6946328ffc4946b8c9120704a4a155",
        "time": "2024-09-19T22:10:39.538000Z",
        "agent": {"id": "agent-7"},
        "type": "api.call",
        "action": "GET example_route",
        "effect": "read",
        "resource": {"id": "/example-route", "target": "httpbin.konghq.com"},
        "outcome": "success",
        "status": 200,
        "bytes_in": 139,
        "bytes_out": 9982,
        "duration_ms": 173,
        "client": {"ip": "192.168.65.1", "user_agent": "HTTPie/3.2.3"},
        "attributes": {"service": "example_service", "workspace": "default"},
    }


@pytest.mark.parametrize("name", ["kafka_logger_message", "kafka_logger_meta_format_default", "http_logger_batch"])
def test_apisix(name: str) -> None:
    """One record or an array; the body that a plug-in may log, and the query, never pass."""
    sample = json.loads(read(f"apisix/{name}.json"))
    records = sample if isinstance(sample, list) else [sample]
    named = [{**record, "consumer": {"username": "agent-7"}} for record in records]
    raw = json.dumps(named if isinstance(sample, list) else named[0]).encode()

    events, skipped = parsed("apisix", raw)

    assert parsed("apisix", json.dumps(sample).encode()) == ([], len(records))
    assert skipped == 0 and len(events) == len(records)
    for event, record in zip(events, records, strict=True):
        assert event["agent"] == {"id": "agent-7"} and event["status"] == record["response"]["status"]
        assert event["action"] == f"GET {record['route_id']}"
        assert "abcdef" not in json.dumps(event) and "?" not in event["resource"]["id"]


def test_apisix_custom_format_needs_a_mapping_of_its_own() -> None:
    """Whoever changes the log format says where things are; until then nothing is guessed."""
    raw = read("apisix/http_logger_custom_format.json")
    spec = MappingSpec(
        members={
            "time": '"@timestamp"',
            "agent.id": "client_ip",
            "type": "'api.call'",
            "action": "route_id",
            "outcome": "'success'",
        },
        time_format="rfc3339",
    )

    (parcel,), _ = create_parser("mapping", spec)(raw, {})

    assert parcel.to_native is not None and json.loads(parcel.to_native())["action"] == "http-logger-route"
    with pytest.raises(MalformedEvent, match="`time`: has no value"):
        parsed("apisix", raw, agent__id="client_ip")

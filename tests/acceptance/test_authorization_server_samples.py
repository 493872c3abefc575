"""Every sample of Ory Hydra's log and of OTLP through its format; skipped where the samples are not beside the project.

There are no samples of Keycloak: tests/ingest/formats/lines holds what a running server wrote.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.events import decode_event
from trustwatch.ingest.formats.format_registry import create_parser
from trustwatch.ingest.formats.record_mapping import MappingSpec

from ..support.checkout import ROOT

SHARED = Path(os.environ.get("TRUSTWATCH_SHARED") or ROOT.parent / "shared")
SAMPLES = SHARED / "samples"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not (SAMPLES / "ory-hydra").is_dir(), reason=f"{SAMPLES} is missing; set TRUSTWATCH_SHARED"),
]


def events_of(name: str, raw: bytes, spec: MappingSpec | None = None) -> tuple[list[dict[str, Any]], int]:
    """Native events of a value, all of them valid, and how many of its records are skipped."""
    parcels, skipped = create_parser(name, spec)(raw, {})
    natives = [parcel.to_native() for parcel in parcels if parcel.to_native is not None]
    assert len(natives) == len(parcels)
    for native in natives:
        decode_event(native)
    return [json.loads(native) for native in natives], skipped


@pytest.mark.parametrize("version", ["before", "after"])
def test_lines_of_hydra_that_are_about_no_token(version: str) -> None:
    """With `audience` or without: skipped, no dead letter, whoever is said to be the agent."""
    lines = (SAMPLES / "ory-hydra" / f"log_{version}_v25.4.10.jsonl").read_bytes()

    assert events_of("hydra", lines, MappingSpec(members={"agent.id": "'bot'"})) == ([], 1)


def test_a_clients_span() -> None:
    """An SDK's span of a tool call, to the last member."""
    raw = (SAMPLES / "otel-genai" / "mcp_client_tools_call.json").read_bytes()

    assert events_of("otlp", raw) == (
        [
            {
                "id": "b18fab63dd8f1d4d78179e2f7b5f7114:8a0bb4282ecf34fc",
                "time": "2024-08-01T13:20:00Z",
                "agent": {"id": "mcp-test-service", "self_asserted": True},
                "type": "tool.call",
                "action": "read_file",
                "effect": "unknown",
                "outcome": "success",
                "duration_ms": 500.0,
                "trace_id": "b18fab63dd8f1d4d78179e2f7b5f7114",
                "attributes": {"kind": "CLIENT"},
            }
        ],
        0,
    )


def test_a_servers_span_names_no_caller() -> None:
    """Skipped, until a mapping says who that is."""
    raw = (SAMPLES / "otel-genai" / "mcp_server_tools_call.json").read_bytes()
    ((event,), skipped) = events_of("otlp", raw, MappingSpec(members={"agent.id": 'resource."service.name"'}))

    assert events_of("otlp", raw) == ([], 1)
    assert (skipped, event["action"], event["duration_ms"]) == (0, "read_file", 300.0)
    assert event["attributes"] == {"kind": "SERVER"}

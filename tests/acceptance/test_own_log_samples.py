"""Real logs through the reader of histories; skipped where the samples are not beside the project."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trustwatch.ingest.history.conversion import FormatChoice, HistoryConverter

from ..support.checkout import ROOT

SHARED = Path(os.environ.get("TRUSTWATCH_SHARED") or ROOT.parent / "shared")
SAMPLES = SHARED / "samples"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not (SAMPLES / "cloudtrail").is_dir(), reason=f"{SAMPLES} is missing; set TRUSTWATCH_SHARED"),
]


def test_files_of_a_trail() -> None:
    """Captured during an attack simulation: a user, an instance's role, and a service of AWS; notes are left out."""
    told: list[str] = []
    converter = HistoryConverter(FormatChoice(), told.append)

    found = converter.find(SAMPLES / "cloudtrail")
    events = [json.loads(event) for event in converter.convert(found)]

    assert (len(events), converter.skipped, converter.malformed) == (9, 0, 0)
    assert {event["agent"]["type"] for event in events} == {"iam-user", "role", "aws-service"}
    assert sorted(event["outcome"] for event in events if event["outcome"] != "success") == ["denied", "error"]
    assert any("SOURCE.txt: the format is not known" in text for text in told)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("envoy/generated_envoy_1.40.0_ext_authz_access.jsonl", "envoy"),
        ("kong/log_record.json", "kong"),
        ("apisix/http_logger_batch.json", "apisix"),
        ("agentgateway/mcp_auth_denied.log", "agentgateway"),
        ("ory-hydra/log_after_v25.4.10.jsonl", "hydra"),
        ("otel-genai/mcp_server_tools_call.json", "otlp"),
        ("cloudevents/batch.json.txt", "cloudevents"),
    ],
)
def test_formats_are_recognised(path: str, name: str) -> None:
    """By what the products themselves wrote."""
    (found,) = HistoryConverter(FormatChoice(), print).find(SAMPLES / path)
    assert (found.format_name, found.detected) == (name, True)

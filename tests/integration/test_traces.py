"""The real service, traced by the standard variables: what a collector gets of requests, and what it never gets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..support.checkout import ROOT
from ..support.trace_collector import TraceCollector

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

AGENT, ISSUER, TENANT, PERSON = "agent-nobody-may-read", "https://as.example", "acme-corp", "clerk@acme-corp.example"
HOOK_SECRET = "secret of hydra, 24 letters"
TRACE_ID, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{CALLER_SPAN}-01"}
MORE = f"""\
hooks:
  - {{name: hydra, kind: hydra, tenant: acme-corp, issuer: '{ISSUER}', secret: '{HOOK_SECRET}'}}
gateway:
  issuers:
    - {{issuer: 'urn:trustwatch:local', audiences: [trustwatch], jwks_file: data/local-jwks.json, tenant: acme-corp}}
"""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceCollector]:
    made = TraceCollector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=key-of-the-collector")
    yield made
    made.close()


def exercise(service: Any, make_event: Callable[..., dict[str, Any]]) -> None:
    principal = {"id": PERSON, "type": "user"}
    service.send([make_event(AGENT, number, principal=principal) for number in range(5)])
    service.settle()
    risk = service.client.get(
        f"/v1/agents/{AGENT}/risk",
        params={"tenant": TENANT, "issuer": ISSUER},
        headers={**service.auth(), **SAMPLED, "x-request-id": "asked-by-a-test"},
    )
    assert risk.status_code == 200, risk.text
    assert service.client.get(f"/ext-authz/mcp/{AGENT}", headers=service.auth(AGENT)).status_code == 200
    body = json.loads((ROOT / "tests/api/access/hooks/bodies/hydra_token.json").read_text())
    body["request"]["client_id"] = body["session"]["client_id"] = AGENT
    asked = service.client.post("/hooks/hydra", json=body, headers={"x-trustwatch-key": HOOK_SECRET})
    assert asked.status_code in (200, 204)
    assert service.get("/v1/agents", tenant=TENANT, agent_id=AGENT).status_code == 200
    assert service.client.get(f"/nowhere/{AGENT}", headers=service.auth()).status_code == 404


def test_a_collector_gets_requests_by_their_routes(
    make_service: Callable[..., Any], make_event: Callable[..., dict[str, Any]], collector: TraceCollector
) -> None:
    """The caller's trace goes on, and no name of anybody leaves."""
    service = make_service(MORE)
    service.start()
    exercise(service, make_event)
    assert service.stop() == 0  # which sends what waits

    (risk,) = collector.named("GET /v1/agents/{agent_id}/risk")
    assert (risk.trace_id, risk.parent_id, risk.kind) == (TRACE_ID, CALLER_SPAN, 2)
    assert risk.attributes["trustwatch.request_id"] == "asked-by-a-test"
    names = {span.name for span in collector.spans}
    assert {"GET /ext-authz/{path}", "POST /hooks/hydra", "GET (none)", "GET /v1/agents"} <= names
    assert {(headers["x-api-key"], path) for headers, path in zip(collector.headers, collector.paths, strict=True)} == {
        ("key-of-the-collector", "/v1/traces")
    }
    sent = b"".join(collector.bodies)
    for secret in (AGENT, ISSUER, TENANT, PERSON, HOOK_SECRET, "key-of-the-collector", "eyJ"):
        assert secret.encode() not in sent
    lines = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    assert {line["trace_id"] for line in lines if "trace_id" in line} <= {span.trace_id for span in collector.spans}


def test_a_collector_that_goes_away_holds_nothing_up(
    make_service: Callable[..., Any], collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers come, and the end of the service waits for one attempt. Only what a caller samples was sent."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    service = make_service(MORE)
    service.start()
    for headers in ({}, SAMPLED, {}):
        assert service.client.get("/healthz", headers=headers).status_code == 200
    collector.wait(lambda: collector.spans)
    assert [span.trace_id for span in collector.spans] == [TRACE_ID]

    collector.close()
    for _ in range(50):
        assert service.client.get("/healthz", headers=SAMPLED).status_code == 200
    started = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - started < 20
    assert "key-of-the-collector" not in service.log()

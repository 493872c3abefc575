"""The real service, traced: what a collector gets of requests, the pipeline, deliveries and actuations."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from ..support.alert_receiver import SECRET, Receiver
from ..support.checkout import ROOT
from ..support.trace_collector import CollectedSpan, TraceCollector

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

AGENT, ISSUER, TENANT, PERSON = "agent-nobody-may-read", "https://as.example", "acme-corp", "clerk@acme-corp.example"
HOOK_SECRET = "secret of hydra, 24 letters"
COLLECTOR_KEY = "key-of-the-collector"
TRACE_ID, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MORE = """\
traces:
  {{endpoint: '{collector}', sample_ratio: {ratio}, service_name: trust-of-tests, headers: {{x-api-key: '{key}'}}}}
webhooks:
  - {{name: soc, url: '{receiver}', secret: '{secret}', allow_http: true}}
actuators:
  - {{name: as, kind: webhook, url: '{receiver}', issuers: ['*'], secret: '{secret}', allow_http: true}}
hooks:
  - {{name: hydra, kind: hydra, tenant: acme-corp, issuer: '{issuer}', secret: '{hook}'}}
gateway:
  issuers:
    - {{issuer: 'urn:trustwatch:local', audiences: [trustwatch], jwks_file: data/local-jwks.json, tenant: acme-corp}}
"""


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    made = TraceCollector()
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def settings(collector: TraceCollector, receiver: Receiver, ratio: float = 1.0) -> str:
    return MORE.format(
        collector=collector.url,
        receiver=receiver.url,
        ratio=ratio,
        key=COLLECTOR_KEY,
        secret=SECRET,
        issuer=ISSUER,
        hook=HOOK_SECRET,
    )


def ask_hydra(service: Any, **headers: str) -> Any:
    body = json.loads((ROOT / "tests/api/access/hooks/bodies/hydra_token.json").read_text())
    body["request"]["client_id"] = body["session"]["client_id"] = AGENT
    return service.client.post("/hooks/hydra", json=body, headers={"x-trustwatch-key": HOOK_SECRET, **headers})


def pin(service: Any) -> None:
    made = service.client.post(
        f"/v1/agents/{AGENT}/pin",
        params={"tenant": TENANT, "issuer": ISSUER},
        json={"level": "high", "why": "seen elsewhere"},
        headers=service.auth(),
    )
    assert made.status_code == 201, made.text


def exercise(service: Any, make_event: Callable[..., dict[str, Any]]) -> None:
    """Events, questions of all kinds, and a pin that an authorization server is told of."""
    principal = {"id": PERSON, "type": "user"}
    service.send([make_event(AGENT, number, principal=principal) for number in range(5)])
    service.settle()
    risk = service.client.get(
        f"/v1/agents/{AGENT}/risk",
        params={"tenant": TENANT, "issuer": ISSUER},
        headers={**service.auth(), "traceparent": f"00-{TRACE_ID}-{CALLER_SPAN}-01", "x-request-id": "asked-by-a-test"},
    )
    assert risk.status_code == 200, risk.text
    assert service.client.get(f"/ext-authz/mcp/{AGENT}", headers=service.auth(AGENT)).status_code == 200
    assert ask_hydra(service).status_code in (200, 204)
    assert service.get("/v1/agents", tenant=TENANT, agent_id=AGENT).status_code == 200
    assert service.client.get(f"/nowhere/{AGENT}", headers=service.auth()).status_code == 404
    pin(service)


def only(spans: list[CollectedSpan]) -> CollectedSpan:
    assert len(spans) == 1, spans
    return spans[0]


def test_a_collector_gets_the_whole_way(
    make_service: Callable[..., Any],
    make_event: Callable[..., dict[str, Any]],
    collector: TraceCollector,
    receiver: Receiver,
) -> None:
    """Requests by their routes and decisions, batches, commits, deliveries and actuations; no name of anybody."""
    service = make_service(settings(collector, receiver))
    service.start()
    exercise(service, make_event)
    collector.wait(lambda: collector.named("actuation"))
    assert service.stop() == 0

    # the caller's trace goes on
    risk = only(collector.named("GET /v1/agents/{agent_id}/risk"))
    assert (risk.trace_id, risk.parent_id, risk.kind) == (TRACE_ID, CALLER_SPAN, 2)
    assert risk.attributes == {
        "http.request.method": "GET",
        "http.route": "/v1/agents/{agent_id}/risk",
        "http.response.status_code": 200,
        "trustwatch.request_id": "asked-by-a-test",
        "trustwatch.risk_level": "unknown",
    }
    gateway = only(collector.named("GET /ext-authz/{path}")).attributes
    assert (gateway["trustwatch.via"], gateway["trustwatch.decision"]) == ("ext_authz", "allow")
    hook = only(collector.named("POST /hooks/hydra")).attributes
    assert (hook["trustwatch.via"], hook["trustwatch.mode"]) == ("hydra", "enforce")
    assert only(collector.named("GET (none)")).attributes["http.response.status_code"] == 404
    assert only(collector.named("GET /v1/agents")).attributes["http.response.status_code"] == 200

    batches, commits = collector.named("pipeline.batch"), collector.named("pipeline.commit")
    assert sum(batch.attributes["trustwatch.events"] for batch in batches) >= 5
    ranges = [(b.attributes["trustwatch.offset.first"], b.attributes["trustwatch.offset.end"]) for b in batches]
    assert ranges[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert all(batch.attributes["trustwatch.apply_s"] > 0 for batch in batches)
    assert commits[-1].attributes["trustwatch.offsets.end"] == [ranges[-1][1]]
    assert all(commit.attributes["trustwatch.commit_s"] > 0 for commit in commits)

    delivery = collector.named("delivery")[0]
    actuation = collector.named("actuation")[0]
    assert (actuation.trace_id, actuation.parent_id) == (delivery.trace_id, delivery.span_id)
    assert (delivery.attributes["trustwatch.target"], delivery.attributes["trustwatch.kind"]) == ("as", "action")
    assert delivery.attributes["trustwatch.outcome"] == "delivered"
    assert actuation.attributes["trustwatch.outcome"] == "applied"

    resources = {span.resource["trustwatch.role"]: span.resource for span in collector.spans}
    assert set(resources) == {"service", "pipeline"}
    assert {resource["service.name"] for resource in resources.values()} == {"trust-of-tests"}
    assert len({resource["service.instance.id"] for resource in resources.values()}) == 2
    assert {(headers["x-api-key"], path) for headers, path in zip(collector.headers, collector.paths, strict=True)} == {
        (COLLECTOR_KEY, "/v1/traces")
    }
    sent = b"".join(collector.bodies)
    for secret in (AGENT, ISSUER, TENANT, PERSON, HOOK_SECRET, COLLECTOR_KEY, "seen elsewhere", "eyJ"):
        assert secret.encode() not in sent
    lines = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    assert {line["trace_id"] for line in lines if "trace_id" in line} <= {span.trace_id for span in collector.spans}


def test_nothing_is_sent_at_a_ratio_of_0_but_what_a_caller_samples(
    make_service: Callable[..., Any], collector: TraceCollector, receiver: Receiver
) -> None:
    """Nor does a collector that goes away hold anything up: answers, the end of the service."""
    service = make_service(settings(collector, receiver, ratio=0))
    service.start()
    unsampled = {"traceparent": f"00-{'1' * 32}-{CALLER_SPAN}-00"}
    sampled = {"traceparent": f"00-{TRACE_ID}-{CALLER_SPAN}-01"}
    for headers in ({}, unsampled, sampled, {}):
        assert service.client.get("/healthz", headers=headers).status_code == 200
    collector.wait(lambda: collector.spans)
    assert [span.trace_id for span in collector.spans] == [TRACE_ID]

    collector.close()
    for _ in range(50):
        assert service.client.get("/healthz", headers=sampled).status_code == 200
    collector.wait(lambda: "traces_dropped" in service.log())
    started = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - started < 10
    assert service.log().count("traces_dropped") == 1
    assert COLLECTOR_KEY not in service.log()

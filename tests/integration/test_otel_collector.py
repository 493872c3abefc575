"""A real OpenTelemetry Collector: it gets our own traces, and hands the spans of agents on to our intake."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind

from ..support.peer_fixtures import start_gateway
from ..support.service_process import Service

if TYPE_CHECKING:
    from scripts.service_stack import OtelCollector

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300, func_only=True)]  # building it has a bound of its own

AGENT, PROMPT = "invoice-agent-7", "a prompt that nobody may read"
TURNS = 3
UNVOUCHED, VOUCHED = 'sources: ["urn:*"]', "format: otlp, mapping: {members: {agent.self_asserted: ''}}"
"""Of the caller that the collector is: only our own programs can write what it sends (reference/sources.md)."""


def work_as_an_agent(collector: str) -> None:
    """What an instrumented agent sends by OpenTelemetry's SDK, by its conventions for generative AI.

    Spans of models and tools do not name the agent there, so the resource does: see reference/sources.md.
    """
    resource = Resource.create({"service.name": "invoices", "service.version": "1.4", "gen_ai.agent.id": AGENT})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector}/v1/traces")))
    tracer = provider.get_tracer("agent")
    turn = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.id": AGENT, "gen_ai.conversation.id": "c-1"}
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "server.address": "api.model.example",
        "gen_ai.input.messages": PROMPT,
    }
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "pay", "gen_ai.tool.call.arguments": PROMPT}
    for _ in range(TURNS):
        with tracer.start_as_current_span("invoke_agent invoices", attributes=turn):
            with tracer.start_as_current_span("chat m", kind=SpanKind.CLIENT, attributes=chat):
                pass
            with tracer.start_as_current_span("execute_tool pay", attributes=tool):
                pass
            with tracer.start_as_current_span("SELECT", attributes={"db.system.name": "postgresql"}):
                pass
    provider.shutdown()


def spans_by_service(collector: OtelCollector) -> dict[str, Counter[str]]:
    """Names of the spans that the collector wrote down, by `service.name`."""
    found: dict[str, Counter[str]] = {}
    for line in collector.spans_file.read_text().splitlines():
        for sent in json.loads(line)["resourceSpans"]:
            resource = {pair["key"]: pair["value"].get("stringValue") for pair in sent["resource"]["attributes"]}
            names = found.setdefault(resource.get("service.name") or "", Counter())
            names.update(span["name"] for scope in sent["scopeSpans"] for span in scope["spans"])
    return found


@pytest.fixture
def make_vouched(make_service: Callable[..., Service]) -> Callable[..., Service]:
    """Makes services that take the word of the collector."""

    def make(more: str = "") -> Service:
        made = make_service(more)
        made.settings.write_text(made.settings.read_text().replace(UNVOUCHED, VOUCHED))
        return made

    return make


def test_one_collector_both_ways(
    make_vouched: Callable[..., Service], otel_collector: OtelCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets spans of the service and of an agent, and hands all of them on: an agent's become events, ours nothing.

    Nor do ours cause others: a span of each hand-over would come back for ever.
    """
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otel_collector.url)
    service = make_vouched()
    start_gateway(otel_collector, forward=service.url, token=service.token("acme"))
    service.start()
    monkeypatch.undo()

    work_as_an_agent(otel_collector.url)

    service.wait(lambda: service.counts() == {AGENT: 3 * TURNS}, 60.0)
    (row,) = service.pages("/v1/agents")
    assert row["tenant"] == "acme-corp"
    service.wait(lambda: "GET /v1/agents" in spans_by_service(otel_collector).get("trustwatch", ()))
    assert PROMPT.encode() not in b"".join(path.read_bytes() for path in (service.folder / "data" / "log").iterdir())

    time.sleep(3.0)  # what came back would have done so by now, some times
    spans = spans_by_service(otel_collector)
    turns = {"invoke_agent invoices": TURNS, "chat m": TURNS, "execute_tool pay": TURNS, "SELECT": TURNS}
    assert spans.pop("invoices") == turns
    assert set(spans) == {"trustwatch"}
    assert "POST /v1/traces" not in spans["trustwatch"]
    assert service.get("/v1/dead-letters").json()["items"] == []
    assert "error" not in otel_collector.log.read_text().lower()
    assert service.stop() == 0


def test_a_collector_waits_for_a_service_that_is_away(
    make_vouched: Callable[..., Service], otel_collector: OtelCollector
) -> None:
    """It sends again by itself, in protobuf here; nothing is lost or counted twice."""
    service = make_vouched()
    start_gateway(otel_collector, forward=service.url, encoding="proto", token=service.token("acme"))

    work_as_an_agent(otel_collector.url)
    wait_for(lambda: "connection refused" in otel_collector.log.read_text())
    service.start()

    service.wait(lambda: service.counts().get(AGENT, 0) >= 3 * TURNS, 60.0)
    assert service.counts() == {AGENT: 3 * TURNS}


def wait_for(until: Callable[[], Any], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""Spans of requests: what a collector gets, what it never gets, and that nothing runs where none is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from trustwatch.api.http import request_traces
from trustwatch.api.http.request_traces import trace_requests

from ...support.trace_collector import TraceCollector

TRACE_ID, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{CALLER_SPAN}-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceCollector]:
    """A collector that the environment names; spans are sent to it at once."""
    made = TraceCollector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "trust-of-tests")
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    yield made
    made.close()


@pytest.fixture
def traced(collector: TraceCollector, new_site: Callable[..., Any]) -> Any:
    made = new_site()
    collector.spans.clear()
    return made


def test_a_span_says_route_and_answer(traced: Any, collector: TraceCollector) -> None:
    named = {**traced.auth(), "x-request-id": "asked-1", "traceparent": PARENT, "user-agent": "somebody"}
    question = {"action": "read_file", "effect": "read"}
    asked = [
        ("GET", "/v1/agents/somebody/risk?tenant=acme", None, 200),
        ("POST", "/v1/agents/somebody/calls/evaluate", question, 200),
        ("GET", "/v1/agents/somebody/decisions", None, 200),
        ("GET", "/v1/decisions?agent_id=somebody", None, 200),
        ("GET", "/somebody", None, 404),
        ("PROPFIND", "/healthz", None, 405),
    ]

    for method, path, body, status in asked:
        assert traced.client.request(method, path, json=body, headers=named).status_code == status, path

    spans = collector.wait(lambda: len(found := collector.of_trace(TRACE_ID)) == len(asked) and found)
    assert [span.name for span in spans] == [
        "GET /v1/agents/{agent_id}/risk",
        "POST /v1/agents/{agent_id}/calls/evaluate",
        "GET /v1/agents/{agent_id}/decisions",
        "GET /v1/decisions",
        "GET (none)",
        "_OTHER /healthz",
    ]
    assert {span.parent_id for span in spans} == {CALLER_SPAN}
    assert {span.kind for span in spans} == {2}
    assert spans[0].attributes == {
        "http.request.method": "GET",
        "http.response.header.content_type": ["application/json"],
        "http.response.status_code": 200,
        "http.route": "/v1/agents/{agent_id}/risk",
        "trustwatch.request_id": "asked-1",
        **{name: spans[0].attributes[name] for name in ("server.address", "server.port")},
    }
    assert [span.attributes["http.response.status_code"] for span in spans] == [status for *_, status in asked]
    assert spans[0].resource["service.name"] == "trust-of-tests"
    assert not any(span.failed for span in spans)
    sent = b"".join(collector.bodies)
    assert not any(word in sent for word in (b"somebody", b"acme", b"127.0.0.1", b"eyJ"))


def test_a_fault_is_marked_and_its_words_stay_here(
    traced: Any, collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("somebody")

    monkeypatch.setattr(traced.store.decisions, "page", fail)
    assert traced.get("/v1/decisions").status_code == 500
    (span,) = collector.wait(lambda: collector.named("GET /v1/decisions"))
    assert span.failed and span.attributes["http.response.status_code"] == 500

    monkeypatch.setattr(traced.app, "app", fail)
    assert traced.get("/v1/decisions").status_code == 500
    (span,) = collector.wait(lambda: collector.named("GET"))
    assert (span.failed, span.attributes["error.type"]) == (True, "RuntimeError")
    assert b"somebody" not in b"".join(collector.bodies)


def test_nothing_is_traced_without_a_collector(monkeypatch: pytest.MonkeyPatch, shared: Any) -> None:
    assert trace_requests(shared.app) is shared.app
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(request_traces, "missing_packages", lambda _: ["opentelemetry-sdk"])
    with capture_logs() as lines:
        assert trace_requests(shared.app) is shared.app
    assert [line["event"] for line in lines] == ["requests_not_traced"]
    code = (
        "import sys, trustwatch.api.service.serve\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.instrum'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fastapi_itself_tells_no_provider_of_a_request() -> None:
    code = (
        "import asyncio, httpx2\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "from fastapi import FastAPI\n"
        "from trustwatch.api.http.app import DocumentedApp\n"
        "from trustwatch.api.http.request_traces import FASTAPI_TELEMETRY_OFF\n"
        "kept, provider = InMemorySpanExporter(), TracerProvider()\n"
        "provider.add_span_processor(SimpleSpanProcessor(kept)); trace.set_tracer_provider(provider)\n"
        "async def ask(app):\n"
        "    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url='http://localhost') as http:\n"
        "        await http.get('/agents/somebody?agent=somebody')\n"
        "    return len(kept.get_finished_spans())\n"
        "print(asyncio.run(ask(FastAPI())) > 0, end=' '); kept.clear()\n"
        "print(asyncio.run(ask(DocumentedApp([]))), asyncio.run(ask(FastAPI(telemetry=FASTAPI_TELEMETRY_OFF))))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "0", "0"]

"""The span of a request: what it says, and what it never says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.api.http.traced_path import given_traceparent

from ...support.span_recorder import SpanRecorder

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("headers", "given"),
    [
        ([(b"traceparent", PARENT)], PARENT.decode()),
        ([(b"traceparent", PARENT), (b"traceparent", PARENT)], ""),
        ([(b"traceparent", b"0" * 129)], ""),
        ([(b"x-traceparent", PARENT)], ""),
        ([], ""),
    ],
)
def test_one_traceparent_is_a_callers_word(headers: list[tuple[bytes, bytes]], given: str) -> None:
    """Two, or one that is far too long, are none."""
    assert given_traceparent({"headers": headers}) == given


@pytest.fixture
def traced(new_site: Callable[..., Any]) -> Any:
    """A service whose spans are kept here."""
    return new_site(spans=SpanRecorder())


def test_spans_that_come_in_make_none_of_their_own(traced: Any) -> None:
    """A collector may send our own spans back to us; who follows a request all the same says so by `traceparent`."""
    for headers in ({}, {"traceparent": PARENT.decode()}):
        sent = traced.client.post("/v1/traces", json={"resourceSpans": []}, headers={**traced.auth(), **headers})
        assert sent.status_code == 200, sent.text

    (span,) = [span for span in traced.spans.spans if span.name == "POST /v1/traces"]
    assert span.attributes["traceparent"] == PARENT.decode()


def test_a_span_says_route_answer_and_decision(traced: Any) -> None:
    """Of fast routes, of those of FastAPI, of what no route takes; never a path, a query or a name."""
    named = {**traced.auth(), "x-request-id": "asked-1", "traceparent": PARENT.decode()}
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

    spans = [span for span in traced.spans.spans if span.attributes.get("trustwatch.request_id") == "asked-1"]
    assert [span.name for span in spans] == [
        "GET /v1/agents/{agent_id}/risk",
        "POST /v1/agents/{agent_id}/calls/evaluate",
        "GET /v1/agents/{agent_id}/decisions",
        "GET /v1/decisions",
        "GET (none)",
        "_OTHER /healthz",
    ]
    assert [span.attributes["http.response.status_code"] for span in spans] == [status for *_, status in asked]
    assert {span.attributes["traceparent"] for span in spans} == {PARENT.decode()}
    assert spans[0].attributes["trustwatch.risk_level"] == "unknown"
    call = spans[1].attributes
    assert (call["trustwatch.via"], call["trustwatch.mode"]) == ("calls", "enforce")
    assert (call["trustwatch.decision"], call["trustwatch.basis"]) == ("allow", "level")
    assert "somebody" not in repr([(span.name, span.attributes) for span in spans]).lower()
    assert not any(span.error for span in spans)


def test_a_fault_is_marked_and_its_words_stay_here(traced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of an error may hold names."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("somebody")

    monkeypatch.setattr(traced.store.decisions, "page", fail)

    assert traced.get("/v1/decisions").status_code == 500

    (span,) = traced.spans.named("GET /v1/decisions")
    assert span.error == "500"
    assert "somebody" not in repr(span.attributes)


def test_fastapi_itself_tells_no_provider_of_a_request() -> None:
    """Not even where another library has set one for the whole process: its spans would hold paths and queries."""
    code = (
        "import asyncio, httpx2\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "from fastapi import FastAPI\n"
        "from trustwatch.api.http.app import DocumentedApp\n"
        "from trustwatch.api.http.fastapi_telemetry import FASTAPI_TELEMETRY_OFF\n"
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

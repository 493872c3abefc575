"""Spans on their way to a collector: what it gets, and what happens where it is slow, broken or away."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from trustwatch.api import opentelemetry_spans
from trustwatch.api.opentelemetry_spans import OtlpSpans
from trustwatch.api.settings.service_settings import TraceSettings
from trustwatch.api.traces import open_spans
from trustwatch.ingest.settings import Secret
from trustwatch.ingest.spans import UNTRACED

from ..support.trace_collector import TraceCollector

TRACE_ID, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def _sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans wait for a moment only."""
    monkeypatch.setattr(opentelemetry_spans, "SEND_EVERY_S", 0.05)


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    made = TraceCollector()
    yield made
    made.close()


@pytest.fixture
def open_traced() -> Iterator[Callable[..., OtlpSpans]]:
    """Opens spans, and closes them."""
    made: list[OtlpSpans] = []

    def open_one(endpoint: str, ratio: float = 1.0, **members: Any) -> OtlpSpans:
        made.append(OtlpSpans(TraceSettings(endpoint=endpoint, sample_ratio=ratio, **members), "service", "one"))
        return made[-1]

    yield open_one
    for spans in made:
        spans.close()


def test_a_collector_gets_spans_with_their_parents(
    collector: TraceCollector, open_traced: Callable[..., OtlpSpans]
) -> None:
    """Below each other as their blocks are; names, kinds, attributes and failures, and who sends them."""
    spans = open_traced(collector.url, headers={"x-key": Secret("abc")}, service_name="ours")

    with spans.span("outer", "client") as outer:
        outer.note({"records": 3, "offsets": [1, 2], "late": False, "took_s": 0.5, "kind": "alert"})
        with spans.span("inner"):
            spans.note({"noted": "inside"})
    with pytest.raises(KeyError), spans.span("broken"):
        raise KeyError("a-name-of-somebody")
    spans.close()

    inner, outer_span, broken = collector.spans
    assert (inner.parent_id, inner.trace_id) == (outer_span.span_id, outer_span.trace_id)
    assert (inner.kind, outer_span.kind, outer_span.parent_id) == (1, 3, "")
    assert outer_span.attributes == {"records": 3, "offsets": [1, 2], "late": False, "took_s": 0.5, "kind": "alert"}
    assert inner.attributes == {"noted": "inside"}
    assert (broken.failed, broken.attributes) == (True, {"error.type": "KeyError"})
    assert not inner.failed
    assert inner.resource["service.name"] == "ours"
    assert (inner.resource["service.instance.id"], inner.resource["trustwatch.role"]) == ("one", "service")
    assert collector.headers[0]["x-key"] == "abc"
    assert b"a-name-of-somebody" not in b"".join(collector.bodies)
    assert spans.dropped == 0


@pytest.mark.parametrize(
    ("traceparent", "parent"),
    [
        (f"00-{TRACE_ID}-{CALLER_SPAN}-01", CALLER_SPAN),
        ("", ""),
        ("nonsense", ""),
        (f"ff-{TRACE_ID}-{CALLER_SPAN}-01", ""),
        (f"00-{'0' * 32}-{CALLER_SPAN}-01", ""),
    ],
)
def test_a_request_goes_on_with_its_callers_trace(
    traceparent: str, parent: str, collector: TraceCollector, open_traced: Callable[..., OtlpSpans]
) -> None:
    """What can not be read begins a trace of its own; so does a request within what went on before."""
    spans = open_traced(collector.url)

    with spans.span("before"), spans.request_span("request", traceparent):
        pass
    spans.close()

    request = collector.named("request")[0]
    assert (request.parent_id, request.kind) == (parent, 2)
    assert (request.trace_id == TRACE_ID) is bool(parent)
    assert request.trace_id != collector.named("before")[0].trace_id


def test_a_ratio_of_0_sends_nothing_but_what_a_caller_samples(
    collector: TraceCollector, open_traced: Callable[..., OtlpSpans]
) -> None:
    """And what is not sampled says so, so that nothing is gathered for it."""
    spans = open_traced(collector.url, ratio=0.0)

    for flags in ("", f"00-{TRACE_ID}-{CALLER_SPAN}-00", f"00-{TRACE_ID}-{CALLER_SPAN}-01"):
        with spans.request_span("request", flags) as span:
            assert span.recorded is flags.endswith("01")
            with spans.span("below"):
                pass
    spans.close()

    assert {span.name: span.trace_id for span in collector.spans} == {"below": TRACE_ID, "request": TRACE_ID}


def test_lines_of_the_log_have_the_trace_id(collector: TraceCollector, open_traced: Callable[..., OtlpSpans]) -> None:
    """Inside of a span that is sent, and nowhere else."""
    spans = open_traced(collector.url)
    silent = open_traced(collector.url, ratio=0.0)

    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        log = structlog.get_logger()
        log.info("before")
        with spans.request_span("request", f"00-{TRACE_ID}-{CALLER_SPAN}-01"):
            log.info("inside")
        with silent.request_span("request", ""):
            log.info("unsampled")

    assert [line.get("trace_id") for line in lines] == [None, TRACE_ID, None]


def test_a_collector_that_is_away_costs_spans_and_no_time(
    monkeypatch: pytest.MonkeyPatch, open_traced: Callable[..., OtlpSpans]
) -> None:
    """It is said once, with the reason and without a header; the end does not wait for it."""
    monkeypatch.setattr(opentelemetry_spans, "SEND_TIMEOUT_S", 1.5)  # time for two attempts
    spans = open_traced("http://127.0.0.1:9/v1/traces", headers={"x-key": Secret("not-for-a-log")})

    with capture_logs() as lines:
        started = time.monotonic()
        for _ in range(50):
            with spans.span("work"):
                pass
        worked_s = time.monotonic() - started
        deadline = time.monotonic() + 10
        while not spans.dropped and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(10):
            with spans.span("work"):
                pass
        started = time.monotonic()
        spans.close()
        closed_s = time.monotonic() - started

    assert worked_s < 1
    assert closed_s < opentelemetry_spans.CLOSE_TIMEOUT_S
    assert spans.dropped == 60
    assert [line["event"] for line in lines] == ["traces_dropped", "traces_lost"]
    assert lines[0]["collector"] == "http://127.0.0.1:9/v1/traces"
    assert "refused" in lines[0]["reason"]
    assert lines[1]["dropped_spans"] == 60
    assert "not-for-a-log" not in str(lines)


def test_a_collector_that_is_back_is_sent_to_again(
    collector: TraceCollector, open_traced: Callable[..., OtlpSpans]
) -> None:
    """The log says how many spans the time before cost."""
    collector.statuses = [400]
    spans = open_traced(collector.url)

    with capture_logs() as lines:
        for name in ("lost", "kept"):
            with spans.span(name):
                pass
            collector.wait(lambda: spans.dropped or collector.spans)
        collector.wait(lambda: collector.named("kept"))
        spans.close()

    assert [span.name for span in collector.spans] == ["kept"]
    assert [(line["event"], line.get("dropped_spans")) for line in lines][:2] == [
        ("traces_dropped", None),
        ("traces_sent_again", 1),
    ]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, open_traced: Callable[..., OtlpSpans]) -> None:
    """A collector that hangs: further spans are dropped and counted, and nobody waits, at the end for a moment."""
    hanging = threading.Event()
    spans = open_traced("http://127.0.0.1:9/v1/traces")
    monkeypatch.setattr(spans._delivery._exporter, "export", lambda _: hanging.wait(10))
    monkeypatch.setattr(opentelemetry_spans, "CLOSE_TIMEOUT_S", 0.3)

    with capture_logs() as lines:
        started = time.monotonic()
        for _ in range(opentelemetry_spans.MAX_WAITING_SPANS + 1_000):
            with spans.span("work"):
                pass
        worked_s = time.monotonic() - started
        before = spans.dropped
        spans.close()
        hanging.set()

    under_way = opentelemetry_spans.MAX_BATCH_SPANS
    assert 1_000 - under_way <= before <= 1_000  # depending on whether a batch, full or not, had been taken
    assert spans.dropped == opentelemetry_spans.MAX_WAITING_SPANS + 1_000
    assert worked_s < 5
    assert [line["event"] for line in lines] == ["traces_dropped", "traces_lost"]


def test_a_burst_is_told_once_and_ends_well(
    monkeypatch: pytest.MonkeyPatch, collector: TraceCollector, open_traced: Callable[..., OtlpSpans]
) -> None:
    """A collector that answers gets what had room, up to the end of the process."""
    monkeypatch.setattr(opentelemetry_spans, "MAX_WAITING_SPANS", 20)
    spans = open_traced(collector.url)

    with capture_logs() as lines:
        for _ in range(3):
            for _ in range(2_000):
                with spans.span("work"):
                    pass
            collector.wait(lambda: spans._delivery._waiting == 0)
        with spans.span("last"):
            pass
        spans.close()

    assert collector.named("last")
    assert len(collector.spans) + spans.dropped == 6_001
    assert spans.dropped > 0
    assert [line["event"] for line in lines] == ["traces_dropped", "traces_lost"]


def test_nothing_is_imported_where_nothing_is_traced() -> None:
    """Neither by the service nor by a process beside it. FastAPI by itself imports the interfaces, not what sends."""
    code = (
        "import sys; from trustwatch.api.settings.root import Settings; from trustwatch.api.traces import open_spans\n"
        "import trustwatch.api.service.serve, trustwatch.api.service.embedded_worker, trustwatch.api.archive.worker\n"
        "assert open_spans(Settings().traces, 'service') is None\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_what_is_not_traced_gathers_nothing() -> None:
    """The span of nobody is one for all."""
    with UNTRACED.span("one") as one, UNTRACED.span("two") as two:
        one.note({"records": 1})
    assert one is two
    assert not one.recorded
    assert open_spans(TraceSettings(), "service") is None


def test_only_one_module_may_open_spans_of_opentelemetry() -> None:
    """Whoever imports it at the top of a module makes every start pay for it."""
    api = Path(opentelemetry_spans.__file__).parent
    importers = [path.name for path in api.rglob("*.py") if "opentelemetry_spans import" in path.read_text()]

    assert importers == ["traces.py"]

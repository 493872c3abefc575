"""Spans by the OpenTelemetry SDK, sent by OTLP over HTTP. Imported only where `traces.endpoint` is set.

A span that has ended waits in a bounded queue for a thread of its own, which sends it. Who works never waits for the
collector: one that is away, or too slow, costs spans, which are counted, and said once.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import Token
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import requests
import structlog
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from requests.adapters import HTTPAdapter
from structlog.contextvars import bind_contextvars, reset_contextvars

from trustwatch.ingest.outgoing_http import trusted_authorities
from trustwatch.ingest.spans import Span, SpanKind, SpanValue

from .settings.service_settings import TraceSettings

MAX_WAITING_SPANS: Final = 2_048
"""Spans of one process that wait to be sent; further ones are dropped."""
MAX_BATCH_SPANS: Final = 512
SEND_EVERY_S: Final = 1.0
SEND_TIMEOUT_S: Final = 5.0
"""Time for one batch, with all attempts."""
CLOSE_TIMEOUT_S: Final = 2.0
"""Longest that the end of a process waits for what is not sent."""

TRACEPARENT: Final = "traceparent"
_KINDS: Final = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
}

_log = structlog.get_logger(__name__)


class OtlpSpans:
    """`Spans` that a collector gets.

    Args:
        settings: of traces; the endpoint is set.
        role: what this process does.
        instance: id of this process, unlike that of any other.
        ca_file: `outgoing.ca_file` of the settings.
    """

    def __init__(self, settings: TraceSettings, role: str, instance: str, ca_file: Path | None = None) -> None:
        self._delivery = SpanDelivery(_make_exporter(settings, ca_file), settings.traces_url())
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource.create(
                {
                    "service.name": settings.service_name,
                    "service.version": version("trustwatch"),
                    "service.instance.id": instance,
                    "trustwatch.role": role,
                }
            ),
            shutdown_on_exit=False,  # `close` says when, and waits no longer than it says
            span_limits=SpanLimits(max_span_attributes=32, max_span_attribute_length=256),
        )
        self._provider.add_span_processor(self._delivery.processor)
        self._tracer = self._provider.get_tracer("trustwatch", version("trustwatch"))
        self._closed = False
        self._parents = TraceContextTextMapPropagator()

    def span(self, name: str, kind: SpanKind = "internal") -> AbstractContextManager[Span]:
        """See `Spans`; lines of the log inside of it have its trace id."""
        return _OtlpSpan(self._tracer.start_span(name, kind=_KINDS[kind]))

    def request_span(self, name: str, traceparent: str) -> AbstractContextManager[Span]:
        """See `RecordedSpans`; never below what went on here before it.

        `tracestate`, a text of whoever asks, is not passed on.
        """
        around = self._parents.extract({TRACEPARENT: traceparent}, Context()) if traceparent else Context()
        return _OtlpSpan(self._tracer.start_span(name, around, _KINDS["server"]))

    def note(self, attributes: Mapping[str, SpanValue]) -> None:
        """See `Spans`."""
        trace.get_current_span().set_attributes(attributes)

    @property
    def dropped(self) -> int:
        """Spans that no collector got."""
        return self._delivery.dropped

    def close(self) -> None:
        """Send what waits, for `CLOSE_TIMEOUT_S` at most; not to a collector that is away."""
        if self._closed:
            return
        self._closed = True
        self._delivery.begin_closing()
        closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)
        self._delivery.end()


class _OtlpSpan:
    """`Span` over one of the SDK's, and the block that it is of."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.recorded = span.is_recording()
        self._lines: Mapping[str, Token[Any]] = {}

    def __enter__(self) -> Span:
        self._around = attach(trace.set_span_in_context(self._span))
        if self.recorded:
            self._lines = bind_contextvars(trace_id=format(self._span.get_span_context().trace_id, "032x"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Neither message nor traceback of an error: they may hold names.
        if kind is not None and issubclass(kind, Exception):
            self.mark_failed(kind.__name__)
        if self.recorded:
            reset_contextvars(**self._lines)
        detach(self._around)
        self._span.end()

    def note(self, attributes: Mapping[str, SpanValue]) -> None:
        """See `Span`."""
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        """See `Span`."""
        self._span.update_name(name)

    def mark_failed(self, error: str) -> None:
        """See `Span`."""
        self._span.set_attribute("error.type", error)
        self._span.set_status(trace.StatusCode.ERROR)


def _make_exporter(settings: TraceSettings, ca_file: Path | None) -> OTLPSpanExporter:
    headers = {name: secret.reveal() for name, secret in settings.headers.items()}
    session = requests.Session()
    session.mount("https://", _TrustingAdapter(trusted_authorities(ca_file)))
    return OTLPSpanExporter(endpoint=settings.traces_url(), headers=headers, timeout=SEND_TIMEOUT_S, session=session)


class _TrustingAdapter(HTTPAdapter):
    """Connects to the collector as our other clients connect."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *sizes: Any, **options: Any) -> None:
        """See `HTTPAdapter`."""
        super().init_poolmanager(*sizes, **options, ssl_context=self._context)


class SpanDelivery(SpanExporter):
    """The way to the collector: what waits is bounded, what is lost is counted.

    Args:
        exporter: sends a batch, and tries again by itself for a while.
        url: of the collector, for the log.
    """

    def __init__(self, exporter: SpanExporter, url: str) -> None:
        self._exporter = exporter
        self._url = url
        self._lock = threading.Lock()
        self._waiting = self._under_way = 0
        self._away = self._overflowed = self._closing = self._stopped = False
        self._reason = _LastReason()
        self.dropped = 0
        """Spans that no collector got."""
        self.processor = _BoundedProcessor(self)
        """Processor that the SDK hands spans to."""

    def take(self) -> bool:
        """Take room for one span more; False = there is none."""
        with self._lock:
            room = self._waiting < MAX_WAITING_SPANS
            self._waiting += room
            self.dropped += not room
            # Said once in the life of a process: under more load than a collector takes, each batch makes room again.
            first = not room and not (self._overflowed or self._away)
            self._overflowed = self._overflowed or not room
        if first:
            self._tell_loss("more spans end than the collector takes")
        return room

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; in the thread of the processor."""
        with self._lock:
            self._waiting -= len(spans)
            self._under_way = len(spans)
            self._reason.text = ""
        given_up = self._closing and self._away  # who stops does not wait for it again
        result = SpanExportResult.FAILURE if given_up else self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._note_success()
        else:
            self._note_failure()
        return result

    def _note_failure(self) -> None:
        with self._lock:
            self.dropped += self._under_way
            self._under_way = 0
            first, self._away = not self._away, True
        if first:
            self._tell_loss(self._reason.text or "the collector did not take them")

    def _tell_loss(self, reason: str) -> None:
        _log.warning(
            "traces_dropped", collector=self._url, reason=reason, note="`traces_lost` says at the end how many"
        )

    def _note_success(self) -> None:
        with self._lock:
            self._under_way = 0
            back, self._away = self._away, False
        if back:
            _log.info("traces_sent_again", collector=self._url, dropped_spans=self.dropped)

    def begin_closing(self) -> None:
        """Try no more where the collector was away when it was last asked."""
        self._closing = True
        if self._away:
            self._stop_exporter()

    def end(self) -> None:
        """Give up what is not sent, and say how much was lost."""
        with self._lock:
            self.dropped += self._waiting + self._under_way
            self._waiting = self._under_way = 0
        if self.dropped:
            _log.warning("traces_lost", collector=self._url, dropped_spans=self.dropped)
        self._reason.remove()

    def shutdown(self) -> None:
        """See `SpanExporter`: called by the SDK once all is sent."""
        if not self._stopped:
            self._stop_exporter()

    def _stop_exporter(self) -> None:
        self._stopped = True
        self._exporter.shutdown()  # ends a wait between two attempts


class _BoundedProcessor(BatchSpanProcessor):
    """The SDK's processor with a bound that counts: its own queue, longer than ours, never overflows unseen."""

    def __init__(self, delivery: SpanDelivery) -> None:
        super().__init__(
            delivery,
            max_queue_size=MAX_WAITING_SPANS + MAX_BATCH_SPANS,
            schedule_delay_millis=SEND_EVERY_S * 1000,
            max_export_batch_size=MAX_BATCH_SPANS,
            export_timeout_millis=SEND_TIMEOUT_S * 1000,
        )
        self._delivery = delivery

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended, if it is sampled and there is room."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled and self._delivery.take():
            super().on_end(span)


class _LastReason(logging.Handler):
    """Keeps what the SDK said last, which its results do not, and keeps it off stderr: we say it once, in our log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""
        self._logger = logging.getLogger("opentelemetry")
        self._propagated = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line of an attempt, which says why; those after it say that it was given up."""
        self.text = self.text or record.getMessage().split("\n")[0][:300]

    def remove(self) -> None:
        """Leave the SDK's log as it was."""
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated

"""Shared signals: what the slice adds to the application."""

from __future__ import annotations

from collections.abc import Sequence

from ..http.prometheus_metrics import MetricValues, age_s
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from ..http.store_executor import StoreExecutor
from .routes import SCOPE_WORDS, router, streams
from .service import SharedSignalsService
from .transmitter_context import TransmitterContext


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    """The service, where the settings turn it on; its context is the composition root's where that made one."""
    runtime = services.get(Runtime)
    settings = runtime.settings
    if not settings.shared_signals.enabled:
        return ()
    known = services.find(TransmitterContext)
    context = known or TransmitterContext(settings, runtime.clock, runtime.monotonic)
    service = SharedSignalsService(
        context,
        runtime.store.security_events,
        services.get(StoreExecutor),
        settings.shared_signals.audiences,
        runtime.now_ms,
        runtime.monotonic,
    )
    return (service,) if known is not None else (context, service)


def _metric_values(services: ServiceRegistry) -> MetricValues:
    context = services.find(TransmitterContext)
    if context is None:
        return {}
    values: dict[str, dict[tuple[str, ...], float]] = {
        "trustwatch_security_events_total": {(outcome,): count for outcome, count in context.outcomes.items()},
        "trustwatch_event_stream_polls": {(): context.waiting_polls},
    }
    figures = context.figures
    if figures is not None:
        now_ms = services.get(Runtime).now_ms()
        values["trustwatch_event_streams"] = {(status,): count for status, count in figures.streams.items()}
        values["trustwatch_security_events_waiting"] = {(): figures.waiting}
        values["trustwatch_security_events_oldest_seconds"] = {(): max(0.0, age_s(figures.oldest_ms, now_ms))}
    return values


SLICE = Slice(
    "shared_signals",
    routers=(router, streams),
    services=_make_services,
    metrics=_metric_values,
    scopes=SCOPE_WORDS,
)

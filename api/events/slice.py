"""Slice of events: its services, routes and metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from trustwatch.ingest.formats.bodies import CONTENT_CODINGS, EVENT_MEDIA_TYPES, BodyTooLarge, UnsupportedBody

from ..http.ledger import Ledger, Overloaded
from ..http.problems import ProblemDetails
from ..http.prometheus_metrics import MetricValues, ServiceMetrics
from ..http.runtime import Runtime
from ..http.slice import LifespanService, ServiceRegistry, Slice
from ..http.store_executor import StoreExecutor
from ..http.worker_pool import UnprocessableWork, WorkerPool
from .admission import Admission, AgentRegistry
from .ingest_status import CallerSilenceWatch, IngestStatus, SilenceAlerter, SilenceDetector
from .intake import EventIntake
from .intake_limits import MAX_LAG_BYTES, Backlog, IntakeLimits, SourceFairness, disk_reserve
from .origin_keys import OriginKeyIssuer, open_shared_secret
from .routes import DIRECT_EVENTS_ROUTE, EVENTS_PATH, LOGS_PATH, TRACES_PATH, dead_letters_router, otlp_router, router
from .service import DeadLetterService, EventService


def _make_services(services: ServiceRegistry) -> Sequence[object]:
    runtime, ledger = services.get(Runtime), services.get(Ledger)
    settings = runtime.settings
    limits = IntakeLimits(
        runtime.log_lag or (lambda: 0),
        MAX_LAG_BYTES,
        runtime.monotonic,
        disk_reserve=disk_reserve(settings, runtime.monotonic),
        fairness=SourceFairness(partial(_backlog, runtime), runtime.monotonic),
    )
    admission = Admission(
        AgentRegistry(settings.registry),
        runtime.principal_alias,
        runtime.store.identities,
        settings.scope_actions,
        ledger.new_agents,
    )
    intake = EventIntake(
        runtime.event_log,
        admission,
        limits,
        runtime.clock,
        runtime.new_id,
        compiled_elsewhere=runtime.compiled_elsewhere,
    )
    detector = SilenceDetector(settings.callers, runtime.monotonic())
    events = EventService(runtime, intake, detector, services.get(ServiceMetrics), ledger, services.get(WorkerPool))
    dead_letters = DeadLetterService(runtime, services.get(StoreExecutor), events)
    keys = OriginKeyIssuer(lambda: open_shared_secret(settings), settings.privacy, runtime.clock)
    watch = CallerSilenceWatch(detector, services.find(SilenceAlerter), runtime.monotonic)
    return intake, detector, events, dead_letters, keys, watch


def _backlog(runtime: Runtime) -> Backlog:
    """Return the current progress of the embedded pipeline, or that of remote workers at their last report."""
    status = runtime.pipeline_status
    waiting = status.records_behind if runtime.log_lag is None else runtime.log_lag()
    return Backlog(max(status.offset, status.risk_offset), waiting)


def _lifespans(services: ServiceRegistry) -> Sequence[LifespanService]:
    return (services.get(CallerSilenceWatch),)


def _metric_values(services: ServiceRegistry) -> MetricValues:
    intake, status = services.find(EventIntake), services.find(IngestStatus)
    values: dict[str, dict[tuple[str, ...], float]] = {}
    reserve = None if intake is None else intake.limits.disk_reserve
    if reserve is not None:
        values["trustwatch_disk_reserve_reached"] = {(): float(reserve.is_reached())}
    silence = list(services.find(SilenceDetector) or ())
    if status is not None:
        silence += status.report.silence
        sources, alive = status.report.sources, status.alive is True
        values |= {
            "trustwatch_ingest_records_total": {
                (source.name, outcome): getattr(source, outcome)
                for source in sources
                for outcome in ("accepted", "rejected", "skipped")
            },
            "trustwatch_ingest_lag": {(source.name,): source.lag for source in sources},
            "trustwatch_ingest_reading": {(source.name,): float(source.reading and alive) for source in sources},
        }
    return values | {"trustwatch_source_silent": {(source.name,): float(source.silent) for source in silence}}


def _overloaded(error: Overloaded) -> ProblemDetails:
    headers = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    return ProblemDetails(429, error.code, "Too many requests", str(error), headers)


def _too_large(error: BodyTooLarge) -> ProblemDetails:
    return ProblemDetails(413, BodyTooLarge.code, "Body too large", str(error))


def _unsupported(error: UnsupportedBody) -> ProblemDetails:
    headers = {"Accept": ", ".join(EVENT_MEDIA_TYPES), "Accept-Encoding": ", ".join(CONTENT_CODINGS)}
    return ProblemDetails(415, UnsupportedBody.code, "Unsupported body", str(error), headers)


def _unprocessable(error: UnprocessableWork) -> ProblemDetails:
    return ProblemDetails(422, UnprocessableWork.code, "Unprocessable", str(error))


SLICE = Slice(
    "events",
    routers=(router, otlp_router, dead_letters_router),
    direct_routes=(DIRECT_EVENTS_ROUTE,),
    streamed_paths=(EVENTS_PATH, TRACES_PATH, LOGS_PATH),
    problems={
        Overloaded: _overloaded,
        BodyTooLarge: _too_large,
        UnsupportedBody: _unsupported,
        UnprocessableWork: _unprocessable,
    },
    services=_make_services,
    lifespans=_lifespans,
    metrics=_metric_values,
)

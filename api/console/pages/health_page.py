"""Health: status of the service, pending and lost items, active versions, and the effective settings."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from trustwatch.ingest.errors import Unavailable

from ...alerts.service import AlertService
from ...events.ingest_status import ForeignTopicReport, IngestStatus, SilenceDetector, SilenceReport
from ...http.auth.callers import AuthenticatedCaller
from ...http.prometheus_metrics import ServiceMetrics
from ...http.runtime import Runtime
from ...http.slice import ServiceRegistry
from ...http.store_executor import StoreExecutor
from ...settings.access_settings import ANY_NAME, EventSourceSettings
from ...settings.effective import settings_yaml
from ..page_dependencies import PageAdministratorDep, PageRequest

_COMPONENTS: Final[Mapping[str, tuple[str, str]]] = {
    "log": (
        "accepts events and orders of people",
        "accepts nothing: senders get 503 and must retry. Check the disk or the brokers, and the log.",
    ),
    "pipeline": (
        "judges what arrives",
        "does not report: answers become stale. Events are still accepted, and judged once it works again.",
    ),
    "issuers": (
        "the keys of at least one issuer are loaded",
        "no issuer's keys are loaded: every token is refused. Check whether this machine reaches its key set.",
    ),
    "archive": ("writes its files", "writes no files. Check its directory and the log."),
}
_OTHER: Final = ("works", "does not work. The log of the service has the reason.")
"""Texts about a part of the service while it works and while it does not."""

_TROUBLES: Final[Sequence[tuple[str, str, *tuple[str, ...]]]] = (
    ("trustwatch_dead_letters_dropped_total", "dead letters that were dropped: the store was full"),
    ("trustwatch_audit_events_total", "own audit events that were lost", "dropped"),
    (
        "trustwatch_pipeline_records_total",
        "of the pipeline",
        *("vectors_dropped", "identity_conflicts", "fenced", "ticks_not_sent", "heartbeats_not_sent"),
    ),
    ("trustwatch_events_total", "events that were rejected", "rejected"),
    ("trustwatch_events_refused_requests_total", "requests with events that were refused for now"),
    ("trustwatch_ingest_records_total", "records of foreign topics that were rejected", "rejected"),
    ("trustwatch_verdict_failures_total", "requests for verdicts that failed"),
    ("trustwatch_approvals_failed_total", "approvals that could not be requested or used"),
    ("trustwatch_deliveries_total", "attempts to deliver an alert that failed", "failed", "gone", "retry"),
    ("trustwatch_actuations_total", "attempts of actuators that failed", "failed", "retry"),
    ("trustwatch_security_events_total", "tokens of streams that were not accepted", "failed", "retry"),
    ("trustwatch_policy_errors_total", "token policy files that were invalid"),
    ("trustwatch_issuer_keys_skipped_total", "keys of issuers that could not be read"),
    ("trustwatch_connections_closed_total", "connections that were closed before their client was done"),
)
"""Metrics of losses, refusals and failures, with their text and the label values that count (none = all)."""

router = APIRouter()


@router.get("/health")
async def show_health(visit: PageAdministratorDep) -> Response:
    """The state of the process that answers. What names or counts other tenants is for people of all."""
    runtime, sees_all, services = visit.runtime, ANY_NAME in visit.caller.tenants, visit.console.services
    schema, answers_in_s, store_trouble = await _look_at_store(visit)
    ingest, sources = visit.find(IngestStatus), silence_reports(services, visit.caller)
    return visit.render(
        "health.html",
        components=_describe_components(visit.console.activity.note_components()),
        work=_work_values(runtime),
        answers_in_s=answers_in_s,
        store_trouble=store_trouble,
        learning=runtime.learning(),
        restart_needed=runtime.settings_reloads.restart_needed if sees_all else (),
        policy=runtime.live_policy,
        stops=[] if store_trouble else await visit.get(AlertService).target_stops(),
        targets=len(runtime.settings.webhooks),
        sources=sources,
        silent=[source for source in sources if source.silent],
        topics=_topic_reports(services, visit.caller),
        topics_are_read=ingest is not None and ingest.alive,
        troubles=_count_troubles(visit.get(ServiceMetrics)) if sees_all else None,
        versions=[
            ("Trustwatch", version("trustwatch")),
            ("Python", platform.python_version()),
            ("Model", runtime.scoring_version),
            ("Token policy", runtime.live_policy.book.version),
            ("Tables of the store", schema or "none"),
        ],
        settings=settings_yaml(runtime.settings) if sees_all else None,
        sees_all=sees_all,
    )


async def _look_at_store(visit: PageRequest) -> tuple[str | None, float, str]:
    """Revision of the tables, how long the answer took, and why there was none; "" = there was one."""
    monotonic = visit.runtime.monotonic
    began = monotonic()
    try:
        schema = await visit.get(StoreExecutor)(visit.runtime.store.schema_revision)
    except Unavailable as error:
        return None, monotonic() - began, str(error)
    return schema, monotonic() - began, ""


def _describe_components(states: Mapping[str, tuple[bool, int]]) -> list[dict[str, Any]]:
    """Parts of the service, those that do not work first; `since_ms` is when this process first saw it so."""
    shown = [
        {"name": name, "fine": fine, "words": _COMPONENTS.get(name, _OTHER)[not fine], "since_ms": since_ms}
        for name, (fine, since_ms) in states.items()
    ]
    return sorted(shown, key=lambda one: bool(one["fine"]))


def _count_troubles(metrics: ServiceMetrics) -> list[tuple[str, str, float, str]]:
    """Words, labels, count and metric of what this process counted since its start that is not 0."""
    values = metrics.values()
    return [
        (words, ", ".join(labels), count, metric)
        for metric, words, *wanted in _TROUBLES
        for labels, count in sorted(values[metric].items())
        if count and (not wanted or set(wanted) & set(labels))
    ]


def _work_values(runtime: Runtime) -> dict[str, Any]:
    """Figures of logged, judged and pending events."""
    status, log, now_ms = runtime.pipeline_status, runtime.event_log, runtime.now_ms()
    return {
        "log_kind": "topics of brokers" if runtime.settings.distributed else "files on this machine",
        "next_offset": log.log.next_offset,
        "waiting_bytes": log.waiting_bytes,
        "behind": status.records_behind if runtime.log_lag is None else runtime.log_lag(),
        "fresh_ms": status.fresh_ms,
        "reported_ms": status.last_report_ms,
        "stale": bool(status.fresh_ms) and now_ms - status.fresh_ms >= runtime.settings.risk.staleness_s * 1000,
        "starting": status.starting,
        "waiting_for": status.waiting_for,
        "store_kind": "SQLite" if runtime.settings.store.url is None else "PostgreSQL",
        "agents": len(runtime.risk_view),
    }


def silence_reports(services: ServiceRegistry, caller: AuthenticatedCaller) -> list[SilenceReport]:
    """Sources whose silence is watched, as far as *caller* may know of them: callers, and foreign topics read here."""
    ingest, settings = services.find(IngestStatus), services.get(Runtime).settings
    callers = _known_sources(settings.callers, caller)
    topics = _known_sources(settings.brokers.topics, caller)
    return [
        *(report for report in services.get(SilenceDetector) if report.name in callers),
        *(report for report in (() if ingest is None else ingest.report.silence) if report.name in topics),
    ]


def _topic_reports(services: ServiceRegistry, caller: AuthenticatedCaller) -> list[ForeignTopicReport] | None:
    """Foreign topics, that *caller* may see; None if this process reads none, or none belongs to it."""
    ingest = services.find(IngestStatus)
    known = _known_sources(services.get(Runtime).settings.brokers.topics, caller)
    if ingest is None or ingest.alive is None or not (known or ANY_NAME in caller.tenants):
        return None
    return [report for report in ingest.report.sources if report.name in known]


def _known_sources(sources: Iterable[EventSourceSettings], caller: AuthenticatedCaller) -> frozenset[str]:
    """Names of the sources authorized for a tenant of *caller*. A source for `*` belongs to no tenant: only callers of
    all tenants see it."""
    if ANY_NAME in caller.tenants:
        return frozenset(source.name for source in sources)
    return frozenset(source.name for source in sources if caller.tenants & set(source.tenants))

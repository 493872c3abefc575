"""The state of the service in words: its parts, what waits, what was lost, what is in force."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from ...events.ingest_status import ForeignTopicReport, IngestStatus, SilenceReport
from ...events.source_silence import SilenceDetector
from ...http.auth.callers import AuthenticatedCaller
from ...http.prometheus_metrics import ServiceMetrics
from ...http.runtime import Runtime
from ...http.service_registry import ServiceRegistry
from ...settings.event_source_settings import ANY_NAME, EventSourceSettings


class ComponentWords(NamedTuple):
    """Words for what a part of the service means for people, while it works and while it does not."""

    fine: str
    broken: str


_COMPONENTS: Final[Mapping[str, ComponentWords]] = {
    "log": ComponentWords(
        "takes events, and what people order",
        "takes nothing: senders get 503 and have to try again. Look at the disk or the brokers, and at the log.",
    ),
    "pipeline": ComponentWords(
        "judges what arrives",
        "does not report: answers become stale. Events are still taken, and judged once it is back.",
    ),
    "issuers": ComponentWords(
        "the keys of at least one issuer are here",
        "no issuer's keys are here: every token is refused. Is its key set reached from here?",
    ),
    "archive": ComponentWords("writes its files", "writes no files. Look at its directory and at the log."),
}
_OTHER: Final = ComponentWords("works", "does not work. The log of the service says why.")


class ShownComponent(NamedTuple):
    """A part of the service. *since_ms* is when this process first saw it so."""

    name: str
    fine: bool
    words: str
    since_ms: int


def display_components(states: Mapping[str, tuple[bool, int]]) -> list[ShownComponent]:
    """Parts of the service, those that do not work first."""
    shown = []
    for name, (fine, since_ms) in states.items():
        words = _COMPONENTS.get(name, _OTHER)
        shown.append(ShownComponent(name, fine, words.fine if fine else words.broken, since_ms))
    return sorted(shown, key=lambda one: one.fine)


class _Trouble(NamedTuple):
    metric: str
    words: str
    labels: tuple[str, ...] = ()
    """Values of any label that count as trouble; none = all do."""


_TROUBLES: Final = (
    _Trouble("trustwatch_dead_letters_dropped_total", "dead letters that found no room"),
    _Trouble("trustwatch_audit_events_total", "own audit events that were lost", ("dropped",)),
    _Trouble(
        "trustwatch_pipeline_records_total",
        "of the pipeline",
        (
            "vectors_dropped",
            "identity_conflicts",
            "fenced",
            "ticks_not_sent",
            "heartbeats_not_sent",
            "checkpoints_not_removed",
        ),
    ),
    _Trouble("trustwatch_events_total", "events that were rejected", ("rejected",)),
    _Trouble("trustwatch_events_refused_requests_total", "requests with events that were told to come again"),
    _Trouble("trustwatch_ingest_records_total", "records of foreign topics that were rejected", ("rejected",)),
    _Trouble("trustwatch_verdict_failures_total", "questions that could not be decided"),
    _Trouble("trustwatch_approvals_failed_total", "approvals that could not be asked for or spent"),
    _Trouble("trustwatch_deliveries_total", "attempts to deliver an alert that failed", ("failed", "gone", "retry")),
    _Trouble("trustwatch_actuations_total", "attempts of actuators that failed", ("failed", "retry")),
    _Trouble("trustwatch_security_events_total", "tokens of streams that were not taken", ("failed", "retry")),
    _Trouble("trustwatch_policy_errors_total", "token policy files that were wrong"),
    _Trouble("trustwatch_issuer_keys_skipped_total", "keys of issuers that could not be read"),
    _Trouble("trustwatch_connections_closed_total", "connections that were closed before their client was done"),
)


class ShownTrouble(NamedTuple):
    """A count of what was lost, refused or tried in vain, that is not 0."""

    words: str
    labels: str
    amount: float
    metric: str


def display_troubles(metrics: ServiceMetrics) -> list[ShownTrouble]:
    """Counts of this process since its start that are not 0."""
    values = metrics.values()
    return [
        ShownTrouble(trouble.words, ", ".join(labels), count, trouble.metric)
        for trouble in _TROUBLES
        for labels, count in sorted(values[trouble.metric].items())
        if count and (not trouble.labels or set(trouble.labels) & set(labels))
    ]


def display_versions(runtime: Runtime, schema: str | None) -> list[tuple[str, str]]:
    """Names and versions of what is in force."""
    return [
        ("Trustwatch", version("trustwatch")),
        ("Python", platform.python_version()),
        ("Model", runtime.scoring_version),
        ("Token policy", runtime.live_policy.book.version),
        ("Tables of the store", schema or "none"),
    ]


def display_work(runtime: Runtime) -> dict[str, Any]:
    """Figures of what is logged, judged, and waits."""
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


def topic_reports(services: ServiceRegistry, caller: AuthenticatedCaller) -> list[ForeignTopicReport] | None:
    """Foreign topics, as far as *caller* may know of them; None where none is to be read here, or none is its own."""
    ingest = services.find(IngestStatus)
    known = _known_sources(services.get(Runtime).settings.brokers.topics, caller)
    if ingest is None or ingest.alive is None or not (known or ANY_NAME in caller.tenants):
        return None
    return [report for report in ingest.report.sources if report.name in known]


def _known_sources(sources: Iterable[EventSourceSettings], caller: AuthenticatedCaller) -> frozenset[str]:
    """Names of the sources that speak for a tenant of *caller*. One for `*` belongs to no tenant: it is for people of
    all."""
    if ANY_NAME in caller.tenants:
        return frozenset(source.name for source in sources)
    return frozenset(source.name for source in sources if caller.tenants & set(source.tenants))

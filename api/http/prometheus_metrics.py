"""Metrics that are read from the services at the moment when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ...scoring.records.agents import RiskLevel
from ..access.gateways.gateway_issuers import GatewayIssuers
from ..archive.archive_status import ArchiveStatus
from ..events.ingest_status import IngestStatus
from ..events.source_silence import SilenceDetector
from .metric_table import METRICS, MetricDefinition
from .runtime import Runtime

LabelledValues = Mapping[tuple[str, ...], float]


class RuntimeCollector(Collector):
    """All `observed` metrics of one application.

    Args:
        services: what is looked at.
        held_bytes: bytes of request bodies with events that are in memory.
        silence: of callers.
        gateway: issuers behind gateways, where there are any.
    """

    def __init__(
        self, services: Runtime, held_bytes: Callable[[], int], silence: SilenceDetector, gateway: GatewayIssuers | None
    ) -> None:
        self._runtime = services
        self._gateway_issuers = gateway
        self._held_bytes = held_bytes
        self._silence_watch = silence

    def describe(self) -> Iterator[Any]:
        """Names only, so that registering reads nothing."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        values = {**_process_values(self._runtime), **_pipeline_values(self._runtime)}
        values |= _access_values(self._runtime) | _feedback_values(self._runtime) | _erasure_values(self._runtime)
        values["trustwatch_tokens_revoked_total"] = {}
        if self._gateway_issuers is not None:
            values |= _gateway_values(self._gateway_issuers, values["trustwatch_issuer_keys"])
        values |= _archive_values(self._runtime.archive_status)
        values |= _ingest_values(self._runtime.ingest_status) | _silence_values(self._silence_watch, self._runtime)
        values["trustwatch_body_bytes"] = {(): self._held_bytes()}
        for metric in METRICS:
            if metric.kind == "observed histogram":
                yield _containment_histogram(metric, self._runtime)
            elif metric.kind.startswith("observed"):
                kind = GaugeMetricFamily if metric.kind.endswith("gauge") else CounterMetricFamily
                family = kind(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in values[metric.name].items():
                    family.add_metric(labels, value)
                yield family


def _process_values(services: Runtime) -> dict[str, LabelledValues]:
    return {
        "trustwatch_log_waiting_bytes": {(): services.event_log.waiting_bytes},
        "trustwatch_log_next_offset": {(): services.event_log.log.next_offset},
        "trustwatch_log_failed": {(): float(services.event_log.log.failed)},
        "trustwatch_agents": {(): len(services.risk_view)},
        "trustwatch_deliveries_total": {labels: count for labels, count in services.delivery_counts.items()},
        "trustwatch_actuations_total": {
            labels: count for labels, count in services.actuation_statistics.outcomes.items()
        },
        "trustwatch_issuer_keys": {(issuer.issuer,): issuer.keys for issuer in services.issuer_key_status()},
        "trustwatch_model_in_force": {(services.scoring_version,): 1.0},
        "trustwatch_model_shadow_agent_days": {
            (version,): days
            for version, days in ({} if services.model_service is None else services.model_service.challengers).items()
        },
        "trustwatch_tokens_cached": {(): len(services.verifier.cache)},
        "trustwatch_watchers": {(): len(services.pipeline_status.subscribers)},
    }


def _containment_histogram(metric: MetricDefinition, services: Runtime) -> HistogramMetricFamily:
    family, figures = (
        HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels),
        services.actuation_statistics,
    )
    for target in figures.targets:
        family.add_metric((target,), figures.histogram_buckets(target), figures.containment_seconds[target])
    return family


def _pipeline_values(services: Runtime) -> dict[str, LabelledValues]:
    status, now_ms = services.pipeline_status, services.now_ms()
    return {
        "trustwatch_pipeline_alive": {(): float(status.alive)},
        "trustwatch_pipeline_silence_seconds": {(): _age_s(status.last_report_ms, now_ms)},
        "trustwatch_pipeline_age_seconds": {(): _age_s(status.fresh_ms, now_ms)},
        "trustwatch_partition_age_seconds": {
            (str(partition),): _age_s(fresh_ms, now_ms)
            for partition, fresh_ms in sorted((status.fresh_ms_by_partition or {}).items())
        },
        "trustwatch_pipeline_offset": {(): status.offset},
        "trustwatch_pipeline_behind": {(): status.records_behind},
        "trustwatch_pipeline_records_total": {
            (name,): count for name, count in status.work_counts.items() if name != "feedback_matched"
        },
        "trustwatch_pipeline_seconds_total": {(name,): spent for name, spent in status.stage_seconds.items()},
        "trustwatch_dead_letters_dropped_total": {(): status.dropped_dead_letters},
        "trustwatch_decisions_total": {
            (RiskLevel(level).label,): count for level, count in sorted(status.level_change_counts.items())
        },
    }


def _access_values(services: Runtime) -> dict[str, LabelledValues]:
    guard, policy = services.decision_point, services.live_policy
    return {
        "trustwatch_verdicts_total": {labels: count for labels, count in guard.verdict_counts.items()},
        "trustwatch_verdict_failures_total": {labels: count for labels, count in guard.failure_counts.items()},
        "trustwatch_audit_events_total": {
            ("written",): guard.audit_sink.written,
            ("dropped",): guard.audit_sink.dropped,
        },
        "trustwatch_audit_events_waiting": {(): len(guard.audit_sink)},
        "trustwatch_policy_reloads_total": {(): policy.reloads},
        "trustwatch_policy_errors_total": {(): policy.errors},
        "trustwatch_approvals_unasked_total": {(): guard.approval_workflow.failed_requests},
    }


def _feedback_values(services: Runtime) -> dict[str, LabelledValues]:
    desk, counts = services.feedback_service, services.pipeline_status.work_counts
    previews = None if desk is None else desk.preview_runner
    return {
        "trustwatch_feedback_rules": {
            (kind,): 0 if desk is None else desk.rule_publisher.active_counts[kind] for kind in ("agent", "peer_group")
        },
        "trustwatch_feedback_matched_total": {(): counts.get("feedback_matched", 0)},
        "trustwatch_feedback_previews_total": {}
        if previews is None
        else {(outcome,): count for outcome, count in previews.ended_counts.items()},
        "trustwatch_feedback_previews_waiting": {(): 0 if previews is None else previews.running_count},
    }


def _erasure_values(services: Runtime) -> dict[str, LabelledValues]:
    desk = services.erasure_service
    ended = (0, 0) if desk is None else (desk.done_count, desk.failed_count)
    return {"trustwatch_erasures_total": {("done",): ended[0], ("failed",): ended[1]}}


def _gateway_values(gateway: GatewayIssuers, keys: LabelledValues) -> dict[str, LabelledValues]:
    held: LabelledValues = {(issuer.issuer,): issuer.keys for issuer in gateway.jwks.status()}
    return {
        "trustwatch_tokens_revoked_total": {labels: count for labels, count in gateway.revocation_counts.items()},
        "trustwatch_issuer_keys": {**held, **keys},
    }


def _ingest_values(ingest: IngestStatus) -> dict[str, LabelledValues]:
    sources = ingest.report.sources
    return {
        "trustwatch_ingest_alive": {} if ingest.alive is None else {(): float(ingest.alive)},
        "trustwatch_ingest_records_total": {
            (source.name, outcome): getattr(source, outcome)
            for source in sources
            for outcome in ("accepted", "rejected", "skipped")
        },
        "trustwatch_ingest_lag": {(source.name,): source.lag for source in sources},
        "trustwatch_ingest_reading": {(source.name,): float(source.reading) for source in sources},
        "trustwatch_ingest_limited_seconds_total": {(source.name,): source.limited_s for source in sources},
    }


def _last_unlabelled(values: Iterable[float]) -> LabelledValues:
    """The last of *values*, without a label; nothing where there is none."""
    found = list(values)[-1:]
    return {(): found[0]} if found else {}


def _archive_values(archive: ArchiveStatus) -> dict[str, LabelledValues]:
    reports = archive.reports.items()
    events = [report for kind, report in reports if kind == "events"]
    vectors = [report for kind, report in reports if kind == "vectors"]
    return {
        "trustwatch_archive_alive": {(kind,): float(alive) for kind, alive in archive.alive.items()},
        "trustwatch_archive_rows_total": {(kind,): report.rows for kind, report in reports},
        "trustwatch_archive_files_total": {(kind,): report.files for kind, report in reports},
        "trustwatch_archive_merged_files_total": {(kind,): report.merged for kind, report in reports},
        "trustwatch_archive_behind": _last_unlabelled(report.behind for report in events),
        "trustwatch_archive_lag_seconds": _last_unlabelled(report.lag_s for report in events),
        "trustwatch_archive_spool_bytes": _last_unlabelled(report.waiting_bytes for report in vectors),
    }


def _silence_values(callers: SilenceDetector, services: Runtime) -> dict[str, LabelledValues]:
    now_ms = services.now_ms()
    heard = [*callers, *services.ingest_status.report.silence]
    return {
        "trustwatch_source_silent": {(source.name,): float(source.silent) for source in heard},
        "trustwatch_source_last_seen_seconds": {(source.name,): _age_s(source.last_ms, now_ms) for source in heard},
    }


def _age_s(at_ms: int, now_ms: int) -> float:
    return (now_ms - at_ms) / 1000 if at_ms else -1.0


# What one application counts as things happen, and the page on which all its metrics are told.


DURATION_BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
)
"""Upper bounds of durations, s: fine where answers from memory are, coarse where disks are."""


class ServiceMetrics:
    """The metrics of one application.

    Args:
        services: read when metrics are asked for.
        registry: where they are registered; one application each.
        held_bytes: bytes of request bodies with events that are in memory.
        silence: of callers.
        gateway: issuers behind gateways, where there are any.
    """

    def __init__(
        self,
        services: Runtime,
        registry: CollectorRegistry,
        held_bytes: Callable[[], int],
        silence: SilenceDetector,
        gateway: GatewayIssuers | None = None,
    ) -> None:
        self.registry = registry
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(metric.name, metric.meaning, metric.labels, registry=registry)
            elif metric.kind == "histogram":
                self._histograms[metric.name] = Histogram(
                    metric.name, metric.meaning, metric.labels, buckets=DURATION_BUCKETS, registry=registry
                )
        self._gateway_instruments: dict[tuple[str, int, str], tuple[Counter, Counter, Histogram, Histogram]] = {}
        registry.register(RuntimeCollector(services, held_bytes, silence, gateway))

    def counter(self, name: str, *labels: str) -> Counter:
        """A counter with its labels, to be kept where it is counted often."""
        return self._counters[name].labels(*labels)

    def histogram(self, name: str, *labels: str) -> Histogram:
        """A histogram with its labels."""
        return self._histograms[name].labels(*labels)

    def count_hook_answer(self, hook: str, route: str, status: int, seconds: float) -> None:
        """Count one answer of a hook. Hooks and their routes are named in the settings, so there are few."""
        self.counter("trustwatch_http_requests_total", route, str(status)).inc()
        self.histogram("trustwatch_http_request_seconds", route).observe(seconds)
        self.histogram("trustwatch_hook_seconds", hook).observe(seconds)

    def count_gateway_answer(self, way: str, route: str, status: int, kind: str, seconds: float) -> None:
        """Count one answer to a gateway. What counts it is looked up once: agents wait for each."""
        found = self._gateway_instruments.get((way, status, kind))
        if found is None:
            found = self._gateway_instruments[way, status, kind] = (
                self.counter("trustwatch_http_requests_total", route, str(status)),
                self.counter("trustwatch_gateway_answers_total", way, kind),
                self.histogram("trustwatch_http_request_seconds", route),
                self.histogram("trustwatch_gateway_seconds", way),
            )
        for counter in found[:2]:
            counter.inc()
        for histogram in found[2:]:
            histogram.observe(seconds)

    def exposition(self) -> bytes:
        """Exposition format 0.0.4."""
        return generate_latest(self.registry)

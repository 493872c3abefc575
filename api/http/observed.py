"""Metrics that are read from the services at the moment when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ...scoring.records import RiskLevel
from ..edge.archived import ArchiveStatus
from ..edge.reports import IngestStatus
from ..edge.silence import SilenceWatch
from ..gateway import GatewayIssuers
from .metric_table import METRICS, Metric
from .services import Services

Labelled = Mapping[tuple[str, ...], float]


class Observed(Collector):
    """All `observed` metrics of one application.

    Args:
        services: what is looked at.
        held_bytes: bytes of request bodies with events that are in memory.
        silence: of callers.
        gateway: issuers behind gateways, where there are any.
    """

    def __init__(
        self, services: Services, held_bytes: Callable[[], int], silence: SilenceWatch, gateway: GatewayIssuers | None
    ) -> None:
        self._services = services
        self._gateway = gateway
        self._held_bytes = held_bytes
        self._silence = silence

    def describe(self) -> Iterator[Any]:
        """Names only, so that registering reads nothing."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        values = {**_of_process(self._services), **_of_pipeline(self._services)}
        values |= _of_guard(self._services) | _of_feedback(self._services) | _of_erasures(self._services)
        values["trustwatch_tokens_revoked_total"] = {}
        if self._gateway is not None:
            values |= _of_gateway(self._gateway, values["trustwatch_issuer_keys"])
        values |= _of_archive(self._services.archive)
        values |= _of_topics(self._services.ingest) | _of_silence(self._silence, self._services)
        values["trustwatch_body_bytes"] = {(): self._held_bytes()}
        for metric in METRICS:
            if metric.kind == "observed histogram":
                yield _containment(metric, self._services)
            elif metric.kind.startswith("observed"):
                kind = GaugeMetricFamily if metric.kind.endswith("gauge") else CounterMetricFamily
                family = kind(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in values[metric.name].items():
                    family.add_metric(labels, value)
                yield family


def _of_process(services: Services) -> dict[str, Labelled]:
    return {
        "trustwatch_log_waiting_bytes": {(): services.log.waiting_bytes},
        "trustwatch_log_next_offset": {(): services.log.log.next_offset},
        "trustwatch_log_failed": {(): float(services.log.log.failed)},
        "trustwatch_agents": {(): len(services.view)},
        "trustwatch_deliveries_total": {labels: count for labels, count in services.deliveries.items()},
        "trustwatch_actuations_total": {labels: count for labels, count in services.actuations.outcomes.items()},
        "trustwatch_issuer_keys": {(issuer.issuer,): issuer.keys for issuer in services.issuers()},
        "trustwatch_model_in_force": {(services.scoring_version,): 1.0},
        "trustwatch_model_shadow_agent_days": {
            (version,): days
            for version, days in ({} if services.models is None else services.models.challengers).items()
        },
        "trustwatch_tokens_cached": {(): len(services.verifier.cache)},
        "trustwatch_watchers": {(): len(services.status.watchers)},
    }


def _containment(metric: Metric, services: Services) -> HistogramMetricFamily:
    family, figures = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels), services.actuations
    for target in figures.targets:
        family.add_metric((target,), figures.buckets(target), figures.seconds[target])
    return family


def _of_pipeline(services: Services) -> dict[str, Labelled]:
    status, now_ms = services.status, services.now_ms()
    return {
        "trustwatch_pipeline_alive": {(): float(status.alive)},
        "trustwatch_pipeline_silence_seconds": {(): _since(status.heard_ms, now_ms)},
        "trustwatch_pipeline_age_seconds": {(): _since(status.fresh_ms, now_ms)},
        "trustwatch_partition_age_seconds": {
            (str(partition),): _since(fresh_ms, now_ms) for partition, fresh_ms in sorted((status.fresh or {}).items())
        },
        "trustwatch_pipeline_offset": {(): status.offset},
        "trustwatch_pipeline_behind": {(): status.behind},
        "trustwatch_pipeline_records_total": {
            (name,): count for name, count in status.counts.items() if name != "feedback_matched"
        },
        "trustwatch_pipeline_seconds_total": {(name,): spent for name, spent in status.seconds.items()},
        "trustwatch_dead_letters_dropped_total": {(): status.dropped_dead_letters},
        "trustwatch_decisions_total": {
            (RiskLevel(level).label,): count for level, count in sorted(status.changes.items())
        },
    }


def _of_guard(services: Services) -> dict[str, Labelled]:
    guard, policy = services.guard, services.policy
    return {
        "trustwatch_verdicts_total": {labels: count for labels, count in guard.counts.items()},
        "trustwatch_verdict_failures_total": {labels: count for labels, count in guard.failures.items()},
        "trustwatch_audit_events_total": {("written",): guard.audit.written, ("dropped",): guard.audit.dropped},
        "trustwatch_audit_events_waiting": {(): len(guard.audit)},
        "trustwatch_policy_reloads_total": {(): policy.reloads},
        "trustwatch_policy_errors_total": {(): policy.errors},
        "trustwatch_approvals_unasked_total": {(): guard.approvals.unasked},
    }


def _of_feedback(services: Services) -> dict[str, Labelled]:
    desk, counts = services.feedback, services.status.counts
    previews = None if desk is None else desk.previews
    return {
        "trustwatch_feedback_rules": {
            (kind,): 0 if desk is None else desk.rules.count[kind] for kind in ("agent", "peer_group")
        },
        "trustwatch_feedback_matched_total": {(): counts.get("feedback_matched", 0)},
        "trustwatch_feedback_previews_total": {}
        if previews is None
        else {(outcome,): count for outcome, count in previews.ended.items()},
        "trustwatch_feedback_previews_waiting": {(): 0 if previews is None else previews.running},
    }


def _of_erasures(services: Services) -> dict[str, Labelled]:
    desk = services.erasures
    ended = (0, 0) if desk is None else (desk.done, desk.failed)
    return {"trustwatch_erasures_total": {("done",): ended[0], ("failed",): ended[1]}}


def _of_gateway(gateway: GatewayIssuers, keys: Labelled) -> dict[str, Labelled]:
    held: Labelled = {(issuer.issuer,): issuer.keys for issuer in gateway.jwks.status()}
    return {
        "trustwatch_tokens_revoked_total": {labels: count for labels, count in gateway.revoked.items()},
        "trustwatch_issuer_keys": {**held, **keys},
    }


def _of_topics(ingest: IngestStatus) -> dict[str, Labelled]:
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


def _alone(values: Iterable[float]) -> Labelled:
    """The last of *values*, without a label; nothing where there is none."""
    found = list(values)[-1:]
    return {(): found[0]} if found else {}


def _of_archive(archive: ArchiveStatus) -> dict[str, Labelled]:
    reports = archive.reports.items()
    events = [report for kind, report in reports if kind == "events"]
    vectors = [report for kind, report in reports if kind == "vectors"]
    return {
        "trustwatch_archive_alive": {(kind,): float(alive) for kind, alive in archive.alive.items()},
        "trustwatch_archive_rows_total": {(kind,): report.rows for kind, report in reports},
        "trustwatch_archive_files_total": {(kind,): report.files for kind, report in reports},
        "trustwatch_archive_merged_files_total": {(kind,): report.merged for kind, report in reports},
        "trustwatch_archive_behind": _alone(report.behind for report in events),
        "trustwatch_archive_lag_seconds": _alone(report.lag_s for report in events),
        "trustwatch_archive_spool_bytes": _alone(report.waiting_bytes for report in vectors),
    }


def _of_silence(callers: SilenceWatch, services: Services) -> dict[str, Labelled]:
    now_ms = services.now_ms()
    heard = [*callers, *services.ingest.report.silence]
    return {
        "trustwatch_source_silent": {(source.name,): float(source.silent) for source in heard},
        "trustwatch_source_last_seen_seconds": {(source.name,): _since(source.last_ms, now_ms) for source in heard},
    }


def _since(at_ms: int, now_ms: int) -> float:
    return (now_ms - at_ms) / 1000 if at_ms else -1.0

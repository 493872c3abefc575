"""Every metric, declared once; `docs/metrics.md` is held to this table by a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ...scoring.records import RiskLevel
from ..edge.archived import ArchiveStatus
from ..edge.reports import IngestStatus
from ..edge.silence import SilenceWatch
from ..gateway import GatewayIssuers
from .services import Services

BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds of durations, s: fine where answers from memory are, coarse where disks are."""


class Metric(NamedTuple):
    """One metric. *kind* `counter` and `histogram` are counted here as things happen, `observed …` read when asked."""

    name: str
    kind: str  # counter | histogram | observed counter | observed gauge | observed histogram
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


METRICS: Final = (
    Metric("trustwatch_http_requests_total", "counter", "requests", "answers by route and status", ("route", "status")),
    Metric("trustwatch_http_request_seconds", "histogram", "s", "time from request to answer, by route", ("route",)),
    Metric("trustwatch_events_total", "counter", "events", "events at the door by source and outcome: accepted, "
           "duplicate, rejected or skipped", ("source", "outcome")),
    Metric("trustwatch_events_refused_requests_total", "counter", "requests", "requests with events that were told to "
           "come again, by source and cause: rate, share, memory, lag, disk", ("source", "cause")),
    Metric("trustwatch_log_waiting_bytes", "observed gauge", "bytes", "events that wait for the disk"),
    Metric("trustwatch_log_next_offset", "observed gauge", "records", "offset that the next logged record gets"),
    Metric("trustwatch_log_failed", "observed gauge", "0 or 1", "whether the disk refused and the log is not reopened"),
    Metric("trustwatch_body_bytes", "observed gauge", "bytes", "request bodies with events that are held in memory"),
    Metric("trustwatch_pipeline_alive", "observed gauge", "0 or 1", "whether the pipeline process runs"),
    Metric("trustwatch_pipeline_silence_seconds", "observed gauge", "s", "time since the pipeline last reported; -1 is "
           "never"),
    Metric("trustwatch_pipeline_age_seconds", "observed gauge", "s", "age of the newest event that all answers take "
           "into account: what turns answers stale; -1 is unknown"),
    Metric("trustwatch_pipeline_offset", "observed gauge", "records", "offset that the pipeline has committed"),
    Metric("trustwatch_pipeline_behind", "observed gauge", "records", "records that waited at the last report"),
    Metric("trustwatch_archive_alive", "observed gauge", "0 or 1", "whether the process that archives runs, by kind: "
           "events or vectors; only where it is to run", ("kind",)),
    Metric("trustwatch_archive_behind", "observed gauge", "records", "records of the log that are not archived; -1 is "
           "unknown"),
    Metric("trustwatch_archive_lag_seconds", "observed gauge", "s", "age of the oldest record that waits for its file; "
           "normal is up to archive.interval_s"),
    Metric("trustwatch_archive_rows_total", "observed counter", "rows", "rows that were archived, by kind", ("kind",)),
    Metric("trustwatch_archive_files_total", "observed counter", "files", "files that were written, by kind",
           ("kind",)),
    Metric("trustwatch_archive_merged_files_total", "observed counter", "files", "small files that went into larger "
           "ones, by kind", ("kind",)),
    Metric("trustwatch_archive_spool_bytes", "observed gauge", "bytes", "feature vectors that wait to become files"),
    Metric("trustwatch_partition_age_seconds", "observed gauge", "s", "with Kafka, by partition: age of the newest "
           "event that its answers take into account; a worker shows those it owns; -1 is unknown", ("partition",)),
    Metric("trustwatch_pipeline_records_total", "observed counter", "records", "what the pipeline did since its start, "
           "by what: events, duplicates, dead_letters, late_events, decisions; where vectors are archived, "
           "vectors_dropped; with Kafka also published and unchanged agents, fenced partitions, ticks_not_sent and "
           "heartbeats_not_sent", ("what",)),
    Metric("trustwatch_pipeline_seconds_total", "observed counter", "s", "time of the pipeline by stage",
           ("stage",)),
    Metric("trustwatch_dead_letters_dropped_total", "observed counter", "records", "dead letters that found no room"),
    Metric("trustwatch_decisions_total", "observed counter", "decisions", "changes of level seen by this process, by "
           "the new level", ("level",)),
    Metric("trustwatch_agents", "observed gauge", "agents", "agents in the risk view"),
    Metric("trustwatch_deliveries_total", "observed counter", "attempts", "attempts to deliver alerts by target and "
           "outcome: delivered, retry, failed, gone or skipped", ("target", "outcome")),
    Metric("trustwatch_issuer_keys", "observed gauge", "keys", "keys held of each issuer; without any, its tokens are "
           "refused", ("issuer",)),
    Metric("trustwatch_verdicts_total", "observed counter", "verdicts", "verdicts on requests for tokens and on calls, "
           "by way (the product that asked), risk level that was acted on, reason and mode; in shadow mode a reason "
           "other than allowed is what would have been refused", ("via", "level", "reason", "mode")),
    Metric("trustwatch_verdict_failures_total", "observed counter", "verdicts", "questions that could not be decided, "
           "by way and by what was answered for that reason: open (as if nothing stood against it) or closed",
           ("via", "fails")),
    Metric("trustwatch_hook_seconds", "histogram", "s", "time from request to answer of the hooks at issuance, by name",
           ("hook",)),
    Metric("trustwatch_gateway_seconds", "histogram", "s", "time from request to answer of checks for gateways, by way",
           ("way",)),
    Metric("trustwatch_gateway_answers_total", "counter", "answers", "answers to gateways by way and kind: allowed, "
           "denied, step_up, missing_token, invalid_token, no_keys (of the issuer), undecided and allowed_unjudged (a "
           "fault of ours); of introspection active, inactive, denied, unreachable, unauthorized, unreadable",
           ("way", "answer")),
    Metric("trustwatch_tokens_revoked_total", "observed counter", "tokens", "tokens that were seen at a gateway or "
           "introspection though policy says revoke, by issuer and by what came of their revocation (RFC 7009)",
           ("issuer", "outcome")),
    Metric("trustwatch_actuations_total", "observed counter", "attempts", "attempts of actuators by target and "
           "outcome: confirmed (lowered, and read back), applied (accepted, nobody can be asked), restored, unchanged "
           "(nothing was to be done), superseded (something newer is wanted), skipped (not its agent), retry or failed",
           ("target", "outcome")),
    Metric("trustwatch_containment_seconds", "observed histogram", "s", "time from the event to what the server "
           "confirmed because of it, by target", ("target",)),
    Metric("trustwatch_audit_events_total", "observed counter", "events", "audit events of our own (what hooks and "
           "gateways asked, what people decided), by outcome: written, or dropped (no room, or a fault of ours)",
           ("outcome",)),
    Metric("trustwatch_audit_events_waiting", "observed gauge", "events", "own audit events that wait for the log"),
    Metric("trustwatch_feedback_rules", "observed gauge", "rules", "rules of feedback in force, by scope: agent or "
           "peer_group", ("scope",)),
    Metric("trustwatch_feedback_matched_total", "observed counter", "events", "events in which a rule of feedback "
           "counted, since the start of the pipeline"),
    Metric("trustwatch_feedback_previews_total", "observed counter", "previews", "previews of feedback that came to an "
           "end in this process, by outcome: done, failed, refused (too many waited) or stopped", ("outcome",)),
    Metric("trustwatch_feedback_previews_waiting", "observed gauge", "previews", "previews of feedback that run or "
           "wait in this process"),
    Metric("trustwatch_erasures_total", "observed counter", "erasures", "erasures that came to an end in this process, "
           "by outcome: done or failed", ("outcome",)),
    Metric("trustwatch_policy_reloads_total", "observed counter", "reloads", "token policy files taken over since the "
           "start"),
    Metric("trustwatch_policy_errors_total", "observed counter", "reloads", "token policy files that were wrong and "
           "did not come into force: the last good one holds"),
    Metric("trustwatch_approvals_unasked_total", "observed counter", "approvals", "approvals that no person could be "
           "asked for: the store took none, or too many waited"),
    Metric("trustwatch_model_in_force", "observed gauge", "1", "the version of the model that events are judged by, as "
           "a label", ("version",)),
    Metric("trustwatch_model_shadow_agent_days", "observed gauge", "agent-days", "agent-days that a challenger has run "
           "in shadow", ("version",)),
    Metric("trustwatch_tokens_cached", "observed gauge", "tokens", "verified tokens that are remembered"),
    Metric("trustwatch_watchers", "observed gauge", "streams", "open streams of decisions"),
    Metric("trustwatch_source_silent", "observed gauge", "0 or 1", "whether a source (caller or foreign topic) with "
           "`silence_s` has sent nothing for so long to this process", ("source",)),
    Metric("trustwatch_source_last_seen_seconds", "observed gauge", "s", "time since such a source was last heard; -1 "
           "is not since the start", ("source",)),
    Metric("trustwatch_ingest_alive", "observed gauge", "0 or 1", "whether the process runs that reads foreign topics; "
           "absent where none is to run"),
    Metric("trustwatch_ingest_records_total", "observed counter", "records", "records of foreign topics since the "
           "ingest process started, by source and outcome: accepted, rejected (a dead letter) or skipped (no audit "
           "event by its mapping)", ("source", "outcome")),
    Metric("trustwatch_ingest_lag", "observed gauge", "records", "records that wait in a foreign topic; -1 is not "
           "known, or none of its partitions is read here", ("source",)),
    Metric("trustwatch_ingest_reading", "observed gauge", "0 or 1", "whether a foreign topic can be read", ("source",)),
    Metric("trustwatch_ingest_limited_seconds_total", "observed counter", "s", "time for which `events_per_s` held a "
           "foreign topic back", ("source",)),
)  # fmt: skip

Labelled = Mapping[tuple[str, ...], float]


class Metrics:
    """The metrics of one application.

    Args:
        services: read when metrics are asked for.
        registry: where they are registered; one application each.
        held_bytes: bytes of request bodies with events that are in memory.
        silence: of callers.
        gateway: issuers behind gateways, where there are any.
    """

    def __init__(
        self, services: Services, registry: CollectorRegistry, held_bytes: Callable[[], int], silence: SilenceWatch,
        gateway: GatewayIssuers | None = None,
    ) -> None:  # fmt: skip
        self.registry = registry
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(metric.name, metric.meaning, metric.labels, registry=registry)
            elif metric.kind == "histogram":
                self._histograms[metric.name] = Histogram(
                    metric.name, metric.meaning, metric.labels, buckets=BUCKETS, registry=registry
                )
        self._gateway: dict[tuple[str, int, str], tuple[Counter, Counter, Histogram, Histogram]] = {}
        registry.register(_Observed(services, held_bytes, silence, gateway))

    def counter(self, name: str, *labels: str) -> Counter:
        """A counter with its labels, to be kept where it is counted often."""
        return self._counters[name].labels(*labels)

    def histogram(self, name: str, *labels: str) -> Histogram:
        """A histogram with its labels."""
        return self._histograms[name].labels(*labels)

    def hook_answered(self, hook: str, route: str, status: int, seconds: float) -> None:
        """Count one answer of a hook. Hooks and their routes are named in the settings, so there are few."""
        self.counter("trustwatch_http_requests_total", route, str(status)).inc()
        self.histogram("trustwatch_http_request_seconds", route).observe(seconds)
        self.histogram("trustwatch_hook_seconds", hook).observe(seconds)

    def gateway_answered(self, way: str, route: str, status: int, kind: str, seconds: float) -> None:
        """Count one answer to a gateway. What counts it is looked up once: agents wait for each."""
        found = self._gateway.get((way, status, kind))
        if found is None:
            found = self._gateway[way, status, kind] = (
                self.counter("trustwatch_http_requests_total", route, str(status)),
                self.counter("trustwatch_gateway_answers_total", way, kind),
                self.histogram("trustwatch_http_request_seconds", route),
                self.histogram("trustwatch_gateway_seconds", way),
            )
        for counter in found[:2]:
            counter.inc()
        for histogram in found[2:]:
            histogram.observe(seconds)

    def text(self) -> bytes:
        """Exposition format 0.0.4."""
        return generate_latest(self.registry)


class _Observed(Collector):
    """Metrics that are read from the services when asked for."""

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
            (kind,): 0 if desk is None else desk.in_force[kind] for kind in ("agent", "peer_group")
        },
        "trustwatch_feedback_matched_total": {(): counts.get("feedback_matched", 0)},
        "trustwatch_feedback_previews_total": {} if previews is None else {
            (outcome,): count for outcome, count in previews.ended.items()
        },
        "trustwatch_feedback_previews_waiting": {(): 0 if previews is None else previews.running},
    }  # fmt: skip


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

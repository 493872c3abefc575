"""Prometheus metrics: counted as things happen, or read from the services at each scrape."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from trustwatch.scoring.records.agents import RiskLevel

from .runtime import Runtime

LabelledValues = Mapping[tuple[str, ...], float]
MetricValues = Mapping[str, LabelledValues]
"""Values of `observed` metrics, by name of the metric and labels."""


class MetricDefinition(msgspec.Struct, frozen=True):
    """One metric. Kinds `counter` and `histogram` are counted as things happen; `observed …` is read at a scrape."""

    name: str
    kind: str  # counter | histogram | observed counter | observed gauge | observed histogram
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # of a histogram; none = those of all durations


_table = tomllib.loads(files(__package__).joinpath("metrics.toml").read_text("utf-8"))
METRICS: Final = msgspec.convert([{"name": name, **metric} for name, metric in _table.items()], list[MetricDefinition])


class RuntimeCollector(Collector):
    """Collects all `observed` metrics of one application."""

    def __init__(self, services: Runtime, slice_values: Sequence[Callable[[], MetricValues]]) -> None:
        self._runtime = services
        self._slice_values = slice_values

    def describe(self) -> Iterator[Any]:
        """Return names only, so that registering reads no values."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        values: dict[str, dict[tuple[str, ...], float]] = {}
        for observed in (_runtime_values(self._runtime), *(read() for read in self._slice_values)):
            for name, labelled in observed.items():
                values[name] = {**labelled, **values.get(name, {})}
        for metric in METRICS:
            if metric.kind == "observed histogram":  # there is one: of containment
                figures, histogram = self._runtime.actuation_statistics, HistogramMetricFamily
                family: Any = histogram(metric.name, metric.meaning, labels=metric.labels)
                for target in figures.targets:
                    buckets = figures.histogram_buckets(target)
                    family.add_metric((target,), buckets, figures.containment_seconds[target])
                yield family
            elif metric.kind.startswith("observed"):
                kind = GaugeMetricFamily if metric.kind.endswith("gauge") else CounterMetricFamily
                family = kind(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in values.get(metric.name, {}).items():
                    family.add_metric(labels, value)
                yield family


def _runtime_values(services: Runtime) -> MetricValues:
    reloads, issuers = services.settings_reloads, services.issuer_key_status()
    status, now_ms = services.pipeline_status, services.now_ms()
    return {
        "trustwatch_build_info": {(version("trustwatch"), platform.python_version()): 1.0},
        "trustwatch_settings_reloads_total": {("applied",): reloads.reloads, ("wrong",): reloads.errors},
        "trustwatch_log_next_offset": {(): services.event_log.log.next_offset},
        "trustwatch_log_failed": {(): float(services.event_log.log.failed)},
        "trustwatch_agents": {(): len(services.risk_view)},
        "trustwatch_deliveries_total": {labels: count for labels, count in services.delivery_counts.items()},
        "trustwatch_actuations_total": {
            labels: count for labels, count in services.actuation_statistics.outcomes.items()
        },
        "trustwatch_issuer_keys": {(issuer.issuer,): issuer.keys for issuer in issuers},
        "trustwatch_issuer_keys_skipped_total": {(issuer.issuer,): issuer.skipped_keys for issuer in issuers},
        "trustwatch_pipeline_alive": {(): float(status.alive)},
        "trustwatch_pipeline_silence_seconds": {(): age_s(status.last_report_ms, now_ms)},
        "trustwatch_pipeline_age_seconds": {(): age_s(status.fresh_ms, now_ms)},
        "trustwatch_partition_age_seconds": {
            (str(partition),): age_s(fresh_ms, now_ms)
            for partition, fresh_ms in sorted((status.fresh_ms_by_partition or {}).items())
        },
        "trustwatch_pipeline_offset": {(): status.offset},
        "trustwatch_pipeline_behind": {(): status.records_behind},
        "trustwatch_pipeline_records_total": {(name,): count for name, count in status.work_counts.items()},
        "trustwatch_pipeline_seconds_total": {(name,): spent for name, spent in status.stage_seconds.items()},
        "trustwatch_dead_letters_dropped_total": {(): status.dropped_dead_letters},
        "trustwatch_decisions_total": {
            (RiskLevel(level).label,): count for level, count in sorted(status.level_change_counts.items())
        },
    }


def age_s(at_ms: int, now_ms: int) -> float:
    """Return the seconds since *at_ms*, or -1 if it has not happened."""
    return (now_ms - at_ms) / 1000 if at_ms else -1.0


DURATION_BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
"""Upper bounds of durations, s: fine where answers from memory are, coarse where disks are."""


class ServiceMetrics:
    """The metrics of one application."""

    def __init__(
        self,
        services: Runtime,
        registry: CollectorRegistry,
        slice_values: Sequence[Callable[[], MetricValues]] = (),
    ) -> None:
        self.registry = registry
        # One more series for each, without use: a restart shows in the count.
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library declares no result
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(metric.name, metric.meaning, metric.labels, registry=registry)
            elif metric.kind == "histogram":
                buckets = metric.buckets or DURATION_BUCKETS
                self._histograms[metric.name] = Histogram(
                    metric.name, metric.meaning, metric.labels, buckets=buckets, registry=registry
                )
        self._gateway_instruments: dict[tuple[str, int, str], tuple[Counter, Counter, Histogram, Histogram]] = {}
        registry.register(RuntimeCollector(services, slice_values))

    def counter(self, name: str, *labels: str) -> Counter:
        """Return a counter with its labels. Keep it if it is used often."""
        return self._counters[name].labels(*labels)

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Return a histogram with its labels."""
        return self._histograms[name].labels(*labels)

    def count_hook_answer(self, hook: str, route: str, status: int, seconds: float) -> None:
        """Count one answer of a hook. Hooks and their routes are named in the settings, so there are few."""
        self.counter("trustwatch_http_requests_total", route, str(status)).inc()
        self.histogram("trustwatch_http_request_seconds", route).observe(seconds)
        self.histogram("trustwatch_hook_seconds", hook).observe(seconds)

    def count_gateway_answer(self, way: str, route: str, status: int, kind: str, seconds: float) -> None:
        """Count one answer to a gateway. Its instruments are looked up once, because agents wait."""
        instruments = self._gateway_instruments.get((way, status, kind))
        if instruments is None:
            instruments = self._gateway_instruments[way, status, kind] = (
                self.counter("trustwatch_http_requests_total", route, str(status)),
                self.counter("trustwatch_gateway_answers_total", way, kind),
                self.histogram("trustwatch_http_request_seconds", route),
                self.histogram("trustwatch_gateway_seconds", way),
            )
        for counter in instruments[:2]:
            counter.inc()
        for histogram in instruments[2:]:
            histogram.observe(seconds)

    def values(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return the current values of every declared metric except histograms, by name and labels in the order of
        their declaration."""
        labels = {metric.name: metric.labels for metric in METRICS if not metric.kind.endswith("histogram")}
        values: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in labels}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name in labels:
                    values[sample.name][tuple(sample.labels[label] for label in labels[sample.name])] = sample.value
        return values

    def exposition(self) -> bytes:
        """Return the metrics in exposition format 0.0.4."""
        return generate_latest(self.registry)

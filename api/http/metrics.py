"""What one application counts as things happen, and the page on which all its metrics are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ..edge.silence import SilenceDetector
from ..gateway import GatewayIssuers
from .metric_table import METRICS
from .observed import RuntimeCollector
from .services import Runtime

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

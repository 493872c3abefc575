"""The table of metrics keeps the rules of Prometheus."""

from __future__ import annotations

from trustwatch.api.http.prometheus_metrics import METRICS


def test_names_end_in_their_unit() -> None:
    """Prometheus: counters end in `_total`, durations are in seconds, sizes in bytes."""
    wrong = [
        metric.name
        for metric in METRICS
        if ("counter" in metric.kind) != metric.name.endswith("_total")
        or (metric.unit == "s") != ("_seconds" in metric.name)
        or (metric.unit == "bytes") != metric.name.removesuffix("_total").endswith("_bytes")
    ]

    assert wrong == []

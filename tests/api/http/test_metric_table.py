"""`docs/metrics.md` is held to the table of metrics."""

from __future__ import annotations

from trustwatch.api.http.metric_table import METRICS

from ...support.checkout import DOCS

PAGE = DOCS / "metrics.md"


def test_every_metric_is_documented_as_it_is_declared() -> None:
    """Name, kind, unit, labels and meaning, one row each, in the order of the table; nothing else is documented."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `trustwatch_")]

    assert rows == [
        f"| `{metric.name}` | {metric.kind.removeprefix('observed ')} | {metric.unit} | "
        f"{', '.join(f'`{label}`' for label in metric.labels) or '-'} | {metric.meaning} |"
        for metric in METRICS
    ]


def test_names_end_in_their_unit() -> None:
    """Prometheus: counters end in `_total`, durations are in seconds, sizes in bytes."""
    wrong = [
        metric.name
        for metric in METRICS
        if ("counter" in metric.kind) != metric.name.endswith("_total")
        or (metric.unit == "s") != ("_seconds" in metric.name)
        or (metric.unit == "bytes") != metric.name.endswith("_bytes")
    ]

    assert wrong == []

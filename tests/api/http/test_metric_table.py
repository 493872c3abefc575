"""`docs/metrics.md` is held to the table of metrics."""

from __future__ import annotations

from trustwatch.api.http.metric_table import METRICS

from scripts.write_metric_list import BEGIN, END, rendered

from ...support.checkout import DOCS

PAGE = DOCS / "metrics.md"


def test_every_metric_is_documented_as_it_is_declared() -> None:
    """Name, kind, unit, labels and meaning, in the order of the table; nothing else is documented."""
    section = PAGE.read_text(encoding="utf-8").partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]

    assert section == rendered()
    assert section.count("- `trustwatch_") == len(METRICS)


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

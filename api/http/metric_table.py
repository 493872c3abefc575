"""Every metric, declared once in `metrics.toml`; `reference/metrics.md` is held to this table by a test."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Final, NamedTuple


class MetricDefinition(NamedTuple):
    """One metric. *kind* `counter` and `histogram` are counted as things happen, `observed …` read when asked."""

    name: str
    kind: str  # counter | histogram | observed counter | observed gauge | observed histogram
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # of a histogram; none = those of all durations


def _read_table() -> tuple[MetricDefinition, ...]:
    table = tomllib.loads(files(__package__).joinpath("metrics.toml").read_text("utf-8"))
    lists = ("labels", "buckets")
    return tuple(
        MetricDefinition(name, **{key: tuple(value) if key in lists else value for key, value in metric.items()})
        for name, metric in table.items()
    )


METRICS: Final = _read_table()

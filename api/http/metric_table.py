"""Every metric, declared once in `metrics.toml`; `reference/metrics.md` is held to this table by a test."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Final

import msgspec


class MetricDefinition(msgspec.Struct, frozen=True):
    """One metric. *kind* `counter` and `histogram` are counted as things happen, `observed …` read when asked."""

    name: str
    kind: str  # counter | histogram | observed counter | observed gauge | observed histogram
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # of a histogram; none = those of all durations


_table = tomllib.loads(files(__package__).joinpath("metrics.toml").read_text("utf-8"))
METRICS: Final = msgspec.convert([{"name": name, **metric} for name, metric in _table.items()], list[MetricDefinition])

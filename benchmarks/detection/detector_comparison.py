"""All detectors in one run on the same traces: other libraries on counts and on our features, simple rules, ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import count_features, other_detectors, traces
from .fitted_trace import FittedTrace
from .metrics import NAMES, MeasuredFigures
from .report import FigureTable

_COLUMNS = ("score", *NAMES, "µs per event")


class ComparisonRow(NamedTuple):
    """One score on one set: figures and microseconds per event, or why there are none."""

    name: str
    figures: MeasuredFigures | None
    micros: float
    skipped: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        if self.figures is None:
            return (self.name, f"skipped: {self.skipped}", *[""] * (len(NAMES) - 1), "")
        cells = (self.figures.cell(which) for which in range(len(NAMES)))
        return (f"**{self.name}**" if self.name.startswith("Trustwatch") else self.name, *cells, f"{self.micros:,.0f}")


def run(labs: list[FittedTrace], draws: int) -> list[FigureTable]:
    """One table per set."""
    return [_table(lab, draws) for lab in labs]


def _table(lab: FittedTrace, draws: int) -> FigureTable:
    trace, units = lab.trace, lab.trace.units
    lines = [*_on_counts(lab, draws), *_on_events(lab, draws), *_on_our_features(lab, draws), *_ours(lab, draws)]
    sessions = len(np.unique(units.block))
    level = "event" if trace.by_event else "session"
    title = (
        f"{trace.name}, per {level}: {int(units.bad.sum())} bad among {len(units.bad):,} "
        f"({sessions} sessions), learned from {len(trace.train):,} events"
    )
    return FigureTable(title, _COLUMNS, [line.cells() for line in lines])


def _timed(lab: FittedTrace, name: str, draws: int, score: Callable[[], NDArray[np.float64]]) -> ComparisonRow:
    started = time.perf_counter()
    scores = score()
    micros = (time.perf_counter() - started) / len(lab.trace.test) * 1e6
    return ComparisonRow(name, lab.trace.judge(scores, draws), micros)


def _skipping(name: str, line: Callable[[], ComparisonRow]) -> ComparisonRow:
    """A library that is not there is a row with its reason."""
    try:
        return line()
    except ImportError as error:
        return ComparisonRow(name, None, 0.0, f"{error} (pip install '.[bench]' in the clone)")


def _on_counts(lab: FittedTrace, draws: int) -> Iterator[ComparisonRow]:
    trace = lab.trace
    rows = (count_features.by_event if trace.by_event else count_features.by_session)(trace.train_events)
    train = rows(trace.train_events)[0]
    what = "one-hot" if trace.by_event else "counts"

    def line(name: str) -> ComparisonRow:
        scores = other_detectors.MATRIX_DETECTORS[name](train)

        def score() -> NDArray[np.float64]:
            matrix, at = rows(trace.test_events)
            return scores(matrix)[at]

        return _timed(lab, f"{name} on {what}", draws, score)

    return (_skipping(name, partial(line, name)) for name in other_detectors.MATRIX_DETECTORS)


def _on_events(lab: FittedTrace, draws: int) -> Iterator[ComparisonRow]:
    trace = lab.trace

    def line(name: str) -> ComparisonRow:
        score = other_detectors.EVENT_DETECTORS[name](trace.train_events)
        return _timed(lab, name, draws, lambda: score(trace.test_events))

    return (_skipping(name, partial(line, name)) for name in other_detectors.EVENT_DETECTORS)


def _on_our_features(lab: FittedTrace, draws: int) -> Iterator[ComparisonRow]:
    def line(name: str) -> ComparisonRow:
        scores = other_detectors.MATRIX_DETECTORS[name](lab.history.X)
        return _timed(lab, f"{name} on our features", draws, lambda: scores(lab.test))

    return (_skipping(name, partial(line, name)) for name in other_detectors.MATRIX_DETECTORS)


def _anomaly(lab: FittedTrace, learn: bool) -> NDArray[np.float64]:
    return traces.anomaly(traces.replay(lab.model, lab.trace.test, learn))


def _ours(lab: FittedTrace, draws: int) -> Iterator[ComparisonRow]:
    traces.replay(lab.model, lab.trace.test[:200], learn=True)  # compiles what is not compiled yet
    for name, learn in (("Trustwatch, frozen", False), ("Trustwatch, learning", True)):
        yield _timed(lab, name, draws, partial(_anomaly, lab, learn))

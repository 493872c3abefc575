"""All detectors in one run on the same traces: other libraries on counts and on our features, simple rules, ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import counts, rivals, traces
from benchmarks.detection.lab import Lab
from benchmarks.detection.metrics import NAMES, Measured
from benchmarks.detection.report import Table

_COLUMNS = ("score", *NAMES, "µs per event")


class Line(NamedTuple):
    """One score on one set: figures and microseconds per event, or why there are none."""

    name: str
    figures: Measured | None
    micros: float
    skipped: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        if self.figures is None:
            return (self.name, f"skipped: {self.skipped}", *[""] * (len(NAMES) - 1), "")
        cells = (self.figures.cell(which) for which in range(len(NAMES)))
        return (f"**{self.name}**" if self.name.startswith("Trustwatch") else self.name, *cells, f"{self.micros:,.0f}")


def run(labs: list[Lab], draws: int) -> list[Table]:
    """One table per set."""
    return [_table(lab, draws) for lab in labs]


def _table(lab: Lab, draws: int) -> Table:
    trace, units = lab.trace, lab.trace.units
    lines = [*_on_counts(lab, draws), *_on_events(lab, draws), *_on_our_features(lab, draws), *_ours(lab, draws)]
    sessions = len(np.unique(units.block))
    level = "event" if trace.by_event else "session"
    title = (
        f"{trace.name}, per {level}: {int(units.bad.sum())} bad among {len(units.bad):,} "
        f"({sessions} sessions), learned from {len(trace.train):,} events"
    )
    return Table(title, _COLUMNS, [line.cells() for line in lines])


def _timed(lab: Lab, name: str, draws: int, score: Callable[[], NDArray[np.float64]]) -> Line:
    started = time.perf_counter()
    scores = score()
    micros = (time.perf_counter() - started) / len(lab.trace.test) * 1e6
    return Line(name, lab.trace.judge(scores, draws), micros)


def _skipping(name: str, line: Callable[[], Line]) -> Line:
    """A library that is not there is a row with its reason."""
    try:
        return line()
    except ImportError as error:
        return Line(name, None, 0.0, f"{error} (pip install 'trustwatch[bench]')")


def _on_counts(lab: Lab, draws: int) -> Iterator[Line]:
    trace = lab.trace
    rows = (counts.by_event if trace.by_event else counts.by_session)(trace.train_events)
    train = rows(trace.train_events)[0]
    what = "one-hot" if trace.by_event else "counts"

    def line(name: str) -> Line:
        scores = rivals.MATRIX_RIVALS[name](train)

        def score() -> NDArray[np.float64]:
            matrix, at = rows(trace.test_events)
            return scores(matrix)[at]

        return _timed(lab, f"{name} on {what}", draws, score)

    return (_skipping(name, partial(line, name)) for name in rivals.MATRIX_RIVALS)


def _on_events(lab: Lab, draws: int) -> Iterator[Line]:
    trace = lab.trace

    def line(name: str) -> Line:
        score = rivals.EVENT_RIVALS[name](trace.train_events)
        return _timed(lab, name, draws, lambda: score(trace.test_events))

    return (_skipping(name, partial(line, name)) for name in rivals.EVENT_RIVALS)


def _on_our_features(lab: Lab, draws: int) -> Iterator[Line]:
    def line(name: str) -> Line:
        scores = rivals.MATRIX_RIVALS[name](lab.history.X)
        return _timed(lab, f"{name} on our features", draws, lambda: scores(lab.test))

    return (_skipping(name, partial(line, name)) for name in rivals.MATRIX_RIVALS)


def _anomaly(lab: Lab, learn: bool) -> NDArray[np.float64]:
    return traces.anomaly(traces.replay(lab.model, lab.trace.test, learn))


def _ours(lab: Lab, draws: int) -> Iterator[Line]:
    traces.replay(lab.model, lab.trace.test[:200], learn=True)  # compiles what is not compiled yet
    for name, learn in (("Trustwatch, frozen", False), ("Trustwatch, learning", True)):
        yield _timed(lab, name, draws, partial(_anomaly, lab, learn))

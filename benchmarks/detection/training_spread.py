"""The spread of figures over trainings of one history, by what is drawn anew in each while all else is held fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.models.detector import DetectorSettings

from .fitted_trace import BatchTransform, FittedTrace, fit_trace
from .metrics import AUC, NAMES, R1, R5, figures
from .report import FigureTable
from .traces import Trace

_SHOWN = (AUC, R1, R5)
_WANTED = {AUC: 0.02, R1: 0.05, R5: 0.05}
"""Largest minus smallest of ten trainings that is aimed at."""
_ODD_FACTOR = np.uint64(0x9E3779B97F4A7C15)


_IDENTITY = [event_columns.AGENT, event_columns.AGENT_CHECK, event_columns.AGENT_DRAW]


def renamed(number: int) -> BatchTransform:
    """A change that calls every agent something else, in another deployment."""

    def change(batch: EventColumns) -> EventColumns:
        names = batch.names.copy()
        names[:, _IDENTITY] = (names[:, _IDENTITY] + np.uint64(number)) * _ODD_FACTOR
        return EventColumns(batch.events, names, batch.numbers, batch.codes, batch.time_ms, batch.arguments)

    return change


CAUSES: dict[str, Callable[[Trace, int], FittedTrace]] = {
    "salt of the names": lambda trace, number: fit_trace(trace, salt=f"training {number}".encode()),
    "names of the agents": lambda trace, number: fit_trace(trace, renamed(number)),
    "seed of the forest": lambda trace, number: fit_trace(trace, settings=DetectorSettings(seed=number)),
}
"""What is drawn anew -> a training with it. `trustwatch train` draws the salt; the seed is 0 without `--seed`."""


def run(sets: Sequence[Trace], trainings: int) -> list[FigureTable]:
    """Median and spread of each set's figures, baseline frozen."""
    rows, records = [], []
    for trace in sets:
        for cause, train in CAUSES.items():
            values = np.array([_figures(train(trace, number)) for number in range(trainings)])
            rows.append((trace.name, cause, *(_cell(values[:, which]) for which in _SHOWN)))
            records.append({"data": trace.name, "drawn_anew": cause, "trainings": values[:, _SHOWN].tolist()})
    wanted = ", ".join(f"{NAMES[which]} {most:g}" for which, most in _WANTED.items())
    note = f"Median of {trainings} trainings, baseline frozen (largest minus smallest). Wanted of the latter: {wanted}."
    columns = ("data", "drawn anew", *(NAMES[which] for which in _SHOWN))
    return [FigureTable("Trainings of one history", columns, rows, note, tuple(records))]


def _figures(fitted: FittedTrace) -> NDArray[np.float64]:
    scores = fitted.scores(fitted.model.detector)
    return np.asarray(figures(fitted.trace.units.bad, fitted.trace.unit_scores(scores))[0])


def _cell(values: NDArray[np.float64]) -> str:
    return f"{np.median(values):.3f} ({np.ptp(values):.3f})"

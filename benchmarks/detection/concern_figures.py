"""Figures of each set by the concern that it asks about, with what can be chosen chosen on the other sets.

Of a concern the norm can be chosen (`concerns.COMPROMISE_NORM`); which features are evidence of it follows from what
they mean. A set, or an assistant of a set, is judged with the norm that is best on all others. Its own history is
known: what an assistant that no history knows comes to is in `leave_out`. Every training has its own salt and its own
seed of the forest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.columns import UNTRACED, UNTRUSTED_RESULT, EventColumns
from trustwatch.models import concerns
from trustwatch.models.concerns import CONCERNS

from .fitted_trace import BatchTransform, fit_trace
from .leave_out import NAMES, SHARES, JudgedReplays, Training
from .report import FigureTable
from .setting_choice import LEAST_GAIN, goodness
from .split_trace import split_test_part
from .traces import LEAST_TASKS, Trace

CONCERN_OF = {"agentdojo": "compromise", "agentdyn": "compromise", "cloudtrail": "compromise", "ats": "malfunction"}
"""What the bad part of each set is: hijacked agents, a stolen credential, faults."""
COMPROMISE_NORMS = (1, 2, 4, 8)
SHIPPED_NORM = concerns.COMPROMISE_NORM
ALL = "all evidence"


class Part(NamedTuple):
    """Rows of a set's test part that are judged together: a whole set, or one assistant of it."""

    name: str
    set_name: str
    trace: Trace
    rows: NDArray[np.int64]


Scores = dict[tuple[str, int], NDArray[np.float64]]
"""Concern (or `ALL`) and norm -> anomaly scores of a set's test events."""


def run(sets: Sequence[Trace], trainings: int, draws: int) -> list[FigureTable]:
    """Figures over several trainings, as tables."""
    parts = [part for one in sets for part in _parts(one)]
    scores = [{one.name: _scores(one, Training(at)) for one in sets} for at in range(trainings)]
    return [_table(list(_rows(parts, scores)), draws), _without_origins(sets, trainings, draws)]


def _parts(trace: Trace) -> list[Part]:
    whole = Part(trace.name, trace.name, trace, np.arange(len(trace.test)))
    found = [Part(f"{trace.name}, {name}", trace.name, part, rows) for name, part, rows in split_test_part(trace)]
    return [whole, *(found if len(found) > 1 else [])]


def _scores(trace: Trace, training: Training, change: BatchTransform = lambda batch: batch) -> Scores:
    """Scores of the test part with the baseline frozen, under every norm."""
    fitted = fit_trace(trace, change, training.salt, training.settings())
    found: Scores = {(ALL, SHIPPED_NORM): fitted.scores(fitted.fit(seed=training.number))}
    for norm in COMPROMISE_NORMS:
        with mock.patch.object(concerns, "COMPROMISE_NORM", norm):
            detector = fitted.fit(seed=training.number)
            _, made_by = detector.assess(
                fitted.test, fitted.test_groups, fitted.test_failed, raising=fitted.test_raising
            )
            made = made_by.anomaly_score
        found |= {(concern, norm): made[:, at] for at, concern in enumerate(CONCERNS)}
    return found


def _rows(parts: list[Part], scores: list[dict[str, Scores]]) -> Iterator[tuple[str, str, JudgedReplays, str]]:
    """Part, what is judged, its replays, and the norms that were chosen."""
    for part in parts:
        concern = CONCERN_OF[part.set_name]
        if concern == "compromise":
            norms = [_chosen_norm(part, parts, of) for of in scores]
            told = ", ".join(str(norm) for norm in sorted(set(norms)))
            yield part.name, f"{concern}, chosen on the others", _judged(part, scores, concern, norms), told
        shipped = [SHIPPED_NORM] * len(scores)
        told = str(SHIPPED_NORM) if concern == "compromise" else ""
        yield part.name, f"{concern}, as shipped", _judged(part, scores, concern, shipped), told
        yield part.name, f"{ALL}, as shipped", _judged(part, scores, ALL, shipped), ""


def _chosen_norm(judged: Part, parts: list[Part], scores: dict[str, Scores]) -> int:
    """The norm that is best on the mean over parts that share no event with the judged one.

    Of norms whose means differ by less than `LEAST_GAIN`, as by chance, it is the smallest: small oddities of one event
    are added up, which is what the question asks for.
    """
    others = [
        part
        for part in parts
        if CONCERN_OF[part.set_name] == "compromise"
        and (
            (part.name == part.set_name and part.set_name != judged.set_name)
            or (part.set_name == judged.set_name != judged.name and part.name not in (judged.name, part.set_name))
        )
    ]
    if not others:
        return SHIPPED_NORM
    means = {
        norm: np.mean([goodness(part.trace, scores[part.set_name]["compromise", norm][part.rows]) for part in others])
        for norm in COMPROMISE_NORMS
    }
    return min(norm for norm, mean in means.items() if mean > max(means.values()) - LEAST_GAIN)


def _judged(part: Part, scores: list[dict[str, Scores]], concern: str, norms: list[int]) -> JudgedReplays:
    found = [of[part.set_name][concern, norm][part.rows] for of, norm in zip(scores, norms, strict=True)]
    units = np.array([part.trace.unit_scores(one) for one in found])
    return JudgedReplays(part.trace, units, np.zeros(units.shape, np.int64))


def _table(rows: list[tuple[str, str, JudgedReplays, str]], draws: int) -> FigureTable:
    cells, records = [], []
    for name, judged, replays, norms in rows:
        values, (low, high) = replays.values(), replays.interval(draws)
        cells.append((name, judged, *_cells(values, low, high), norms))
        records.append({"judged": name, "by": judged, "trainings": values.tolist(), "norms": norms})
    trainings = len(records[0]["trainings"])
    note = (
        f"Baseline frozen; median of {trainings} trainings (95 % interval over users' tasks, or sessions where tasks "
        "are few; largest minus smallest training). Malfunction has one set, so its figure is of a setting that people "
        "chose with that set in view."
    )
    columns = ("judged", "by", *NAMES[: len(SHARES)], "norm")
    return FigureTable("By concern", columns, cells, note, tuple(records))


def _cells(values: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> list[str]:
    shown = range(len(SHARES))
    return [
        f"{np.median(values[:, at]):.3f} ({low[at]:.2f} to {high[at]:.2f}; {np.ptp(values[:, at]):.3f})" for at in shown
    ]


def untold(batch: EventColumns) -> EventColumns:
    """A change after which nobody tells where arguments came from."""
    codes = batch.codes.copy()
    codes[:, UNTRUSTED_RESULT] = UNTRACED
    return EventColumns(batch.events, batch.names, batch.numbers, codes, batch.time_ms)


def unhashed(batch: EventColumns) -> EventColumns:
    """A change after which everybody tells where arguments came from, and nobody which values they have."""
    told = batch.arguments
    if told is not None:
        told = told._replace(values=np.zeros_like(told.values))
    return EventColumns(batch.events, batch.names, batch.numbers, batch.codes, batch.time_ms, told)


def _without_origins(sets: Sequence[Trace], trainings: int, draws: int) -> FigureTable:
    """What origins of arguments are worth: the same sets with clients that tell none."""
    rows = []
    for trace in sets:
        if not any(event.get("attributes", {}).get("arguments") for event in trace.test_events[:1000]):
            continue
        part = Part(trace.name, trace.name, trace, np.arange(len(trace.test)))
        for name, change in _CHANGES.items():
            scores = [{trace.name: _scores(trace, Training(at), change)} for at in range(trainings)]
            replays = _judged(part, scores, "compromise", [SHIPPED_NORM] * trainings)
            rows.append((trace.name, name, *_cells(replays.values(), *replays.interval(draws))))
    columns = ("judged", "clients", *NAMES[: len(SHARES)])
    return FigureTable("What origins of arguments are worth", columns, rows, "Compromise, as shipped.")


_CHANGES: dict[str, Callable[[EventColumns], EventColumns]] = {
    "tell origins": lambda batch: batch,
    "tell them without hashes": unhashed,
    "tell none": untold,
}


def new_tasks(sets: Sequence[Trace], trainings: int, draws: int) -> list[FigureTable]:
    """Compromise in tasks that the history does not have: every second task of a set is held out of it and judged."""
    rows = []
    for trace in sets:
        tasks = sorted({str(event.get("task")) for event in trace.test_events})
        if CONCERN_OF[trace.name] != "compromise" or len(tasks) < LEAST_TASKS:
            continue
        for half in (0, 1):
            part = _without_tasks(trace, frozenset(tasks[half::2]))
            scores = [{trace.name: _scores(part.trace, Training(at))} for at in range(trainings)]
            replays = _judged(part, scores, "compromise", [SHIPPED_NORM] * trainings)
            rows.append((trace.name, f"half {half + 1}", *_cells(replays.values(), *replays.interval(draws))))
    columns = ("judged", "tasks held out", *NAMES[: len(SHARES)])
    note = f"Compromise, as shipped; baseline frozen; median of {trainings} trainings (interval; spread)."
    return [FigureTable("New tasks of known assistants", columns, rows, note)]


def _without_tasks(trace: Trace, held: frozenset[str]) -> Part:
    """A set whose history lacks the tasks *held*, and whose test part has these alone."""
    history = [
        line for line, event in zip(trace.train, trace.train_events, strict=True) if str(event.get("task")) not in held
    ]
    rows = [row for row, event in enumerate(trace.test_events) if str(event.get("task")) in held]
    part = Trace(trace.name, history, [trace.test[row] for row in rows], [trace.labels[row] for row in rows])
    return Part(trace.name, trace.name, part, np.arange(len(rows)))

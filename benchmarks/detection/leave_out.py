"""Figures on data that nothing was chosen on: one set left out, one assistant left out of its set, over trainings.

For each case the settings are chosen on all others (`setting_choice`) and judged on the one left out; beside them stand
the settings as shipped, which people chose with three of the sets in view. Every training has its own salt and its own
seed of the forest (which is 0 in the product: `training_spread` tells the two apart). Labels are read by choice and
evaluation alone, and those of the judged part by the evaluation alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from trustwatch.models import model_training
from trustwatch.models.detector import DetectorSettings
from trustwatch.scoring.pipeline.replay import ReplayedEvent
from trustwatch.scoring.records.agents import RiskLevel

from . import traces
from .fitted_trace import fit_trace
from .metrics import expected_recall, figures, group_interval
from .report import FigureTable
from .setting_choice import DetectorChoice, FamilyEvidence, choose, family_evidence
from .split_trace import leave_assistants_out
from .traces import Trace

SHARES = (0.01, 0.049, 0.05)
NAMES = ("ROC-AUC", *(f"recall at {share:.3g} %" for share in (1.0, 4.9, 5.0)))
LEFT_OUT, SHIPPED = "chosen on the others", "as shipped"
FROZEN, LEARNING = "frozen", "learning"
LEVELS = (RiskLevel.MEDIUM, RiskLevel.HIGH, RiskLevel.CRITICAL)
LEVEL_NUMBERS = {level.label: level.value for level in RiskLevel}


class LeaveOutCase(NamedTuple):
    """A part to judge, and the parts that settings for it are chosen on: none shares a test event with it."""

    name: str
    judged: Trace
    chosen_on: tuple[Trace, ...]


class Training(NamedTuple):
    """One of several trainings of the same history: what is drawn anew in each."""

    number: int

    @property
    def salt(self) -> bytes:
        """Salt of the names' hashes."""
        return f"training {self.number}".encode()

    def settings(self, choice: DetectorChoice | None = None) -> DetectorSettings:
        """Settings with the training's seed; those of *choice*, or as shipped."""
        settings = DetectorSettings(seed=self.number)
        return replace(settings, norm=choice.norm, forest_weight=choice.forest_weight) if choice else settings


@dataclass(frozen=True)
class JudgedReplays:
    """Replays of one part after several trainings, t of them.

    Attributes:
        scores: float64 (t, units), the largest anomaly score of each.
        levels: int64 (t, units), the highest risk level that the agent had during each.
    """

    trace: Trace
    scores: NDArray[np.float64]
    levels: NDArray[np.int64]

    def values(self) -> NDArray[np.float64]:
        """Figures of each training, float64 (t, 4) in the order of `NAMES`."""
        return np.array([self._figures(scores, None)[0] for scores in self.scores])

    def interval(self, draws: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """95 % interval of the median over trainings, low and high (4,), over users' tasks or sessions."""

        def medians(counts: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.median([self._figures(scores, counts) for scores in self.scores], axis=0))

        return group_interval(self.trace.groups, medians, draws)

    def expected_recall(self) -> float:
        """Recall at 1 % where units of one score are taken in random order, median over trainings."""
        return float(np.median([expected_recall(self.trace.units.bad, scores, SHARES[0]) for scores in self.scores]))

    def reached(self, level: RiskLevel, bad: bool) -> float:
        """Share of the bad (or good) units in which the agent had *level* or more, median over trainings."""
        of = self.levels[:, self.trace.units.bad == bad]
        return float(np.median((of >= level).mean(axis=1)))

    def _figures(self, scores: NDArray[np.float64], counts: NDArray[np.float64] | None) -> NDArray[np.float64]:
        found = figures(self.trace.units.bad, scores, counts, SHARES)
        return np.delete(found, 1, axis=1)  # without average precision


class CaseResult(NamedTuple):
    """A case with its choices, one a training, and its replays by settings and by whether the baseline learned."""

    case: LeaveOutCase
    choices: list[DetectorChoice]
    replays: dict[tuple[str, str], JudgedReplays]


def leave_out_cases(sets: Sequence[Trace]) -> list[LeaveOutCase]:
    """Each set left out of all sets, then each assistant left out of its set."""
    cases = [LeaveOutCase(one.name, one, tuple(other for other in sets if other is not one)) for one in sets]
    for one in sets:
        rest = tuple(other for other in sets if other is not one)
        cases += [
            LeaveOutCase(f"{one.name}, {left.assistant}", left.judged, (*rest, left.others))
            for left in leave_assistants_out(one)
        ]
    return cases


def run(sets: Sequence[Trace], trainings: int, draws: int, quick: bool = False) -> list[FigureTable]:
    """All cases over several trainings, as tables."""
    cases = leave_out_cases(sets)
    results = _measure(cases[: len(sets) + 1] if quick else cases, [Training(at) for at in range(trainings)], not quick)
    return tables(results, draws)


def tables(results: list[CaseResult], draws: int) -> list[FigureTable]:
    """The headline, then all figures, levels and choices."""
    figure_table = _figure_table(results, draws)
    return [
        _headline(figure_table.records),
        figure_table,
        _outcome_table(results),
        _choice_table(results),
    ]


def _measure(cases: list[LeaveOutCase], trainings: list[Training], forest: bool) -> list[CaseResult]:
    choices: list[list[DetectorChoice]] = [[] for _ in cases]
    replays: list[dict[tuple[str, str], list[tuple[NDArray[np.float64], NDArray[np.int64]]]]] = [{} for _ in cases]
    for training in trainings:
        seen: dict[int, FamilyEvidence] = {}
        for at, case in enumerate(cases):
            choice = choose([_evidence(trace, training, seen) for trace in case.chosen_on], forest)
            choices[at].append(choice)
            for key, judged in _replayed(case.judged, training, choice):
                replays[at].setdefault(key, []).append(judged)
    return [
        CaseResult(case, chosen, {key: _stacked(case.judged, judged) for key, judged in replayed.items()})
        for case, chosen, replayed in zip(cases, choices, replays, strict=True)
    ]


def _evidence(trace: Trace, training: Training, seen: dict[int, FamilyEvidence]) -> FamilyEvidence:
    if id(trace) not in seen:
        seen[id(trace)] = family_evidence(fit_trace(trace, salt=training.salt, settings=training.settings()))
    return seen[id(trace)]


def _replayed(
    trace: Trace, training: Training, choice: DetectorChoice
) -> Iterator[tuple[tuple[str, str], tuple[NDArray[np.float64], NDArray[np.int64]]]]:
    """Scores and levels of the part's units, by settings and by whether the baseline learned (as shipped alone)."""
    for settings, given, modes in ((LEFT_OUT, choice, (FROZEN,)), (SHIPPED, None, (FROZEN, LEARNING))):
        with weighed_by(given):
            model = traces.train(trace.train, trace.name, training.salt, training.settings(given))
        for mode in modes:
            lines = traces.replay(model, trace.test, learn=mode == LEARNING)
            yield (settings, mode), (trace.unit_scores(traces.anomaly(lines)), _highest_levels(trace, lines))


def weighed_by(choice: DetectorChoice | None) -> AbstractContextManager[Any]:
    """Training with the importances of a choice; with those shipped for None."""
    if choice is None:
        return nullcontext()
    return mock.patch.object(model_training, "FEATURE_IMPORTANCE", tuple(choice.importance().tolist()))


def _highest_levels(trace: Trace, lines: list[ReplayedEvent]) -> NDArray[np.int64]:
    levels = np.array([float(LEVEL_NUMBERS[line.risk_level]) for line in lines])
    return trace.unit_scores(levels).astype(np.int64)


def _stacked(trace: Trace, judged: list[tuple[NDArray[np.float64], NDArray[np.int64]]]) -> JudgedReplays:
    return JudgedReplays(trace, np.array([scores for scores, _ in judged]), np.array([levels for _, levels in judged]))


def _figure_table(results: list[CaseResult], draws: int) -> FigureTable:
    rows, records = [], []
    for result in results:
        for (settings, mode), replays in result.replays.items():
            values, (low, high) = replays.values(), replays.interval(draws)
            median, spread = np.median(values, axis=0), np.ptp(values, axis=0)
            cells = [_cell(*figure) for figure in zip(median, low, high, spread, strict=True)]
            rows.append((result.case.name, f"{settings}, {mode}", *cells))
            names = {"left_out": result.case.name, "settings": settings, "baseline": mode, "figures": NAMES}
            records.append({**names, **_numbers(replays, median, low, high)})
    trainings = len(results[0].choices)
    note = (
        f"Median of {trainings} trainings (95 % interval over users' tasks, or sessions where tasks are few; largest "
        "minus smallest training)."
    )
    return FigureTable("Left out", ("left out", "settings", *NAMES), rows, note, tuple(records))


def _headline(records: Sequence[dict[str, Any]]) -> FigureTable:
    """What was left out beside what is shipped, baseline frozen; without recall at 5 %."""
    frozen = {(record["left_out"], record["settings"]): record for record in records if record["baseline"] == FROZEN}
    rows = []
    for name in dict.fromkeys(record["left_out"] for record in records):
        cells = [
            " / ".join(f"{value:.3f} ({low:.2f} to {high:.2f})" for value, low, high in figures_of[:3])
            for figures_of in (
                list(zip(record["median"], record["low"], record["high"], strict=True))
                for record in (frozen[name, LEFT_OUT], frozen[name, SHIPPED])
            )
        ]
        rows.append((name, *cells))
    trainings = len(records[0]["trainings"])
    note = (
        f"{' / '.join(NAMES[:3])} false positives, baseline frozen; medians of {trainings} trainings, 95 % intervals."
    )
    return FigureTable("Headline", ("left out", LEFT_OUT, SHIPPED), rows, note)


def _numbers(replays: JudgedReplays, *figure: NDArray[np.float64]) -> dict[str, Any]:
    """What a program wants to read of a row: median, low and high (4,), every training's figures, and more."""
    return {
        **{name: values.tolist() for name, values in zip(("median", "low", "high"), figure, strict=True)},
        "trainings": replays.values().tolist(),
        "recall_at_1_ties_in_random_order": replays.expected_recall(),
        "groups": len(set(replays.trace.groups)),
    }


def _cell(median: float, low: float, high: float, spread: float) -> str:
    return f"{median:.3f} ({low:.2f} to {high:.2f}; {spread:.3f})"


def _outcome_table(results: list[CaseResult]) -> FigureTable:
    rows = [
        (
            result.case.name,
            f"{settings}, {mode}",
            *(f"{replays.reached(level, bad):.0%}" for bad in (True, False) for level in LEVELS),
        )
        for result in results
        for (settings, mode), replays in result.replays.items()
    ]
    columns = ("left out", "settings", *(f"{kind}: {level.label}" for kind in ("bad", "good") for level in LEVELS))
    note = (
        "Share of the judged sessions (cloudtrail: events) in which the agent had the level or more, by the default "
        "budget; a level lasts beyond a session."
    )
    return FigureTable("Left out: levels that agents reached", columns, rows, note)


def _choice_table(results: list[CaseResult]) -> FigureTable:
    rows = [(result.case.name, result.choices[0].text(), str(len(set(result.choices)))) for result in results]
    note = "Families that are not named count fully. As shipped: `FEATURE_IMPORTANCE`, norm 8, forest 0.15."
    return FigureTable(
        "Left out: what was chosen on the others", ("left out", "first training", "different choices"), rows, note
    )

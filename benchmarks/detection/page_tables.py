"""Tables of docs/detection.md: a short form of the tables that a part of the benchmark gives.

All tables are in benchmarks/figures. The page has what a reader decides by: fewer rows, fewer columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .report import FigureTable

Shortening = Callable[[list[FigureTable]], list[FigureTable]]
_COMPARED = (
    "scikit-learn IsolationForest on counts",
    "PyOD KNN on counts",
    "agentnorm 0.2",
    "rule: first seen in the agent type",
    "rule: first seen for the declared task",
    "scikit-learn IsolationForest on our features",
    "PyOD COPOD on our features",
    "river HalfSpaceTrees on our features",
    "**Trustwatch, frozen**",
    "**Trustwatch, learning**",
)
"""Ours, and of the others those that are best of their kind on a data set."""


_SPREADS = re.compile(r"; (?:largest minus smallest training|spread)(?=\))")
"""Of a note: what it says of spreads, which the page leaves out."""
NOT_ON_THE_PAGE = (
    "trainings",
    "oracle",
    "ablation",
    "explanations",
    "calibration_traces",
    "calibration",
    "contamination",
    "sensitive",
    "short_histories",
    "stolen",
    "ages",
    "evidence",
    "left_out",
    "new_tasks",
)
"""Parts of which the page tells a few figures in words."""


def for_page(part: str, tables: list[FigureTable]) -> list[FigureTable]:
    """The tables that the page shows of *part*: all of them where nothing else is said, figures in short."""
    return [
        table._replace(
            rows=[tuple(_in_short(cell) for cell in row) for row in table.rows],
            note=_SPREADS.sub("", table.note),
        )
        for table in SHORTENINGS.get(part, list)(tables)
    ]


def _in_short(cell: Any) -> Any:
    """Intervals with a dash and without the spread of trainings; figures side by side without blanks."""
    if not isinstance(cell, str):
        return cell
    cell = re.sub(r"\(([-\d.]+) to ([-\d.]+)(?:; [\d.]+)?\)", r"(\1–\2)", cell)
    return re.sub(r"(?<=\d) / (?=\d)", "/", cell)


def columns(table: FigureTable, names: Sequence[str]) -> FigureTable:
    """The table with the columns *names* alone, in that order."""
    at = [table.columns.index(name) for name in names]
    return table._replace(columns=tuple(names), rows=[tuple(row[i] for i in at) for row in table.rows])


def rows(table: FigureTable, wanted: Callable[[tuple[Any, ...]], bool]) -> FigureTable:
    """The table with the rows that are *wanted*."""
    return table._replace(rows=[row for row in table.rows if wanted(row)])


def _concerns(tables: list[FigureTable]) -> list[FigureTable]:
    """Sets as a whole by concern, without single assistants; origins of arguments are told in words."""
    return [rows(tables[0], lambda row: ", " not in row[0] and not row[1].startswith("all evidence"))]


def _score_by_set(tables: list[FigureTable]) -> list[FigureTable]:
    """One table of three: a row per score, a cell per data set, intervals left out."""
    cells: dict[str, list[str]] = {}
    for table in tables:
        for row in table.rows:
            figures = [str(row[table.columns.index(name)]) for name in ("ROC-AUC", "recall at 5 % FP")]
            score = row[0].replace(" on one-hot", " on counts")
            cells.setdefault(score, []).append(" / ".join(figure.split(" (")[0] for figure in figures))
    names = tuple(table.title.split(",")[0] for table in tables)
    merged = [(score, *cells[score]) for score in _COMPARED if score in cells]
    return [FigureTable("Side by side", ("score", *names), merged, "ROC-AUC / recall at 5 % false positives.")]


def _noticed(tables: list[FigureTable]) -> list[FigureTable]:
    names = ("attack", "noticed", "malicious events until noticed", "of")
    return [columns(table, names) for table in tables[:1]]


SHORTENINGS: dict[str, Shortening] = {
    "concerns": _concerns,
    "side_by_side": _score_by_set,
    "attacks": _noticed,
}
"""Parts whose tables the page shows in a short form."""

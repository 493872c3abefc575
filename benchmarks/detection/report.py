"""Tables of figures, and how they get into documents: between marks, by command, never by hand."""

from __future__ import annotations

import csv
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import binomtest

LEAST_FOR_INTERVAL = 10
"""Cases from which the interval of a share says more than the numbers."""


class FigureTable(NamedTuple):
    """A titled Markdown table; `note` says what must be known to read it, `records` are the figures as numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str = ""
    records: tuple[dict[str, Any], ...] = ()


def markdown(tables: list[FigureTable]) -> str:
    """The tables as Markdown, ready for a document."""
    return "\n\n".join(_one(table) for table in tables)


def write_csv(folder: Path, part: str, tables: list[FigureTable], measured: str) -> None:
    """Write each table of *part* into a file of its own, `PART-1.csv` and so on; title, note and date are comments."""
    for old in folder.glob(f"{part}-*.csv"):
        old.unlink()
    for number, table in enumerate(tables, 1):
        with (folder / f"{part}-{number}.csv").open("w", newline="") as file:
            file.writelines(f"# {line}\n" for line in (table.title, table.note, measured) if line)
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table.columns)
            writer.writerows([_cell(value) for value in row] for row in table.rows)


def _one(table: FigureTable) -> str:
    lines = [f"**{table.title}**", "", _row(table.columns), "|" + "---|" * len(table.columns)]
    lines += [_row(row) for row in table.rows]
    return "\n".join(lines + (["", *textwrap.wrap(table.note, 120)] if table.note else []))


def _row(cells: tuple[Any, ...]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def counted_share(hits: int, of: int) -> str:
    """A share and its 95 % interval (Clopper and Pearson); of few, the numbers alone."""
    if of < LEAST_FOR_INTERVAL:
        return f"{hits} of {of}"
    low, high = binomtest(hits, of).proportion_ci(0.95)
    return f"{hits} of {of} ({low:.2f}–{high:.2f})"


def replace_marked_part(document: Path, part: str, text: str) -> None:
    """Replace what stands between the marks of *part* in the document.

    Raises:
        SystemExit: the document has no such marks.
    """
    begin, end = f"<!-- begin {part} -->", f"<!-- end {part} -->"
    old = document.read_text()
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(old)) != 1:
        raise SystemExit(
            f"{document}: needs the lines `{begin}` and `{end}` once each, to put the figures between them"
        )
    document.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", old))

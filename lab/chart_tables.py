"""Tables of what charts tell under the mouse, for those who have none or do not see them: read from the specification.

Each mark of a chart that answers to the mouse has a list of what it tells; those lists, of all marks, are the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

MAX_PAGE_ROWS = 500
"""Rows of one table in a page; `Chart.tables` has all."""


class ChartTable(NamedTuple):
    """Tooltips of the marks of one layer, a row each; a value that is none is None."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


def tables_of(spec: Mapping[str, Any]) -> list[ChartTable]:
    """Tables of a specification of Vega-Lite with its data, each once."""
    datasets: Mapping[str, Sequence[Mapping[str, Any]]] = spec.get("datasets", {})
    found = dict.fromkeys(_told(spec, ""))
    return [
        ChartTable(
            [title for _, title in lines], [[row.get(field) for field, _ in lines] for row in datasets.get(name, ())]
        )
        for name, lines in found
    ]


def _told(part: Any, name: str) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Names of data and (column, title) of what is told, of a part of a specification and all in it."""
    if isinstance(part, Mapping):
        name = part.get("data", {}).get("name", name) if isinstance(part.get("data", {}), Mapping) else name
        tip = part.get("encoding", {}).get("tooltip") if isinstance(part.get("encoding"), Mapping) else None
        if isinstance(tip, list):
            yield name, tuple((line["field"], str(line.get("title") or line["field"])) for line in tip)
        for inner in ("layer", "hconcat", "vconcat", "concat"):
            for one in part.get(inner, ()):
                yield from _told(one, name)


def tables_in_html(spec: Mapping[str, Any]) -> str:
    """The tables of a chart, behind a button; "" = it tells nothing under the mouse."""
    tables = [table for table in tables_of(spec) if table.rows]
    if not tables:
        return ""
    return f"<details><summary>As a table</summary>{''.join(map(_in_html, tables))}</details>"


def _in_html(table: ChartTable) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.heads)
    lines = ("".join(f"<td>{escape(_text(value))}</td>" for value in row) for row in table.rows[:MAX_PAGE_ROWS])
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    left = f"<p>The first {MAX_PAGE_ROWS:,} of {len(table.rows):,} rows.</p>" if len(table.rows) > MAX_PAGE_ROWS else ""
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{left}<div class="told" tabindex="0" role="region" aria-label="As a table">{whole}</div>'


def _text(value: Any) -> str:
    """A value as the table shows it.

    >>> _text(None), _text(1234567), _text(0.123456789), _text("a")
    ('–', '1,234,567', '0.123457', 'a')
    """
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value.is_integer() else f"{value:.6g}"

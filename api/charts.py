"""Charts of pages: uPlot draws them (`console/static/charts.js`), and each has its numbers as a table beneath it.

The table is for readers who do not see the drawing, have no mouse or run no script.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple

import jinja2
import msgspec
from markupsafe import Markup

from trustwatch.ingest.printable_text import shown_controls

MAX_TABLE_ROWS: Final = 250
"""Rows of the table under a chart; of more every second, third, … is listed."""

ChartPoint = tuple[float, float]


class ChartSeries(NamedTuple):
    """One line, or one part of stacked bars."""

    name: str
    points: Sequence[ChartPoint]
    style: str = ""  # classes of `charts.js` for its color and dashes, and of the legend
    steps: bool = False  # a value lasts until the next one
    fill: bool = False  # the area under the line is tinted
    band: Sequence[tuple[float, float, float]] = ()  # (place, lower, upper): the range of the line most of the time
    drawn: bool = True  # False = it is a column of the table alone


class ChartAxis(msgspec.Struct, frozen=True):
    """An axis. The drawn range includes *minimum* and *maximum*; None = that of the data.

    `utc` and, in the zone that a person chose, `time` are seconds since 1970; `count` has whole numbers.
    """

    label: str
    minimum: float | None = None
    maximum: float | None = None
    kind: Literal["number", "count", "time", "utc"] = "number"
    log: bool = False  # logarithmic: what is not above 0 is left out of the drawing


def chart(
    title: str,
    x: ChartAxis,
    y: ChartAxis,
    series: Sequence[ChartSeries],
    *,
    bars: bool = False,
    marks: Sequence[dict[str, Any]] = (),
    height: int = 250,
    table: Markup | None = None,
) -> Markup:
    """Return a figure with its legend and table."""
    places, columns = _aligned(series)
    if table is None:
        cells = [["–" if value is None else _full_number(value) for value in column] for _, column in columns]
        rows = zip(*([_place(x, at) for at in places], *cells), strict=True)
        table = chart_table(title, [x.label, *(name for name, _ in columns)], list(rows))
    drawn = [line for line in series if line.drawn]
    figure = {
        "x": msgspec.structs.replace(x, label=shown_controls(x.label)),
        "y": msgspec.structs.replace(y, label=shown_controls(y.label)),
        "bars": bars,
        "marks": marks,
        "series": [
            {"name": shown_controls(line.name), "band": bool(line.band)}
            | {name: getattr(line, name) for name in ("style", "steps", "fill")}
            for line in drawn
        ],
        "columns": [places, *(column for _, column in columns[: sum(3 if line.band else 1 for line in drawn)])],
    }
    data = msgspec.json.encode(figure).decode()
    return Markup(_FIGURE.render(title=title, data=data, height=height, series=drawn, table=table))  # noqa: S704 - the template escapes


def _aligned(series: Sequence[ChartSeries]) -> tuple[list[float], list[tuple[str, list[float | None]]]]:
    """Return the places, and the named values at each; a place has a row for each point that a line has there."""
    named: list[tuple[str, Sequence[ChartPoint]]] = []
    for line in sorted(series, key=lambda one: not one.drawn):
        named.append((line.name, line.points))
        if line.band:
            named.append((f"{line.name}, from", [(at, low) for at, low, _ in line.band]))
            named.append((f"{line.name}, to", [(at, high) for at, _, high in line.band]))
    rows: defaultdict[tuple[float, int], dict[int, float]] = defaultdict(dict)
    for number, (_, points) in enumerate(named):
        met = Counter[float]()
        for at, value in points:
            rows[at, met[at]][number] = value
            met[at] += 1
    places = sorted(rows)
    columns = [(name, [rows[place].get(number) for place in places]) for number, (name, _) in enumerate(named)]
    return [at for at, _ in places], columns


def chart_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, sampled: str = "") -> Markup:
    """Return the numbers of a chart as a table that opens on request, reachable by keyboard and screen readers."""
    step = max(1, math.ceil(len(rows) / MAX_TABLE_ROWS))
    shown = [*rows[::step], *(rows[-1:] if (len(rows) - 1) % step else [])] if rows else []
    thinned = f"{len(shown)} of {len(rows):,} points, evenly chosen, and the last." if step > 1 else ""
    name = "data-" + re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")
    words = " ".join(filter(None, (sampled, thinned)))
    return Markup(_TABLE.render(title=title, name=name, words=words, heads=heads, rows=shown))  # noqa: S704


def chart_assets() -> tuple[str, str]:
    """Return the style sheet and script of charts, for a self-contained document."""
    static = files("trustwatch.api") / "console" / "static"
    paths = ("vendor/uplot/uPlot.min.css", "vendor/uplot/uPlot.iife.min.js", "charts.js")
    style, *scripts = ((static / path).read_text(encoding="utf-8") for path in paths)
    return style, "\n".join(scripts)


def _full_number(value: float) -> str:
    """Return a number without the digits that only rounding has left.

    >>> _full_number(12.0), _full_number(1234567.0), _full_number(0.1 + 0.2), _full_number(1e-9)
    ('12', '1,234,567', '0.3', '1e-09')
    """
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _place(axis: ChartAxis, value: float) -> str:
    if axis.kind not in ("time", "utc"):
        return _full_number(value)
    at = datetime.fromtimestamp(value, UTC)
    return f"{at:%Y-%m-%d}" if value % 86_400 == 0 else f"{at:%Y-%m-%d %H:%M}"


_environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=lambda value: shown_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
)
_FIGURE: Final = _environment.from_string(
    '<figure><figcaption>{{ title }}</figcaption><div class="chart" data-figure="{{ data | e }}"'
    ' data-height="{{ height }}" role="img" aria-label="{{ title }}; the table below has its numbers">'
    '</div><ul class="legend">'
    '{% for line in series %}<li><span class="key {{ line.style }}"></span>{{ line.name }}</li>{% endfor %}</ul>'
    "{{ table }}</figure>"
)
_TABLE: Final = _environment.from_string(
    '<details class="chart-data" id="{{ name }}"><summary id="{{ name }}-open">As a table<span class="hidden">: '
    '{{ title }}</span></summary>{% if words %}<p class="muted">{{ words }}</p>{% endif %}'
    '<div class="scroll tall" id="{{ name }}-rows" role="region" aria-label="{{ title }}, as a table" tabindex="0">'
    '<table class="cards"><thead><tr>{% for head in heads %}<th scope="col"{{ numeric if not loop.first }}>{{ head }}'
    "</th>{% endfor %}</tr></thead><tbody>{% for row in rows %}<tr>{% for cell in row %}"
    '<td{{ numeric if not loop.first }} data-name="{{ heads[loop.index0] }}">{{ cell }}</td>{% endfor %}</tr>'
    "{% endfor %}</tbody></table></div></details>",
    globals={"numeric": Markup(' class="num"')},
)

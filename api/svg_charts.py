"""Charts as inline SVG. Colours come from the page's style sheet, by class; every chart says in words what it shows.

Under each stands a table of the same numbers, for readers who do not see it or have no mouse: `chart_table`, which
charts that a script draws have, too.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 10, 12, 44
_TICKS = 4
MAX_TABLE_ROWS = 250
"""Rows of the table under a chart; of more every second, third, … is left."""

ChartPoint = tuple[float, float]
TickFormat = Callable[[float], str]


class ChartSeries(NamedTuple):
    """One line or one stack. *style* is a CSS class that says colour and dashes."""

    name: str
    points: Sequence[ChartPoint]
    style: str
    steps: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    """(place, lower, upper): where the line lies most of the time."""


class ChartAxis(NamedTuple):
    """*minimum* and *maximum* None: from the data. Logarithmic axes leave out what is not above 0."""

    label: str
    minimum: float | None = None
    maximum: float | None = None
    log: bool = False
    tick_format: TickFormat = lambda value: f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    table_format: TickFormat | None = None
    """Places in the table under the chart; None = as ticks, but with all their digits."""


class _AxisScale(NamedTuple):
    axis: ChartAxis
    low: float
    high: float
    start: float
    end: float

    def position(self, value: float) -> float:
        """Place on the canvas, px."""
        low, high, value = (math.log10(x) if self.axis.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Values to label on the axis."""
        if self.axis.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, math.ceil((last - first + 1) / (_TICKS + 2)))
            return [10.0**power for power in range(first, last + 1, stride)]
        step = _round_step((self.high - self.low) / _TICKS)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = float(10.0 ** math.floor(math.log10(rough)))
    return next(power * factor for factor in (1.0, 2.0, 5.0, 10.0) if power * factor >= rough * 0.999)


def _scale(axis: ChartAxis, values: Sequence[float], start: float, end: float) -> _AxisScale:
    usable = [value for value in values if not axis.log or value > 0]
    low = axis.minimum if axis.minimum is not None else min(usable, default=1.0 if axis.log else 0.0)
    high = axis.maximum if axis.maximum is not None else max(usable, default=1.0)
    if high <= low:
        high = low * 10 if axis.log else low + 1.0
    if axis.log:
        low, high = low / 1.15, high * 1.15
    return _AxisScale(axis, low, high, start, end)


def line_chart(
    title: str, x: ChartAxis, y: ChartAxis, series: Sequence[ChartSeries], also: Sequence[ChartSeries] = ()
) -> Markup:
    """Lines over two axes, with a legend and a table below; *also* stands in the table alone."""
    points = [point for line in series for point in line.points]
    across = _scale(x, [at for at, _ in points], _LEFT, WIDTH - _RIGHT)
    up = _scale(y, [value for _, value in points], HEIGHT - _BOTTOM, _TOP)
    drawn = [*(_band(line, across, up) for line in series if line.band), *(_line(line, across, up) for line in series)]
    rows = _table_rows([*series, *also], x.table_format or _full_number)
    table = chart_table(title, [x.label, *_table_heads([*series, *also])], rows)
    return _svg_figure(title, _frame(across, up) + Markup("").join(drawn), series, table)


def bar_chart(
    title: str,
    labels: Sequence[str],
    y: ChartAxis,
    series: Sequence[ChartSeries],
    also: Sequence[ChartSeries] = (),
    x: ChartAxis | None = None,
) -> Markup:
    """Stacked bars, one per label; the points of a series are (position, height).

    *also* stands in the table below alone; *x* says what the labels are, and how its table names their positions.
    """
    heights = [0.0] * len(labels)
    up = _scale(y._replace(minimum=0.0), [*_totals(len(labels), series)], HEIGHT - _BOTTOM, _TOP)
    wide = (WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    parts = [_vertical_ticks(up)]
    for stack in series:
        for position, value in stack.points:
            column = int(position)
            if value > 0:
                top, bottom = up.position(heights[column] + value), up.position(heights[column])
                parts.append(_bar(stack, labels[column], value, _LEFT + wide * column, wide, top, bottom))
                heights[column] += value
    parts.append(_horizontal_labels(labels, wide))
    name_position = (x and x.table_format) or (lambda position: labels[int(position)])
    rows = _table_rows([*series, *also], name_position)
    table = chart_table(title, [x.label if x else "time", *_table_heads([*series, *also])], rows)
    return _svg_figure(title, Markup("").join(parts), series, table)


def _totals(count: int, series: Sequence[ChartSeries]) -> list[float]:
    totals = [0.0] * count
    for stack in series:
        for position, value in stack.points:
            totals[int(position)] += value
    return totals


def _bar(series: ChartSeries, label: str, value: float, left: float, wide: float, top: float, bottom: float) -> Markup:
    return Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
        series.style,
        _pixels(left + wide * 0.1),
        _pixels(top),
        _pixels(wide * 0.8),
        _pixels(bottom - top),
        f"{label}: {value:g} {series.name}",
    )


def _horizontal_labels(labels: Sequence[str], wide: float) -> Markup:
    step = max(1, math.ceil(len(labels) * 75 / (WIDTH - _LEFT - _RIGHT)))
    return Markup("").join(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            _pixels(max(_LEFT + wide * (index + 0.5), _LEFT + 20)), HEIGHT - _BOTTOM + 16, labels[index]
        )
        for index in range(0, len(labels), step)
    )


def _band(series: ChartSeries, across: _AxisScale, up: _AxisScale) -> Markup:
    edge = [(at, upper) for at, _, upper in series.band] + [(at, lower) for at, lower, _ in reversed(series.band)]
    path = " ".join(f"{_pixels(across.position(a))},{_pixels(up.position(b))}" for a, b in edge)
    return Markup('<polygon class="band {}" points="{}"/>').format(series.style, path)


def _line(series: ChartSeries, across: _AxisScale, up: _AxisScale) -> Markup:
    shown = [
        (across.position(a), up.position(b))
        for a, b in series.points
        if (a > 0 or not across.axis.log) and (b > 0 or not up.axis.log)
    ]
    if not shown:
        return Markup("")
    if series.steps:
        corners = (corner for before, now in pairwise(shown) for corner in ((now[0], before[1]), now))
        shown = [shown[0], *corners]
    path = " ".join(f"{_pixels(a)},{_pixels(b)}" for a, b in shown)
    line = Markup('<polyline class="line {}" points="{}"/>').format(series.style, path)
    if len(shown) > 12:
        return line
    dots = (
        Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.5"/>').format(series.style, _pixels(a), _pixels(b))
        for a, b in shown
    )
    return line + Markup("").join(dots)


def _frame(across: _AxisScale, up: _AxisScale) -> Markup:
    parts = [_vertical_ticks(up)]
    for value in across.ticks():
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                _pixels(across.position(value)), HEIGHT - _BOTTOM + 16, across.axis.tick_format(value)
            )
        )
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            _pixels((_LEFT + WIDTH - _RIGHT) / 2), HEIGHT - 8, across.axis.label
        )
    )
    return Markup("").join(parts)


_VERTICAL_TICK = Markup(
    '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
)


def _vertical_ticks(up: _AxisScale) -> Markup:
    parts = []
    for value in up.ticks():
        at = up.position(value)
        parts.append(
            _VERTICAL_TICK.format(
                _LEFT, WIDTH - _RIGHT, _pixels(at), _pixels(at), _LEFT - 6, _pixels(at + 4), up.axis.tick_format(value)
            )
        )
    middle = _pixels((_TOP + HEIGHT - _BOTTOM) / 2)
    parts.append(
        Markup('<text class="axis" x="11" y="{}" text-anchor="middle" transform="rotate(-90 11 {})">{}</text>').format(
            middle, middle, up.axis.label
        )
    )
    return Markup("").join(parts)


def _svg_figure(title: str, inner: Markup, series: Sequence[ChartSeries], table: Markup) -> Markup:
    legend = Markup("").join(
        Markup('<li><span class="key {}"></span>{}</li>').format(line.style, line.name) for line in series
    )
    return Markup(
        '<figure><figcaption>{}</figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        '<ul class="legend">{}</ul>{}</figure>'
    ).format(title, WIDTH, HEIGHT, escape(f"{title}; the table below has its numbers"), inner, legend, table)


def _full_number(value: float) -> str:
    """A number as it is, without the digits that only rounding has left.

    >>> _full_number(12.0), _full_number(1234567.0), _full_number(0.1 + 0.2), _full_number(1e-9)
    ('12', '1,234,567', '0.3', '1e-09')
    """
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _table_heads(series: Sequence[ChartSeries]) -> list[str]:
    heads = []
    for line in series:
        heads += [line.name, *([f"{line.name}, from", f"{line.name}, to"] if line.band else [])]
    return heads


def _table_rows(series: Sequence[ChartSeries], place: TickFormat) -> list[list[str]]:
    """A row for each place, and for each point where a line has several there; a value that is none is a dash."""
    columns: list[Sequence[ChartPoint]] = []
    for line in series:
        columns.append(line.points)
        if line.band:
            columns += [[(at, low) for at, low, _ in line.band], [(at, high) for at, _, high in line.band]]
    cells: defaultdict[tuple[float, int], dict[int, str]] = defaultdict(dict)
    for number, points in enumerate(columns):
        met = Counter[float]()
        for at, value in points:
            cells[at, met[at]][number] = _full_number(value)
            met[at] += 1
    return [
        [place(at), *(cells[at, nth].get(number, "–") for number in range(len(columns)))] for at, nth in sorted(cells)
    ]


def chart_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, sampled: str = "") -> Markup:
    """Numbers of a chart as a table that opens on request, which keys and screen readers reach.

    Args:
        title: of the chart; unique on its page, since live pages keep open what is open by it.
        heads: of the columns; the first names the place, the others are numbers.
        rows: as many cells each; `Markup` stays as it is.
        sampled: words for what a row stands for, where it is not a point of the chart.
    """
    step = max(1, math.ceil(len(rows) / MAX_TABLE_ROWS))
    shown = [*rows[::step], *(rows[-1:] if (len(rows) - 1) % step else [])] if rows else []
    thinned = f"{len(shown)} of {len(rows):,} points, evenly chosen, and the last." if step > 1 else ""
    head = _joined(Markup('<th scope="col"{}>{}</th>'), ((_numeric(at), name) for at, name in enumerate(heads)))
    cell = Markup('<td{} data-name="{}">{}</td>')
    lines = ((_joined(cell, ((_numeric(at), heads[at], one) for at, one in enumerate(row))),) for row in shown)
    body = _joined(Markup("<tr>{}</tr>"), lines)
    name = "data-" + re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")
    words = Markup('<p class="muted">{}</p>').format(" ".join(filter(None, (sampled, thinned))))
    return Markup(
        '<details class="chart-data" id="{}"><summary id="{}-open">As a table<span class="hidden">: {}</span></summary>'
        '{}<div class="scroll tall" id="{}-rows" role="region" aria-label="{}, as a table" tabindex="0">'
        '<table class="cards">'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></details>"
    ).format(name, name, title, words if sampled or thinned else "", name, title, head, body)


def _joined(form: Markup, values: Iterable[tuple[object, ...]]) -> Markup:
    return Markup("").join(form.format(*one) for one in values)


def _numeric(column: int) -> Markup:
    return Markup(' class="num"') if column else Markup("")


def _pixels(value: float) -> str:
    return f"{value:.1f}"

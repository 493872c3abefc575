"""Charts that answer to the mouse, drawn with Altair; nothing else of the lab knows which program draws.

A chart is made of panels, a panel of layers, a layer of rows and one kind of mark. Every colour is the console's, on a
light ground and on a dark one: an expression chooses, so that one chart serves both. What a tooltip shows is in the
rows, so every number can be checked.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from .chart_look import FONT, LEVEL_SHAPES, SERIES_DASHES, SERIES_INKS, SERIES_SHAPES, VEGA_LITE_MIME, console_inks
from .chart_tables import tables_of
from .frame_columns import LEVEL_NAMES

Channel = dict[str, Any]
Channels = dict[str, Any]
"""Name of a channel -> what it shows."""
Tip = tuple[str, ...]
"""Title of a line of a tooltip, its column, and the format of a number."""

WIDTH = 720
PNG_SCALE = 2
FALLBACK_SCALE = 1
MAX_ROWS = 5_000
"""Rows that one layer may embed: a page with more is slow to open, and nobody can tell so many marks apart."""
_NUMBER = ",.4~f"
_MISSING = "–"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S UTC"
MAX_BARS = 40
MAX_MARKS = 2_000

_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"  # a name, which nothing fetches
_RENDERER = "trustwatch"
_DARK = alt.param(name="dark", expr="background == '#333'")
"""True in JupyterLab's dark themes, which put their ground under a chart; a notebook's page sets it itself."""
_TIME_LABELS = (
    "utcFormat(datum.value, utchours(datum.value) + utcminutes(datum.value) + utcseconds(datum.value) == 0 ? '%d %b' :"
    " utcseconds(datum.value) ? '%H:%M:%S' : '%H:%M')"
)
_SHORT_NAME = "length(datum.label) > 40 ? slice(datum.label, 0, 20) + '…' + slice(datum.label, -19) : datum.label"
"""The middle is left out, since names differ at their ends; a tooltip has the whole."""
_OWN_SCALES = dict.fromkeys(("color", "shape", "strokeDash"), "independent")
_WHOLE = "datum.value % 1 ? '' : datum.label"
_EMBED_OPTIONS = {"actions": {"export": True, "source": False, "compiled": False, "editor": False}}
"""The menu of a chart saves pictures. It does not offer Vega's editor, a foreign host that would get the data."""


def ink(name: str) -> dict[str, str]:
    """A colour of the console, light or dark as the ground is."""
    light, dark = console_inks()[name]
    return {"expr": f"dark ? '{dark}' : '{light}'"}


def number(column: str, title: str = "", **more: Any) -> Channel:
    """A channel with a number. *more*: `scale`, `axis`, `stack` as Vega-Lite has them."""
    return {"field": column, "type": "quantitative", "title": title or None, **more}


def count(column: str, title: str = "", **more: Any) -> Channel:
    """A channel with a whole number: no tick stands between two."""
    return number(column, title, axis={"format": ",d", "labelExpr": _WHOLE}, **more)


def name(column: str) -> Channel:
    """A channel with a text, for what has no axis and no legend."""
    return {"field": column, "type": "nominal"}


def category(column: str, title: str = "", order: Sequence[str] | None = None, **more: Any) -> Channel:
    """A channel with a name; names stand in the *order* given, or as they come."""
    return {
        "field": column,
        "type": "nominal",
        "title": title or None,
        "sort": None if order is None else list(order),
    } | more


def beside_axis(column: str, order: Sequence[str] | None = None, **axis: Any) -> Channel:
    """A channel with names along an axis, the first of *order* at the top; long ones are shortened there."""
    return category(column, order=order, axis={"labelExpr": _SHORT_NAME, "ticks": False, "labelPadding": 10, **axis})


def moment(column: str = "time", title: str = "time (UTC)", **more: Any) -> Channel:
    """A channel with a time, in UTC."""
    axis = {"labelExpr": _TIME_LABELS, "labelOverlap": True, "labelSeparation": 10, "grid": True}
    return {
        "field": column,
        "type": "temporal",
        "title": title or None,
        "scale": {"type": "utc", "padding": 12},
        "axis": axis,
    } | more


def colours(column: str, inks: Mapping[str, str], title: str = "") -> Channel:
    """A channel that tells names by colour. *inks*: name -> variable of the console."""
    scale = {"domain": list(inks), "range": [ink(name) for name in inks.values()]}
    return _styled(column, scale, title)


def shapes(column: str, names: Mapping[str, str], title: str = "") -> Channel:
    """A channel that tells names by shape, in one legend with `colours` of the same names."""
    return _styled(column, {"domain": list(names), "range": list(names.values())}, title)


def dashes(column: str, names: Mapping[str, list[int]], title: str = "") -> Channel:
    """A channel that tells lines by their dashes."""
    return _styled(column, {"domain": list(names), "range": list(names.values())}, title)


def _styled(column: str, scale: Mapping[str, Any], title: str) -> Channel:
    legend = {"title": title or None, "symbolLimit": 0}
    return {"field": column, "type": "nominal", "sort": scale["domain"], "scale": scale, "legend": legend}


def level_marks(rows: pd.DataFrame) -> Channels:
    """Channels that tell the column `level` by colour and shape, of the levels that occur."""
    found = [level for level in LEVEL_NAMES if (rows["level"] == level).any()]
    return {
        "color": colours("level", {level: level for level in found}),
        "shape": shapes("level", {level: LEVEL_SHAPES[level] for level in found}),
    }


def series_inks(names: Sequence[str]) -> dict[str, str]:
    """Colours of the first, second, … of several series."""
    return dict(zip(names, SERIES_INKS, strict=False))


def series_dashes(names: Sequence[str]) -> dict[str, list[int]]:
    """Dashes of the first, second, …"""
    return dict(zip(names, SERIES_DASHES, strict=False))


def series_shapes(names: Sequence[str]) -> dict[str, str]:
    """Shapes of the first, second, …"""
    return dict(zip(names, SERIES_SHAPES, strict=False))


class Layer(NamedTuple):
    """Rows drawn with one kind of mark. *columns*: those that it embeds."""

    drawn: Any
    columns: frozenset[str]
    legend_columns: frozenset[str]


def layer(
    rows: pd.DataFrame,
    drawn_as: str | Mapping[str, Any],
    *,
    tips: Sequence[Tip] = (),
    also: Sequence[Tip] = (),
    shows_itself: bool = True,
    **channels: Any,
) -> Layer:
    """A layer of *rows*, by the name of a mark, or with its style. Embeds the columns that channels and *tips* name.

    *also*: what another layer of the same rows tells; both then embed the rows once, together.
    *shows_itself*: False for marks that are seen under the mouse alone, of one layer of a chart. Raises ValueError for
    more than `MAX_ROWS` rows: who draws sums them up, and says so in the chart.
    """
    if len(rows) > MAX_ROWS:
        raise ValueError(f"{len(rows):,} rows are too many for a chart: sum them up to {MAX_ROWS:,}")
    told = [_tip(rows, *tip) for tip in tips or also]
    if tips:
        channels["tooltip"] = [line for line, _ in told]
    fields = [channel for channel in channels.values() if isinstance(channel, dict)]
    named = {channel["field"] for channel in [*fields, *(line for line, _ in told)] if "field" in channel}
    columns = sorted(named | {tip[1] for tip in tips or also})
    in_words = {line["field"]: values for line, values in told}
    embedded = {column: in_words[column] if column in in_words else rows[column] for column in columns}
    if not shows_itself:
        channels["opacity"] = {"condition": {"param": "under_mouse", "empty": False, "value": 0.2}, "value": 0}
    drawn = alt.Chart(
        pd.DataFrame(embedded).reset_index(drop=True),
        mark=alt.MarkDef(**{"aria": False, **({"type": drawn_as} if isinstance(drawn_as, str) else drawn_as)}),
        encoding=alt.FacetedEncoding(**channels),
    )
    if not shows_itself:
        drawn = drawn.add_params(alt.selection_point(name="under_mouse", on="pointerover", clear="pointerout"))
    legends = {channel["field"] for channel in fields if channel.get("legend")}
    return Layer(drawn, frozenset(columns), frozenset(legends))


def _tip(rows: pd.DataFrame, title: str, column: str, form: str = "") -> tuple[Channel, pd.Series]:
    """A line of a tooltip, and the values that it shows.

    Numbers are shown as they are, in the format. Put into words are times, which would be told in the zone of whoever
    looks, and columns where something is missing, which would be told as 0.
    """
    values = rows[column]
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        told = values.dt.strftime(TIME_FORMAT).fillna(_MISSING)
        return {"field": f"{column} in words", "type": "nominal", "title": title}, told
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        form = form or (",d" if pd.api.types.is_integer_dtype(values) else _NUMBER)
        if not values.isna().any():
            return {"field": column, "type": "quantitative", "title": title, "format": form}, values
        told = values.map(lambda value: _MISSING if pd.isna(value) else _format_number(value, form)).astype(object)
        return {"field": f"{column} in words", "type": "nominal", "title": title}, told
    return {"field": column, "type": "nominal", "title": title}, values.astype(object).where(values.notna(), _MISSING)


def _format_number(value: float, form: str) -> str:
    """A number as Vega writes it."""
    if form == ",d":
        return f"{int(value):,}"
    return f"{value:,.4f}".rstrip("0").rstrip(".") if form == _NUMBER else f"{value:.3g}"


def mark(kind: str, **style: Any) -> dict[str, Any]:
    """A mark with a style of its own."""
    return {"type": kind, **style}


LEVEL_MARK = mark("point", filled=True, size=110, opacity=1, stroke=ink("panel"), strokeWidth=1)


def words(
    rows: pd.DataFrame,
    column: str,
    *,
    colour: str = "text",
    style: Mapping[str, Any] | None = None,
    **channels: Channel,
) -> Layer:
    """A layer of texts beside or inside other marks, whose axes it shares."""
    bare: Channels = {
        channel: {key: value for key, value in how.items() if key != "axis"} for channel, how in channels.items()
    }
    return layer(rows, mark("text", color=ink(colour), **(style or {})), text=name(column), **bare)


def stacked_bars(table: Any, by: str, part: str, counted: tuple[str, str], inks: Mapping[str, str]) -> list[Layer]:
    """Bars of a table, a row each, stacked by its columns, with the numbers in them.

    Args:
        table: counts, by name and part.
        by: what the names are, as a column.
        part: what the columns are.
        counted: column for the counts, and their axis.
        inks: colour of each part.
    """
    units, axis = counted
    long = table.rename_axis(index=by, columns=part).stack().rename(units).reset_index()
    long["of"] = long[by].map(table.sum(axis=1)).astype("int64")
    long["place"] = long[part].map({column: at for at, column in enumerate(table.columns)}).astype("int64")
    wide = long[units] >= 0.05 * max(table.sum(axis=1).max(), 1)
    long["label"] = [f"{value:,}" if fits else "" for value, fits in zip(long[units], wide, strict=True)]
    rows = pd.DataFrame(long[long[units] > 0]).astype({by: "str", part: "str"})
    where: Channels = {
        "y": beside_axis(by, [str(row) for row in table.index]),
        "order": {"field": "place", "type": "quantitative"},
    }
    told = ((by.replace("_", " "), by), (part, part), (units, units), ("of", "of"))
    bars = mark("bar", stroke=ink("panel"), strokeWidth=1)
    inside = number(units, axis, stack="zero", bandPosition=0.5)
    return [
        layer(rows, bars, x=count(units, axis, stack="zero"), color=colours(part, inks), tips=told, **where),
        words(rows, "label", colour="panel", x=inside, detail=name(part), **where),
    ]


class Panel(NamedTuple):
    """Layers on the same axes.

    Attributes:
        layers: the first at the bottom.
        height: px.
        title: above it, where a chart has several.
        legend_filter: column; a click on one of its names in the legend leaves only that.
        time_zoom: drags move along the x axis; Shift with the wheel zooms; a double click shows all.
    """

    layers: Sequence[Layer]
    height: float = 240
    title: str = ""
    legend_filter: str = ""
    time_zoom: bool = False


class Chart:
    """One picture.

    Args:
        title: above it.
        panels: side by side.
        description: of the content, in words.
        notes: what the picture leaves out or sums up.
    """

    def __init__(self, title: str, panels: Sequence[Panel], description: str, notes: Sequence[str] = ()) -> None:
        self.title = title
        self.panels = panels
        self.description = description
        self.notes = tuple(note for note in notes if note)

    def __repr__(self) -> str:
        return f"<chart: {self.description}>"

    @cached_property
    def figure(self) -> Any:
        """Altair's chart, to change what this module does not. It shows itself without a foreign host, too."""
        width = (WIDTH - 90 * (len(self.panels) - 1)) / len(self.panels)
        drawn = [_draw(panel, number, width) for number, panel in enumerate(self.panels, 1)]
        whole = drawn[0] if len(drawn) == 1 else alt.hconcat(*drawn, spacing=30).resolve_scale(**_OWN_SCALES)
        title = alt.TitleParams(text=self.title, **({"subtitle": list(self.notes)} if self.notes else {}))
        return whole.properties(title=title, description=self.description).add_params(_DARK).configure(**_config())

    def spec(self) -> dict[str, Any]:
        """The chart as a specification of Vega-Lite, its data included; checked against the schema."""
        found: dict[str, Any] = self.figure.to_dict()
        return {**found, "$schema": _SCHEMA}

    def tables(self) -> list[pd.DataFrame]:
        """Tooltips of the chart, a frame for each kind of mark: for those who have no mouse."""
        return [pd.DataFrame(table.rows, columns=list(table.heads)) for table in tables_of(self.spec())]

    def png(self, scale: float = PNG_SCALE) -> bytes:
        """Image bytes in PNG format, of *scale* times the size."""
        return _png(self.figure, scale)

    def save(self, path: str | Path) -> Path:
        """Write the chart to a file, in the format of its name's ending (.png, .svg, .pdf)."""
        path = Path(path)
        self.figure.save(str(path), **({"scale_factor": PNG_SCALE} if path.suffix == ".png" else {}))
        return path

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return _bundle(self.spec(), self.png(FALLBACK_SCALE), repr(self), self.description)


def _bundle(spec: Mapping[str, Any], png: bytes, text: str, alt_text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A chart as Jupyter shows it: drawn by what JupyterLab brings along, else a picture, else text."""
    about = {"image/png": {"width": WIDTH, "alt": alt_text}, VEGA_LITE_MIME: {"embed_options": _EMBED_OPTIONS}}
    return {VEGA_LITE_MIME: spec, "image/png": png, "text/plain": text}, {**about, "alt": alt_text}


def _png(figure: Any, scale: float) -> bytes:
    out = io.BytesIO()
    figure.save(out, format="png", scale_factor=scale)
    return out.getvalue()


def _render(spec: Mapping[str, Any], **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Show one of Altair's own charts: Altair's default is a page that fetches its scripts from a foreign host."""
    about = str(spec.get("description", "a chart of Altair"))
    png = _png(alt.Chart.from_dict(dict(spec)), FALLBACK_SCALE)
    shown, told = _bundle({**spec, "$schema": _SCHEMA}, png, f"<chart: {about}>", about)
    del told["image/png"]["width"]  # the notebook may have chosen another
    return shown, told


alt.renderers.register(_RENDERER, _render)
if alt.renderers.active == "default":  # a notebook that chose another keeps it
    alt.renderers.enable(_RENDERER)


def _draw(panel: Panel, number: int, width: float) -> Any:
    """A panel of Altair, with what answers to the mouse. *number*: of the panel, for names that differ."""
    chosen = alt.selection_point(name=f"legend_{number}", fields=[panel.legend_filter], bind="legend")
    drawn = [
        each.drawn.transform_filter(chosen) if panel.legend_filter in each.columns else each.drawn
        for each in panel.layers
    ]
    if panel.legend_filter:
        at = next(at for at, each in enumerate(panel.layers) if panel.legend_filter in each.legend_columns)
        drawn[at] = drawn[at].add_params(chosen)
    if panel.time_zoom:
        window = alt.selection_interval(
            name=f"window_{number}", bind="scales", encodings=["x"], zoom="wheel![event.shiftKey]"
        )
        drawn[0] = drawn[0].add_params(window)
    whole = alt.layer(*drawn).properties(width=width, height=panel.height)
    return whole.properties(title=panel.title) if panel.title else whole


def _config() -> dict[str, Any]:
    quiet = {
        "labelColor": ink("muted"),
        "titleColor": ink("muted"),
        "gridColor": ink("line"),
        "domainColor": ink("line"),
    }
    sizes = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "font": FONT,
        "axis": {**quiet, **sizes, "tickColor": ink("line"), "labelLimit": 280, "titlePadding": 8},
        "axisX": {"labelOverlap": True, "labelSeparation": 8, "tickCount": 8},
        "axisY": {"labelColor": ink("text")},
        "legend": {
            "labelColor": ink("text"),
            "labelFontSize": 12,
            "orient": "bottom",
            "columns": 5,
            "labelLimit": 300,
            "titleColor": ink("muted"),
        },
        "title": {
            "anchor": "start",
            "frame": "bounds",
            "color": ink("text"),
            "fontSize": 15,
            "subtitleColor": ink("muted"),
            "subtitleFontSize": 12,
            "offset": 12,
        },
        "text": {"fontSize": 12},
        "view": {"stroke": None},
    }


def empty_chart(title: str, why: str) -> Chart:
    """A chart without data that says so."""
    nothing = pd.DataFrame({"why": [why]})
    return Chart(title, [Panel([words(nothing, "why", style={"fontSize": 13})], height=60)], f"{title}: {why}")


def shorten_name(text: str, most: int = 40) -> str:
    """Shorten a name to fit beside a bar; the middle is left out, since names differ at their ends."""
    if len(text) <= most:
        return text
    kept = (most - 1) // 2
    return f"{text[: most - 1 - kept]}…{text[-kept:]}"


def newest(rows: pd.DataFrame, most: int, what: str) -> tuple[pd.DataFrame, str]:
    """The newest rows, and a note if that is not all. Rows have the column `time`."""
    if len(rows) <= most:
        return rows, ""
    return rows.sort_values("time").tail(most), f"The newest {most:,} of {len(rows):,} {what}."


def first(rows: pd.DataFrame, most: int, what: str) -> tuple[pd.DataFrame, str]:
    """The first rows, and a note if that is not all."""
    return (rows, "") if len(rows) <= most else (rows.head(most), f"The first {most:,} of {len(rows):,} {what}.")

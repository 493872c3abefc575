"""Style of Altair's charts in notebooks: the console's colors and shapes, and a renderer that needs no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

import altair as alt

from .frames import LEVELS

VEGA_LITE_MIME: Final = "application/vnd.vegalite.v5+json"
"""Type of output that JupyterLab 4 draws without a network, with the Vega-Lite that it brings along."""


def use_theme() -> None:
    """Draw Altair charts in the console's colors, with tooltips, without network access."""
    alt.theme.register("trustwatch", enable=True)(_theme)
    alt.renderers.register("trustwatch", _render)
    alt.renderers.enable("trustwatch")


def _theme() -> alt.theme.ThemeConfig:
    inks = _console_colors()
    quiet = {"labelColor": inks["muted"], "titleColor": inks["muted"], "titleFontWeight": "normal", "labelLimit": 280}
    series = [inks[name] for name in ("accent", "focus", "low", "critical", "muted")]
    config = {
        "font": "system-ui, sans-serif",
        "mark": {"tooltip": True, "color": inks["accent"]},
        "point": {"filled": True, "size": 80},
        "axis": quiet,
        "legend": {**quiet, "orient": "bottom", "columns": 5},
        "range": {"category": series},
        "title": {"anchor": "start", "color": inks["text"], "fontSize": 15, "subtitleColor": inks["muted"]},
        "view": {"continuousWidth": 640, "discreteWidth": 400},
    }
    return {"config": config}


def _console_colors() -> dict[str, str]:
    """Return the console's colors on a light background, from its style sheet. Levels are keyed by name."""
    sheet = files("trustwatch.api.console").joinpath("static", "console.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", sheet.partition("}")[0]))


def _render(spec: Mapping[str, Any], **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Show a chart with JupyterLab's own renderer. Its menu offers no external editor, which would receive the data."""
    about = describe_chart(spec)
    shown = {**spec, "$schema": "https://vega.github.io/schema/vega-lite/v5.json"}  # a name, which nothing fetches
    actions = {"export": True, "source": False, "compiled": False, "editor": False}
    metadata = {VEGA_LITE_MIME: {"embed_options": {"actions": actions}}}
    return {VEGA_LITE_MIME: shown, "text/plain": f"<chart: {about}>"}, metadata


def describe_chart(spec: Mapping[str, Any]) -> str:
    """Return the description of a chart, or its title if it has none."""
    title = spec.get("title", "")
    return str(spec.get("description") or (title.get("text", "") if isinstance(title, Mapping) else title))


def level_color(column: str = "level") -> alt.Color:
    """Return a channel that distinguishes levels by the console's colors."""
    inks = _console_colors()
    return alt.Color(f"{column}:N", scale=alt.Scale(domain=LEVELS, range=[inks[level] for level in LEVELS]))


def level_shape(column: str = "level") -> alt.Shape:
    """Return a channel that distinguishes levels by the console's shapes, in one legend with `level_color`."""
    shapes = ["cross", "circle", "triangle-up", "diamond", "square"]
    return alt.Shape(f"{column}:N", scale=alt.Scale(domain=LEVELS, range=shapes))


def utc(column: str = "time") -> alt.X:
    """Return the x axis of a time in UTC: dates at midnight, else hours and minutes."""
    labels = "utcFormat(datum.value, utchours(datum.value) + utcminutes(datum.value) ? '%H:%M' : '%d %b')"
    axis = alt.Axis(labelExpr=labels, labelOverlap=True)
    return alt.X(f"{column}:T", title=f"{column} (UTC)", scale=alt.Scale(type="utc"), axis=axis)

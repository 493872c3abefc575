"""The look of charts and of notebooks' pages: the console's colours, read from its style sheet, and its shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

_BLOCK = re.compile(r":root \{([^}]*)\}")
_VARIABLE = re.compile(r"--([a-z-]+): (#[0-9a-f]+)")

FONT: Final = "system-ui, sans-serif"
VEGA_LITE_MIME: Final = "application/vnd.vegalite.v5+json"
"""Type of output that JupyterLab 4 draws with the Vega-Lite that it brings along."""

LEVEL_SHAPES: Final[Mapping[str, str]] = {
    "unknown": "cross",
    "low": "circle",
    "medium": "triangle-up",
    "high": "diamond",
    "critical": "square",
}
"""The console's marks of levels, as Vega calls them."""
LEVEL_DASHES: Final[Mapping[str, list[int]]] = {"medium": [1, 0], "high": [7, 3], "critical": [2, 3]}
SERIES_INKS: Final = ("accent", "focus", "low", "critical", "muted")
SERIES_DASHES: Final = ([1, 0], [7, 3], [2, 3], [9, 3, 2, 3], [4, 4])
SERIES_SHAPES: Final = ("circle", "square", "triangle-up", "diamond", "cross")
"""Colour, dashes and shape of the first, second, … of several series."""


class Ink(NamedTuple):
    """One colour on a light ground and on a dark one."""

    light: str
    dark: str


@cache
def console_inks() -> Mapping[str, Ink]:
    """Variable of the console's style sheet -> its colour; levels are called by their names."""
    sheet = files("trustwatch.api.console").joinpath("static", "console.css").read_text(encoding="utf-8")
    light, dark = (dict(_VARIABLE.findall(block)) for block in _BLOCK.findall(sheet)[:2])
    return {name: Ink(light[name], dark[name]) for name in light}

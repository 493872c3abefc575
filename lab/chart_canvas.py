"""Charts: matplotlib figures that show themselves in a notebook, with a description for readers who cannot see.

No global state of pyplot: figures are freed with the chart. Colours are those of Okabe and Ito, which people with
colour-blindness tell apart; levels are told by marker and hatch, too.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 144
WIDTH = 9.0
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY, TEXT_COLOUR = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#f0e442",
    "#8a8a8a",
    "#222222",
)
LEVEL_COLOURS = {"unknown": GREY, "low": GREEN, "medium": ORANGE, "high": RED, "critical": "#8b1a1a"}
LEVEL_MARKERS = {"unknown": "o", "low": "v", "medium": "^", "high": "D", "critical": "X"}
LEVEL_HATCHES = {"unknown": "..", "low": "", "medium": "//", "high": "\\\\", "critical": "xx"}
SERIES_STYLES = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"), (PURPLE, ":", "D"), (RED, "-", "v"))
"""Colour, line and marker of the first, second, … of several series."""


class Chart:
    """One picture.

    Args:
        figure: drawn already.
        description: of the content, in words.
    """

    def __init__(self, figure: Figure, description: str) -> None:
        self.figure = figure
        self.description = description

    def __repr__(self) -> str:
        return f"<chart: {self.description}>"

    def png(self) -> bytes:
        """Image bytes in PNG format."""
        out = io.BytesIO()
        self.figure.savefig(out, format="png", dpi=DPI, facecolor="white")
        return out.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the chart to a file, in the format of its name's ending (.png, .svg, .pdf)."""
        path = Path(path)
        self.figure.savefig(path, dpi=DPI, facecolor="white")
        return path

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        width = round(self.figure.get_figwidth() * 96)
        shown = {"image/png": self.png(), "text/plain": repr(self)}
        return shown, {"image/png": {"width": width, "alt": self.description}, "alt": self.description}


def create_figure(height: float = 3.6, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Figure, Any]:
    """A figure and its axes. `height` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **more)


def label_axes(axes: Axes, title: str, x: str = "", y: str = "", grid: Any = "y") -> None:
    """Title and labels with units; a quiet grid."""
    figure: Any = axes.figure
    if len(figure.axes) == 1:  # a long title begins where the figure does
        figure.suptitle(title, x=0.005, ha="left", fontsize=12, color=TEXT_COLOUR)
    else:
        axes.set_title(title, loc="left", fontsize=12, color=TEXT_COLOUR)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(axis=grid, color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)


def format_time_axis(axes: Axes) -> None:
    """Label the x axis with times in UTC, as short as they are clear."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=9, tz="UTC")
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz="UTC"))


def empty_chart(title: str, why: str) -> Chart:
    """A chart without data that says so."""
    figure, axes = create_figure(1.6)
    label_axes(axes, title, grid="")
    axes.set_axis_off()
    axes.text(0.5, 0.4, why, ha="center", va="center", color=TEXT_COLOUR, fontsize=12, transform=axes.transAxes)
    return Chart(figure, f"{title}: {why}")


def add_legend(axes: Axes, columns: int = 5) -> None:
    """Add a legend below the chart, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure: Any = axes.figure
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def shorten_name(text: str, most: int = 40) -> str:
    """Shorten a name to fit beside a bar; the middle is left out, since names differ at their ends."""
    if len(text) <= most:
        return text
    kept = (most - 1) // 2
    return f"{text[: most - 1 - kept]}…{text[-kept:]}"

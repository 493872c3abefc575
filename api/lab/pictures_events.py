"""Pictures of events and their scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .chart import (
    BLUE,
    GREY,
    LEVEL_COLOURS,
    LEVEL_MARKERS,
    ORANGE,
    RED,
    TEXT_COLOUR,
    Chart,
    add_legend,
    create_figure,
    empty_chart,
    format_time_axis,
    label_axes,
)

_EVENT_OUTCOME_STYLES = (("success", BLUE, ""), ("denied", ORANGE, "//"), ("error", RED, "xx"))


def activity(events: Any, every: str = "1h", title: str = "Events over time") -> Chart:
    """Events by time and outcome, in steps of *every*."""
    if not len(events):
        return empty_chart(title, "no events")
    table = events.groupby([events["time"].dt.floor(every), events["outcome"].astype(str)]).size().unstack(fill_value=0)
    table = table.reindex(pd.date_range(table.index.min(), table.index.max(), freq=every), fill_value=0)
    figure, axes = create_figure(3.2)
    width = pd.Timedelta(every) * 0.9
    bottom = np.zeros(len(table))
    for outcome, colour, hatch in _EVENT_OUTCOME_STYLES:
        if outcome in table:
            values = table[outcome].to_numpy()
            axes.bar(
                table.index,
                values,
                width=width,
                bottom=bottom,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
                label=f"{outcome} ({int(values.sum()):,})",
                align="edge",
            )
            bottom = bottom + values
    label_axes(axes, title, "time (UTC)", f"events in {every}")
    format_time_axis(axes)
    axes.set_ylim(0, bottom.max() * 1.22)
    axes.legend(frameon=False, loc="upper left", ncols=3)
    return Chart(figure, f"{title}: {len(events):,} events from {table.index.min():%Y-%m-%d %H:%M} UTC")


def scores(frame: Any, agent: str | None = None, title: str = "How odd each event was") -> Chart:
    """p-values of scored events over time, the oddest at the top; of one agent in colour if it is named."""
    title = title if agent is None else f"{title}; in colour {agent}"
    if not len(frame):
        return empty_chart(title, "no events were scored")
    figure, axes = create_figure(3.8)
    ours = (frame["agent_id"] == agent).to_numpy() if agent is not None else np.zeros(len(frame), bool)
    odd = -np.log10(frame["p_value"].to_numpy())
    axes.scatter(
        frame["time"][~ours],
        odd[~ours],
        s=9,
        color=GREY,
        alpha=0.45,
        label="other events" if ours.any() else "events",
        rasterized=True,
    )
    for level in ("unknown", "low", "medium", "high", "critical"):
        at = ours & (frame["level"] == level).to_numpy()
        if at.any():
            axes.scatter(
                frame["time"][at],
                odd[at],
                s=46,
                marker=LEVEL_MARKERS[level],
                color=LEVEL_COLOURS[level],
                zorder=3,
                edgecolor="white",
                linewidth=0.5,
                label=f"the agent, at {level}",
            )
    for share, word in ((2.0, "1 normal event in 100"), (3.0, "1 in 1,000")):
        axes.axhline(share, color=TEXT_COLOUR, linestyle=":", linewidth=1)
        axes.annotate(word, (1.0, share), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    label_axes(axes, title, "time (UTC)", "decades of oddness, -log10(p)")
    format_time_axis(axes)
    add_legend(axes)
    return Chart(figure, f"{title}: {len(frame):,} events, {int((odd >= 2).sum())} at least as odd as 1 in 100")

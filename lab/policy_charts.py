"""Charts of a token policy: requests, revocations, and those of other policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .chart_canvas import (
    LEVEL_COLOURS,
    LEVEL_HATCHES,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    TEXT_COLOUR,
    YELLOW,
    Chart,
    add_legend,
    create_figure,
    empty_chart,
    format_time_axis,
    label_axes,
    shorten_name,
)

_OUTCOME_STYLES = (
    ("shortened", SKY, ""),
    ("narrowed", YELLOW, ".."),
    ("held", ORANGE, "//"),
    ("denied", RED, "xx"),
)


def requests(frame: Any, title: str = "Requests that were not simply allowed") -> Chart:
    """Requests by outcome, and by the level of their agent."""
    touched = frame[frame["outcome"] != "allowed"]
    if not len(touched):
        return empty_chart(title, "every request was allowed as it was")
    table = touched.groupby(["level", "outcome"], observed=True)["requests"].sum().unstack(fill_value=0)
    figure, axes = create_figure(1.7 + 0.5 * len(table))
    _stacked_bars(axes, [str(name) for name in table.index], table)
    label_axes(axes, title, "requests, by the level of their agent just before", grid="x")
    axes.legend(frameon=False, loc="lower right")
    return Chart(figure, f"{title}: {int(touched['requests'].sum())} of {int(frame['requests'].sum()):,}")


def _stacked_bars(axes: Any, names: list[str], table: Any, counted: bool = True) -> None:
    left = np.zeros(len(names))
    for outcome, colour, hatch in _OUTCOME_STYLES:
        if outcome in table and table[outcome].sum():
            values = table[outcome].to_numpy()
            axes.barh(
                names,
                values,
                left=left,
                color=colour,
                hatch=hatch,
                edgecolor=TEXT_COLOUR,
                linewidth=0.5,
                label=f"{outcome} ({int(values.sum()):,})" if counted else outcome,
            )
            left = left + values


def what_if(frame: Any, title: str = "What each policy would have done") -> Chart:
    """Policies side by side: requests touched, and agents revoked."""
    if not len(frame):
        return empty_chart(title, "no policy was tried")
    many = frame["factor"].nunique() > 1
    names = [
        shorten_name(f"{policy}, {factor:g}× budget" if many else str(policy), 44)
        for policy, factor in zip(frame["policy"], frame["factor"], strict=True)
    ]
    figure, (left, right) = create_figure(1.8 + 0.42 * len(frame), 1, 2, sharey=True, width_ratios=(3, 1))
    _stacked_bars(left, names, frame, counted=False)
    left.invert_yaxis()
    label_axes(left, title, "requests not simply allowed", grid="x")
    add_legend(left, 4)
    bars = right.barh(names, frame["agents_revoked"], color=PURPLE)
    right.bar_label(bars, padding=4)
    right.margins(x=0.2)
    right.xaxis.get_major_locator().set_params(integer=True)
    label_axes(right, "", "agents revoked", grid="x")
    revoked = "; ".join(
        f"{name}: {number} revoked" for name, number in zip(names, frame["agents_revoked"], strict=True)
    )
    return Chart(figure, f"{title}. {revoked}")


def revocations(
    frame: Any, end: Any = None, title: str = "Whose tokens would have been revoked, and for how long"
) -> Chart:
    """Revocations over time; an arrow where one goes on beyond the history. *end*: of the history."""
    if not len(frame):
        return empty_chart(title, "nobody's")
    until = frame["until"].fillna(frame["at"].max() if end is None else pd.Timestamp(end))
    last = max(until.max(), frame["at"].max() + pd.Timedelta("10min"))
    figure, axes = create_figure(1.5 + 0.42 * len(frame))
    names = [
        f"{shorten_name(str(agent))} ({tenant})"
        for agent, tenant in zip(frame["agent_id"], frame["tenant"], strict=True)
    ]
    if "policy" in frame:
        names = [f"{name}, {policy}" for name, policy in zip(names, frame["policy"], strict=True)]
    lines = {name: at for at, name in enumerate(dict.fromkeys(names))}
    for name, row, stop in zip(names, frame.itertuples(), until, strict=True):
        stop = last if pd.isna(row.until) else stop
        axes.barh(
            lines[name],
            stop - row.at,
            left=row.at,
            height=0.5,
            color=LEVEL_COLOURS[str(row.level)],
            hatch=LEVEL_HATCHES[str(row.level)],
            edgecolor="white",
        )
        note = f" {row.later_events} events stopped" + (" →" if pd.isna(row.until) else "")
        axes.annotate(note, (row.at, lines[name] + 0.42), fontsize=9, va="center", color=TEXT_COLOUR)
    axes.set_yticks(range(len(lines)), list(lines))
    axes.set_ylim(len(lines) - 0.3, -0.6)
    label_axes(axes, title, "time (UTC)", grid="x")
    format_time_axis(axes)
    return Chart(
        figure, f"{title}: {frame['agent_id'].nunique()} agents, {int(frame['later_events'].sum())} events stopped"
    )

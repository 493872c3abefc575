"""Charts of agents: their levels, what moved their risk, their habits and edges; and of events and their scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..scoring.engine.risk_levels import LEVEL_UP
from ..scoring.records.agents import RiskLevel
from .chart_canvas import (
    BLUE,
    GREY,
    LEVEL_COLOURS,
    LEVEL_HATCHES,
    LEVEL_MARKERS,
    ORANGE,
    PURPLE,
    RED,
    TEXT_COLOUR,
    Chart,
    add_legend,
    create_figure,
    empty_chart,
    format_time_axis,
    label_axes,
    shorten_name,
)
from .frame_columns import LEVEL_NAMES

_LEVEL_THRESHOLDS = {level: LEVEL_UP[RiskLevel[level.upper()]] for level in ("medium", "high", "critical")}


def levels(agents: Any, by: str = "agent_type") -> Chart:
    """Number of agents at each level, in groups of *by* (a column: `agent_type` or `tenant`)."""
    title = f"Agents by risk level and {by.replace('_', ' ')}"
    if not len(agents):
        return empty_chart(title, "no agents")
    table = agents.groupby([by, "level"], observed=False).size().unstack(fill_value=0)
    table = table.loc[table.sum(axis=1) > 0]
    worst = table[[*reversed(LEVEL_NAMES)]].to_numpy() @ np.array([1e6, 1e4, 1e2, 0, 0])
    table = table.iloc[np.lexsort((table.sum(axis=1).to_numpy(), worst))]
    figure, axes = create_figure(1.2 + 0.3 * len(table))
    left = np.zeros(len(table))
    for level in LEVEL_NAMES:
        numbers = table[level].to_numpy() if level in table else np.zeros(len(table))
        if numbers.sum():
            axes.barh(
                [shorten_name(str(name)) for name in table.index],
                numbers,
                left=left,
                color=LEVEL_COLOURS[level],
                hatch=LEVEL_HATCHES[level],
                edgecolor="white",
                label=f"{level} ({int(numbers.sum())})",
            )
        left = left + numbers
    label_axes(axes, title, "agents", grid="x")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, loc="lower right")
    counts = ", ".join(f"{int((agents['level'] == level).sum())} {level}" for level in reversed(LEVEL_NAMES))
    return Chart(figure, f"{title}: {counts}")


_LEVEL_OFFSETS = {"medium": -0.2, "high": 0.0, "critical": 0.2}
"""Within an agent's line higher levels stand higher, so that a climb of seconds is seen."""


def timeline(decisions: Any, most: int = 25) -> Chart:
    """Changes of agents' levels over time, an agent a line; of at most *most* agents, those that rose highest."""
    title = "Changes of risk level"
    risen = decisions[decisions["level"] >= "medium"]
    if not len(risen):
        return empty_chart(title, "no agent rose to medium or above")
    worst = risen.groupby(["tenant", "agent_id"], observed=True)["risk_score"].max().sort_values()
    names = worst.index.tolist()[-most:]
    line_of = {name: at for at, name in enumerate(names)}
    shown = decisions[[pair in line_of for pair in zip(decisions["tenant"], decisions["agent_id"], strict=True)]]
    rows = np.array([line_of[pair] for pair in zip(shown["tenant"], shown["agent_id"], strict=True)])
    figure, axes = create_figure(1.5 + 0.3 * len(names))
    for level in LEVEL_NAMES:
        at = (shown["level"] == level).to_numpy()
        if at.any():
            axes.scatter(
                shown["time"][at],
                rows[at] + _LEVEL_OFFSETS.get(level, 0.0),
                marker=LEVEL_MARKERS[level],
                color=LEVEL_COLOURS[level],
                s=70,
                label=f"to {level}",
                zorder=3,
                edgecolor="white",
                linewidth=0.6,
            )
    axes.set_yticks(range(len(names)), [f"{shorten_name(str(agent))} ({tenant})" for tenant, agent in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    label_axes(axes, title, "time (UTC)", grid="both")
    format_time_axis(axes)
    add_legend(axes)
    return Chart(figure, f"{title} of {len(names)} agents; the highest risk: {names[-1][1]}")


def risk(history: Any, title: str = "Risk over time") -> Chart:
    """One agent's risk: replayed, decaying between events, with the recorded changes of level."""
    line = history[history["kind"] != "decision"]
    decided = history[history["kind"] == "decision"]
    if not len(history):
        return empty_chart(title, "no events of the agent, and no decisions")
    figure, axes = create_figure(3.9)
    axes.fill_between(line["time"], line["risk_score"].astype(float), color=BLUE, alpha=0.12, linewidth=0)
    axes.plot(line["time"], line["risk_score"], color=BLUE, linewidth=1.3, label="risk score")
    for level, score in _LEVEL_THRESHOLDS.items():
        axes.axhline(score, color=LEVEL_COLOURS[level], linestyle="--", linewidth=1)
        axes.annotate(
            f"{level} from {score:g}",
            (1.0, score),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=9,
            color=TEXT_COLOUR,
        )
    for level in LEVEL_NAMES:
        at = decided[decided["level"] == level]
        if len(at):
            axes.scatter(
                at["time"],
                at["risk_score"],
                marker=LEVEL_MARKERS[level],
                color=LEVEL_COLOURS[level],
                s=85,
                zorder=4,
                edgecolor="white",
                label=f"became {level}",
            )
    label_axes(axes, title, "time (UTC)", "risk score, 0 to 1", grid="")
    axes.set_ylim(0, 1.03)
    format_time_axis(axes)
    add_legend(axes, 6)
    peak = history["risk_score"].max()
    return Chart(figure, f"{title}: peak {peak:.2f}, {len(decided)} recorded changes of level")


def contributions(frame: Any, most: int = 10, title: str = "What stood out in the event") -> Chart:
    """The features that made an event odd."""
    shown = frame[frame["share"] > 0].head(most).iloc[::-1]
    if not len(shown):
        return empty_chart(title, "nothing stands out: a hard signal raised the level")
    figure, axes = create_figure(1.2 + 0.36 * len(shown))
    names = shown["feature"].astype(str)
    bars = axes.barh(names, shown["share"] * 100, color=BLUE)
    values = [f"{value:.3g} {unit}" for value, unit in zip(shown["value"], shown["unit"], strict=True)]
    axes.bar_label(bars, values, padding=4, fontsize=9)
    label_axes(axes, title, "share of what stood out, %", grid="x")
    axes.margins(x=0.16)
    first = shown.iloc[-1]
    return Chart(figure, f"{title}: most of all {first['feature']} ({first['share']:.0%})")


def profile(frame: Any, other: Any = None, names: tuple[str, str] = ("agent", "other"), title: str = "") -> Chart:
    """Means of an agent with their spread, beside its peer group, or beside another agent's profile."""
    title = title or "What is usual for the agent"
    learned = frame[(frame["events"] > 0) & (frame["high"] > 0)].iloc[::-1].reset_index(drop=True)
    if not len(learned):
        return empty_chart(title, "nothing is learned of the agent yet")
    figure, axes = create_figure(1.6 + 0.34 * len(learned))
    positions = np.arange(len(learned))
    _draw_ranges(axes, learned, positions + (0.14 if other is not None else 0.0), BLUE, "o", names[0])
    if other is None:
        peers = _clip_for_log_axis(learned["peers"])
        axes.scatter(peers, positions, marker="|", s=240, color=ORANGE, linewidth=3, label="its peer group", zorder=3)
    else:
        theirs = other.set_index("quantity").loc[learned["quantity"].astype(str)].reset_index()
        _draw_ranges(axes, theirs, positions - 0.14, ORANGE, "s", names[1])
    axes.set_xscale("log")
    axes.set_yticks(
        positions, [f"{name} ({unit})" for name, unit in zip(learned["quantity"], learned["unit"], strict=True)]
    )
    label_axes(
        axes,
        title,
        "mean of what it learned and one standard deviation, in the unit of each line; logarithmic",
        grid="x",
    )
    add_legend(axes, 3)
    return Chart(figure, f"{title}: {len(learned)} quantities")


_LOG_AXIS_MINIMUM = 0.01


def _clip_for_log_axis(values: Any) -> Any:
    """Raise values below 0.01 to 0.01, since a logarithmic axis has no zero."""
    return values.astype(float).clip(lower=_LOG_AXIS_MINIMUM)


def _draw_ranges(axes: Any, quantities: Any, positions: Any, colour: str, marker: str, name: str) -> None:
    axes.hlines(
        positions,
        _clip_for_log_axis(quantities["low"]),
        _clip_for_log_axis(quantities["high"]),
        color=colour,
        linewidth=4,
        alpha=0.35,
    )
    axes.scatter(
        _clip_for_log_axis(quantities["usual"]), positions, color=colour, marker=marker, s=42, zorder=4, label=name
    )


def habits(frame: Any, kind: str = "action", most: int = 12, title: str = "") -> Chart:
    """The most frequent items of a kind."""
    title = title or f"Most frequent: {kind}"
    shown = frame[frame["kind"] == kind].head(most).iloc[::-1]
    if not len(shown):
        return empty_chart(title, f"the events name no {kind}")
    figure, axes = create_figure(1.2 + 0.33 * len(shown))
    bars = axes.barh(shown["item"].map(shorten_name), shown["share"] * 100, color=BLUE)
    axes.bar_label(bars, shown["events"].map("{:,}".format), padding=4, fontsize=9)
    label_axes(axes, title, f"share of events that name one, % (number: events); {kind}", grid="x")
    axes.margins(x=0.12)
    return Chart(figure, f"{title}: {shown.iloc[-1]['item']} in {shown.iloc[-1]['share']:.0%} of events")


def compare(frame: Any, kind: str = "action", names: tuple[str, str] = ("A", "B"), most: int = 14) -> Chart:
    """Two sets of events, item by item of one kind: those that differ most."""
    title = f"{names[0]} against {names[1]}: {kind}"
    shown = frame[frame["kind"] == kind].head(most).sort_values("difference").reset_index(drop=True)
    if not len(shown):
        return empty_chart(title, f"the events name no {kind}")
    figure, axes = create_figure(1.5 + 0.33 * len(shown))
    positions = np.arange(len(shown))
    a, b = shown["share_a"] * 100, shown["share_b"] * 100
    axes.hlines(positions, np.minimum(a, b), np.maximum(a, b), color=GREY, linewidth=2)
    axes.scatter(a, positions, color=BLUE, marker="o", s=55, zorder=3, label=names[0])
    axes.scatter(b, positions, color=ORANGE, marker="s", s=55, zorder=3, label=names[1])
    axes.set_yticks(positions, shown["item"].map(shorten_name))
    axes.set_xscale("symlog", linthresh=1.0)
    ticks = [tick for tick in (0, 0.5, 1, 2, 5, 10, 20, 50, 100) if tick <= max(a.max(), b.max()) * 1.6]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-0.06, None)
    label_axes(axes, title, "share of events that name one, %; logarithmic from 1 % on", grid="x")
    add_legend(axes, 2)
    most_different = shown.iloc[shown["difference"].abs().to_numpy().argmax()]
    return Chart(figure, f"{title}: most different {most_different['item']} ({most_different['difference']:+.0%})")


_EDGE_STYLES = {"delegated": (BLUE, "-"), "called": (ORANGE, "--"), "acts_for": (PURPLE, ":")}


def edges(frame: Any, agent: str | None = None, most: int = 40) -> Chart:
    """Delegations, calls and acting for principals, from left to right, thicker where risk was high."""
    title = "Who had to do with whom" if agent is None else f"Whom {agent} had to do with"
    shown = frame if agent is None else frame[frame["source"] == agent]
    if not len(shown):
        return empty_chart(title, "no edges: nobody delegated, called or acted for anybody")
    shown = shown.sort_values(["risk", "last"], ascending=False).head(most)
    if shown["tenant"].nunique() > 1:
        tenants = " (" + shown["tenant"].astype(str) + ")"
        shown = shown.assign(source=shown["source"].astype(str) + tenants, target=shown["target"].astype(str) + tenants)
    left, right = (list(dict.fromkeys(shown[side].astype(str))) for side in ("source", "target"))
    figure, axes = create_figure(1.4 + 0.27 * max(len(left), len(right)))
    heights = [{name: _even_position(at, len(side)) for at, name in enumerate(side)} for side in (left, right)]
    for edge in shown.itertuples():
        colour, line = _EDGE_STYLES[edge.kind]
        ends = heights[0][str(edge.source)], heights[1][str(edge.target)]
        axes.plot((0, 1), ends, color=colour, linestyle=line, linewidth=0.8 + 4 * edge.risk, alpha=0.75)
    for side, at, align in ((0, -0.02, "right"), (1, 1.02, "left")):
        for name, height in heights[side].items():
            axes.text(at, height, shorten_name(name, 40), ha=align, va="center", fontsize=9, color=TEXT_COLOUR)
            axes.plot([side], [height], "o", color=TEXT_COLOUR, markersize=4)
    for kind in dict.fromkeys(shown["kind"].astype(str)):
        axes.plot([], [], color=_EDGE_STYLES[kind][0], linestyle=_EDGE_STYLES[kind][1], label=kind.replace("_", " "))
    label_axes(axes, f"{title} (thicker: higher risk)", grid="")
    axes.set_axis_off()
    axes.set_xlim(-0.75, 1.75)
    add_legend(axes, 3)
    cut = f", the riskiest {most} of {len(frame)}" if len(frame) > most else ""
    return Chart(figure, f"{title}: {len(shown)} edges{cut}")


def _even_position(at: int, number: int) -> float:
    return 1.0 - (at + 0.5) / number


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

"""Charts of models: calibration, weights, curves against labels, alerts against their budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .chart_canvas import (
    BLUE,
    GREY,
    LEVEL_COLOURS,
    LEVEL_MARKERS,
    ORANGE,
    SERIES_STYLES,
    TEXT_COLOUR,
    Chart,
    add_legend,
    create_figure,
    empty_chart,
    label_axes,
    shorten_name,
)

_ALERT_LEVELS = ("medium", "high", "critical")
_LEVEL_LINE_STYLES = {"medium": "-", "high": "--", "critical": ":"}


def calibration(frame: Any, most: int = 5, title: str = "From anomaly score to p-value") -> Chart:
    """Meaning of an anomaly score in the fleet of known agents and of newcomers, then in groups with their own curve.

    Of groups, the curves of known agents are drawn where the model was rehearsed, else those of all.
    """
    curves = list(dict.fromkeys(zip(frame["group"], frame["agents"], strict=True)))
    first_agents = curves[0][1] if curves else ""
    fleets = [curve for curve in curves if curve[0] == "fleet"]
    names = [*fleets, *(curve for curve in curves if curve[0] != "fleet" and curve[1] == first_agents)][:most]
    figure, axes = create_figure(3.8)
    for (name, agents), (colour, line, _) in zip(names, SERIES_STYLES, strict=False):
        part = frame[(frame["group"] == name) & (frame["agents"] == agents)]
        label = f"{shorten_name(name)}, {agents}"
        axes.plot(part["anomaly_score"], part["p_value"], color=colour, linestyle=line, label=label)
    axes.set_yscale("log")
    axes.set_xlim(0.3, 1.0)
    axes.axhline(0.01, color=TEXT_COLOUR, linewidth=0.8, linestyle=":")
    axes.annotate("1 normal event in 100", (0.31, 0.01), va="bottom", fontsize=9)
    label_axes(axes, title, "anomaly score, 0 to 1 (0.5: the median of normal events)", "p-value", grid="both")
    axes.legend(frameon=False, fontsize=9)
    return Chart(figure, f"{title}: {len(names)} curves, of known agents and of newcomers")


def reliability(frames: Any, title: str = "Promised against observed") -> Chart:
    """Share of events with at most each p-value; on the diagonal the model keeps its word. One frame, or a dict."""
    named = frames if isinstance(frames, dict) else {"events": frames}
    figure, axes = create_figure(4.2)
    axes.plot([1e-3, 1], [1e-3, 1], color=TEXT_COLOUR, linewidth=1, label="as promised")
    for (name, part), (colour, line, marker) in zip(named.items(), SERIES_STYLES, strict=False):
        seen = part[part["observed"] > 0]
        axes.fill_between(seen["promised"], seen["low"].clip(lower=1e-5), seen["high"], color=colour, alpha=0.15)
        axes.plot(
            seen["promised"], seen["observed"], color=colour, linestyle=line, marker=marker, markersize=4, label=name
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    label_axes(
        axes,
        title,
        "p-value: share of normal events promised to be at least as odd",
        "share of events observed",
        grid="both",
    )
    axes.legend(frameon=False)
    return Chart(figure, f"{title}: above the diagonal more events are odd than promised")


def features(frame: Any, most: int = 20, title: str = "What features weigh") -> Chart:
    """Weights of features, and how much of their evidence is usual: what is beyond stands out."""
    shown = frame.sort_values(["importance", "upper"], ascending=False).head(most).iloc[::-1]
    figure, (left, right) = create_figure(1.4 + 0.26 * len(shown), 1, 2, sharey=True)
    names = shown["feature"].astype(str)
    left.barh(names, shown["importance"], color=BLUE)
    label_axes(left, title, "weight, 0 to 1", grid="x")
    right.barh(names, shown["upper"], color=ORANGE, label="90th percentile")
    right.barh(names, shown["usual"], color=TEXT_COLOUR, height=0.35, label="median")
    label_axes(right, "Usual evidence", "decades", grid="x")
    right.legend(frameon=False, loc="lower right")
    return Chart(figure, f"{title}: the {len(shown)} heaviest")


def curves(frame: Any, unit: str = "session", title: str = "Bad told from good") -> Chart:
    """ROC and precision-recall curves of a back-test, by event or by session."""
    shown = frame[frame["unit"] == unit]
    if not len(shown):
        return empty_chart(title, "no curve: there are no labels, or only good or only bad ones")
    figure, (left, right) = create_figure(4.0, 1, 2)
    for side, (colour, line, _) in zip(dict.fromkeys(shown["side"].astype(str)), SERIES_STYLES, strict=False):
        for axes, name in ((left, "roc"), (right, "precision_recall")):
            part = shown[(shown["side"] == side) & (shown["curve"] == name)]
            axes.plot(part["x"], part["y"], color=colour, linestyle=line, linewidth=2, label=side)
    label_axes(
        left, f"{title}, by {unit}: ROC", "share of good ones called bad", "share of bad ones found", grid="both"
    )
    label_axes(
        right, "precision and recall", "share of bad ones found", "share of bad among those called bad", grid="both"
    )
    for axes in (left, right):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.03)
        axes.legend(frameon=False, loc="lower center")
    return Chart(figure, f"{title}, by {unit}: ROC and precision-recall of {', '.join(dict.fromkeys(shown['side']))}")


def detection(frame: Any, title: str = "Bad sessions found, good ones disturbed") -> Chart:
    """Bad sessions detected at each level, and false alerts."""
    if not len(frame):
        return empty_chart(title, "no labels")
    figure, (left, right) = create_figure(3.2, 1, 2)
    sides = list(dict.fromkeys(frame["side"].astype(str)))
    width = 0.8 / len(sides)
    for number, (side, (colour, _, _)) in enumerate(zip(sides, SERIES_STYLES, strict=False)):
        part = frame[frame["side"] == side]
        positions = np.arange(len(part)) + (number - (len(sides) - 1) / 2) * width
        hatch = "" if number == 0 else "//"
        bars = left.bar(
            positions, part["detected"], width * 0.9, color=colour, hatch=hatch, edgecolor="white", label=side
        )
        left.bar_label(bars, _detected_of_detectable(part))
        bars = right.bar(
            positions, part["false_alerts"], width * 0.9, color=colour, hatch=hatch, edgecolor="white", label=side
        )
        right.bar_label(bars)
    for axes, counted in ((left, "bad sessions detected"), (right, "false alerts")):
        axes.set_xticks(range(3), _ALERT_LEVELS)
        label_axes(axes, title if axes is left else "", "at or above level", counted)
        axes.margins(y=0.18)
        axes.yaxis.get_major_locator().set_params(integer=True)
    if len(sides) > 1:
        add_legend(left)
    return Chart(figure, f"{title}, by level")


def _detected_of_detectable(part: Any) -> list[str]:
    """Of the bad sessions that could be detected: those of agents that were at the level before could not."""
    able = part["bad_sessions"] - part["already"]
    return [f"{a} of {b}" for a, b in zip(part["detected"], able, strict=True)]


def budget_report(frame: Any, title: str = "The alert budget on held-out history") -> Chart:
    """Alerts promised and observed, per 1,000 agent-days."""
    return _budget_bars(frame, title, "observed on held-out history")


def sweep(frame: Any, title: str = "Alerts at other budgets") -> Chart:
    """Alerts against the budget, over multiples of the one set; on the diagonal the budget is kept."""
    return budgets(frame[frame["side"] == "A"], title)


def budgets(frame: Any, title: str = "Alerts that follow from a budget") -> Chart:
    """Alerts observed against the budget, by level; beside it bad sessions found, where there are labels."""
    if not len(frame):
        return empty_chart(title, "no budget was tried")
    labelled = "detected" in frame and bool(frame["detected"].notna().any())
    figure, panels = create_figure(4.0, 1, 2 if labelled else 1)
    axes = panels[0] if labelled else panels
    for level in _ALERT_LEVELS:
        part = frame[frame["level"] == level]
        _plot_level(axes, level, part["factor"], part["alerts"])
        if labelled:
            missable = (part["bad_sessions"] - part["already"]).astype(float)
            share = part["detected"].astype(float) / missable.where(missable > 0) * 100
            _plot_level(panels[1], level, part["factor"], share)
    factors = sorted(set(frame["factor"]))
    label_axes(axes, title, "multiple of the budget set", "alerts at or above level", grid="both")
    axes.set_ylim(bottom=0)
    _mark_factors(axes, factors, "upper left")
    if labelled:
        label_axes(panels[1], "What it finds", "multiple of the budget set", "bad sessions found, %", grid="both")
        panels[1].set_ylim(-3, 103)
        _mark_factors(panels[1], factors, "lower right")
    return Chart(figure, f"{title}: {', '.join(f'{factor:g}' for factor in factors)} times the one set")


def _plot_level(panel: Any, level: str, factors: Any, values: Any) -> None:
    """One level's line in its colour, marker and dashes."""
    panel.plot(
        factors,
        values,
        color=LEVEL_COLOURS[level],
        marker=LEVEL_MARKERS[level],
        linestyle=_LEVEL_LINE_STYLES[level],
        label=level,
    )


def _mark_factors(panel: Any, factors: Sequence[float], legend: str) -> None:
    """Multiples of the budget along a logarithmic axis, with a line at the budget itself."""
    panel.set_xscale("log")
    panel.set_xticks(factors, [f"{factor:g}×" for factor in factors], minor=False)
    panel.minorticks_off()
    panel.axvline(1.0, color=GREY, linewidth=1, linestyle=":")
    panel.legend(frameon=False, loc=legend)


def _budget_bars(frame: Any, title: str, observed: str) -> Chart:
    figure, axes = create_figure(3.2)
    positions = np.arange(len(frame))
    bars = axes.bar(positions - 0.2, frame["budget"], 0.38, color=GREY, label="budget")
    axes.bar_label(bars, frame["budget"].map("{:.3g}".format))
    bars = axes.bar(positions + 0.2, frame["observed"], 0.38, color=BLUE, hatch="//", edgecolor="white", label=observed)
    notes = [
        f"{value:.3g}" + ("" if enough else "\n(too little history to tell)")
        for value, enough in zip(frame["observed"], frame["enough_history"], strict=True)
    ]
    axes.bar_label(bars, notes, fontsize=9)
    axes.set_xticks(positions, frame["level"].astype(str))
    axes.margins(y=0.25)
    label_axes(axes, title, "level", "alerts per 1,000 agent-days")
    axes.legend(frameon=False)
    return Chart(figure, f"{title}, by level")

"""Charts of models: calibration, weights, curves against labels, alerts against their budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from itertools import count as count_from
from typing import Any

import pandas as pd

from trustwatch.ingest.printable_text import number_text

from .chart_canvas import (
    Channels,
    Chart,
    Layer,
    Panel,
    beside_axis,
    category,
    colours,
    count,
    dashes,
    empty_chart,
    ink,
    layer,
    mark,
    number,
    series_dashes,
    series_inks,
    series_shapes,
    shapes,
    shorten_name,
    words,
)
from .chart_look import LEVEL_DASHES, LEVEL_SHAPES, SERIES_INKS

_ALERT_LEVELS = ("medium", "high", "critical")
_MOST_POINTS = 500
_LOWEST_SCORE = 0.3
_LEGEND_NAME = 30


def calibration(frame: Any, most: int = 5, title: str = "From anomaly score to p-value") -> Chart:
    """Meaning of an anomaly score in the fleet of known agents and of newcomers, then in groups with their own curve.

    Of groups, the curves of known agents are drawn where the model was rehearsed, else those of all. At most five
    curves, since there are as many colours.
    """
    curves = list(dict.fromkeys(zip(frame["group"], frame["agents"], strict=True)))
    first_agents = curves[0][1] if curves else ""
    fleets = [curve for curve in curves if curve[0] == "fleet"]
    chosen = [*fleets, *(curve for curve in curves if curve[0] != "fleet" and curve[1] == first_agents)]
    chosen = chosen[: min(most, len(SERIES_INKS))]
    short = _short_names([group for group, _ in chosen])
    parts = [
        frame[(frame["group"] == group) & (frame["agents"] == agents)].assign(curve=f"{short[group]}, {agents}")
        for group, agents in chosen
    ]
    if not parts:
        return empty_chart(title, "the model has no curve")
    shown = pd.concat(parts, ignore_index=True)
    shown = shown[shown["anomaly_score"] >= _LOWEST_SCORE]
    names = list(dict.fromkeys(shown["curve"]))
    along = number(
        "anomaly_score",
        "anomaly score, 0 to 1 (0.5: the median of normal events)",
        scale={"domain": [_LOWEST_SCORE, 1.0]},
    )
    where: Channels = {"x": along, "y": number("p_value", "p-value", scale={"type": "log"})}
    line = mark("line", strokeWidth=2)
    told = (
        ("group", "group"),
        ("agents", "agents"),
        ("anomaly score", "anomaly_score"),
        ("p-value", "p_value", ".3~g"),
    )
    layers = [
        layer(shown, line, also=told, **where, **_told_apart("curve", names)),
        layer(
            shown,
            mark("point", filled=True, size=40),
            **where,
            tips=told,
            color=colours("curve", series_inks(names)),
            opacity={"value": 0},
        ),
        *_line_at(0.01, "1 normal event in 100"),
    ]
    cut = f"The first {len(chosen)} of {len(curves)} curves." if len(curves) > len(chosen) else ""
    return Chart(
        title,
        [Panel(layers, legend_filter="curve")],
        f"{title}: {len(chosen)} curves, of known agents and of newcomers",
        [cut],
    )


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names as a legend has room for them; those that look alike when shortened are numbered, so that none merge."""
    short: dict[str, str] = {}
    for long in dict.fromkeys(names):
        said = shorten_name(long, _LEGEND_NAME)
        tried = chain([said], (f"{said} ({number_of_it})" for number_of_it in count_from(2)))
        short[long] = next(each for each in tried if each not in short.values())
    return short


def _told_apart(column: str, names: Sequence[str]) -> Channels:
    """Several lines, by colour and dashes, in one legend."""
    return {"color": colours(column, series_inks(names)), "strokeDash": dashes(column, series_dashes(names))}


def _line_at(value: float, said: str) -> list[Layer]:
    row = pd.DataFrame({"value": [value], "said": [said]})
    beside = {"align": "left", "dx": 4, "dy": -6}
    return [
        layer(row, mark("rule", strokeDash=[2, 3], color=ink("text")), y=number("value")),
        words(row, "said", style=beside, x={"value": 0}, y=number("value")),
    ]


def reliability(frames: Any, title: str = "Promised against observed") -> Chart:
    """Share of events with at most each p-value; on the diagonal the model keeps its word. One frame, or a dict."""
    named = frames if isinstance(frames, dict) else {"events": frames}
    rows = pd.concat([part.assign(whose=name) for name, part in named.items()], ignore_index=True)
    unseen = int((rows["observed"] <= 0).sum())
    rows = rows[rows["observed"] > 0].assign(low_drawn=lambda seen: seen["low"].clip(lower=1e-5))
    if not len(rows):
        return empty_chart(title, "no event reached any of the p-values" if unseen else "no events were scored")
    scale = {"type": "log"}
    along = number("promised", "p-value: share of normal events promised to be at least as odd", scale=scale)
    up = number("observed", "share of events observed", scale=scale)
    diagonal = pd.DataFrame({"promised": [1e-3, 1.0], "observed": [1e-3, 1.0]})
    chosen = list(named)
    told = (
        ("events of", "whose"),
        ("promised", "promised", ".3~g"),
        ("observed", "observed", ".3~g"),
        ("events", "events"),
        ("chance: from", "low", ".3~g"),
        ("chance: to", "high", ".3~g"),
    )
    layers = [
        layer(
            rows,
            mark("area", opacity=0.18),
            x=along,
            y=number("low_drawn", scale=scale, stack=None),
            y2={"field": "high"},
            color=colours("whose", series_inks(chosen)),
        ),
        layer(diagonal, mark("line", color=ink("muted"), strokeWidth=1), x=along, y=up),
        layer(rows, mark("line", strokeWidth=1.5), x=along, y=up, **_told_apart("whose", chosen)),
        layer(
            rows,
            mark("point", filled=True, size=50, opacity=1),
            x=along,
            y=up,
            tips=told,
            color=colours("whose", series_inks(chosen)),
            shape=shapes("whose", series_shapes(chosen)),
        ),
    ]
    return Chart(
        title,
        [Panel(layers, 290, legend_filter="whose")],
        f"{title}: above the diagonal more events are odd than promised",
        [
            "The thin line: as promised. The band: where chance alone would leave the share.",
            f"Not drawn: {unseen} p-values that no event reached; a logarithmic axis has no zero." if unseen else "",
        ],
    )


def features(frame: Any, most: int = 20, title: str = "What features weigh") -> Chart:
    """Weights of features, and how much of their evidence is usual: what is beyond stands out."""
    shown = frame.sort_values(["importance", "upper"], ascending=False).head(most)
    order = shown["feature"].astype(str).tolist()
    told = (
        ("feature", "feature"),
        ("family", "family"),
        ("weight", "importance"),
        ("median, decades", "usual"),
        ("90th percentile, decades", "upper"),
        ("measures", "meaning"),
    )
    where: Channels = {"y": beside_axis("feature", order)}
    inks = colours("of", {"90th percentile": "focus", "median": "text"})
    usual = [
        layer(shown.assign(of=of), mark("bar", size=size), x=number(column, "decades"), tips=told, color=inks, **where)
        for of, size, column in (("90th percentile", 12, "upper"), ("median", 5, "usual"))
    ]
    weights = layer(
        shown, mark("bar", size=12, color=ink("accent")), x=number("importance", "weight, 0 to 1"), tips=told, **where
    )
    panels = [
        Panel([weights], 20 * len(shown), "Weight of the evidence"),
        Panel(usual, 20 * len(shown), "Usual evidence", legend_filter="of"),
    ]
    cut = f"The {len(shown)} heaviest of {len(frame)}." if len(frame) > len(shown) else ""
    return Chart(title, panels, f"{title}: the {len(shown)} heaviest", [cut])


def curves(frame: Any, unit: str = "session", title: str = "Bad told from good") -> Chart:
    """ROC and precision-recall curves of a back-test, by event or by session."""
    shown = frame[frame["unit"] == unit]
    if not len(shown):
        return empty_chart(title, "no curve: there are no labels, or only good or only bad ones")
    sides = list(dict.fromkeys(shown["side"].astype(str)))
    found, notes, drawn = "share of bad ones found", [], []
    panels = []
    for curve, name, x, y in (
        ("roc", "ROC", "share of good ones called bad", found),
        ("precision_recall", "precision-recall", found, "share of bad among those called bad"),
    ):
        points = shown[shown["curve"] == curve]
        if not len(points):
            notes.append(f"By {unit}; there is no {name} curve.")
            continue
        drawn.append(name)
        rows, note = _thin(points)
        notes.append(note)
        where: Channels = {"x": number("x", x, scale={"domain": [0, 1]}), "y": number("y", y, scale={"domain": [0, 1]})}
        told = (("side", "side"), (x, "x"), (y, "y"))
        line = mark("line", strokeWidth=2, order=None)
        layers = [
            layer(rows, line, **where, **_told_apart("side", sides), order={"field": "at", "type": "quantitative"}),
            layer(
                rows,
                mark("point", filled=True, size=26, opacity=0.9),
                **where,
                tips=told,
                color=colours("side", series_inks(sides)),
            ),
        ]
        panels.append(Panel(layers, 270, f"By {unit}: {name}", legend_filter="side"))
    return Chart(title, panels, f"{title}, by {unit}: {' and '.join(drawn)} of {', '.join(sides)}", sorted(set(notes)))


def _thin(rows: Any) -> tuple[pd.DataFrame, str]:
    """Points of curves in their order; of curves with more than 500 every so-manyth, with the first and the last."""
    parts, note = [], ""
    for _, part in rows.groupby("side", observed=True, sort=False):
        part = part.assign(at=range(len(part)))
        every = -(-len(part) // _MOST_POINTS)
        if every > 1:
            note = f"Every {every}th point of long curves."
            part = part[(part["at"] % every == 0) | (part["at"] == len(part) - 1)]
        parts.append(part)
    return pd.concat(parts, ignore_index=True), note


def detection(frame: Any, title: str = "Bad sessions found, good ones disturbed") -> Chart:
    """Bad sessions detected at each level, and false alerts."""
    if not len(frame):
        return empty_chart(title, "no labels")
    sides = list(dict.fromkeys(frame["side"].astype(str)))
    able = frame["bad_sessions"] - frame["already"]
    rows = frame.assign(
        able=able,
        of=[f"{a} of {b}" for a, b in zip(frame["detected"], able, strict=True)],
        false=frame["false_alerts"].map(str),
    )
    told = (
        ("side", "side"),
        ("at or above", "level"),
        ("bad sessions detected", "detected"),
        ("that could be", "able"),
        ("labelled bad", "bad_sessions"),
        ("there before", "already"),
        ("median delay, s", "delay_median_s"),
        ("true alerts", "true_alerts"),
        ("false alerts", "false_alerts"),
    )
    panels = [
        Panel(_bars(rows, column, axis, label, sides, told), 220, axis[0].upper() + axis[1:], legend_filter="side")
        for column, axis, label in (
            ("detected", "bad sessions detected", "of"),
            ("false_alerts", "false alerts", "false"),
        )
    ]
    return Chart(title, panels, f"{title}, by level")


def _bars(rows: Any, column: str, axis: str, label: str, sides: Sequence[str], told: Any) -> list[Layer]:
    """Bars by level, the sides beside each other, with their number above."""
    where: Channels = {
        "x": category("level", "at or above level", order=_ALERT_LEVELS, axis={"labelAngle": 0}),
        "xOffset": category("side", order=sides),
        "y": count(column, axis, scale={"domain": [0, max(1, int(rows[column].max()))]}),
    }
    return [
        layer(rows, mark("bar", stroke=ink("panel")), color=colours("side", series_inks(sides)), tips=told, **where),
        words(rows, label, style={"dy": -8}, **where),
    ]


def budget_report(frame: Any, title: str = "The alert budget on held-out history") -> Chart:
    """Alerts promised and observed, per 1,000 agent-days."""
    if not len(frame):
        return empty_chart(title, "no level has a budget")
    observed, promised = "observed on held-out history", "budget"
    common = frame.assign(level=frame["level"].astype(str))
    rows = pd.concat(
        [
            common.assign(whose=promised, value=frame["budget"], said=frame["budget"].map(number_text)),
            common.assign(
                whose=observed,
                value=frame["observed"],
                said=[
                    number_text(value) + ("" if enough else "*")
                    for value, enough in zip(frame["observed"], frame["enough_history"], strict=True)
                ],
            ),
        ],
        ignore_index=True,
    )
    where: Channels = {
        "x": category("level", "level", order=_ALERT_LEVELS, axis={"labelAngle": 0}),
        "xOffset": category("whose", order=[promised, observed]),
        "y": number("value", "alerts per 1,000 agent-days"),
    }
    told = (
        ("level", "level"),
        ("budget", "budget"),
        ("observed", "observed"),
        ("alerts", "alerts"),
        ("agent-days", "agent_days"),
        ("history is long enough", "enough_history"),
    )
    bars = layer(rows, "bar", color=colours("whose", {promised: "muted", observed: "accent"}), tips=told, **where)
    short = "" if frame["enough_history"].all() else "* There is too little history to tell."
    panel = Panel([bars, words(rows, "said", style={"dy": -8}, **where)], legend_filter="whose")
    return Chart(title, [panel], f"{title}, by level", [short])


def sweep(frame: Any, title: str = "Alerts at other budgets") -> Chart:
    """Alerts against the budget, over multiples of the one set; on the diagonal the budget is kept."""
    return budgets(frame[frame["side"] == "A"], title)


def budgets(frame: Any, title: str = "Alerts that follow from a budget") -> Chart:
    """Alerts observed against the budget, by level; beside it bad sessions found, where there are labels."""
    if not len(frame):
        return empty_chart(title, "no budget was tried")
    rows = frame.assign(level=frame["level"].astype(str))
    factors = sorted(set(frame["factor"]))
    told = [
        ("level", "level"),
        ("times the budget", "factor"),
        ("budget", "budget"),
        ("alerts", "alerts"),
        ("per 1,000 agent-days", "rate"),
    ]
    panels = [
        Panel(
            _by_factor(rows, count("alerts", "alerts at or above level"), factors, told),
            250,
            "What you would be called for",
            legend_filter="level",
        )
    ]
    if "detected" in frame and bool(frame["detected"].notna().any()):
        missable = (rows["bad_sessions"] - rows["already"]).astype(float)
        rows["found"] = rows["detected"].astype(float) / missable.where(missable > 0) * 100
        told += [
            ("bad sessions found, %", "found"),
            ("detected", "detected"),
            ("labelled bad", "bad_sessions"),
            ("there before", "already"),
            ("false alerts", "false_alerts"),
        ]
        up = number("found", "bad sessions found, %", scale={"domain": [0, 100]})
        panels.append(
            Panel(
                _by_factor(rows[rows["found"].notna()], up, factors, told), 250, "What it finds", legend_filter="level"
            )
        )
    return Chart(title, panels, f"{title}: {', '.join(f'{factor:g}' for factor in factors)} times the one set")


def _by_factor(rows: Any, up: dict[str, Any], factors: Sequence[float], told: Any) -> list[Layer]:
    """A line a level, over multiples of the budget, with a line at the budget itself."""
    axis = {"values": list(factors), "format": "~g", "labelExpr": "datum.label + '×'"}
    where: Channels = {"x": number("factor", "multiple of the budget set", scale={"type": "log"}, axis=axis), "y": up}
    inks = {level: level for level in _ALERT_LEVELS}
    itself = pd.DataFrame({"factor": [1.0]})
    return [
        layer(itself, mark("rule", strokeDash=[2, 3], color=ink("muted")), x=number("factor")),
        layer(
            rows,
            mark("line", strokeWidth=2),
            **where,
            color=colours("level", inks),
            strokeDash=dashes("level", LEVEL_DASHES),
        ),
        layer(
            rows,
            mark("point", filled=True, size=80, opacity=1),
            **where,
            color=colours("level", inks),
            tips=told,
            shape=shapes("level", {level: LEVEL_SHAPES[level] for level in _ALERT_LEVELS}),
        ),
    ]

"""Charts of a token policy: requests, revocations, and those of other policies."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .chart_canvas import (
    MAX_BARS,
    Channels,
    Chart,
    Panel,
    beside_axis,
    colours,
    count,
    empty_chart,
    first,
    ink,
    layer,
    mark,
    moment,
    stacked_bars,
    words,
)
from .frame_columns import LEVEL_NAMES

_OUTCOME_INKS = {"shortened": "muted", "narrowed": "accent", "held": "focus", "denied": "critical"}


def requests(frame: Any, title: str = "Requests that were not simply allowed") -> Chart:
    """Requests by outcome, and by the level of their agent."""
    touched = frame[(frame["outcome"] != "allowed") & (frame["requests"] > 0)]
    if not len(touched):
        return empty_chart(title, "every request was allowed as it was")
    table = touched.groupby(["level", "outcome"], observed=True)["requests"].sum().unstack(fill_value=0)
    table = table.reindex(columns=[outcome for outcome in _OUTCOME_INKS if outcome in table])
    axis = "requests, by the level of their agent just before"
    layers = stacked_bars(table, "level", "outcome", ("requests", axis), _inks_of(table))
    total, of = int(touched["requests"].sum()), int(frame["requests"].sum())
    counts = ", ".join(f"{int(table[outcome].sum()):,} {outcome}" for outcome in table)
    return Chart(
        title,
        [Panel(layers, 34 * len(table), legend_filter="outcome")],
        f"{title}: {total} of {of:,}",
        [f"{total:,} of {of:,}: {counts}."],
    )


def _inks_of(table: Any) -> dict[str, str]:
    return {outcome: _OUTCOME_INKS[outcome] for outcome in table if table[outcome].sum()}


def what_if(frame: Any, title: str = "What each policy would have done") -> Chart:
    """Policies side by side: requests touched, and agents revoked."""
    if not len(frame):
        return empty_chart(title, "no policy was tried")
    many = frame["factor"].nunique() > 1
    names = [
        f"{policy}, {factor:g}× budget" if many else str(policy)
        for policy, factor in zip(frame["policy"], frame["factor"], strict=True)
    ]
    shown, note = first(frame.assign(policy=names), MAX_BARS, "policies")
    table = shown.set_index("policy")[list(_OUTCOME_INKS)].astype("int64")
    rows = shown.assign(said=shown["agents_revoked"].map(str))
    where: Channels = {
        "x": count("agents_revoked", "agents", scale={"domain": [0, max(1, int(rows["agents_revoked"].max())) * 1.2]}),
        "y": beside_axis("policy", shown["policy"].tolist()),
    }
    told = (("policy", "policy"), ("agents revoked", "agents_revoked"), ("agents touched", "agents_touched"))
    revoked = [
        layer(rows, mark("bar", color=ink("critical")), tips=told, **where),
        words(rows, "said", style={"align": "left", "dx": 5}, **where),
    ]
    height = 34 * len(shown)
    panels = [Panel(revoked, height, "Agents revoked")]
    inks = _inks_of(table)
    if inks:
        touched = stacked_bars(table, "policy", "outcome", ("requests", "requests not simply allowed"), inks)
        panels.insert(0, Panel(touched, height, "Requests not simply allowed", legend_filter="outcome"))
    nothing = "" if inks else "No policy would have touched a request."
    counts = "; ".join(f"{name}: {number} revoked" for name, number in zip(names, frame["agents_revoked"], strict=True))
    return Chart(title, panels, f"{title}. {counts}", [note, nothing])


def revocations(
    frame: Any, end: Any = None, title: str = "Whose tokens would have been revoked, and for how long"
) -> Chart:
    """Revocations over time; an arrow where one goes on beyond the history. *end*: of the history."""
    if not len(frame):
        return empty_chart(title, "nobody's")
    names = [f"{agent} ({tenant})" for agent, tenant in zip(frame["agent_id"], frame["tenant"], strict=True)]
    for column in ("policy", "side"):
        if column in frame and (column == "policy" or frame[column].nunique() > 1):
            names = [f"{name}, {value}" for name, value in zip(names, frame[column], strict=True)]
    known = frame["until"].max() if end is None else pd.Timestamp(end)
    last = max(x for x in (known, frame["at"].max() + pd.Timedelta("10min")) if not pd.isna(x))
    lines = list(dict.fromkeys(names))
    rows = frame.assign(line=names, level=frame["level"].astype("str"), stop=frame["until"].fillna(last))
    rows["ends"] = rows["until"].dt.strftime("%Y-%m-%d %H:%M:%S UTC").fillna("not within the history")
    goes_on = rows["until"].isna()
    rows["said"] = [
        f"{n:,} events stopped{' →' if on else ''}" for n, on in zip(rows["later_events"], goes_on, strict=True)
    ]
    shown = rows[rows["line"].isin(lines[:MAX_BARS])].head(10 * MAX_BARS)
    note = f"{len(shown):,} of {len(rows):,} revocations." if len(shown) < len(rows) else ""
    where: Channels = {"x": moment("at"), "y": beside_axis("line", lines[:MAX_BARS])}
    told = (
        ("whose", "line"),
        ("revoked", "at"),
        ("until", "ends"),
        ("level", "level"),
        ("risk score", "risk_score"),
        ("events stopped", "later_events"),
        ("reason", "reason"),
    )
    inks = {level: level for level in LEVEL_NAMES if (shown["level"] == level).any()}
    bars = mark("bar", size=12, stroke=ink("panel"), yOffset=7)
    layers = [
        layer(shown, bars, **where, x2={"field": "stop"}, color=colours("level", inks), tips=told),
        words(shown, "said", style={"align": "left", "dy": -8}, **where),
    ]
    stopped = int(frame["later_events"].sum())
    return Chart(
        title,
        [Panel(layers, 38 * len(lines[:MAX_BARS]), legend_filter="level", time_zoom=True)],
        f"{title}: {frame['agent_id'].nunique()} agents, {stopped} events stopped",
        [note],
    )

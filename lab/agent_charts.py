"""Charts of agents: their levels, what moved their risk, their habits and edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from trustwatch.ingest.printable_text import number_text
from trustwatch.scoring.engine.risk_levels import LEVEL_UP
from trustwatch.scoring.records.agents import RiskLevel

from .chart_canvas import (
    LEVEL_MARK,
    MAX_BARS,
    MAX_MARKS,
    TIME_FORMAT,
    Channels,
    Chart,
    Layer,
    Panel,
    beside_axis,
    category,
    colours,
    dashes,
    empty_chart,
    first,
    ink,
    layer,
    level_marks,
    mark,
    moment,
    name,
    newest,
    number,
    shapes,
    shorten_name,
    stacked_bars,
    words,
)
from .frame_columns import LEVEL_NAMES

_MOST_STEPS = 2_000
_LEFT = {"value": 0}


def levels(agents: Any, by: str = "agent_type") -> Chart:
    """Number of agents at each level, in groups of *by* (a column: `agent_type` or `tenant`)."""
    title = f"Agents by risk level and {by.replace('_', ' ')}"
    if not len(agents):
        return empty_chart(title, "no agents")
    untold = f"no {by.rpartition('_')[2]}"
    named = agents.assign(**{by: agents[by].astype(object).where(agents[by].notna(), untold)})
    table = named.groupby([by, "level"], observed=False).size().unstack(fill_value=0)
    table = table.loc[table.sum(axis=1) > 0].reindex(columns=list(LEVEL_NAMES), fill_value=0)
    table = table.sort_values([*reversed(LEVEL_NAMES)], ascending=False)
    shown, note = first(table, MAX_BARS, "groups, the worst at the top")
    layers = stacked_bars(
        shown, by, "level", ("agents", "agents"), {level: level for level in LEVEL_NAMES if table[level].sum()}
    )
    counts = ", ".join(f"{int((agents['level'] == level).sum())} {level}" for level in reversed(LEVEL_NAMES))
    return Chart(
        title,
        [Panel(layers, 24 * len(shown), legend_filter="level")],
        f"{title}: {counts}",
        [note, f"All {len(agents):,}: {counts}."],
    )


def timeline(decisions: Any, most: int = 25) -> Chart:
    """Changes of agents' levels over time, an agent a line; of at most *most* agents, those that rose highest."""
    title = "Changes of risk level"
    risen = decisions[decisions["level"] >= "medium"]
    if not len(risen):
        return empty_chart(title, "no agent rose to medium or above")
    worst = risen.groupby(["tenant", "agent_id"], observed=True)["risk_score"].max().sort_values(ascending=False)
    line_of = {pair: f"{pair[1]} ({pair[0]})" for pair in worst.index[:most]}
    shown = decisions[[pair in line_of for pair in zip(decisions["tenant"], decisions["agent_id"], strict=True)]]
    shown, cut = newest(shown, MAX_MARKS, "changes")
    shown = shown.assign(
        agent=[line_of[pair] for pair in zip(shown["tenant"], shown["agent_id"], strict=True)],
        level=shown["level"].astype("str"),
    )
    marks = layer(
        shown,
        LEVEL_MARK,
        x=moment(),
        y=beside_axis("agent", list(line_of.values()), grid=True, tickBand="extent"),
        yOffset=category("level", order=[*reversed(LEVEL_NAMES)]),
        **level_marks(shown),
        tips=(
            ("agent", "agent_id"),
            ("tenant", "tenant"),
            ("time", "time"),
            ("from", "previous_level"),
            ("to", "level"),
            ("risk score", "risk_score"),
            ("cause", "cause"),
            ("reason", "reason"),
        ),
    )
    left_out = f"The {len(line_of)} agents that rose highest, of {len(worst):,}." if len(worst) > most else ""
    return Chart(
        title,
        [Panel([marks], 30 * len(line_of), legend_filter="level", time_zoom=True)],
        f"{title} of {len(line_of)} agents; the highest risk: {worst.index[0][1]}",
        [left_out, cut],
    )


def risk(history: Any, title: str = "Risk over time") -> Chart:
    """One agent's risk as steps: replayed, with the recorded changes of level."""
    if not len(history):
        return empty_chart(title, "no events of the agent, and no decisions")
    history = history.astype({"level": "str"})
    decided, cut = newest(history[history["kind"] == "decision"], MAX_MARKS, "changes of level")
    steps, summed = _steps(history[history["kind"] != "decision"])
    where: Channels = {"x": moment(), "y": number("risk_score", "risk score, 0 to 1", scale={"domain": [0, 1]})}
    told = (
        ("from", "time"),
        ("until", "ends"),
        ("risk score", "risk_score"),
        ("level", "level_then"),
        ("by", "kind"),
        ("action", "action"),
    )
    line = mark("line", interpolate="step-after", color=ink("accent"), strokeWidth=1.5)
    spans = mark("rect", color=ink("accent"), stroke=ink("accent"))
    whole: Channels = {"x": moment(), "x2": {"field": "until"}, "y": {"value": "height"}, "y2": {"value": 0}}
    layers = [
        layer(steps, {**line, "type": "area", "strokeWidth": 0, "opacity": 0.14}, also=told, **where),
        layer(steps, line, also=told, **where),
        *_thresholds(),
        layer(steps, spans, tips=told, shows_itself=False, **whole),
    ]
    if len(decided):
        layers.append(
            layer(
                decided,
                LEVEL_MARK,
                **where,
                **level_marks(decided),
                tips=(
                    ("time", "time"),
                    ("became", "level"),
                    ("risk score", "risk_score"),
                    ("cause", "cause"),
                    ("reason", "reason"),
                    ("decision", "decision_id"),
                ),
            )
        )
    peak = history["risk_score"].max()
    return Chart(
        title,
        [Panel(layers, 270, legend_filter="level" if len(decided) else "", time_zoom=True)],
        f"{title}: peak {peak:.2f}, {len(decided)} recorded changes of level",
        [
            summed,
            cut,
            "Each step is a replayed figure and lasts until the next; marks are the recorded changes of level.",
        ],
    )


def _thresholds() -> list[Layer]:
    """A line at the score of each level, with its name."""
    named = [level for level in LEVEL_NAMES if LEVEL_UP[RiskLevel[level.upper()]] > 0]
    layers = []
    for level in named:
        score = LEVEL_UP[RiskLevel[level.upper()]]
        row = pd.DataFrame({"from": [score], "words": [f"{level} from {score:g}"]})
        layers.append(layer(row, mark("rule", strokeDash=[5, 4], color=ink(level)), y=number("from")))
        beside = {"align": "left", "dx": 4, "dy": -7}
        layers.append(words(row, "words", colour=level, style=beside, x=_LEFT, y=number("from")))
    return layers


def _steps(line: Any) -> tuple[pd.DataFrame, str]:
    """At most 2,000 steps: of each span of time the highest and the last, so that no peak and no end is lost.

    Their level is the column `level_then`: a click on a level in the legend leaves marks out, never steps.
    """
    line = line.rename(columns={"level": "level_then"}).reset_index(drop=True)
    if len(line) <= _MOST_STEPS:
        return _until_the_next(line), ""
    begin, end = line["time"].min(), line["time"].max()
    span = (end - begin) / (_MOST_STEPS // 2)
    spans = ((line["time"] - begin) // span).clip(upper=_MOST_STEPS // 2 - 1)
    kept = line.groupby(spans)["risk_score"].idxmax().tolist() + line.groupby(spans).tail(1).index.tolist()
    said = f"Of {len(line):,} figures the highest and the last of every {span.total_seconds():,.0f} s"
    return _until_the_next(line.loc[sorted(set(kept))]), f"{said}: a peak may look longer than it was."


def contributions(frame: Any, most: int = 10, title: str = "What stood out in the event") -> Chart:
    """The features that made an event odd."""
    shown = frame[frame["share"] > 0].head(most)
    if not len(shown):
        return empty_chart(title, "nothing stands out: a hard signal raised the level")
    shown = shown.assign(
        percent=shown["share"] * 100,
        words=[f"{number_text(value)} {unit}" for value, unit in zip(shown["value"], shown["unit"], strict=True)],
    )
    where: Channels = {
        "x": number("percent", "share of what stood out, %", scale=_room_for_words(shown["percent"])),
        "y": beside_axis("feature", list(shown["feature"])),
    }
    told = (
        ("feature", "feature"),
        ("family", "family"),
        ("measured", "words"),
        ("share, %", "percent"),
        ("evidence, decades", "evidence"),
        ("measures", "meaning"),
    )
    layers = [
        layer(shown, mark("bar", color=ink("accent")), tips=told, **where),
        words(shown, "words", style={"align": "left", "dx": 5}, **where),
    ]
    top = shown.iloc[0]
    left_out = int((frame["share"] > 0).sum()) - len(shown)
    note = f"{left_out} smaller ones are left out." if left_out else ""
    return Chart(
        title, [Panel(layers, 28 * len(shown))], f"{title}: most of all {top['feature']} ({top['share']:.0%})", [note]
    )


def _until_the_next(steps: Any) -> pd.DataFrame:
    """Steps with their ends: `until` is drawn, `ends` is told."""
    end = steps["time"].shift(-1)
    told = end.dt.strftime(TIME_FORMAT).fillna("no later figure")
    return pd.DataFrame(steps.assign(until=end.fillna(steps["time"].max()), ends=told))


def _room_for_words(values: Any) -> dict[str, Any]:
    """A scale that leaves room for the words behind the longest bar."""
    return {"domain": [0, float(values.max()) * 1.25], "nice": False}


_LOG_AXIS_MINIMUM = 0.01


def profile(frame: Any, other: Any = None, names: tuple[str, str] = ("agent", "other"), title: str = "") -> Chart:
    """Means of an agent with their spread, beside its peer group, or beside another agent's profile."""
    title = title or "What is usual for the agent"
    learned = frame[(frame["events"] > 0) & (frame["high"] > 0)]
    if not len(learned):
        return empty_chart(title, "nothing is learned of the agent yet")
    sides = {names[0]: learned}
    if other is None:
        peers = "its peer group"
        sides[peers] = learned.assign(usual=learned["peers"], low=np.nan, high=np.nan, events=np.nan)
    else:
        sides[names[1]] = other.set_index("quantity").loc[learned["quantity"].astype(str)].reset_index()
    rows = pd.concat([side.assign(whose=name) for name, side in sides.items()], ignore_index=True)
    rows["line"] = [f"{name} ({unit})" for name, unit in zip(rows["quantity"], rows["unit"], strict=True)]
    for column in ("usual", "low", "high"):  # a logarithmic axis has no zero
        rows[f"{column} drawn"] = rows[column].astype(float).clip(lower=_LOG_AXIS_MINIMUM)
    order = list(dict.fromkeys(rows["line"]))
    chosen = dict(zip(sides, ("accent", "focus"), strict=True))
    where: Channels = {"y": beside_axis("line", order), "yOffset": category("whose", order=list(sides))}
    axis = "mean of what it learned and one standard deviation, in the unit of each line; logarithmic"
    along = number("usual drawn", axis, scale={"type": "log"}, axis={"tickCount": 6, "format": "~g"})
    told = (
        ("whose", "whose"),
        ("what", "line"),
        ("mean", "usual"),
        ("one deviation below", "low"),
        ("one deviation above", "high"),
        ("events", "events"),
    )
    ranges = layer(
        rows[rows["high"].notna()],
        mark("rule", strokeWidth=5, opacity=0.4, strokeCap="round"),
        **where,
        x=number("low drawn", scale={"type": "log"}),
        x2={"field": "high drawn"},
        color=colours("whose", chosen),
    )
    points = layer(
        rows,
        mark("point", filled=True, size=80, opacity=1),
        **where,
        x=along,
        color=colours("whose", chosen),
        shape=shapes("whose", dict(zip(sides, ("circle", "square"), strict=True))),
        tips=told,
    )
    small = int((rows["usual"].astype(float) < _LOG_AXIS_MINIMUM).sum())
    note = f"Means below {_LOG_AXIS_MINIMUM:g} are drawn at {_LOG_AXIS_MINIMUM:g}." if small else ""
    panel = Panel([ranges, points], 36 * len(order), legend_filter="whose")
    return Chart(title, [panel], f"{title}: {len(learned)} quantities", [note])


def habits(frame: Any, kind: str = "action", most: int = 12, title: str = "") -> Chart:
    """The most frequent items of a kind."""
    title = title or f"Most frequent: {kind}"
    every = frame[frame["kind"] == kind]
    if not len(every):
        return empty_chart(title, f"the events name no {kind}")
    shown, note = first(every, most, "items, the most frequent")
    shown = shown.assign(
        percent=shown["share"] * 100,
        words=shown["events"].map("{:,}".format),
    )
    where: Channels = {
        "x": number("percent", "share of events that name one, %", scale=_room_for_words(shown["percent"])),
        "y": beside_axis("item", list(shown["item"])),
    }
    told = ((kind, "item"), ("events", "events"), ("share, %", "percent"), ("first", "first"), ("last", "last"))
    layers = [
        layer(shown, mark("bar", color=ink("accent")), tips=told, **where),
        words(shown, "words", style={"align": "left", "dx": 5}, **where),
    ]
    top = shown.iloc[0]
    return Chart(
        title, [Panel(layers, 26 * len(shown))], f"{title}: {top['item']} in {top['share']:.0%} of events", [note]
    )


def compare(frame: Any, kind: str = "action", names: tuple[str, str] = ("A", "B"), most: int = 14) -> Chart:
    """Two sets of events, item by item of one kind: those that differ most."""
    title = f"{names[0]} against {names[1]}: {kind}"
    every = frame[frame["kind"] == kind]
    if not len(every):
        return empty_chart(title, f"the events name no {kind}")
    shown, note = first(every, most, "items, those that differ most")
    shown = shown.sort_values("difference", ascending=False).reset_index(drop=True)
    shown = shown.assign(a=shown["share_a"] * 100, b=shown["share_b"] * 100)
    shown["less"], shown["more"] = np.minimum(shown["a"], shown["b"]), np.maximum(shown["a"], shown["b"])
    scale = {"type": "symlog", "constant": 1}
    values = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100) if tick <= max(shown["more"].max(), 1) * 1.6]
    along = number(
        "share", "share of events that name one, %; logarithmic from 1 % on", scale=scale, axis={"values": values}
    )
    where: Channels = {"y": beside_axis("item", list(shown["item"]))}
    sides = pd.concat(
        [shown.assign(whose=name, share=shown[side]) for name, side in zip(names, ("a", "b"), strict=True)],
        ignore_index=True,
    )
    told = (
        (kind, "item"),
        (f"{names[0]}, %", "a"),
        (f"{names[1]}, %", "b"),
        (f"events of {names[0]}", "events_a"),
        (f"events of {names[1]}", "events_b"),
    )
    apart = layer(
        shown,
        mark("rule", color=ink("line"), strokeWidth=3),
        x=number("less", scale=scale),
        x2={"field": "more"},
        **where,
    )
    points = layer(
        sides,
        mark("point", filled=True, size=90, opacity=1),
        x=along,
        **where,
        color=colours("whose", dict(zip(names, ("accent", "focus"), strict=True))),
        shape=shapes("whose", dict(zip(names, ("circle", "square"), strict=True))),
        tips=told,
    )
    most_different = shown.iloc[shown["difference"].abs().to_numpy().argmax()]
    return Chart(
        title,
        [Panel([apart, points], 26 * len(shown), legend_filter="whose")],
        f"{title}: most different {most_different['item']} ({most_different['difference']:+.0%})",
        [note],
    )


_EDGE_INKS = {"delegated": "accent", "called": "focus", "acts for": "muted"}
_EDGE_DASHES = {"delegated": [1, 0], "called": [7, 3], "acts for": [2, 3]}


def edges(frame: Any, agent: str | None = None, most: int = 40) -> Chart:
    """Delegations, calls and acting for principals, from left to right, thicker where risk was high."""
    title = "Who had to do with whom" if agent is None else f"Whom {agent} had to do with"
    shown = frame if agent is None else frame[frame["source"] == agent]
    if not len(shown):
        return empty_chart(title, "no edges: nobody delegated, called or acted for anybody")
    riskiest = shown.sort_values(["risk", "last"], ascending=False)
    cut = f"The riskiest {most} of {len(shown):,}." if len(shown) > most else ""
    shown = riskiest.head(most).assign(kind=lambda rows: rows["kind"].astype("str").str.replace("_", " "))
    if shown["tenant"].nunique() > 1:
        tenants = " (" + shown["tenant"].astype(str) + ")"
        shown = shown.assign(source=shown["source"].astype(str) + tenants, target=shown["target"].astype(str) + tenants)
    sides = {side: list(dict.fromkeys(shown[side].astype(str))) for side in ("source", "target")}
    places = {
        side: {name: _even_position(at, len(names)) for at, name in enumerate(names)} for side, names in sides.items()
    }
    shown = shown.assign(
        begin=0,
        end=1,
        begins=[places["source"][str(name)] for name in shown["source"]],
        ends=[places["target"][str(name)] for name in shown["target"]],
    )
    kinds = {kind: _EDGE_INKS[kind] for kind in _EDGE_INKS if (shown["kind"] == kind).any()}
    lines = layer(
        shown,
        mark("rule", opacity=0.8),
        x=number("begin", scale={"domain": [-1, 2]}, axis=None),
        x2={"field": "end"},
        y=number("begins", scale={"domain": [0, 1]}, axis=None),
        y2={"field": "ends"},
        color=colours("kind", kinds),
        strokeDash=dashes("kind", {kind: _EDGE_DASHES[kind] for kind in kinds}),
        size=number("risk", scale={"domain": [0, 1], "range": [1, 6]}, legend=None),
        tips=(
            ("kind", "kind"),
            ("from", "source"),
            ("to", "target"),
            ("highest risk score", "risk"),
            ("as of", "risk_time"),
            ("first seen", "first"),
            ("last seen", "last"),
        ),
    )
    ends = [_names_of(places["source"], 0, "right"), _names_of(places["target"], 1, "left")]
    height = 22 * max(len(names) for names in sides.values()) + 20
    return Chart(
        title,
        [Panel([lines, *ends], height, legend_filter="kind")],
        f"{title}: {len(shown)} edges{', the riskiest of ' + format(len(frame), ',') if cut else ''}",
        [cut, "Thicker: higher risk of who acted."],
    )


def _names_of(places: dict[str, float], at: int, align: str) -> Layer:
    rows = pd.DataFrame({"name": list(places), "height": list(places.values()), "at": at})
    rows["shown"] = rows["name"].map(shorten_name)
    style = {"align": align, "dx": 6 if align == "left" else -6, "limit": {"expr": "width * 0.32"}}
    return layer(
        rows,
        mark("text", color=ink("text"), **style),
        text=name("shown"),
        x=number("at"),
        y=number("height"),
        tips=(("name", "name"),),
    )


def _even_position(at: int, number_of_names: int) -> float:
    return 1.0 - (at + 0.5) / number_of_names

"""Charts of events: how many there were, and how odd each was. Whatever their number, what they embed is bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .chart_canvas import (
    LEVEL_MARK,
    MAX_MARKS,
    MAX_ROWS,
    Chart,
    Layer,
    Panel,
    colours,
    count,
    empty_chart,
    ink,
    layer,
    level_marks,
    mark,
    moment,
    number,
    words,
)

_MOST_STEPS = 500
_TIME_CELLS = 100
_CELL_STEPS = ("1s", "10s", "1min", "5min", "15min", "1h", "3h", "6h", "1D", "7D", "28D")
_CELL_DECADES = 0.2
_DECADES = "decades of oddness, -log10(p)"
_OUTCOME_INKS = {"success": "accent", "denied": "focus", "error": "critical"}


def activity(events: Any, every: str = "1h", title: str = "Events over time") -> Chart:
    """Events by time and outcome, in steps of *every*, or longer ones if there were more than 500."""
    if not len(events):
        return empty_chart(title, "no events")
    step, note = _bounded_step(events["time"], pd.Timedelta(every))
    begin = events["time"].dt.floor(step)
    rows = events.groupby([begin, events["outcome"].astype(str)]).size().rename("events").reset_index()
    rows["end"] = rows["time"] + step
    totals = rows.groupby("outcome")["events"].sum()
    rows["of"] = rows["time"].map(rows.groupby("time")["events"].sum())
    inks = {outcome: style for outcome, style in _OUTCOME_INKS.items() if outcome in totals}
    rows["place"] = rows["outcome"].map({outcome: at for at, outcome in enumerate(_OUTCOME_INKS)})
    bars = layer(
        rows,
        mark("bar", stroke=ink("panel"), strokeWidth=0.5),
        x=moment(bin="binned"),
        x2={"field": "end"},
        y=count("events", f"events in {_in_words(step)}", stack="zero"),
        color=colours("outcome", inks),
        order={"field": "place", "type": "quantitative"},
        tips=(("from", "time"), ("to", "end"), ("outcome", "outcome"), ("events", "events"), ("of", "of")),
    )
    counts = ", ".join(f"{int(totals[outcome]):,} {outcome}" for outcome in inks)
    return Chart(
        title,
        [Panel([bars], legend_filter="outcome", time_zoom=True)],
        f"{title}: {len(events):,} events from {rows['time'].min():%Y-%m-%d %H:%M} UTC",
        [f"{counts}.", note],
    )


def _bounded_step(times: Any, step: pd.Timedelta) -> tuple[pd.Timedelta, str]:
    """The step asked for, or a multiple of it, so that there are at most 500; with a note."""
    number_of_steps = (times.max() - times.min()) // step + 1
    if number_of_steps <= _MOST_STEPS:
        return step, ""
    longer = step * int(np.ceil(number_of_steps / _MOST_STEPS))
    return longer, f"In steps of {_in_words(longer)}: of {_in_words(step)} there would be {number_of_steps:,}."


def _in_words(step: pd.Timedelta) -> str:
    seconds = step.total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def scores(frame: Any, agent: str | None = None, title: str = "How odd each event was") -> Chart:
    """p-values of scored events over time, the oddest at the top; of one agent in colour if it is named."""
    title = title if agent is None else f"{title}; in colour {agent}"
    if not len(frame):
        return empty_chart(title, "no events were scored")
    every = frame.assign(
        odd=-np.log10(frame["p_value"].clip(lower=np.finfo(float).tiny)), level=frame["level"].astype(str)
    )
    mine = every["agent_id"].astype(object).eq(agent) if agent is not None else np.zeros(len(every), dtype=bool)
    ours, others = every[mine], every[~mine]
    shown = ours.nlargest(MAX_MARKS, "odd") if len(ours) > MAX_MARKS else ours
    layers, note = _cells(others)
    layers += [line for odd, said in ((2, "1 normal event in 100"), (3, "1 in 1,000")) for line in _line_at(odd, said)]
    if len(shown):
        layers.append(
            layer(
                shown,
                LEVEL_MARK,
                x=moment(),
                y=number("odd", _DECADES),
                **level_marks(shown),
                tips=(
                    ("time", "time"),
                    ("agent", "agent_id"),
                    ("action", "action"),
                    ("p-value", "p_value", ".3~g"),
                    ("decades", "odd"),
                    ("risk score after it", "risk_score"),
                    ("level after it", "level"),
                    ("event", "id"),
                ),
            )
        )
    cut = f"The oddest {MAX_MARKS:,} of the agent's {len(ours):,} events." if len(ours) > len(shown) else ""
    odd = int((every["odd"] >= 2).sum())
    return Chart(
        title,
        [Panel(layers, 270, legend_filter="level" if len(shown) else "", time_zoom=True)],
        f"{title}: {len(frame):,} events, {odd} at least as odd as 1 in 100",
        [note, cut],
    )


def _cells(events: pd.DataFrame) -> tuple[list[Layer], str]:
    """Events counted in cells of time and oddness: a page holds so many, not every event."""
    if not len(events):
        return [], ""
    span = events["time"].max() - events["time"].min()
    step = next((step for step in map(pd.Timedelta, _CELL_STEPS) if span / step <= _TIME_CELLS), span / _TIME_CELLS)
    begin = events["time"].min().floor(step)
    column = (events["time"] - begin) // step
    height = _CELL_DECADES
    while len(cells := events.groupby([column, (events["odd"] / height).astype(int)]).size()) > MAX_ROWS:
        height *= 2
    rows = cells.rename("events").rename_axis(["column", "row"]).reset_index()
    rows["time"] = begin + rows["column"] * step
    rows["end"] = rows["time"] + step
    rows["odd"], rows["odd_to"] = rows["row"] * height, (rows["row"] + 1) * height
    drawn = layer(
        rows,
        mark("rect", color=ink("muted")),
        x=moment(),
        x2={"field": "end"},
        y=number("odd", _DECADES),
        y2={"field": "odd_to"},
        opacity=number("events", scale={"type": "log", "range": [0.25, 1]}, legend=None),
        tips=(("from", "time"), ("to", "end"), ("decades from", "odd"), ("decades to", "odd_to"), ("events", "events")),
    )
    return [drawn], f"Grey: {len(events):,} other events, counted in cells of {_in_words(step)} and {height:g} decades."


def _line_at(odd: float, said: str) -> list[Layer]:
    row = pd.DataFrame({"odd": [odd], "said": [said]})
    beside = {"align": "right", "dy": -6}
    return [
        layer(row, mark("rule", strokeDash=[2, 3], color=ink("text")), y=number("odd", _DECADES)),
        words(row, "said", style=beside, x={"value": "width"}, y=number("odd", _DECADES)),
    ]

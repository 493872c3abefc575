"""Charts say what the frames say, in the console's colours, and embed no more than a page can hold."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import vl_convert

from trustwatch.lab import charts
from trustwatch.lab.chart_canvas import MAX_ROWS, Chart, layer, number
from trustwatch.lab.chart_look import VEGA_LITE_MIME
from trustwatch.lab.frame_builder import build_frame
from trustwatch.lab.frame_columns import FRAME_COLUMNS, LEVEL_NAMES
from trustwatch.lab.notebook_pages import count_charts, render_page

from ..support.checkout import ROOT

START_MS = 1_768_262_400_000
MINUTE_MS = 60_000
EVIL = "</script><script>alert(1)</script>"
OLDEST_VEGA_LITE = "5.8"
"""The nearest that there is to the 5.6 of JupyterLab 4."""

VALUES: dict[str, Callable[[int], Any]] = {
    "time": lambda at: START_MS + at * MINUTE_MS,
    "name": lambda at: f"name-{at % 3}",
    "level": lambda at: LEVEL_NAMES[at % 5],
    "text": lambda at: f"text {at}",
    "number": lambda at: 0.05 + at % 10 / 11,
    "count": lambda at: at + 1,
    "whole": lambda at: at + 1,
    "flag": lambda at: at % 2 == 0,
    "maybe": lambda at: at % 2 == 0,
    "bytes": lambda at: b"{}",
}


def rows_of(frame: str, rows: int = 12, **columns: Callable[[int], Any]) -> pd.DataFrame:
    """A frame as declared, with values of the right kind in every column, or those of *columns*."""
    makers = [columns.get(column.name, VALUES[column.kind]) for column in FRAME_COLUMNS[frame]]
    return build_frame(frame, [[make(at) for make in makers] for at in range(rows)])


def alert_level(at: int) -> str:
    """Levels that have budgets."""
    return LEVEL_NAMES[2 + at % 3]


def outcome(at: int) -> str:
    """Outcomes of requests."""
    return ("allowed", "shortened", "narrowed", "held", "denied")[at % 5]


DRAWN: dict[str, Callable[[], Chart]] = {
    "levels": lambda: charts.levels(rows_of("agents")),
    "timeline": lambda: charts.timeline(rows_of("decisions")),
    "risk": lambda: charts.risk(rows_of("risk_history", kind=lambda at: "decision" if at % 4 == 0 else "event")),
    "contributions": lambda: charts.contributions(rows_of("contributions", feature=VALUES["text"])),
    "profile": lambda: charts.profile(rows_of("profile", quantity=VALUES["text"])),
    "habits": lambda: charts.habits(rows_of("habits", kind=lambda at: "action")),
    "compare": lambda: charts.compare(rows_of("comparison", kind=lambda at: "action")),
    "edges": lambda: charts.edges(rows_of("edges", kind=lambda at: ("delegated", "called", "acts_for")[at % 3])),
    "activity": lambda: charts.activity(rows_of("events", outcome=lambda at: "denied" if at % 3 else "success")),
    "scores": lambda: charts.scores(rows_of("scores"), agent="name-1"),
    "features": lambda: charts.features(rows_of("features", feature=VALUES["text"])),
    "calibration": lambda: charts.calibration(
        rows_of("calibration", group=lambda at: "fleet", agents=lambda at: "known")
    ),
    "reliability": lambda: charts.reliability(rows_of("reliability")),
    "budget_report": lambda: charts.budget_report(rows_of("budget_report", 3, level=alert_level)),
    "curves": lambda: charts.curves(
        rows_of("backtest_curves", unit=lambda at: "session", curve=lambda at: ("roc", "precision_recall")[at % 2])
    ),
    "detection": lambda: charts.detection(rows_of("backtest_detection", 3, level=alert_level)),
    "sweep": lambda: charts.sweep(rows_of("backtest_sweep", side=lambda at: "A", level=alert_level)),
    "budgets": lambda: charts.budgets(rows_of("budgets", level=alert_level)),
    "requests": lambda: charts.requests(rows_of("backtest_requests", outcome=outcome)),
    "revocations": lambda: charts.revocations(rows_of("backtest_revoked", until=lambda at: VALUES["time"](at + 5))),
    "what_if": lambda: charts.what_if(rows_of("what_if", policy=VALUES["text"])),
}
TIME_CHARTS = ("timeline", "risk", "activity", "scores", "revocations")
NO_LEGEND = ("contributions", "habits")


def data_of(spec: dict[str, Any], *columns: str) -> pd.DataFrame:
    """The one dataset of a specification that has these columns."""
    found = [rows for rows in spec["datasets"].values() if rows and set(columns) <= set(rows[0])]
    (rows,) = [rows for rows in found if len(rows) == max(map(len, found))][:1]
    return pd.DataFrame(rows)


def console_colours() -> dict[str, list[str]]:
    """Variable of the console's sheet -> its colours on screens: light, then dark."""
    sheet = (ROOT / "api" / "console" / "static" / "console.css").read_text(encoding="utf-8")
    screens = sheet[: sheet.index("*, ::before")]
    names = dict.fromkeys(re.findall(r"--([a-z-]+): #", screens))
    return {name: re.findall(rf"--{name}: (#[0-9a-f]+);", screens) for name in names}


def test_every_chart_is_tried() -> None:
    """None is left out below."""
    assert sorted(DRAWN) == charts.__all__


@pytest.mark.parametrize("name", DRAWN)
def test_charts_are_valid_here_and_in_jupyterlab(name: str) -> None:
    """Altair checks the schema, an old Vega-Lite compiles it, all colours are the console's."""
    spec = DRAWN[name]().spec()
    compiled = vl_convert.vegalite_to_vega(spec, vl_version=OLDEST_VEGA_LITE)
    assert compiled["marks"]
    text = json.dumps(spec)
    console = {colour for both in console_colours().values() for colour in both}
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", text)) - {"#333"} <= console, "#333: the ground of Vega's dark theme"
    assert '"tooltip"' in text
    assert ('"bind": "scales"' in text) == (name in TIME_CHARTS)
    assert ('"bind": "legend"' in text) == (name not in NO_LEGEND)


def test_levels_have_the_consoles_colours_and_shapes() -> None:
    """One source: the sheet of the console, on both grounds."""
    spec = DRAWN["timeline"]().spec()
    encoding = next(each["encoding"] for each in spec["layer"] if "shape" in each["encoding"])
    console = console_colours()
    scale = encoding["color"]["scale"]
    assert scale["domain"] == list(LEVEL_NAMES)
    assert [paint["expr"] for paint in scale["range"]] == [
        f"dark ? '{dark}' : '{light}'" for light, dark in (console[level] for level in LEVEL_NAMES)
    ]
    assert len(set(encoding["shape"]["scale"]["range"])) == len(LEVEL_NAMES)


def test_numbers_are_the_frames() -> None:
    """Counts of levels, figures of risk, events by outcome."""
    agents = rows_of("agents", 40)
    drawn = data_of(charts.levels(agents).spec(), "agent_type", "level", "agents")
    counted = agents.groupby(["agent_type", "level"], observed=True).size()
    assert drawn.set_index(["agent_type", "level"])["agents"].to_dict() == counted.to_dict()

    events = rows_of("events", 500, outcome=lambda at: "denied" if at % 3 else "success")
    drawn = data_of(charts.activity(events).spec(), "outcome", "events")
    assert drawn.groupby("outcome")["events"].sum().to_dict() == events["outcome"].value_counts().to_dict()


def test_risk_is_drawn_as_steps() -> None:
    """Each figure of the frame lasts until the next one; nothing slopes between two."""
    history = rows_of("risk_history", kind=lambda at: "decision" if at % 4 == 0 else "event")
    spec = charts.risk(history).spec()
    lines = [each["mark"] for each in spec["layer"] if each["mark"]["type"] in ("line", "area")]
    assert [line["interpolate"] for line in lines] == ["step-after"] * 2
    steps = data_of(spec, "risk_score", "until")
    replayed = history[history["kind"] == "event"]
    assert steps["risk_score"].tolist() == replayed["risk_score"].tolist()
    times = pd.to_datetime(steps["time"]).tolist()
    assert times == replayed["time"].tolist()
    assert pd.to_datetime(steps["until"]).tolist() == [*times[1:], times[-1]]
    assert steps["ends"].tolist() == [*(f"{time:%Y-%m-%d %H:%M:%S} UTC" for time in times[1:]), "no later figure"]


def test_a_click_on_a_level_leaves_the_steps_of_risk() -> None:
    """A line of the steps of one level alone would join them over what lay between."""
    history = rows_of("risk_history", kind=lambda at: "decision" if at % 4 == 0 else "event")
    spec = charts.risk(history).spec()
    filtered = [each["mark"]["type"] for each in spec["layer"] if "transform" in each]
    assert filtered == ["point"]
    steps = data_of(spec, "risk_score", "until")
    assert steps["level_then"].tolist() == history.loc[history["kind"] == "event", "level"].tolist()


def test_agents_without_a_type_are_counted() -> None:
    """The bars add up to the number in the chart's own words."""
    agents = rows_of("agents", 9, agent_type=lambda at: "" if at % 3 == 0 else "service")
    chart = charts.levels(agents)
    drawn = data_of(chart.spec(), "agent_type", "agents")
    assert drawn.groupby("agent_type")["agents"].sum().to_dict() == {"no type": 3, "service": 6}
    assert chart.notes[-1].startswith("All 9:")
    drawn = data_of(charts.levels(agents.assign(tenant=None), by="tenant").spec(), "tenant", "agents")
    assert drawn.groupby("tenant")["agents"].sum().to_dict() == {"no tenant": 9}


def test_curves_of_groups_stay_apart() -> None:
    """Names alike when shortened are two lines, named in full under the mouse; no more lines than colours."""
    calibrated = rows_of(
        "calibration",
        16,
        group=lambda at: long_names(at % 8),
        agents=lambda at: "all",
        anomaly_score=lambda at: 0.5 + at / 100,
    )
    for most, lines in ((2, 2), (8, 5)):
        chart = charts.calibration(calibrated, most=most)
        drawn = data_of(chart.spec(), "curve", "group")
        names = drawn.groupby("curve")["group"].unique().map(list)
        assert sorted(names) == [[long_names(at)] for at in range(lines)]
        assert {"agent-with-a-na…ide-of-a-chart, all", "agent-with-a-na…ide-of-a-chart (2), all"} <= set(names.index)
        scales = [each["encoding"]["color"]["scale"] for each in chart.spec()["layer"] if "color" in each["encoding"]]
        assert all(set(scale["domain"]) == set(names.index) for scale in scales)
        assert all(len(scale["range"]) == lines for scale in scales)
        assert chart.notes == (f"The first {lines} of 8 curves.",)


def test_a_peer_group_has_no_events_of_the_agent() -> None:
    """The tooltip of its mean does not lend it the agent's number."""
    drawn = data_of(charts.profile(rows_of("profile", 3, quantity=VALUES["text"])).spec(), "whose", "usual")
    told = drawn.groupby("whose")["events in words"].agg(list).to_dict()
    assert told == {"agent": ["0.05", "0.1409", "0.2318"], "its peer group": ["–"] * 3}


def test_other_events_are_counted_where_an_index_repeats() -> None:
    """As in frames of two days put together."""
    day = rows_of("scores", 6)
    cells = data_of(charts.scores(pd.concat([day, day]), agent="name-1").spec(), "events", "odd_to")
    assert cells["events"].sum() == 8
    shifted = pd.concat([day, day.assign(agent_id="name-2")])
    cells = data_of(charts.scores(shifted, agent="name-1").spec(), "events", "odd_to")
    assert cells["events"].sum() == 10
    history = rows_of("risk_history", 1_500, kind=lambda at: "event")
    steps = data_of(charts.risk(pd.concat([history, history])).spec(), "risk_score", "until")
    assert len(steps) <= 2_000


def test_p_values_that_no_event_reached_are_said() -> None:
    """A logarithmic axis has no place for a share of 0."""
    told = charts.reliability(rows_of("reliability", 4, observed=lambda at: 0.0 if at < 3 else 0.5))
    assert told.notes[-1] == "Not drawn: 3 p-values that no event reached; a logarithmic axis has no zero."
    assert len(data_of(told.spec(), "whose", "observed")) == 1
    assert len(charts.reliability(rows_of("reliability")).notes) == 1
    assert "no event reached" in charts.reliability(rows_of("reliability", observed=lambda at: 0.0)).description


@pytest.mark.parametrize(("there", "missing"), [("roc", "precision-recall"), ("precision_recall", "ROC")])
def test_one_kind_of_curve_is_drawn_without_the_other(there: str, missing: str) -> None:
    """The chart says which is not there."""
    chart = charts.curves(rows_of("backtest_curves", unit=lambda at: "session", curve=lambda at: there))
    assert len(chart.panels) == 1
    assert chart.notes == (f"By session; there is no {missing} curve.",)
    assert missing not in chart.description
    assert chart.spec()["layer"]


def test_what_is_missing_is_not_told_as_zero() -> None:
    """Vega writes a missing number as 0: a tooltip has words instead."""
    frame = rows_of("backtest_detection", 3, level=alert_level, delay_median_s=lambda at: None if at else 1234.5)
    spec = charts.detection(frame).spec()
    told = data_of(spec, "delay_median_s in words")["delay_median_s in words"]
    assert told.tolist() == ["1,234.5", "–", "–"]
    assert "delay_median_s" not in re.findall(r'"field": "([^"]+)"', json.dumps(spec))


def long_names(at: int) -> str:
    """Names that differ only where a chart shortens them."""
    return f"agent-with-a-name-that-is-{at}-much-too-long-for-the-side-of-a-chart"


def test_long_names_stay_apart() -> None:
    """What is shortened beside an axis is not counted as one."""
    drawn = data_of(charts.levels(rows_of("agents", 9, agent_type=long_names)).spec(), "agent_type", "agents")
    assert drawn["agent_type"].nunique() == 9


@pytest.mark.parametrize("rows", [100_000])
def test_a_hundred_thousand_rows_are_summed_up(rows: int) -> None:
    """Every event is in a cell or a bar; what is left out is said; no layer has more than a page can hold."""
    at = np.arange(rows)
    time = pd.to_datetime(START_MS + at * 10_000, unit="ms", utc=True).astype("datetime64[ms, UTC]")
    level = pd.Categorical.from_codes(at % 5, LEVEL_NAMES, ordered=True)
    names = pd.Categorical.from_codes(at % 4, ["a", "b", "c", "d"])
    p_value = np.random.default_rng(1).uniform(1e-6, 1, rows)
    same = {"id": "e", "tenant": "t", "action": "x", "cause": "event", "kind": "event", "outcome": "success"}
    frame = pd.DataFrame({"time": time, "agent_id": names, "level": level, "p_value": p_value})
    frame = frame.assign(**same, previous_level=level, risk_score=p_value, reason="r", decision_id="d")
    scored = charts.scores(frame, agent="a")
    cells = data_of(scored.spec(), "events", "odd_to")
    assert cells["events"].sum() == rows * 3 // 4
    assert scored.notes == (
        f"Grey: {rows * 3 // 4:,} other events, counted in cells of 3 h and 0.2 decades.",
        f"The oddest 2,000 of the agent's {rows // 4:,} events.",
    )
    counted = charts.activity(frame, every="1min")
    assert data_of(counted.spec(), "outcome", "events")["events"].sum() == rows
    assert counted.notes[-1] == "In steps of 34 min: of 1 min there would be 16,667."
    changed = charts.timeline(frame)
    assert changed.notes == (f"The newest 2,000 of {rows:,} changes.",)
    moved = charts.risk(frame)
    steps = data_of(moved.spec(), "risk_score", "until")
    assert steps["risk_score"].max() == p_value.max()
    assert steps["risk_score"].iloc[-1] == p_value[-1]
    assert (
        moved.notes[0]
        == f"Of {rows:,} figures the highest and the last of every 1,000 s: a peak may look longer than it was."
    )
    for chart in (scored, counted, changed, moved):
        spec = chart.spec()
        assert all(len(dataset) <= MAX_ROWS for dataset in spec["datasets"].values())
        assert len(json.dumps(spec)) < 1_500_000
        assert all(note in json.dumps(spec, ensure_ascii=False) for note in chart.notes)


def test_too_many_rows_are_refused() -> None:
    """Who draws has to sum them up first."""
    with pytest.raises(ValueError, match="sum them up"):
        layer(pd.DataFrame({"x": range(MAX_ROWS + 1)}), "point", x=number("x"))


def notebook_of(*shown: Chart) -> Any:
    """An executed notebook, as IPython makes it of charts."""
    from IPython.core.formatters import format_display_data

    outputs = []
    for chart in shown:
        data, metadata = format_display_data(chart)
        data["image/png"] = b64encode(data["image/png"]).decode()
        outputs.append(nbformat.v4.new_output("display_data", data=data, metadata=metadata))
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("charts", outputs=outputs)])


def test_a_page_is_whole_harmless_and_asks_nobody() -> None:
    """Charts with their data and description; names from outside stay text; no menu leads to a foreign host."""
    chart = charts.levels(rows_of("agents", agent_type=lambda at: EVIL))
    notebook = notebook_of(chart, DRAWN["curves"]())
    assert count_charts(notebook) == 2
    output = notebook.cells[0].outputs[0]
    assert output.metadata[VEGA_LITE_MIME]["embed_options"]["actions"]["editor"] is False
    page = render_page(notebook, "one")
    assert page.count('<figure class="chart">') == 2
    assert chart.description in page
    assert "alert(1)</script>" not in page
    specs = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)]
    assert specs[0] == chart.spec()
    assert re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page) == []
    assert "editor: false" in page
    assert f"--critical: {console_colours()['critical'][1]};" in page
    assert "window.vegaEmbed" in page


def test_what_a_chart_tells_under_the_mouse_stands_in_tables() -> None:
    """All charts that have tooltips; in a page behind a button, with names from outside as text."""
    frame = rows_of("agents", agent_type=lambda at: EVIL if at % 2 else "Clerk")
    (table,) = charts.levels(frame).tables()
    told = dict(zip(table.columns, table.iloc[0], strict=True))
    assert told["agents"] <= told["of"]
    assert table["agents"].sum() == len(frame)
    page = render_page(notebook_of(charts.levels(frame)), "one")
    shown = page.partition("<details><summary>As a table</summary>")[2].partition("</details>")[0]
    assert shown.count("<tr>") == len(table) + 1
    assert "&lt;script&gt;" in shown and "<script" not in shown
    for name, draw in DRAWN.items():
        chart = draw()
        tips = json.dumps(chart.spec()).count('"tooltip": [')
        assert 1 <= len(chart.tables()) <= tips, name


def test_altairs_own_charts_ask_nobody() -> None:
    """Neither `chart.figure` nor what a notebook makes of it: Altair would fetch its scripts from a foreign host."""
    chart = charts.levels(rows_of("agents"))
    for figure in (chart.figure, chart.figure.properties(width=300)):
        shown, about = figure._repr_mimebundle_()
        assert shown["image/png"].startswith(b"\x89PNG")
        assert about[VEGA_LITE_MIME]["embed_options"]["actions"]["editor"] is False
        assert "text/html" not in shown
        assert "width" not in about["image/png"], "a picture of the size that the notebook chose"
        text = json.dumps({kind: said for kind, said in shown.items() if kind != "image/png"})
        assert set(re.findall(r"https?:[^\"]+", text)) == {"https://vega.github.io/schema/vega-lite/v5.json"}
    assert chart.figure._repr_mimebundle_()[0][VEGA_LITE_MIME]["layer"] == chart.spec()["layer"]


@pytest.mark.parametrize(("ending", "begin"), [("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")])
def test_charts_are_saved_without_a_browser(ending: str, begin: bytes, tmp_path: Path) -> None:
    """In the format of the name's ending."""
    assert DRAWN["requests"]().save(tmp_path / f"chart.{ending}").read_bytes().startswith(begin)


def zero(at: int) -> int:
    """A count of nothing."""
    return 0


EDGES: dict[str, Callable[[], Chart]] = {
    "risk without decisions": lambda: charts.risk(rows_of("risk_history", kind=lambda at: "event")),
    "risk of decisions alone": lambda: charts.risk(rows_of("risk_history", kind=lambda at: "decision")),
    "scores of one agent alone": lambda: charts.scores(rows_of("scores", agent_id=lambda at: "a"), agent="a"),
    "scores of nobody": lambda: charts.scores(rows_of("scores")),
    "revocations without an end": lambda: charts.revocations(rows_of("backtest_revoked", until=zero)),
    "requests of none": lambda: charts.requests(rows_of("backtest_requests", outcome=outcome, requests=zero)),
    "policies that touch nothing": lambda: charts.what_if(
        rows_of("what_if", denied=zero, held=zero, narrowed=zero, shortened=zero, agents_revoked=zero)
    ),
    "budgets without labels": lambda: charts.budgets(rows_of("budgets", level=alert_level, detected=lambda at: None)),
    "nothing that could be found": lambda: charts.budgets(
        rows_of("budgets", level=alert_level, bad_sessions=lambda at: 1, already=lambda at: 1)
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_charts_of_little_are_drawn(name: str) -> None:
    """Where a part of a chart has no rows, the rest is drawn all the same."""
    assert EDGES[name]().png(scale=1).startswith(b"\x89PNG")

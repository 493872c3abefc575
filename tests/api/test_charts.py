"""Tables under charts: the same numbers, whatever a chart draws, for whoever does not see it."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from markupsafe import Markup

from trustwatch.api.charts import MAX_TABLE_ROWS, ChartAxis, ChartSeries, chart, chart_assets, chart_table


def cells(chart: str) -> list[list[str]]:
    """Heads and rows of the table in a chart."""
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", chart)]


def figure_of(made: str) -> dict[str, Any]:
    """What the script draws."""
    found = re.search(r'data-figure="([^"]*)"', made)
    assert found
    figure: dict[str, Any] = json.loads(html.unescape(found[1]))
    return figure


def test_drawing_and_table_have_the_same_numbers() -> None:
    """Lines with other places leave gaps; a line that has two points at one place has two rows."""
    lines = [
        ChartSeries("roc", [(0.0, 0.0), (0.0, 0.5), (1.0, 1.0)], "first", band=[(0.5, 0.25, 0.75)]),
        ChartSeries("marked", [(1.0, 12345.678)], drawn=False),
        ChartSeries("chance", [(0.0, 0.0), (1.0, 1.0)], "allowed"),
    ]
    made = chart("ROC", ChartAxis("false"), ChartAxis("true"), lines)
    assert cells(made) == [
        ["false", "roc", "roc, from", "roc, to", "chance", "marked"],
        ["0", "0", "–", "–", "0", "–"],
        ["0", "0.5", "–", "–", "–", "–"],
        ["0.5", "–", "0.25", "0.75", "–", "–"],
        ["1", "1", "–", "–", "1", "12345.7"],
    ]
    figure = figure_of(made)
    assert figure["columns"] == [
        [0.0, 0.0, 0.5, 1.0],
        [0.0, 0.5, None, 1.0],
        [None, None, 0.25, None],
        [None, None, 0.75, None],
        [0.0, None, None, 1.0],
    ]
    assert [one["name"] for one in figure["series"]] == ["roc", "chance"]
    assert "marked" not in made.partition("<details")[0]


def test_times_are_listed_as_days_and_minutes() -> None:
    """Of UTC, as the head of the column says."""
    bars = [ChartSeries("medium", [(1763856000, 2), (1763942400, 0), (1763946000, 1)], "medium")]
    made = chart("Rises", ChartAxis("time (UTC)", kind="utc"), ChartAxis("rises"), bars, bars=True)
    assert cells(made) == [
        ["time (UTC)", "medium"],
        ["2025-11-23", "2"],
        ["2025-11-24", "0"],
        ["2025-11-24 01:00", "1"],
    ]
    assert figure_of(made)["bars"]


def test_names_from_outside_stay_text() -> None:
    """Of series and titles, in attributes, too; what is markup already stays it."""
    evil = "\"'><script>alert(1)</script>\u202e"
    made = chart(evil, ChartAxis(evil), ChartAxis(evil), [ChartSeries(evil, [(0, 1)], "first")])
    assert "<script" not in made and made.count("&lt;script&gt;") >= 8 and "\u202e" not in made
    (series,) = figure_of(made)["series"]
    assert "\u202e" not in series["name"]
    assert figure_of(chart("t", ChartAxis("x"), ChartAxis("y"), [ChartSeries("a\x7fb\x85", [(0, 1)], "first")]))
    assert "<time>" in chart_table("t", ["a"], [[Markup("<time>")]])


def test_a_document_gets_all_that_its_charts_need() -> None:
    """Nothing of it ends the element that it is put in, or asks for another file."""
    style, script = chart_assets()
    assert "uPlot" in script and "trustwatchCharts" in script and ".uplot" in style
    assert "</" not in style and "</script" not in script.lower() and "url(" not in style


def test_a_table_is_bounded_and_says_so() -> None:
    """Every so many points, and the last."""
    table = chart_table("t", ["at", "value"], [[str(at), "0"] for at in range(1_000)])
    shown = [row[0] for row in cells(table)[1:]]
    assert len(shown) <= MAX_TABLE_ROWS + 1
    assert (shown[0], shown[1], shown[-1]) == ("0", "4", "999")
    assert f"{len(shown)} of 1,000 points" in table
    assert "points" not in chart_table("t", ["at", "value"], [["1", "2"]])
    assert cells(chart_table("t", ["at", "value"], [])) == [["at", "value"]]

"""Tables under charts: the same numbers, whatever a chart draws, for whoever does not see it."""

from __future__ import annotations

import re

from markupsafe import Markup

from trustwatch.api.svg_charts import MAX_TABLE_ROWS, ChartAxis, ChartSeries, bar_chart, chart_table, line_chart


def cells(chart: str) -> list[list[str]]:
    """Heads and rows of the table in a chart."""
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", chart)]


def test_lines_have_all_their_points_and_bands_in_a_table() -> None:
    """Lines with other places leave dashes; a line that has two points at one place has two rows."""
    lines = [
        ChartSeries("roc", [(0.0, 0.0), (0.0, 0.5), (1.0, 1.0)], "first", band=[(0.5, 0.25, 0.75)]),
        ChartSeries("chance", [(0.0, 0.0), (1.0, 1.0)], "allowed"),
    ]
    marked = ChartSeries("marked", [(1.0, 12345.678)], "")
    chart = line_chart("ROC", ChartAxis("false"), ChartAxis("true"), lines, [marked])
    assert cells(chart) == [
        ["false", "roc", "roc, from", "roc, to", "chance", "marked"],
        ["0", "0", "–", "–", "0", "–"],
        ["0", "0.5", "–", "–", "–", "–"],
        ["0.5", "–", "0.25", "0.75", "–", "–"],
        ["1", "1", "–", "–", "1", "12345.7"],
    ]
    assert "marked" not in chart.partition("<details")[0]


def test_bars_have_a_row_for_each_label() -> None:
    """Also where there is nothing to draw, and under names of their own."""
    bars = [ChartSeries("medium", [(0, 2), (1, 0)], "medium")]
    assert cells(bar_chart("Rises", ["11-23", "11-24"], ChartAxis("rises"), bars)) == [
        ["time", "medium"],
        ["11-23", "2"],
        ["11-24", "0"],
    ]
    day = ChartAxis("Day", table_format=lambda at: f"2025-11-{23 + int(at)}")
    assert cells(bar_chart("Rises", ["11-23", "11-24"], ChartAxis("rises"), bars, x=day))[1:] == [
        ["2025-11-23", "2"],
        ["2025-11-24", "0"],
    ]


def test_names_from_outside_stay_text() -> None:
    """Of series and titles; what is markup already stays it."""
    evil = "<script>alert(1)</script>"
    chart = line_chart(evil, ChartAxis(evil), ChartAxis(evil), [ChartSeries(evil, [(0, 1)], "first")])
    assert "<script" not in chart and chart.count("&lt;script&gt;") >= 8
    assert "<time>" in chart_table("t", ["a"], [[Markup("<time>")]])


def test_a_table_is_bounded_and_says_so() -> None:
    """Every so many points, and the last."""
    table = chart_table("t", ["at", "value"], [[str(at), "0"] for at in range(1_000)])
    shown = [row[0] for row in cells(table)[1:]]
    assert len(shown) <= MAX_TABLE_ROWS + 1
    assert (shown[0], shown[1], shown[-1]) == ("0", "4", "999")
    assert f"{len(shown)} of 1,000 points" in table
    assert "points" not in chart_table("t", ["at", "value"], [["1", "2"]])
    assert cells(chart_table("t", ["at", "value"], [])) == [["at", "value"]]

"""Tables under charts: the same numbers, whatever a chart draws, for whoever does not see it."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from markupsafe import Markup

from trustwatch.api.charts import ChartAxis, ChartSeries, chart, chart_assets, chart_table


def figure_of(made: str) -> dict[str, Any]:
    found = re.search(r'data-figure="([^"]*)"', made)
    assert found
    figure: dict[str, Any] = json.loads(html.unescape(found[1]))
    return figure


def test_names_from_outside_stay_text() -> None:
    evil = "\"'><script>alert(1)</script>\u202e"
    made = chart(evil, ChartAxis(evil), ChartAxis(evil), [ChartSeries(evil, [(0, 1)], "first")])
    assert "<script" not in made and made.count("&lt;script&gt;") >= 8 and "\u202e" not in made
    (series,) = figure_of(made)["series"]
    assert "\u202e" not in series["name"]
    assert figure_of(chart("t", ChartAxis("x"), ChartAxis("y"), [ChartSeries("a\x7fb\x85", [(0, 1)], "first")]))
    assert "<time>" in chart_table("t", ["a"], [[Markup("<time>")]])


def test_a_document_gets_all_that_its_charts_need() -> None:
    style, script = chart_assets()
    assert "uPlot" in script and "trustwatchCharts" in script and ".uplot" in style
    assert "</" not in style and "</script" not in script.lower() and "url(" not in style

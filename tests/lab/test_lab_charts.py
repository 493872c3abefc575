"""Charts look like the console's, and neither they nor pages of notebooks use foreign hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import altair as alt
import nbformat
import pandas as pd
import pytest

from trustwatch.lab import charts
from trustwatch.lab.charts import VEGA_LITE_MIME
from trustwatch.lab.frames import LEVELS
from trustwatch.lab.notebook_runner import render_page

EVIL = "</script><script>alert(1)</script>"


@pytest.fixture(autouse=True)
def _theme() -> Iterator[None]:
    """The lab's theme, and Altair's own afterward."""
    theme, renderer = alt.theme.active, alt.renderers.active
    charts.use_theme()
    yield
    alt.theme.enable(theme)
    alt.renderers.enable(renderer)


def levels_chart(name: str = "Clerk") -> Any:
    """An agent at each level."""
    agents = pd.DataFrame({"agent_id": [f"{name} {level}" for level in LEVELS], "level": LEVELS})
    marks = alt.Chart(agents).mark_point()
    return marks.encode(y="agent_id", color=charts.level_color(), shape=charts.level_shape()).properties(title=name)


def shown(chart: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a notebook keeps of a chart."""
    data, metadata = chart._repr_mimebundle_(None, None)
    return dict(data), dict(metadata)


def test_notebooks_keep_a_chart_for_jupyterlab_that_asks_no_foreign_host() -> None:
    """JupyterLab 4 draws Vega-Lite 5; the menu does not offer Vega's editor, which would get the data."""
    data, metadata = shown(levels_chart())
    assert set(data) == {VEGA_LITE_MIME, "text/plain"}
    assert data["text/plain"] == "<chart: Clerk>"
    assert data[VEGA_LITE_MIME]["config"]["mark"]["tooltip"] is True
    assert metadata[VEGA_LITE_MIME]["embed_options"]["actions"]["editor"] is False
    assert set(re.findall(r"https?:[^\"]+", json.dumps(data))) == {"https://vega.github.io/schema/vega-lite/v5.json"}


def test_a_page_is_whole_harmless_and_asks_no_foreign_host() -> None:
    """Charts are pictures with their description; names from outside stay text."""
    data, metadata = shown(levels_chart(EVIL))
    output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
    page = render_page(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("chart", outputs=[output])]), "one")
    assert page.count('src="data:image/png;base64,') == 1
    assert 'alt="&lt;/script&gt;&lt;script&gt;alert(1)' in page
    assert "alert(1)</script>" not in page
    assert VEGA_LITE_MIME in output["data"], "the executed notebook keeps the chart"
    assert re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page) == []

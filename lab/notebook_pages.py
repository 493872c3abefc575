"""Pages of notebooks that were run: each is one file that needs no network, with charts that answer to the mouse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from .chart_look import VEGA_LITE_MIME, console_inks
from .chart_tables import tables_in_html


def render_page(notebook: Any, title: str) -> str:
    """The page of an executed notebook, in HTML."""
    from nbconvert import HTMLExporter

    none = dict.fromkeys(("require_js_url", "jquery_url", "mathjax_url", "mermaid_js_url"), "")
    exporter: Any = HTMLExporter(**none, exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(_with_figures(notebook), resources={"metadata": {"name": title}})
    head = f"<style>\n{_console_variables()}\n{_asset('notebook.css')}</style>\n</head>"
    foot = f"<script>{_vega_script()}</script>\n<script>\n{_asset('notebook.js')}</script>\n</body>"
    page: str = head.join(body.rsplit("</head>", 1))
    return foot.join(page.rsplit("</body>", 1))


def count_charts(notebook: Any) -> int:
    """Number of charts that an executed notebook shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum(VEGA_LITE_MIME in output.get("data", {}) for output in outputs)


def _with_figures(notebook: Any) -> Any:
    """A copy whose charts are figures of HTML: nbconvert would show the picture alone."""
    copy = deepcopy(notebook)
    for cell in copy.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if VEGA_LITE_MIME in data:
                output["data"] = {"text/html": _figure(data)}
    return copy


def _figure(data: Mapping[str, Any]) -> str:
    """A chart with its specification, and its picture for readers without script."""
    spec = data[VEGA_LITE_MIME]
    notes = "".join(f"<span>{escape(note)}</span>" for note in spec["title"].get("subtitle", ()))
    picture = f'<img alt="{escape(spec["description"])}" src="data:image/png;base64,{data["image/png"].strip()}">'
    return (
        f'<figure class="chart"><figcaption>{escape(spec["title"]["text"])}{notes}</figcaption>'
        f'<div class="panels">{picture}</div>{tables_in_html(spec)}'
        f'<script type="application/json">{_json_in_html(spec)}</script></figure>'
    )


def _json_in_html(value: Any) -> str:
    """JSON that stays inside of its element, whatever agents are called."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _console_variables() -> str:
    """The console's colours as variables, light and dark."""
    light, dark = (
        " ".join(f"--{name}: {colour};" for name, colour in zip(console_inks(), side, strict=True))
        for side in zip(*console_inks().values(), strict=True)
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def _asset(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


@cache
def _vega_script() -> str:
    """Vega, Vega-Lite and vega-embed in one script; it takes seconds to put together."""
    from vl_convert import javascript_bundle

    return str(javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("</script", "<\\/script")

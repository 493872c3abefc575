"""All notebooks run from top to bottom on a freshly made example, and show what happened in it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from trustwatch.lab.chart_look import VEGA_LITE_MIME

from ..support.checkout import ROOT
from ..support.chromium_browser import open_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
ATTACKED = ("agent-calendar-assistant-1", "agent-orchestrator-0")


class Executed:
    """One executed notebook."""

    def __init__(self, path: Path) -> None:
        cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
        self.outputs = [output for cell in cells for output in cell.get("outputs", ())]
        self.charts = [output for output in self.outputs if VEGA_LITE_MIME in output.get("data", {})]
        self.file = path.with_suffix(".html")
        self.page = self.file.read_text(encoding="utf-8")

    @property
    def text(self) -> str:
        """Everything that cells told in words."""
        return "\n".join(
            "".join(output.get("data", {}).get("text/plain", output.get("text", ""))) for output in self.outputs
        )


@pytest.fixture(scope="module")
def executed(example: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Executed]:
    """By the number of the notebook; as `make notebooks-html` does it, on an example that was made in this run."""
    folder = tmp_path_factory.mktemp("notebooks")
    command = [
        sys.executable,
        "-m",
        "trustwatch",
        "lab",
        "--example",
        str(example),
        "--notebooks",
        str(ROOT / "notebooks"),
        "--run",
        str(folder / "out"),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path.name[:2]: Executed(path) for path in sorted((folder / "out").glob("*.ipynb"))}


def test_all_of_them_ran_without_a_word_of_warning(executed: dict[str, Executed]) -> None:
    """Nothing on stderr, in any."""
    assert list(executed) == ["01", "02", "03", "04", "05", "06"]
    for name, book in executed.items():
        assert [output for output in book.outputs if output["output_type"] == "stream"] == [], name


def test_every_notebook_has_charts_that_are_described(executed: dict[str, Executed]) -> None:
    """Each with a picture for readers without script; the description is in the notebook and on the page."""
    for name, book in executed.items():
        assert len(book.charts) >= 2, name
        assert book.page.count('<figure class="chart">') == len(book.charts)
        for chart in book.charts:
            png = base64.b64decode(chart["data"]["image/png"])
            assert png.startswith(b"\x89PNG")
            assert len(png) > 5_000
            assert len(chart["metadata"]["image/png"]["alt"]) > 20
            assert escape(chart["metadata"]["image/png"]["alt"]) in book.page


def test_pages_name_no_foreign_host(executed: dict[str, Executed]) -> None:
    """No script, style or picture from elsewhere."""
    for name, book in executed.items():
        assert re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']*""", book.page) == [], name


def open_page(browser: Browser, book: Executed, width: int, scheme: Literal["light", "dark"]) -> tuple[Page, list[str]]:
    """The page with all its charts drawn, and what was fetched or went wrong."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    page.on("request", lambda request: wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.goto(book.file.as_uri())
    page.locator("figure.chart svg.marks").nth(len(book.charts) - 1).wait_for()
    return page, wrong


def test_charts_on_a_page_answer_and_ask_nobody(executed: dict[str, Executed]) -> None:
    """In a browser, light and dark, wide and narrow: drawn, filtered by a click on the legend; nothing is fetched."""
    colours: tuple[tuple[int, Literal["light", "dark"], str, str], ...] = (
        (1440, "light", "#b0102a", "#1d6b3f"),
        (400, "dark", "#ff8b98", "#7fd3a0"),
    )
    with open_chromium() as browser:
        for width, scheme, critical, low in colours:
            page, wrong = open_page(browser, executed["01"], width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            levels = page.locator("figure.chart").first
            bars = levels.locator(f'.mark-rect path[fill="{critical}"]')
            assert bars.count() == len(ATTACKED)
            levels.locator(".role-legend-label text", has_text="critical").click()
            levels.locator(f'.mark-rect path[fill="{low}"]').first.wait_for(state="detached")
            bars.first.hover()
            assert "critical" in page.locator("#vg-tooltip-element").inner_text()
            assert [text for text in wrong if not text.startswith(("file:", "data:"))] == []


def test_they_find_what_was_done_to_the_example(executed: dict[str, Executed]) -> None:
    """The attacked agents are where an analyst looks, with the reason; the policy would have stopped both."""
    for agent in ATTACKED:
        assert agent in executed["01"].text
        assert agent in executed["06"].text
    assert ATTACKED[0] in executed["02"].text
    assert "not among the declared capabilities" in executed["02"].text
    assert ATTACKED[0] in executed["03"].text
    assert "candidate" in executed["04"].text
    assert "bad sessions detected at medium" in executed["04"].text
    assert re.search(r"critical.+20", executed["05"].text, re.S)
    revoked = re.search(r"revoke at high: (\d+) revoked", executed["06"].text)
    assert revoked is not None
    assert int(revoked[1]) >= len(ATTACKED)
    assert len(re.findall(r"True", executed["06"].text)) >= 2

"""All notebooks run from top to bottom on a freshly made example, and show what happened in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import gather_site
from trustwatch.lab.charts import VEGA_LITE_MIME

from ..support.checkout import ROOT
from ..support.chromium_browser import open_chromium

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
ATTACKED = ("agent-calendar-assistant-1", "agent-orchestrator-0")


class Executed:
    """One executed notebook."""

    def __init__(self, path: Path) -> None:
        cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
        self.outputs = [output for cell in cells for output in cell.get("outputs", ())]
        self.charts = [
            output["data"][VEGA_LITE_MIME] for output in self.outputs if VEGA_LITE_MIME in output.get("data", {})
        ]
        self.file = path.with_suffix(".html")
        self.page = self.file.read_text(encoding="utf-8")

    @property
    def text(self) -> str:
        """Everything that cells told as text or in a table."""
        kinds = ("text/plain", "text/html")
        return "\n".join("".join(output.get("data", {}).get(kind, "")) for output in self.outputs for kind in kinds)

    def rows(self, *columns: str) -> list[dict[str, Any]]:
        """Rows that a chart embeds, of the first that has all the columns."""
        datasets = (rows for chart in self.charts for rows in chart["datasets"].values())
        return next(rows for rows in datasets if rows and set(columns) <= set(rows[0]))


@pytest.fixture(scope="module")
def executed(example: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Executed]:
    """By the number of the notebook; as `make notebooks-html` does it, on an example that was made in this run."""
    return run(["--example", str(example)], tmp_path_factory.mktemp("notebooks"))


def run(arguments: list[str], folder: Path, notebooks: Path = ROOT / "notebooks") -> dict[str, Executed]:
    command = [sys.executable, "-m", "trustwatch", "lab", *arguments, "--notebooks", str(notebooks)]
    done = subprocess.run([*command, "--run", str(folder / "out")], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path.name[:2]: Executed(path) for path in sorted((folder / "out").glob("*.ipynb"))}


def test_pages_are_whole_in_a_browser(executed: dict[str, Executed]) -> None:
    """Every picture is drawn, nothing is fetched, and a wide screen shows all without scrolling aside."""
    with open_chromium() as browser:
        for name, book in executed.items():
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            fetched: list[str] = []
            page.on("request", lambda request, fetched=fetched: fetched.append(request.url))
            page.goto(book.file.as_uri())
            sizes = page.evaluate("[...document.images].map((image) => image.complete ? image.naturalWidth : 0)")
            assert len(sizes) == len(book.charts), name
            assert min(sizes) > 200, name
            assert page.evaluate("document.documentElement.scrollWidth") <= 1440, name
            assert [url for url in fetched if not url.startswith(("file:", "data:"))] == [], name


def test_they_find_what_was_done_to_the_example(executed: dict[str, Executed]) -> None:
    """The attacked agents are where an analyst looks, with the reason; the policy would have stopped both."""
    for agent in ATTACKED:
        assert agent in executed["01"].text
        assert agent in executed["06"].text
    bars = {(row["level"], row["agents"]) for row in executed["01"].rows("level", "agents")}
    assert sum(number for level, number in bars if level == "critical") >= 1
    assert ATTACKED[0] in executed["02"].text
    assert "not among the declared capabilities" in executed["02"].text
    assert executed["02"].rows("feature", "share")[0]["share"] > 0
    assert ATTACKED[0] in executed["03"].text
    assert {row["whose"] for row in executed["03"].rows("kind", "item", "share")} >= {ATTACKED[0]}
    assert "candidate" in executed["04"].text
    assert {row["model"] for row in executed["04"].rows("detected")} == {"active", "candidate"}
    found = executed["05"].rows("factor", "detected")
    assert {row["factor"] for row in found} == {0.2, 0.5, 1, 2, 5, 20}
    assert all(row["detected"] >= 1 for row in found if row["factor"] == 20)
    revoked = executed["06"].rows("policy", "agent_id", "later_events")
    for policy in ("as set", "revoke at high"):
        assert {row["agent_id"] for row in revoked if row["policy"] == policy} >= set(ATTACKED)
    assert not any(row["policy"] == "ask a person, never revoke" for row in revoked)
    assert executed["06"].text.count("2026-01-13 10:08:23.167") >= 2, "the first bad event, under two policies"


def test_they_run_without_labels_and_on_an_hour_in_which_nothing_was_revoked(example: Path, tmp_path: Path) -> None:
    """As on most services: charts and tables are empty, and nothing fails or warns."""
    copy, notebooks = tmp_path / "example", tmp_path / "notebooks"
    shutil.copytree(example, copy)
    (copy / "data" / "labels.jsonl").unlink()
    shutil.copytree(ROOT / "notebooks", notebooks)
    for path in notebooks.glob("0[1456]*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert '"HOURS = 24 ' in text
        path.write_text(text.replace('"HOURS = 24 ', '"HOURS = 1 '), encoding="utf-8")
    for book in run(["--settings", str(copy / "settings.yaml")], tmp_path, notebooks).values():
        assert [output for output in book.outputs if output["output_type"] == "stream"] == [], book.file.name


def test_the_site_links_to_the_executed_pages(
    executed: dict[str, Executed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's link leads to its page, if there is one; else it is text."""
    monkeypatch.setattr(gather_site, "EXECUTED", executed["01"].file.parent)
    gather_site.copy_pages(tmp_path / "pages")
    links = re.findall(r"\((\.\./notebooks/[^)]+)\)", (tmp_path / "pages" / "docs" / "notebooks.md").read_text())
    assert [link.removeprefix("../notebooks/") for link in links] == [book.file.name for book in executed.values()]
    assert all((tmp_path / "pages" / "docs" / link).is_file() for link in links)
    monkeypatch.setattr(gather_site, "EXECUTED", tmp_path / "none")
    gather_site.copy_pages(tmp_path / "pages")
    assert "../notebooks/" not in (tmp_path / "pages" / "docs" / "notebooks.md").read_text()

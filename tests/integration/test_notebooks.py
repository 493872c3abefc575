"""All notebooks run from top to bottom on a freshly made example, and show what happened in it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..support.checkout import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
ATTACKED = ("agent-calendar-assistant-1", "agent-orchestrator-0")


class Executed:
    """One executed notebook."""

    def __init__(self, path: Path) -> None:
        cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
        self.outputs = [output for cell in cells for output in cell.get("outputs", ())]
        self.pictures = [output for output in self.outputs if "image/png" in output.get("data", {})]
        self.page = path.with_suffix(".html").read_text(encoding="utf-8")

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


def test_every_notebook_has_pictures_that_are_described(executed: dict[str, Executed]) -> None:
    """PNGs with something in them; the description is in the notebook and on the page."""
    for name, book in executed.items():
        assert len(book.pictures) >= 2, name
        for picture in book.pictures:
            png = base64.b64decode(picture["data"]["image/png"])
            assert png.startswith(b"\x89PNG")
            assert len(png) > 10_000
            assert len(picture["metadata"]["image/png"]["alt"]) > 20
        assert "No description has been provided" not in book.page


def test_pages_need_no_network(executed: dict[str, Executed]) -> None:
    """No script, style or picture from elsewhere."""
    for name, book in executed.items():
        assert re.findall(r"""(?:src|href)=["']https?://[^"']+\.(?:js|css)""", book.page) == [], name


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

"""Committed notebooks hold text, calls and charts: no outputs, no logic, nothing imported but ours, pandas, Altair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..support.checkout import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    """Cells of one kind, with their text as one string."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "text": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_that_was_run_is_committed(path: Path) -> None:
    """Outputs are somebody's data, and change with every run."""
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_can_be_used_on_settings_of_ones_own(path: Path) -> None:
    """The first code cell holds what a user changes, and is marked for tools that do so; the second opens it."""
    first, second, *_ = cells(path, "code")
    assert "parameters" in first["metadata"]["tags"]
    assert "SETTINGS = None" in first["text"]
    assert "open_session(SETTINGS)" in second["text"]

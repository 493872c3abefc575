"""Committed notebooks hold text, calls and charts: no outputs, no logic, nothing imported but ours, pandas, Altair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..support.checkout import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "text": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_that_was_run_is_committed(path: Path) -> None:
    """Outputs are somebody's data, and change with every run."""
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None

"""Committed notebooks hold text, calls and charts: no outputs, no logic, nothing imported but ours, pandas, Altair."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ..support.checkout import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_STATEMENTS = 7
MOST_LINES = 25
IMPORTED = ("altair", "pandas")
LOGIC = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.For,
    ast.While,
    ast.If,
    ast.IfExp,
    ast.With,
    ast.Try,
    ast.Assert,
    ast.Delete,
    ast.Raise,
    ast.AugAssign,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.BoolOp,
    ast.Global,
    ast.Await,
)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    """Cells of one kind, with their text as one string."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "text": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


def logic_in(text: str) -> list[str]:
    """What of a cell belongs into a module."""
    return [type(node).__name__ for node in ast.walk(ast.parse(text)) if isinstance(node, LOGIC)]


def imported_by(tree: ast.Module) -> list[str]:
    """Names of the modules that a cell imports."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return found


def test_there_are_six() -> None:
    """One for each question."""
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_that_was_run_is_committed(path: Path) -> None:
    """Outputs are somebody's data, and change with every run."""
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_is_a_few_calls_or_a_chart(path: Path) -> None:
    """No logic, few statements, and no import but of ours, pandas and Altair."""
    for cell in cells(path, "code"):
        assert logic_in(cell["text"]) == [], cell["text"]
        tree = ast.parse(cell["text"])
        calls = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
        assert len(calls) <= MOST_STATEMENTS, cell["text"]
        assert len(cell["text"].splitlines()) <= MOST_LINES, cell["text"]
        assert [name for name in imported_by(tree) if name not in IMPORTED and not name.startswith("trustwatch.")] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_can_be_used_on_settings_of_ones_own(path: Path) -> None:
    """The first code cell holds what a user changes, and is marked for tools that do so; the second opens it."""
    first, second, *_ = cells(path, "code")
    assert "parameters" in first["metadata"]["tags"]
    assert "SETTINGS = None" in first["text"]
    assert "open_session(SETTINGS)" in second["text"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_teaches(path: Path) -> None:
    """A title, how to read the pictures, what to do; links lead somewhere."""
    texts = [cell["text"] for cell in cells(path, "markdown")]
    assert texts[0].startswith("# ")
    told = "\n".join(texts)
    assert "**How to read it.**" in told
    assert "**What to do.**" in told
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", told):
        assert (path.parent / target).exists(), target


def test_the_rule_bites() -> None:
    """Logic is seen wherever it hides."""
    for text in ("x = [a for a in b]", "if a: b()", "def f(): pass", "f(lambda: 1)", "a or b", "x = 1 if a else 2"):
        assert logic_in(text), text
    assert logic_in("alt.Chart(frames.agents(session)[['a', 'b']].head(8)).mark_bar()") == []
    assert imported_by(ast.parse("import os\nfrom sys import path")) == ["os", "sys"]

"""Editors lead from a name to the one file that defines it, and from a class to its uses, in a clone of any name."""

from __future__ import annotations

import re
from pathlib import Path

import jedi
import pytest

from ..support.checkout import ROOT

DEFINITION = "ingest/duplicate_window.py"
IMPORTS_CLASS = re.compile(r"^\s*from \S*\bduplicate_window import .*\bDuplicateWindow\b", re.MULTILINE)
FOLDERS = ("api", "benchmarks", "examples", "ingest", "lab", "models", "scoring", "scripts", "simulator", "tests")


class Checkout:
    """The checkout as jedi sees it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a-clone"
        self.root.symlink_to(ROOT)
        self._project = jedi.Project(self.root)

    def definition(self, file: str, line_start: str, name: str) -> list[tuple[str, str]]:
        """(file, text of the line) that *name* leads to, on the first line of *file* that begins with *line_start*."""
        row, column = self._position(file, line_start, name)
        targets = self._script(file).goto(row, column, follow_imports=True)
        return [(self._file_of(target), target.get_line_code().strip()) for target in targets]

    def references(self, file: str, line_start: str, name: str) -> set[str]:
        """Files that use *name*."""
        row, column = self._position(file, line_start, name)
        return {self._file_of(use) for use in self._script(file).get_references(row, column)}

    def _script(self, file: str) -> jedi.Script:
        return jedi.Script(path=self.root / file, project=self._project)

    def _position(self, file: str, line_start: str, name: str) -> tuple[int, int]:
        lines = (self.root / file).read_text().splitlines()
        row, line = next((row, line) for row, line in enumerate(lines, 1) if line.startswith(line_start))
        return row, line.index(name)

    def _file_of(self, name: jedi.api.classes.Name) -> str:
        assert name.module_path is not None
        return name.module_path.resolve().relative_to(ROOT).as_posix()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize(
    ("file", "line_start"),
    [
        ("tests/ingest/test_duplicate_window.py", "from trustwatch.ingest.duplicate_window import"),
        ("benchmarks/bench_pipeline.py", "from trustwatch.ingest.duplicate_window import"),
        ("scoring/pipeline/processor.py", "from trustwatch.ingest.duplicate_window import"),
    ],
)
def test_a_name_leads_to_the_one_file(checkout: Checkout, file: str, line_start: str) -> None:
    """From product, tests and benchmarks."""
    assert checkout.definition(file, line_start, "DuplicateWindow") == [(DEFINITION, "class DuplicateWindow:")]


def test_a_helper_of_tests_is_found(checkout: Checkout) -> None:
    """Tests import helpers relatively."""
    file, line_start = "tests/api/archive/test_worker.py", "from ...support.checkout import"

    ((found_in, line),) = checkout.definition(file, line_start, "process_command")

    assert (found_in, line.partition("(")[0]) == ("tests/support/checkout.py", "def process_command")


def test_a_class_leads_to_its_uses(checkout: Checkout) -> None:
    """In every file of product, tests and benchmarks that imports it, from the path that an editor opens it by."""
    importing = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if IMPORTS_CLASS.search(path.read_text())
    }

    assert {path.split("/")[0] for path in importing} >= {"api", "scoring", "tests", "benchmarks"}
    assert checkout.references(f"trustwatch/{DEFINITION}", "class DuplicateWindow", "DuplicateWindow") == {
        DEFINITION,
        *importing,
    }

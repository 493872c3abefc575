"""CI runs every test: by targets that are there, from folders that hold them all, some of a kind on each push and more
each night."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.checkout import ROOT


def sizes() -> Iterator[tuple[str, dict[str, int]]]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "size":
                given = {word.arg or "": ast.literal_eval(word.value) for word in node.keywords}
                yield f"{path.relative_to(ROOT)}:{node.lineno}", given


def test_each_push_has_some_of_what_the_night_has_more_of() -> None:
    found = dict(sizes())
    assert len(found) >= 4
    wrong = {place: given for place, given in found.items() if not 0 < given["each_push"] < given["nightly"]}
    assert wrong == {}


def test_what_ci_runs_is_there() -> None:
    """Each `make` of the two scripts names a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for script in ("run", "nightly"):
        text = (ROOT / ".ci" / script).read_text(encoding="utf-8")
        named = set(re.findall(r"^make (?:-\S+ (?:\d+ )?)*([a-z-]+)", text, re.MULTILINE))
        assert named and named <= targets, named - targets


@pytest.mark.parametrize(
    ("marker", "folders"),
    [("integration", ["contract", "integration", "lab"]), ("acceptance", ["acceptance"]), ("wheel", ["wheel"])],
)
def test_tests_with_a_marker_lie_where_they_are_collected(marker: str, folders: list[str]) -> None:
    """The targets look into these folders alone, since collecting all tests takes as long as many of them."""
    for folder in folders:
        assert f"tests/{folder}" in (ROOT / "Makefile").read_text() + (ROOT / "scripts" / "test-wheel").read_text()
    marked = {
        path.relative_to(ROOT / "tests").parts[0]
        for path in (ROOT / "tests").rglob("*.py")
        if f"pytest.mark.{marker}" in path.read_text(encoding="utf-8") and path != Path(__file__)
    }
    assert marked == set(folders)

"""The page of standards names tests that are there: a row is true as long as its test is."""

from __future__ import annotations

import re

from ..support.checkout import ROOT

PAGE = (ROOT / "reference" / "standards.md").read_text()


def test_every_test_that_a_row_names_is_there() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^(?:async )?def (test_\w+)", sources, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 60
    assert named - there == set()


def test_every_module_that_a_row_names_is_there() -> None:
    """By its path, or in the folder that the page names."""
    named = set(re.findall(r"`((?:[\w/]+/)?test_\w+\.py)`", PAGE))
    places = (ROOT, ROOT / "tests" / "api" / "shared_signals")
    assert len(named) > 10
    assert [name for name in named if not any((place / name).exists() for place in places)] == []

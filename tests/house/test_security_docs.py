"""docs/security.md and tests/attacks.md: every test that is named is there, and as many cases are tried as is told."""

from __future__ import annotations

import re

import pytest

from ..support.checkout import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TRIED = (ROOT / "tests" / "attacks.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| [^|]+ \| (`tests/[^|]+) \| ([\d,]+) \|$", re.MULTILINE)
TOLD = {tuple(re.findall(r"`([^`]+)`", places)): int(cases.replace(",", "")) for places, cases in ROW.findall(TRIED)}
"""Cases by the files and folders that hold them."""


def test_the_named_tests_exist() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 20
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_the_named_files_exist() -> None:
    assert len(TOLD) >= 10
    assert [path for places in TOLD for path in places if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("places", TOLD, ids=lambda places: places[0])
def test_as_many_cases_are_tried_as_are_told(request: pytest.FixtureRequest, places: tuple[str, ...]) -> None:
    """Fewer than the table says would be a claim that no longer holds; more may come between two counts."""
    run = [item.nodeid for item in request.session.items]
    if len(run) < sum(TOLD.values()):
        pytest.skip("NOT ALL COLLECTED: `make test` runs this")
    assert sum(name.startswith(places) for name in run) >= TOLD[places]

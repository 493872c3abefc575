"""docs/threat-model.md: every test that a threat names is there, and every asset that it names too."""

from __future__ import annotations

import re

from ..support.checkout import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
THREATS = PAGE.partition("\n## Threats\n")[2].partition("\n## ")[0]
ROWS = [line for line in THREATS.splitlines() if line.startswith("| ") and not line.startswith("| threat")]


def test_every_threat_names_a_control_and_a_test() -> None:
    """Four columns, none of them empty, the last one with a test."""
    assert len(ROWS) > 30
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, row
        assert all(cells), row
        assert re.search(r"`tests/[\w/]+\.py", cells[3]), row


def test_the_named_tests_exist() -> None:
    """A test that was renamed or removed leaves its threat without a witness."""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", THREATS):
        assert (ROOT / path).is_file(), path
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name or 'test_'}" in source, f"{path}::{name}"


def test_every_asset_is_threatened_and_known() -> None:
    """Letters in the rows are those of the table of assets."""
    known = set(re.findall(r"^\| (A\d) ", PAGE, re.MULTILINE))
    named = {asset for row in ROWS for asset in re.findall(r"\bA\d\b", row)}
    assert named == known

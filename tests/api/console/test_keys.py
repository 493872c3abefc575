"""Keyboard shortcuts: each page of the menu has a different one."""

from __future__ import annotations

import re

from trustwatch.api.console.pages import MENU

from ...support.checkout import ROOT


def test_each_entry_of_the_menu_has_a_key_of_its_own() -> None:
    keys = [entry.key for entry in MENU]
    assert all(re.fullmatch("[a-z]", key) for key in keys)
    assert len(set(keys)) == len(keys)


def test_the_reference_lists_them() -> None:
    text = (ROOT / "docs/console.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^- `g` `(\w)`: (\w[\w ]*\w)", text, re.MULTILINE))
    assert listed == {entry.key: entry.title for entry in MENU}

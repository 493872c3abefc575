"""`reference/` holds what the declarations say: settings, metrics, features, topics."""

from __future__ import annotations

import pytest

from scripts.write_reference import PAGES, REFERENCE

BY_HAND = (
    "backup.md",
    "code.md",
    "command-line.md",
    "questions.md",
    "runbooks.md",
    "simulator.md",
    "sources.md",
    "standards.md",
    "traces.md",
)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_declarations_give(name: str) -> None:
    """`python -m scripts.write_reference` writes them."""
    assert (REFERENCE / name).read_text(encoding="utf-8") == PAGES[name]()


def test_every_page_is_known() -> None:
    assert {path.name for path in REFERENCE.iterdir()} == {*PAGES, *BY_HAND}

"""An entry in the menu."""

from __future__ import annotations

from typing import NamedTuple


class MenuEntry(NamedTuple):
    """One page. *scope* is what a person needs to see it; others do not see the entry either."""

    title: str
    path: str
    scope: str

"""Indicators of an agent's rise: by moment, and marked in tables if they are new."""

from __future__ import annotations

import re

from trustwatch.api.console.pages.agent_page import new_names
from trustwatch.api.console.rendering import PageRenderer, StaticAssets
from trustwatch.scoring.records.indicators import Indicator

ROTATED, STOLEN = "2026-11-28T00:36:31.000Z", "2026-11-28T18:03:58.000Z"
INDICATORS = (
    Indicator("network", "AS65537", "new", STOLEN),
    Indicator("address", "10.0.0.112", "with_new", ROTATED),
    Indicator("address", "203.0.113.229", "with_new", STOLEN),
    Indicator("credential", "private_key_jwt k-2", "not_remembered", ROTATED),
    Indicator("key", "k-1", "known", STOLEN),
    Indicator("session", "s-9", "not_tracked", STOLEN),
)


def told(*indicators: Indicator) -> list[str]:
    """Moments, values and words that the macro of pages writes, in their order."""
    environment = PageRenderer(StaticAssets(), (), lambda: 0)._environment
    made = str(environment.get_template("macros.html").module.came_with(indicators))  # type: ignore[attr-defined]
    return re.findall(
        r'datetime="([^"]*)"|<code>([^<]*)</code>|<span class="chip[^>]*>([^<]*)<|<summary>([^<]*)<', made
    )


def test_a_theft_and_a_rotated_key_are_two_moments() -> None:
    assert ["".join(found) for found in told(*INDICATORS)] == [
        *(STOLEN, "AS65537", "new", "203.0.113.229"),
        *(ROTATED, "10.0.0.112", "private_key_jwt k-2", "not remembered"),
        *("Beside it: 2", "k-1", "known", "s-9"),
    ]
    assert ["".join(found) for found in told(*INDICATORS[4:])] == ["What it came with: 2", "k-1", "known", "s-9"]


def test_tables_mark_what_is_new_by_itself() -> None:
    """The agent's own address and software came with a new key, and are not new."""
    assert new_names(INDICATORS) == {("network", "AS65537"), ("credential", "private_key_jwt k-2")}

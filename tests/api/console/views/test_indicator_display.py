"""What an agent's rise came with, for people: by the moment it came, and marked in tables where it is new by itself."""

from __future__ import annotations

from trustwatch.api.console.views.indicator_display import display_indicators, new_names
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


def test_a_theft_and_a_rotated_key_are_two_moments() -> None:
    """The latest first; what came with something new says so by its place, and what is known stands apart."""
    shown = display_indicators(INDICATORS)

    assert [(one.at, [part.value for part in one.indicators]) for one in shown.new] == [
        (STOLEN, ["AS65537", "203.0.113.229"]),
        (ROTATED, ["10.0.0.112", "private_key_jwt k-2"]),
    ]
    assert [part.words for one in shown.new for part in one.indicators] == ["new", "", "", "not remembered"]
    assert [(one.value, one.words) for one in shown.others] == [("k-1", "known"), ("s-9", "")]


def test_tables_mark_what_is_new_by_itself() -> None:
    """The agent's own address and software came with a new key, and are not new."""
    assert new_names(INDICATORS) == {("network", "AS65537"), ("credential", "private_key_jwt k-2")}

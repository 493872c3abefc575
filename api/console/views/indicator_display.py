"""Indicators for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trustwatch.scoring.records.indicators import NEW_STATUSES, STATUS_WORDS, Indicator, IndicatorKind


class DisplayedIndicator(NamedTuple):
    """One indicator; *words* say whether it is new, "" = nothing is known of that by itself."""

    kind: str
    value: str
    words: str
    at: str


class IndicatorMoment(NamedTuple):
    """Indicators of one event that were new, or came with something new; its time as RFC 3339."""

    at: str
    indicators: tuple[DisplayedIndicator, ...]


class DisplayedIndicators(NamedTuple):
    """Indicators of a rise: those of something new by the moment of their event, the latest first; and the others."""

    new: tuple[IndicatorMoment, ...]
    others: tuple[DisplayedIndicator, ...]


NewNames = frozenset[tuple[IndicatorKind, str]]
"""Kind and value of what is new."""


def display_indicators(indicators: Sequence[Indicator]) -> DisplayedIndicators:
    """Indicators as pages show them, in their order."""
    new = [one for one in indicators if one.status in NEW_STATUSES]
    moments = sorted({one.at for one in new}, reverse=True)
    return DisplayedIndicators(
        tuple(IndicatorMoment(at, tuple(_display(one) for one in new if one.at == at)) for at in moments),
        tuple(_display(one) for one in indicators if one.status not in NEW_STATUSES),
    )


def _display(one: Indicator) -> DisplayedIndicator:
    words = "" if one.status == "with_new" else STATUS_WORDS[one.status]
    return DisplayedIndicator(one.kind, one.value, words, one.at)


def new_names(indicators: Sequence[Indicator]) -> NewNames:
    """Names that tables of events mark: not what merely came with something new, such as the agent's own software."""
    return frozenset((one.kind, one.value) for one in indicators if one.status in ("new", "not_remembered"))

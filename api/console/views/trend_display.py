"""Trends as drawings made on the server, each with the rows of the table under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup

from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.cases import CaseStatistics

from ...decisions.trends import DayOfChanges
from ...svg_charts import ChartAxis, ChartSeries, bar_chart, line_chart
from .model_display import format_day_number

SHOWN_LEVELS: Final = (RiskLevel.MEDIUM, RiskLevel.HIGH, RiskLevel.CRITICAL)
MAX_REASONS: Final = 12
LEAST_AXIS: Final = 4
"""Up to here at least an axis goes: its ticks are then whole numbers, as what it counts."""


class DayOfCases(NamedTuple):
    """Cases of one day of UTC since 1970; *accepted*: false alerts that the budget allows for, None = not counted."""

    day: int
    opened: int
    closed: int
    accepted: float | None


class ShownReason(NamedTuple):
    """A reason that led rises to medium or above. *share* is of those that kept one, 0 to 1."""

    code: str
    amount: int
    share: float


def changes_chart(days: Sequence[DayOfChanges]) -> Markup:
    """Rises by day, stacked by the level that they came to."""
    labels = [format_day_number(one.day)[5:] for one in days]
    series = [
        ChartSeries(level.label, [(at, one.rises.get(level, 0)) for at, one in enumerate(days)], level.label)
        for level in SHOWN_LEVELS
    ]
    most = max((sum(one.rises.values()) for one in days), default=0)
    title = "Rises of agents by day, by the level they came to"
    day = ChartAxis("Day (UTC)", table_format=lambda at: format_day_number(days[int(at)].day))
    falls = [ChartSeries("falls, of any level", [(at, one.falls) for at, one in enumerate(days)], "")]
    return bar_chart(title, labels, ChartAxis("rises", maximum=max(most, LEAST_AXIS)), series, falls, day)


def days_of_cases(
    days: Sequence[int], opened: CaseStatistics | None, closed: Mapping[int, int], accepted: Mapping[int, float]
) -> list[DayOfCases]:
    """Cases by day, whether any was opened or not."""
    by_day = {} if opened is None else opened.by_day
    return [DayOfCases(day, by_day.get(day, 0), closed.get(day, 0), accepted.get(day)) for day in days]


def cases_chart(days: Sequence[DayOfCases]) -> Markup:
    """Cases that were opened and closed by day, against the false alerts that the budget accepts."""
    series = [
        ChartSeries("opened", [(one.day, one.opened) for one in days], "first"),
        ChartSeries("closed", [(one.day, one.closed) for one in days], "second dashed"),
    ]
    accepted = [(float(one.day), one.accepted) for one in days if one.accepted is not None]
    if accepted:
        series.append(ChartSeries("false alerts that the budget accepts", accepted, "allowed"))
    across = ChartAxis("day (UTC)", tick_format=lambda day: format_day_number(day)[5:], table_format=format_day_number)
    most = max((value for line in series for _, value in line.points), default=0.0)
    return line_chart("Cases by day", across, ChartAxis("cases", 0.0, max(most, LEAST_AXIS)), series)


def top_reasons(reasons: Sequence[tuple[str, int]]) -> list[ShownReason]:
    """The most frequent leading reasons, with their share of all."""
    whole = sum(amount for _, amount in reasons)
    return [ShownReason(code, amount, amount / whole) for code, amount in reasons[:MAX_REASONS]]

"""Trends as drawings made on the server, each with the rows of the table under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup

from trustwatch.ingest.timestamps import DAY_S
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.cases import CaseStatistics

from ...charts import ChartAxis, ChartSeries, chart
from ...decisions.trends import DayOfChanges

SHOWN_LEVELS: Final = (RiskLevel.MEDIUM, RiskLevel.HIGH, RiskLevel.CRITICAL)
MAX_REASONS: Final = 12


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
    series = [
        ChartSeries(level.label, [(one.day * DAY_S, one.rises.get(level, 0)) for one in days], level.label)
        for level in SHOWN_LEVELS
    ]
    falls = ChartSeries("falls, of any level", [(one.day * DAY_S, one.falls) for one in days], drawn=False)
    title, rises = "Rises of agents by day, by the level they came to", ChartAxis("rises", 0.0, kind="count")
    return chart(title, ChartAxis("day (UTC)", kind="utc"), rises, [*series, falls], bars=True)


def days_of_cases(
    days: Sequence[int], opened: CaseStatistics | None, closed: Mapping[int, int], accepted: Mapping[int, float]
) -> list[DayOfCases]:
    """Cases by day, whether any was opened or not."""
    by_day = {} if opened is None else opened.by_day
    return [DayOfCases(day, by_day.get(day, 0), closed.get(day, 0), accepted.get(day)) for day in days]


def cases_chart(days: Sequence[DayOfCases]) -> Markup:
    """Cases that were opened and closed by day, against the false alerts that the budget accepts."""
    series = [
        ChartSeries("opened", [(one.day * DAY_S, one.opened) for one in days], "first"),
        ChartSeries("closed", [(one.day * DAY_S, one.closed) for one in days], "second dashed"),
    ]
    accepted = [(float(one.day * DAY_S), one.accepted) for one in days if one.accepted is not None]
    if accepted:
        series.append(ChartSeries("false alerts that the budget accepts", accepted, "allowed"))
    return chart("Cases by day", ChartAxis("day (UTC)", kind="utc"), ChartAxis("cases", 0.0, kind="count"), series)


def top_reasons(reasons: Sequence[tuple[str, int]]) -> list[ShownReason]:
    """The most frequent leading reasons, with their share of all."""
    whole = sum(amount for _, amount in reasons)
    return [ShownReason(code, amount, amount / whole) for code, amount in reasons[:MAX_REASONS]]

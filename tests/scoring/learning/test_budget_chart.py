"""The control chart of the false-alert budget."""

from __future__ import annotations

import random

import pytest

from trustwatch.scoring.learning.budget_chart import (
    LIMIT_PROBABILITY,
    MAX_CHARTED_GROUPS,
    BudgetDay,
    budget_chart,
    upper_control_limit,
)
from trustwatch.scoring.records.models import DailyAlertCount, PeerGroupDay

DAYS = range(100, 110)


def counted(day: int, agent_days: int, group: str = "Payer") -> PeerGroupDay:
    """Agent-days that somebody counted."""
    return PeerGroupDay("v", day, "acme", group, 1, agent_days, (0, 0, 0), ())


def alerts(day: int, medium: int, group: str = "Payer") -> DailyAlertCount:
    """Alerts of one group."""
    return DailyAlertCount(day, "acme", group, medium, 0, 0)


def on(rows: list[BudgetDay], day: int) -> BudgetDay:
    """The row of one day, where there is one group."""
    (row,) = [row for row in rows if row.day == day]
    return row


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 4.0, 30.0, 399.0, 401.0, 5_000.0])
def test_the_limit_is_three_sigma_of_poisson(mean: float) -> None:
    """Drawn at random, hardly any day is beyond; one alert less as a limit would be too often."""
    dice = random.Random(1)
    limit = upper_control_limit(mean)
    draws = 20_000 if mean < 40 else 2_000

    def draw() -> int:
        gap, count = dice.expovariate(1.0), 0
        while gap < mean:
            gap, count = gap + dice.expovariate(1.0), count + 1
        return count

    if mean < 500:
        beyond = sum(draw() > limit for _ in range(draws)) / draws
        assert beyond <= 2.5 * LIMIT_PROBABILITY + 3 / draws
    assert mean <= limit <= mean + 3.2 * mean**0.5 + 4


def test_a_steady_excess_shows_in_the_run_alone() -> None:
    """Three a day where one is expected are no day's news, and a week's."""
    rows = budget_chart(DAYS, [alerts(day, 3) for day in DAYS], [counted(day, 50) for day in DAYS], [], {}, 20.0)

    assert not any(row.beyond for row in rows)
    assert on(rows, 109).run_beyond
    assert on(rows, 109).run_observed == 21


def test_a_flood_of_groups_is_told_together() -> None:
    """Agents name their type: the chart stays readable, and nothing of it is lost."""
    names = [f"group-{number:03}" for number in range(3 * MAX_CHARTED_GROUPS)]
    rows = budget_chart(
        range(100, 101),
        [alerts(100, 9, names[-1])] + [alerts(100, 1, name) for name in names[:-1]],
        [counted(100, 10, name) for name in names],
        [],
        {},
        20.0,
    )

    assert len(rows) == MAX_CHARTED_GROUPS + 1
    assert sum(row.observed for row in rows) == 9 + len(names) - 1
    assert sum(row.agent_days for row in rows) == 10 * len(names)
    assert names[-1] in {row.agent_type for row in rows}

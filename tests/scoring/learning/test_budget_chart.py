"""The control chart of the false-alert budget."""

from __future__ import annotations

import random

import pytest

from trustwatch.scoring.learning.budget_chart import (
    LIMIT_PROBABILITY,
    MAX_CHARTED_GROUPS,
    AlertVerdictCounts,
    BudgetDay,
    budget_chart,
    upper_control_limit,
)
from trustwatch.scoring.records.models import AgentLifespans, DailyAlertCount, PeerGroupDay

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


def test_a_burst_is_beyond_and_a_quiet_day_is_not() -> None:
    """50 agent-days at 20 in a thousand expect one alert; five are still chance, six are not."""
    rows = budget_chart(DAYS, [alerts(102, 5), alerts(105, 6)], [counted(day, 50) for day in DAYS], [], {}, 20.0)

    assert on(rows, 102).expected == pytest.approx(1.0)
    assert (on(rows, 102).beyond, on(rows, 105).beyond, on(rows, 104).beyond) == (False, True, False)


def test_a_steady_excess_shows_in_the_run_alone() -> None:
    """Three a day where one is expected are no day's news, and a week's."""
    rows = budget_chart(DAYS, [alerts(day, 3) for day in DAYS], [counted(day, 50) for day in DAYS], [], {}, 20.0)

    assert not any(row.beyond for row in rows)
    assert on(rows, 109).run_beyond
    assert on(rows, 109).run_observed == 21


def test_true_positives_do_not_count_against_the_budget() -> None:
    """False ones do, marked or not."""
    marks = {(105, "acme", "Payer"): AlertVerdictCounts(false_positive=1, true_positive=4)}
    row = on(budget_chart(DAYS, [alerts(105, 6)], [counted(day, 50) for day in DAYS], [], marks, 20.0), 105)

    assert (row.observed, row.false_positive, row.true_positive, row.unmarked, row.beyond) == (6, 1, 4, 1, False)


def test_agent_days_that_nobody_counted_are_estimated() -> None:
    """From first to last sight, and the row says so."""
    known = [AgentLifespans("acme", "Payer", 103, 104, 7), AgentLifespans("acme", "Payer", 90, 200, 3)]
    rows = budget_chart(DAYS, [], [counted(104, 4)], known, {}, 20.0)

    assert [(row.day, row.agent_days, row.estimated) for row in rows[2:6]] == [
        (102, 3, True),
        (103, 10, True),
        (104, 4, False),
        (105, 3, True),
    ]


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


def test_nothing_known_is_an_empty_chart() -> None:
    """And no expectation."""
    assert budget_chart(DAYS, [], [], [], {}, 20.0) == []

"""How high evidence climbs on normal agents, and what thresholds make of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trustwatch.models.betting import (
    ESTABLISHED_EVENTS,
    MIN_AGENT_DAYS,
    TAIL_SHARE,
    AlarmTail,
    damped_bets,
    fit_alarm_tail,
)
from trustwatch.scoring.engine.risk_levels import LEAST_STRETCH, MAX_STRETCH, MEDIUM_SHARE, RESERVE, thresholds
from trustwatch.scoring.engine.settings import AlertBudget

DAY_MS = 86_400_000


def history(agents: int, days: int, per_day: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bets on uniform p-values, agents and times, in the order of time."""
    dice = np.random.default_rng(seed)
    times = np.sort(dice.integers(0, days * DAY_MS, agents * days * per_day))
    who = dice.integers(1, agents + 1, len(times)).astype(np.uint64)
    return damped_bets(1.0 - dice.random(len(times)), who, times), who, times


def test_maxima_are_of_sums_that_never_fall_below_nothing() -> None:
    """By hand: after the first events a day of +2, -5, +1 reaches 2, the next +3, +4 from 1 on reaches 8."""
    quiet = [-0.5] * ESTABLISHED_EVENTS
    bets = np.array([*quiet, 2.0, -5.0, 1.0, 3.0, 4.0] + [-0.1] * 40)
    times = np.array([*([0] * ESTABLISHED_EVENTS), 0, 0, 0, DAY_MS, DAY_MS, *(np.arange(2, 42) * DAY_MS).tolist()])
    tail = fit_alarm_tail(bets, np.ones(len(bets), np.uint64), times)
    assert tail.days == 42
    assert tail.start == pytest.approx(8.0 - 0.1 * 10)
    assert tail.share == pytest.approx(10 / 42)


def test_newcomers_do_not_count() -> None:
    """An agent that has shown little has no maxima, however odd it was."""
    assert (
        fit_alarm_tail(
            np.full(ESTABLISHED_EVENTS, 9.0), np.ones(ESTABLISHED_EVENTS, np.uint64), np.arange(ESTABLISHED_EVENTS)
        )
        == AlarmTail.empty()
    )
    assert fit_alarm_tail(np.zeros(0), np.zeros(0, np.uint64), np.zeros(0, np.int64)) == AlarmTail.empty()


def test_the_budget_is_kept_on_days_to_come() -> None:
    """Thresholds from one history are reached on no more agent-days of another than the budget accepts."""
    tail = fit_alarm_tail(*history(40, 30, 50))
    assert tail.usable
    bounds = thresholds(np.array([50.0]), AlertBudget(), 0.2, tail)[0]
    later = fit_alarm_tail(*history(40, 30, 50, seed=2))
    for threshold, allowed in zip(bounds, AlertBudget().by_level().values(), strict=True):
        assert later.share * math.exp(-(threshold - later.start) / later.scale) <= allowed / 1000.0


def test_what_reaches_further_asks_for_more() -> None:
    """Thresholds rise with the tail; days that were rehearsed alone may set them below what independent events need."""
    rates, budget = np.array([100.0]), AlertBudget()
    free = thresholds(rates, budget)
    heavy = AlarmTail(10.0, 4.0, TAIL_SHARE, MIN_AGENT_DAYS)
    assert heavy.level_for_share(0.02) == pytest.approx(10.0 + 4.0 * math.log(5.0))
    assert (thresholds(rates, budget, 0.2, heavy) > free).all()
    wild = AlarmTail(100.0, 400.0, TAIL_SHARE, MIN_AGENT_DAYS)
    assert np.allclose(thresholds(rates, budget, 0.2, wild), MAX_STRETCH * free)
    held_out = AlarmTail(1.0, 0.1, TAIL_SHARE, 3_000)
    assert np.array_equal(thresholds(rates, budget, 0.2, held_out), free)
    quiet, usual = held_out._replace(rehearsed=True), AlarmTail(4.0, 1.0, TAIL_SHARE, 3_000, True)
    of_level = np.array([MEDIUM_SHARE, 1.0, 1.0])
    assert thresholds(rates, budget, 0.2, quiet)[0, ::2] == pytest.approx((of_level * LEAST_STRETCH * free[0])[::2])
    seldom = thresholds(rates, budget, 0.2, quiet._replace(days=MIN_AGENT_DAYS))[0] / free[0] / of_level
    assert (seldom > LEAST_STRETCH).all() and (np.diff(seldom) > 0.0).all() and (seldom < 1.0).all()
    for tail in (quiet, usual, usual._replace(scale=0.4), AlarmTail(5.0, 0.5, TAIL_SHARE, 3_000, True)):
        for near in (budget, AlertBudget(20.0, 20.0, 20.0), AlertBudget(10.0, 8.0, 5.0)):
            shared, once = thresholds(rates, near, 0.2, tail), thresholds(rates, near, 0.2, tail, medium_share=1.0)
            assert np.array_equal(shared[:, 1:], once[:, 1:]) and (shared[:, 0] < once[:, 0]).all()
    reached = usual.level_for_share(0.02 / RESERVE)
    assert thresholds(rates, budget, 0.2, usual)[0, 0] == pytest.approx(MEDIUM_SHARE * reached)
    assert thresholds(rates, budget, 0.2, usual, medium_share=1.0)[0, 0] == pytest.approx(reached)
    fleet, busy, quiet = thresholds(np.array([100.0, 300.0, 10.0]), budget, 0.2, usual)
    assert np.allclose(busy, fleet + of_level * math.log(3.0)) and np.array_equal(quiet, fleet)
    unusable = AlarmTail(10.0, 4.0, TAIL_SHARE, MIN_AGENT_DAYS - 1)
    assert np.array_equal(thresholds(rates, budget, 0.2, unusable), thresholds(rates, budget, 0.2))


def test_a_wild_day_does_not_set_the_thresholds_of_all() -> None:
    """One agent that is impossible for a day moves the tail by less than a fifth."""
    bets, who, times = history(40, 30, 50)
    wild = (who == 7) & (times // DAY_MS == 20)
    quiet, odd = fit_alarm_tail(bets, who, times), fit_alarm_tail(np.where(wild, 3.0, bets), who, times)
    assert odd.level_for_share(0.001) < 1.2 * quiet.level_for_share(0.001)


def test_a_budget_that_history_exceeds_anyway() -> None:
    """More alerts allowed than agent-days reach the tail's beginning: its beginning is the threshold."""
    assert AlarmTail(3.0, 1.0, 0.1, 500).level_for_share(0.5) == 3.0

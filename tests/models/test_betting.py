"""Bets: damped in a streak, in full where they go beyond its peak, the same in training as live."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trustwatch.models.betting import DAMPING, MIN_BET_WEIGHT, STREAK_HALF_LIFE_MS, damped_bet, damped_bets, log_bet

P = 1e-4
BET = log_bet(P)


def test_the_bet_is_the_mean_of_all_power_bets() -> None:
    """`k p**(k - 1)` over k from 0 to 1, also where the closed form would lose its digits; fair for a uniform p."""
    shares = (np.arange(200_000) + 0.5) / 200_000
    for p_value in (1.0, 1.0 - 1e-6, 1.0 - 1e-3, 0.5, 0.05, 1e-3, 1e-9):
        assert math.exp(log_bet(p_value)) == pytest.approx(float((shares * p_value ** (shares - 1.0)).mean()), rel=1e-4)
    exponents = -np.log1p(-(np.arange(400_000) + 0.5) / 400_000)  # of p = exp(-x), whose tail the mean needs
    assert np.mean([math.exp(log_bet(math.exp(-x))) for x in exponents.tolist()]) <= 1.0


def bets(p_values: list[float], step_ms: int = 0) -> list[float]:
    """Evidence of one agent's events."""
    n = len(p_values)
    times = np.arange(n, dtype=np.int64) * step_ms
    return damped_bets(np.array(p_values), np.ones(n, np.uint64), times).tolist()


def test_equal_bets_fade() -> None:
    """The n-th equal bet of a streak counts `DAMPING**n`; a quiet event in between neither damps nor is damped."""
    assert bets([P, P, 0.9, P]) == pytest.approx([BET, BET * DAMPING, log_bet(0.9), BET * DAMPING**2])


def test_what_is_beyond_the_peak_counts_in_full() -> None:
    """Mildly odd events before do not dull the one that matters."""
    mild = log_bet(0.04)
    last = bets([0.04] * 10 + [P])[-1]
    assert last == pytest.approx((BET - mild) + mild * DAMPING**10)


def test_usual_events_damp_nothing() -> None:
    """A sixth of all normal events brings some evidence; however many, an odd one counts in full thereafter."""
    assert bets([0.15] * 500 + [P])[-1] == pytest.approx(BET)


def test_a_long_streak_leaves_a_part() -> None:
    """An agent that is odd all the time gathers evidence for ever, if slowly."""
    assert bets([P] * 300)[-1] == pytest.approx(BET * MIN_BET_WEIGHT)


def test_streaks_are_forgotten() -> None:
    """After half-lives enough, an odd event counts like the first one."""
    assert bets([P, P], step_ms=int(40 * STREAK_HALF_LIFE_MS))[1] == pytest.approx(BET, rel=1e-6)
    half = bets([P, P], step_ms=int(STREAK_HALF_LIFE_MS))[1]
    assert half == pytest.approx(BET / 2 + BET / 2 * DAMPING**0.5)


@pytest.mark.parametrize("bet", [-0.7, 0.0, 0.1, 5.0])
def test_never_more_than_the_bet(bet: float) -> None:
    """Streak and peak only make bets smaller, so that the game stays fair; lacking evidence is not damped."""
    for streak in (0.0, 0.5, 20.0):
        for peak in (0.0, 0.05, 9.0):
            assert damped_bet(bet, streak, peak) <= bet + 1e-12
            assert damped_bet(bet, streak, peak) == bet or bet > 0.0

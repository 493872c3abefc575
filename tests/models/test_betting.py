"""Bets: damped in a streak, in full where they go beyond its peak, the same in training as live."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trustwatch.models.betting import DAMPING, STREAK_HALF_LIFE_MS, damped_bet, damped_bets, log_bet

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

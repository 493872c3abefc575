"""The bet on a p-value: how conformal p-values become evidence.

`e(p) = p**-0.5 / 2` has mean 1 for a uniform p, so wealth that is multiplied by it grows by luck alone no more often
than a fair game allows (Vovk and Wang 2021, calibrators of p-values into e-values).

An odd session is odd throughout, so its bets are not independent. Each bet on an odd event (p at most 0.05) therefore
makes the following ones of the agent smaller: `DAMPING**streak`, where the streak counts such bets and is forgotten
with a half-life. What a bet has beyond the largest one of the streak counts in full: a few mildly odd events must not
dull the one that matters. Streak and peak are fixed before the event is seen and only make bets smaller, so the game
stays fair.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ingest.compiled import compiled

LOG_HALF = float(np.log(0.5))

DAMPING = 0.95
MIN_BET_WEIGHT = 0.2
"""However long a streak is, this part of each bet counts: an agent that is always busy can still be noticed."""

STREAK_BET = LOG_HALF - 0.5 * float(np.log(0.05))
"""Bets from which a streak grows (p at most 0.05): a quarter of all normal events bring some evidence, and would
otherwise damp a busy agent for good."""
STREAK_HALF_LIFE_MS = 1_800_000.0


def log_bet(p_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Natural log of the bet on each p-value in (0, 1]; shape as given."""
    return LOG_HALF - 0.5 * np.log(p_values)


@compiled
def damped_bet(bet: float, streak: float, peak: float) -> float:
    """A bet at the given streak, whose largest bet was *peak*: evidence is damped, the lack of it is not."""
    if bet <= 0.0:
        return bet
    fresh = max(bet - peak, 0.0)
    return fresh + (bet - fresh) * max(math.pow(DAMPING, streak), MIN_BET_WEIGHT)


@compiled
def extended_streak(streak: float, bet: float) -> float:
    """A streak after an event with this bet, before damping."""
    return streak + 1.0 if bet >= STREAK_BET else streak


@compiled
def decayed_streak(streak: float, elapsed_ms: float) -> float:
    """A streak, or its peak, after some time."""
    return streak * math.pow(0.5, elapsed_ms / STREAK_HALF_LIFE_MS)


@compiled
def _damp_all(bets: Any, agents: Any, time_ms: Any, streaks: Any, peaks: Any, last_ms: Any) -> None:
    """Damp the bets of a history in place, in order; *streaks*, *peaks* and *last_ms* are per agent."""
    for row in range(len(bets)):
        agent = agents[row]
        elapsed = max(time_ms[row] - last_ms[agent], 0)
        streak, peak, bet = decayed_streak(streaks[agent], elapsed), decayed_streak(peaks[agent], elapsed), bets[row]
        bets[row] = damped_bet(bet, streak, peak)
        streaks[agent] = extended_streak(streak, bet)
        peaks[agent] = max(peak, bet)
        last_ms[agent] += elapsed


def damped_bets(
    p_values: npt.NDArray[np.float64], agents: npt.NDArray[np.uint64], time_ms: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Evidence of each event of a history, natural log, shape (n,), as the risk kernel would have taken it."""
    known, at = np.unique(agents, return_inverse=True)
    first = np.full(len(known), time_ms.min() if len(time_ms) else 0, np.int64)
    bets = log_bet(p_values)
    _damp_all(bets, at, time_ms, np.zeros(len(known)), np.zeros(len(known)), first)
    return bets

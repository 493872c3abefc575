"""How high evidence climbs on normal agents: the tail that thresholds are read from.

The held-out p-values of a history, as bets, run through the same sum as live (`L = max(L, 0) + bet`), one sum an agent.
What matters to an operator is the highest that an agent reaches in a day. An exponential is fitted to the largest of
these agent-day maxima (peaks over threshold), so that a budget far below one alert in the history has an answer, too.
Nothing is assumed about how events depend on each other: whatever dependence a day of an agent has is in its maximum.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..ingest.compiled import compiled

MIN_AGENT_DAYS = 100
"""Agent-days below which a tail would be guesswork; thresholds then rest on the events' rate and exponent alone."""

TAIL_SHARE, MIN_TAIL_MAXIMA = 0.1, 10
"""The largest maxima that the tail is fitted to."""

ONE_SIDED_95 = 1.645
"""Standard errors by which the mean excess is taken larger than it was: days to come differ from history."""

ESTABLISHED_EVENTS = 200
"""Events that an agent has shown before its sum counts here. The first days of a newcomer are odd by nature, and would
set the thresholds of all; newcomers therefore alarm more often than the budget says."""

_DAY_MS = 86_400_000


class AlarmTail(NamedTuple):
    """Agent-day maxima of normal evidence beyond a level.

    Attributes:
        start: natural log; below it lie all but `share` of the agent-days.
        scale: mean excess over `start`, natural log, at the upper end of its uncertainty. It is taken from the median,
            so that a few wild days of the history do not set the thresholds of all.
        share: in (0, 1], agent-days above `start`.
        days: agent-days of the history; fewer than LEAST_DAYS make the tail unusable.
    """

    start: float
    scale: float
    share: float
    days: int

    @staticmethod
    def empty() -> AlarmTail:
        """Nothing is known."""
        return AlarmTail(0.0, 0.0, 1.0, 0)

    @property
    def usable(self) -> bool:
        """Whether there were agent-days enough."""
        return self.days >= MIN_AGENT_DAYS

    def level_for_share(self, allowed: float) -> float:
        """Evidence that a share *allowed* of agent-days reaches, natural log."""
        return self.start + self.scale * max(math.log(self.share / allowed), 0.0)


def fit_alarm_tail(
    bets: npt.NDArray[np.float64], agents: npt.NDArray[np.uint64], time_ms: npt.NDArray[np.int64]
) -> AlarmTail:
    """The tail of agent-day maxima.

    Args:
        bets: float64 (n,), damped log bets on held-out p-values, in order.
        agents, time_ms: of each event.
    """
    keys, slots = np.unique(agents, return_inverse=True)
    maxima = np.empty(len(bets) + len(keys))
    days = _daily_maxima(
        bets,
        slots,
        time_ms // _DAY_MS,
        np.zeros(len(keys)),
        np.zeros(len(keys), np.int64),
        np.zeros(len(keys), np.int64),
        np.full(len(keys), -1.0),
        maxima,
    )
    return fit_tail_of_maxima(maxima[:days])


def fit_tail_of_maxima(maxima: npt.NDArray[np.float64]) -> AlarmTail:
    """The tail of the highest evidence of each agent-day, shape (d,), at least 0."""
    reached = np.sort(maxima)
    largest = max(math.ceil(TAIL_SHARE * len(reached)), MIN_TAIL_MAXIMA)
    if len(reached) <= largest:
        return AlarmTail.empty()
    start = float(reached[-largest - 1])
    excess = float(np.median(reached[-largest:]) - start) / math.log(2.0) * (1.0 + ONE_SIDED_95 / math.sqrt(largest))
    return AlarmTail(start, excess, largest / len(reached), len(reached))


@compiled
def _daily_maxima(bets: Any, slots: Any, days: Any, sums: Any, seen: Any, day: Any, highest: Any, maxima: Any) -> int:
    """Highest sum of each agent on each day on which it was known, into *maxima*; returns how many there are.

    *sums*, *seen*, *day* and *highest* are per agent: its sum, its events, its present day and the highest sum of that
    day, below 0 where there is none.
    """
    found = 0
    for row in range(len(bets)):
        slot = slots[row]
        seen[slot] += 1
        if seen[slot] <= ESTABLISHED_EVENTS:
            continue
        if days[row] > day[slot]:
            if highest[slot] >= 0.0:
                maxima[found] = highest[slot]
                found += 1
            day[slot], highest[slot] = days[row], 0.0
        sums[slot] = max(sums[slot], 0.0) + bets[row]
        highest[slot] = max(highest[slot], sums[slot], 0.0)
    for slot in range(len(highest)):
        if highest[slot] >= 0.0:
            maxima[found] = highest[slot]
            found += 1
    return found

"""Oddness that is usual for one agent: what it shows day after day without harm stops counting.

p-values compare an agent with its peers, and peers differ: what one in a thousand events of them shows (a new invoice,
a page that nobody read before), an honest agent may show fifty times a day. So it is counted how often each agent was
how odd on days past, and a p-value that it reached more often than one in 1 / p events is made larger by as much. Only
days that have ended count, so that an attack dulls nothing while it lasts, and their weight halves in a week.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...ingest.compilation import compiled
from ...ingest.timestamps import DAY_MS

ODDNESS_LEVELS = (0.02, 0.005, 0.00125, 0.0003)
"""p-values at which it is counted how often an agent was as odd: a fair p-value falls to them so often."""

COUNTED_CONCERNS = 2
"""Compromise and malfunction. Overreach lasts for days by nature, and bets once an hour instead."""

PRIOR_EVENTS = 0.25
"""Odd events that each agent is taken to have shown, and to have been expected to show, at each level."""
HALF_LIFE_DAYS = 7.0
_MOST_A_DAY = 65_535
"""Events of one day that are counted."""

FIELDS: list[Any] = [
    ("odd_before", np.float32, (COUNTED_CONCERNS, len(ODDNESS_LEVELS))),  # events of days past at or below each level
    ("events_before", np.float32),  # all events of those days
    ("day", np.int32),  # that goes on, days since 1970
    ("odd_today", np.uint16, (COUNTED_CONCERNS, len(ODDNESS_LEVELS))),
    ("events_today", np.uint16),
]
"""Fields of an agent's risk state."""


@compiled
def begin_day(row: Any) -> None:
    """Count the day that has ended among those past, if another has begun."""
    day = np.int32(row.at_ms // DAY_MS)
    if day <= row.day:
        return
    kept = 0.5 ** (float(day - row.day) / HALF_LIFE_DAYS)
    for concern in range(COUNTED_CONCERNS):
        for level in range(len(ODDNESS_LEVELS)):
            odd = row.odd_before[concern, level] + row.odd_today[concern, level]
            row.odd_before[concern, level] = kept * odd
            row.odd_today[concern, level] = 0
    row.events_before = kept * (row.events_before + row.events_today)
    row.day, row.events_today = day, 0


@compiled
def count_event(row: Any, p_values: Any) -> None:
    """Count an event of the present day, with its p-values (3,)."""
    if row.events_today == _MOST_A_DAY:
        return
    row.events_today += 1
    for concern in range(COUNTED_CONCERNS):
        for level in range(len(ODDNESS_LEVELS)):
            if p_values[concern] <= ODDNESS_LEVELS[level]:
                row.odd_today[concern, level] += 1


@compiled
def write_factors(row: Any, by_concern: Any, first: int) -> None:
    """How many times as often as a fair p-value the agent was as odd as each level on days past, at least 1, into
    *by_concern* (3, c) from column *first*."""
    for concern in range(len(by_concern)):
        for level in range(len(ODDNESS_LEVELS)):
            times = 1.0
            if concern < COUNTED_CONCERNS:
                expected = row.events_before * ODDNESS_LEVELS[level] + PRIOR_EVENTS
                times = max((row.odd_before[concern, level] + PRIOR_EVENTS) / expected, 1.0)
            by_concern[concern, first + level] = times


@compiled
def unusual_p_value(p_value: float, factors: Any) -> float:
    """A p-value in (0, 1] in the light of the *factors* (4,) of its agent and concern."""
    times = 1.0
    for level in range(len(ODDNESS_LEVELS)):
        if p_value <= ODDNESS_LEVELS[level]:
            times = factors[level]
    return float(min(p_value * times, 1.0))


def seed(
    state: npt.NDArray[Any],
    slots: npt.NDArray[Any],
    odd: npt.NDArray[np.float32],
    events: npt.NDArray[np.float32],
    day: int,
) -> None:
    """Let agents begin with what the last days of the model's history showed, up to *day* (days since 1970).

    Args:
        state: risk state by slot.
        odd: (n, 2, 4), events at or below each level, per slot of *slots* (n,).
        events: (n,), all events of those days.
    """
    state["odd_before"][slots], state["events_before"][slots], state["day"][slots] = odd, events, day


def count_by_agent(
    agents: npt.NDArray[np.intp], p_values: npt.NDArray[np.float64], number: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Odd events (number, 2, 4) and all events (number,) of each agent, for p-values (n, 3) of agents (n,)."""
    odd = np.zeros((number, COUNTED_CONCERNS, len(ODDNESS_LEVELS)), np.float32)
    for concern in range(COUNTED_CONCERNS):
        for level, at in enumerate(ODDNESS_LEVELS):
            odd[:, concern, level] = np.bincount(agents[p_values[:, concern] <= at], minlength=number)
    return odd, np.bincount(agents, minlength=number).astype(np.float32)

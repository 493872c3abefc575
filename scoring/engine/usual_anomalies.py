"""Anomalies that are usual for one agent: what it shows day after day without harm counts less.

p-values compare an agent with its peers, and peers differ: what one in a thousand events of them shows (a new invoice,
a page that was never read before), an honest agent may show fifty times a day. So it is counted how often each agent
recently reached each level of anomaly, and a p-value that it reached more often than one in 1 / p events is enlarged by
as much. Half a day counts when the half behind it has ended as well, so that an attack dulls nothing for its first
twelve hours, and its weight halves in a week.

The caller, and the origin of arguments, are never usual: a stolen identity and an injected order are attacks however
often they come. Events with such anomalies are `NEVER_USUAL`, later ones of a caller who is still new `NO_HABIT`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.compilation import allocation_free
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.models.trained_model import ODD_SHAPE

ANOMALY_LEVELS = (0.02, 0.005, 0.00125, 0.0003)
"""p-values at which an agent's anomalies are counted, falling: a fair p-value falls to them so often."""

USUAL, NO_HABIT, NEVER_USUAL = 0, 1, 2
"""Treatments of an event by usual anomalies: counted, and its p-value enlarged; only enlarged; neither."""

COUNTED_CONCERNS = ODD_SHAPE[0]
"""Compromise and malfunction. Overreach lasts for days by nature, and bets once an hour instead."""

NEWCOMER_EVENTS = 100
"""Events up to which an agent's anomalies count at once: nothing else is known of its habits."""

PRIOR_EVENTS = 0.25
"""Anomalous events that each agent is taken to have shown, and to have been expected to show, at each level."""
PERIOD_MS = 12 * HOUR_MS
"""Periods of events that are counted together: halves of a day, UTC."""
HALF_LIFE_DAYS = 7.0
_HALF_LIFE_PERIODS = HALF_LIFE_DAYS * DAY_MS / PERIOD_MS
_MOST_ANOMALOUS, _MOST_EVENTS = 255, 65_535
"""Most anomalous events at one level, and most events, that are counted in a period: a burst makes nothing usual."""

FIELDS: list[Any] = [
    ("odd_before", np.float32, ODD_SHAPE),  # events of periods past at or below each level
    ("events_before", np.float32),  # all events of those periods
    ("period", np.int32),  # that is current, since 1970
    ("odd_now", np.uint8, (2, *ODD_SHAPE)),  # of this period and the one before
    ("events_now", np.uint16, (2,)),
]
"""Fields of an agent's risk state."""


@allocation_free
def begin_period(row: Any) -> None:
    """If a new period has begun, add the periods that have ended to the past ones."""
    period = np.int32(row.at_ms // PERIOD_MS)
    passed = period - row.period
    if passed <= 0:
        return
    kept = 0.5 ** (float(passed) / _HALF_LIFE_PERIODS)
    latest = kept if passed > 1 else 0.0  # the period that has just ended is kept apart
    earlier = kept * 0.5 ** (1.0 / _HALF_LIFE_PERIODS)
    for concern in range(COUNTED_CONCERNS):
        for level in range(len(ANOMALY_LEVELS)):
            odd = row.odd_now[:, concern, level]
            row.odd_before[concern, level] = kept * row.odd_before[concern, level] + latest * odd[0] + earlier * odd[1]
            odd[1] = odd[0] if passed == 1 else 0
            odd[0] = 0
    events = row.events_now
    row.events_before = kept * row.events_before + latest * events[0] + earlier * events[1]
    events[1] = events[0] if passed == 1 else 0
    events[0] = 0
    row.period = period


@allocation_free
def count_event(row: Any, p_values: Any) -> None:
    """Count an event of the current period, with its p-values (3,)."""
    if row.events_now[0] == _MOST_EVENTS:
        return
    row.events_now[0] += 1
    for concern in range(COUNTED_CONCERNS):
        for level in range(len(ANOMALY_LEVELS)):
            if p_values[concern] <= ANOMALY_LEVELS[level] and row.odd_now[0, concern, level] < _MOST_ANOMALOUS:
                row.odd_now[0, concern, level] += 1


@allocation_free
def end_newcomer(row: Any) -> None:
    """Move what was counted at once into the past, for an agent that is no longer a newcomer."""
    for place in range(2):
        for concern in range(COUNTED_CONCERNS):
            for level in range(len(ANOMALY_LEVELS)):
                row.odd_before[concern, level] += row.odd_now[place, concern, level]
                row.odd_now[place, concern, level] = 0
        row.events_before += row.events_now[place]
        row.events_now[place] = 0


@allocation_free
def write_factors(row: Any, by_concern: Any, first: int) -> None:
    """Write into *by_concern* (3, c), from column *first*, how many times as often as chance the agent reached each
    level of anomaly before, at least 1."""
    for concern in range(len(by_concern)):
        for level in range(len(ANOMALY_LEVELS)):
            times = 1.0
            if concern < COUNTED_CONCERNS:
                odd, events = row.odd_before[concern, level] + PRIOR_EVENTS, row.events_before
                if row.events < NEWCOMER_EVENTS:
                    for place in range(2):
                        odd += row.odd_now[place, concern, level]
                        events += row.events_now[place]
                times = max(odd / (events * ANOMALY_LEVELS[level] + PRIOR_EVENTS), 1.0)
            by_concern[concern, first + level] = times


@allocation_free
def unusual_p_value(p_value: float, factors: Any) -> float:
    """Adjust a p-value in (0, 1] by the *factors* (4,) of its agent and concern. It never falls below that of a more
    anomalous event."""
    times, least = 1.0, 0.0
    for level in range(len(ANOMALY_LEVELS)):
        if p_value <= ANOMALY_LEVELS[level]:
            times = factors[level]
        else:
            least = max(least, ANOMALY_LEVELS[level] * factors[level])
    return float(min(max(p_value * times, least), 1.0))


def seed(
    state: npt.NDArray[Any],
    slots: npt.NDArray[Any],
    odd: npt.NDArray[np.float32],
    events: npt.NDArray[np.float32],
    last_ms: int,
) -> None:
    """Initialize agents from the last days of the model's history, up to *last_ms*.

    Args:
        odd: (n, 2, 4), events at or below each level, per slot of *slots* (n,).
        events: (n,), all events of those days.
    """
    state["odd_before"][slots], state["events_before"][slots] = odd, events
    state["period"][slots] = last_ms // PERIOD_MS


def count_by_agent(
    agents: npt.NDArray[np.intp], p_values: npt.NDArray[np.float64], number: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Count each agent's anomalous events (number, 2, 4) and all its events (number,), for p-values (n, 3)."""
    odd = np.zeros((number, *ODD_SHAPE), np.float32)
    for concern in range(COUNTED_CONCERNS):
        for level, at in enumerate(ANOMALY_LEVELS):
            odd[:, concern, level] = np.bincount(agents[p_values[:, concern] <= at], minlength=number)
    return odd, np.bincount(agents, minlength=number).astype(np.float32)

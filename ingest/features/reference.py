"""What an agent's pace and volume have been for weeks: the reference against which a slow ramp shows.

The usual values of a quantity follow what the agent does within a day or two, so whoever raises it slowly takes them
along. The reference is a mean and a variance over the agent's *active* time (a pause counts as at most half an hour),
so that no morning, and no busy hour with more events in it than a quiet day, stands for all of them. It says something
after the first active day, and moves the slower the more it has seen: at first with a memory of 14 active days, in the
end of 90. Only what may be learned moves it.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiled import inlined
from . import layout as l
from .layout import Array

MIN_REFERENCE_EVENTS = 200.0
"""Events that an agent's baseline needs before its reference says anything."""

DRIFT_LIMIT = 3.0
"""Standard deviations that are no drift: the customary limits of a control chart. Within them an agent's day varies."""

_GROWING_DAYS, _LEAST_MEMORY, _MOST_MEMORY = 1.0, 14.0, 90.0
_MAX_PAUSE_DAYS = 1.0 / 48.0
_MIN_REFERENCE_SD = 0.15
_VARIANCE_CORRECTION = 1.42
"""A normal distribution whose upper deviations count as at most one has so much less variance."""
_MAX_REFERENCE_Z = 50.0


@inlined
def update_reference(numbers: Array, quantities: Array, age: float) -> None:
    """Take an event into the reference.

    Args:
        numbers: the agent's (NUMBERS,), changed in place.
        quantities: the event's (QUANTITIES,), of which those in `layout.DRIFTING` are present.
        age: days since the agent's first event.
    """
    elapsed = min(max(age - np.float64(numbers[l.N_REF_AGE]), 0.0), _MAX_PAUSE_DAYS)
    if elapsed <= 0.0:
        return
    days = np.float64(numbers[l.N_REF_DAYS]) + elapsed
    share = elapsed / (days if days < _GROWING_DAYS else min(max(days, _LEAST_MEMORY), _MOST_MEMORY))
    for k in range(len(l.DRIFT_QUANTITIES)):
        mean, variance = np.float64(numbers[l.N_REF_MEAN + k]), np.float64(numbers[l.N_REF_VAR + k])
        delta = quantities[l.DRIFT_QUANTITIES[k]] - mean
        mean += share * delta
        spread = delta * (quantities[l.DRIFT_QUANTITIES[k]] - mean)
        if delta > 0.0 and days >= _GROWING_DAYS:  # else a ramp would widen the limits that it is held against
            spread = min(spread, variance)
        variance += share * (spread - variance)
        numbers[l.N_REF_MEAN + k], numbers[l.N_REF_VAR + k] = np.float32(mean), np.float32(max(variance, 0.0))
    numbers[l.N_REF_DAYS], numbers[l.N_REF_AGE] = np.float32(min(days, _MOST_MEMORY)), np.float32(age)


@inlined
def distance_from_reference(numbers: Array, quantities: Array, k: int) -> float:
    """Standard deviations of the k-th drifting quantity above its reference, 0 to 50; 0 where there is none yet."""
    if numbers[l.N_EVENTS] < MIN_REFERENCE_EVENTS or numbers[l.N_REF_DAYS] < _GROWING_DAYS:
        return 0.0
    sd = max(math.sqrt(_VARIANCE_CORRECTION * np.float64(numbers[l.N_REF_VAR + k])), _MIN_REFERENCE_SD)
    return float(
        min(
            max((quantities[l.DRIFT_QUANTITIES[k]] - np.float64(numbers[l.N_REF_MEAN + k])) / sd, 0.0), _MAX_REFERENCE_Z
        )
    )


def reset_reference(numbers: Array) -> None:
    """What the agent does from now on is its reference, once it has done it for an active day."""
    numbers[l.N_REF_DAYS] = np.float32(0.0)

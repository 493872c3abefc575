"""Working hours of agents: a weekly profile of activity and the next moment drawn from it."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import Literal

from trustwatch.ingest.timestamps import HOUR_MS

WEEK_HOURS = 168
_EPOCH_HOUR_OF_WEEK = 72
"""1970-01-01 was a Thursday: hour 0 of the epoch is hour 72 of a week that starts on Monday."""

WorkShift = Literal["office", "night", "always", "extended"]


def _hourly_activity(shift: WorkShift, day: int, hour: int) -> float:
    """Relative activity in one local hour; day 0 is Monday. Never zero: somebody always works late."""
    weekend = day >= 5
    if shift == "night":
        return 1.0 if hour < 5 else 0.01
    if shift == "always":
        return 0.8 if weekend else 1.0 + 0.2 * (8 <= hour < 18)
    if shift == "extended":
        return (0.35 if weekend else 1.0) if 7 <= hour < 22 else 0.05
    if weekend or not 7 <= hour < 19:
        return 0.01
    return 0.3 if hour in (7, 12, 18) else 1.0


class ActivityProfile:
    """Activity over a week in UTC, mean 1, constant within an hour.

    Args:
        shift: the kind of working hours.
        utc_offset: whole hours by which local time is ahead of UTC (no daylight saving).
    """

    def __init__(self, shift: WorkShift, utc_offset: int) -> None:
        local = [((h + utc_offset) % WEEK_HOURS) for h in range(WEEK_HOURS)]
        raw = [_hourly_activity(shift, *divmod(h, 24)) for h in local]
        mean = sum(raw) / WEEK_HOURS
        self.weights = [w / mean for w in raw]
        self._cumulative = [0.0]
        for weight in self.weights:
            self._cumulative.append(self._cumulative[-1] + weight)

    def weight_at(self, at_ms: int) -> float:
        """Activity in the hour of that moment, 1 on average."""
        return self.weights[(at_ms // HOUR_MS + _EPOCH_HOUR_OF_WEEK) % WEEK_HOURS]

    def advance(self, at_ms: int, amount: float) -> int:
        """The moment by which `amount` mean hours of activity have passed since `at_ms`.

        With `amount` = exponential / rate this is the next arrival of a Poisson process whose rate follows the profile.
        """
        hours, rest = divmod(at_ms + _EPOCH_HOUR_OF_WEEK * HOUR_MS, HOUR_MS)
        week, hour = divmod(hours, WEEK_HOURS)
        total = self._cumulative[-1]
        goal = self._cumulative[hour] + self.weights[hour] * rest / HOUR_MS + amount
        weeks, goal = divmod(goal, total)
        hour = min(bisect_right(self._cumulative, goal) - 1, WEEK_HOURS - 1)
        part = (goal - self._cumulative[hour]) / self.weights[hour]
        moment = ((week + int(weeks)) * WEEK_HOURS + hour + part - _EPOCH_HOUR_OF_WEEK) * HOUR_MS
        return max(at_ms, int(moment))

    def quietest_hour(self, at_ms: int, hours: int) -> int:
        """Start of the least active hour among the next `hours` after `at_ms`; the earliest of equals."""
        first = at_ms // HOUR_MS + 1
        return min(range(first, first + hours), key=lambda hour: self.weight_at(hour * HOUR_MS)) * HOUR_MS


@lru_cache(maxsize=256)
def activity_profile(shift: WorkShift, utc_offset: int) -> ActivityProfile:
    """One shared profile per shift and time zone."""
    return ActivityProfile(shift, utc_offset)

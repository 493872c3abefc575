"""Trends: how levels changed over days, and which reasons led; counted slice by slice, and remembered.

No index has levels or reasons, so every decision of the range is read once. A look takes no longer than
`MAX_LOOK_S`: it counts the newest slices first, and states since when its figures are complete. Finished slices
are remembered, so the next look continues where this one ended.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from cachetools import TTLCache

from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.store.decision_store import CountedChanges

from ..http.agent_lookup import visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor

MAX_DAYS: Final = 90
SLICE_MS: Final = 2 * HOUR_MS
"""Divides days, so that no slice is in two."""
SETTLED_MS: Final = HOUR_MS
"""A slice that is over for so long gets no more decisions."""
MAX_LOOK_S: Final = 0.1
MAX_REMEMBERED, REMEMBERED_S = 20_000, 3_600.0
"""Days that are remembered, and for how long: retention and erasures take decisions away. Days of 90 for 222 sets of
tenants: readers of many do not push each other's out, so each gets to the end."""

_DayKey = tuple[frozenset[str] | None, int]
"""Tenants (None for all), and the day since 1970."""


class DayOfChanges(NamedTuple):
    """Changes of level of one day of UTC since 1970: rises by the level that they came to, and falls."""

    day: int
    rises: dict[RiskLevel, int]
    falls: int


class LevelTrends(NamedTuple):
    """Changes of level over days, oldest first.

    Attributes:
        reasons: code of the leading reason of rises to medium or above, most frequent first, with their number.
        counted_from_ms: figures are complete from here on, UTC ms; 0 if everything is counted.
    """

    days: list[DayOfChanges]
    reasons: list[tuple[str, int]]
    counted_from_ms: int


class DecisionTrends:
    """Counts changes of level of the tenants that a caller may see. For one event loop."""

    def __init__(self, runtime: Runtime, executor: StoreExecutor) -> None:
        self._runtime = runtime
        self._executor = executor
        self._lock = threading.Lock()
        self._days: TTLCache[_DayKey, dict[int, Sequence[CountedChanges]]] = TTLCache(
            MAX_REMEMBERED, REMEMBERED_S, runtime.monotonic
        )
        """Changes of each remembered day, by the start of their slice, UTC ms."""

    async def over(self, caller: AuthenticatedCaller, days: int) -> LevelTrends:
        """The last *days* days, today included. Raises Unavailable."""
        tenants = visible_tenants(caller, None)
        key = None if tenants is None else frozenset(tenants)
        return await self._executor(self._over, key, self._runtime.now_ms(), days)

    def _over(self, tenants: frozenset[str] | None, now_ms: int, days: int) -> LevelTrends:
        today = now_ms // DAY_MS
        counted: dict[int, Counter[tuple[int, int, str]]] = {
            day: Counter() for day in range(today - days + 1, today + 1)
        }
        look_until = self._runtime.monotonic() + MAX_LOOK_S
        went_on = False
        for begin_ms in range(now_ms // SLICE_MS * SLICE_MS, (today - days + 1) * DAY_MS - 1, -SLICE_MS):
            changes = self._recall(tenants, begin_ms)
            if changes is None:
                if went_on and self._runtime.monotonic() > look_until:
                    return _trends_of(counted, begin_ms + SLICE_MS)
                changes = self._count(tenants, begin_ms, now_ms)
                went_on = went_on or _is_over(begin_ms, now_ms)  # else no look would ever get further
            for change in changes:
                counted[begin_ms // DAY_MS][change.previous_level, change.level, change.code] += change.amount
        return _trends_of(counted, 0)

    def _recall(self, tenants: frozenset[str] | None, begin_ms: int) -> Sequence[CountedChanges] | None:
        with self._lock:
            return self._days.get((tenants, begin_ms // DAY_MS), {}).get(begin_ms)

    def _count(self, tenants: frozenset[str] | None, begin_ms: int, now_ms: int) -> Sequence[CountedChanges]:
        """Count a slice, and remember it once it is over; empty ones before it are found out at once."""
        store, end_ms = self._runtime.store.decisions, begin_ms + SLICE_MS
        last_ms = store.last_before(end_ms, tenants)
        counts = store.count_changes(begin_ms, end_ms, tenants) if last_ms >= begin_ms else []
        longest_ms = now_ms // DAY_MS * DAY_MS - MAX_DAYS * DAY_MS
        empty = range(begin_ms, max(last_ms // SLICE_MS * SLICE_MS, longest_ms), -SLICE_MS) if not counts else ()
        with self._lock:
            for start_ms in empty or (begin_ms,):
                if _is_over(start_ms, now_ms):
                    self._days.setdefault((tenants, start_ms // DAY_MS), {})[start_ms] = counts
        return counts


def _is_over(begin_ms: int, now_ms: int) -> bool:
    """True if a slice gets no more decisions."""
    return begin_ms + SLICE_MS <= now_ms - SETTLED_MS


def _trends_of(counted: dict[int, Counter[tuple[int, int, str]]], counted_from_ms: int) -> LevelTrends:
    days, reasons = [], Counter[str]()
    for day, changes in sorted(counted.items()):
        rises: Counter[RiskLevel] = Counter()
        falls = 0
        for (before, level, code), amount in changes.items():
            if level < before:
                falls += amount
            elif level > before and level >= RiskLevel.MEDIUM:
                rises[RiskLevel(level)] += amount
                reasons[code] += amount
        days.append(DayOfChanges(day, dict(rises), falls))
    del reasons[""]
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return LevelTrends(days, ordered, counted_from_ms)

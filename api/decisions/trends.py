"""Trends: how levels changed over days, and which reasons led; counted day by day, and remembered.

No index has levels or reasons, so every decision of the range is read once. A look takes no longer than
`MAX_LOOK_S`: it counts the newest days first, and says from when on its figures are complete. Days that are over
are remembered, so the next look continues where this one ended.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from cachetools import TTLCache

from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.store.decision_store import CountedChanges

from ..http.agent_lookup import visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor

SETTLED_MS: Final = HOUR_MS
"""A day that is over for so long gets no more decisions."""
MAX_LOOK_S: Final = 0.1
MAX_REMEMBERED, REMEMBERED_S = 20_000, 3_600.0
"""Days that are remembered, and for how long: retention and erasures take decisions away. 90 days for 222 sets of
tenants: readers of many do not push each other's out, so each gets to the end."""


class DayOfChanges(NamedTuple):
    """Changes of level of one day of UTC since 1970: rises by the level that they came to, and falls."""

    day: int
    rises: dict[RiskLevel, int]
    falls: int


class LevelTrends(NamedTuple):
    """Changes of level over days, oldest first.

    Attributes:
        reasons: code of the leading reason of rises to medium or above, most frequent first, with their number.
        counted_from_ms: figures are complete from here on, UTC ms; 0 = all that was asked for is counted.
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
        self._remembered: TTLCache[tuple[frozenset[str] | None, int], Sequence[CountedChanges]] = TTLCache(
            MAX_REMEMBERED, REMEMBERED_S, runtime.monotonic
        )

    async def over(self, caller: AuthenticatedCaller, days: int) -> LevelTrends:
        """The last *days* days, today included. Raises Unavailable."""
        now_ms = self._runtime.now_ms()
        return await self._executor(self._over, visible_tenants(caller, None), now_ms, days)

    def _over(self, tenants: Collection[str] | None, now_ms: int, days: int) -> LevelTrends:
        today = now_ms // DAY_MS
        counted: dict[int, Sequence[CountedChanges]] = {day: () for day in range(today - days + 1, today + 1)}
        look_until, has_counted = self._runtime.monotonic() + MAX_LOOK_S, False
        whose = None if tenants is None else frozenset(tenants)
        for day in reversed(counted):
            with self._lock:
                changes = self._remembered.get((whose, day))
            if changes is None:
                if has_counted and self._runtime.monotonic() > look_until:
                    return _trends_of(counted, (day + 1) * DAY_MS)
                changes = self._runtime.store.decisions.count_changes(day * DAY_MS, (day + 1) * DAY_MS, tenants)
                if (day + 1) * DAY_MS <= now_ms - SETTLED_MS:
                    has_counted = has_counted or bool(changes)  # else no look would ever get further
                    with self._lock:
                        self._remembered[whose, day] = changes
            counted[day] = changes
        return _trends_of(counted, 0)


def _trends_of(counted: Mapping[int, Sequence[CountedChanges]], counted_from_ms: int) -> LevelTrends:
    days, reasons = [], Counter[str]()
    for day, changes in sorted(counted.items()):
        rises: Counter[RiskLevel] = Counter()
        falls = 0
        for before, level, code, amount in changes:
            if level < before:
                falls += amount
            elif level > before and level >= RiskLevel.MEDIUM:
                rises[RiskLevel(level)] += amount
                reasons[code] += amount
        days.append(DayOfChanges(day, dict(rises), falls))
    ordered = sorted(
        ((code, amount) for code, amount in reasons.items() if code),
        key=lambda pair: (-pair[1], pair[0]),
    )
    return LevelTrends(days, ordered, counted_from_ms)

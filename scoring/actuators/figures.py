"""How actuations fared in this process, for metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

BUCKETS_S = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Upper bounds of containment times, s."""


class ActuationMetrics:
    """Counts. For one thread.

    Attributes:
        outcomes: attempts by (target, outcome).
        containment_seconds: sum of containment times by target, s.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.containment_seconds: dict[str, float] = {}
        self._buckets: dict[str, list[int]] = {}

    def record(self, target: str, outcome: str, contained_s: float | None = None) -> None:
        """Count an attempt; *contained_s* is the time from the event to its confirmed consequence."""
        self.outcomes[target, outcome] += 1
        if contained_s is None:
            return
        counts = self._buckets.setdefault(target, [0] * (len(BUCKETS_S) + 1))
        counts[bisect_left(BUCKETS_S, contained_s)] += 1
        self.containment_seconds[target] = self.containment_seconds.get(target, 0.0) + contained_s

    def histogram_buckets(self, target: str) -> list[tuple[str, float]]:
        """(upper bound, times up to it) for every bound and `+Inf`, as a histogram shows them."""
        counts, total, shown = self._buckets.get(target, []), 0, []
        for bound, count in zip([*(f"{one:g}" for one in BUCKETS_S), "+Inf"], counts, strict=bool(counts)):
            total += count
            shown.append((bound, float(total)))
        return shown

    @property
    def targets(self) -> list[str]:
        """Targets with a containment time."""
        return sorted(self._buckets)

"""Where the pipeline's time goes, and what it has done: counters that the edge turns into metrics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .processor import AppliedBatch


class StageMetrics:
    """Seconds by stage and counts by name since the start.

    Args:
        monotonic: seconds on a clock that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = self._monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += self._monotonic() - start

    def count_batch(self, applied: AppliedBatch) -> None:
        """Count what a batch did."""
        self.counts["events"] += applied.events
        self.counts["duplicates"] += applied.duplicates
        self.counts["dead_letters"] += len(applied.dead_letters)
        self.counts["late_events"] += sum(scored.late_events for scored, _ in applied.scored)
        self.counts["decisions"] += len(applied.decisions)

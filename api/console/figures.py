"""What the overview counts: sampled here while the process runs, bounded, and gone with it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ...scoring.records import RiskLevel
from ...scoring.view import RiskView, RiskViewEntry
from ..http.services import PipelineStatus, Runtime
from .trail import RiskSeries

SAMPLE_INTERVAL_S = 5.0
MAX_SAMPLES = 720
"""An hour of samples."""

LEVEL_COUNTS_VALID_S = 1.0
"""Counts of levels are good for so long, s: many pages ask at once when something changes."""


class PipelineSample(NamedTuple):
    """What the pipeline had done at one time."""

    at_ms: int
    events: int
    behind: int


class ActivitySampler:
    """Samples of the pipeline, agents by level, and how their risk moved. For one event loop.

    Args:
        services: of the application.
    """

    def __init__(self, services: Runtime) -> None:
        self._status: PipelineStatus = services.pipeline_status
        self._view: RiskView = services.risk_view
        self._now_ms = services.now_ms
        self._monotonic = services.monotonic
        self._samples: deque[PipelineSample] = deque(maxlen=MAX_SAMPLES)
        self._cached_counts: tuple[float, Counter[tuple[str, int]]] | None = None
        self._count_lock = asyncio.Lock()
        self.risk_series = RiskSeries()
        services.risk_view.on_update = self.risk_series.record

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    def sample(self) -> None:
        """Note what is known now."""
        self._samples.append(
            PipelineSample(self._now_ms(), self._status.work_counts.get("events", 0), self._status.records_behind)
        )

    def throughput_series(self) -> list[tuple[int, float]]:
        """(UTC ms, events per second that were judged until then) of each sample but the first.

        A pipeline that was started anew counts from 0 again: what it had done before is not counted backwards.
        """
        found, before = [], None
        for sample in self._samples:
            if before is not None and sample.at_ms > before.at_ms:
                done = sample.events - before.events if sample.events >= before.events else sample.events
                found.append((sample.at_ms, done * 1000 / (sample.at_ms - before.at_ms)))
            before = sample
        return found

    def throughput(self, over_s: float = 60.0) -> float | None:
        """Events per second lately; None = not known yet."""
        rates = self.throughput_series()
        recent = [rate for at_ms, rate in rates if at_ms > rates[-1][0] - over_s * 1000]
        return sum(recent) / len(recent) if recent else None

    async def level_counts(self, tenants: Collection[str] | None) -> dict[str, int]:
        """Agents of the *tenants* (None = all) by level, a second old at most."""
        async with self._count_lock:
            if self._cached_counts is None or self._monotonic() - self._cached_counts[0] >= LEVEL_COUNTS_VALID_S:
                entries = self._view.entries()
                counts = await asyncio.to_thread(_count_levels, entries)
                self._cached_counts = self._monotonic(), counts
            counts = self._cached_counts[1]
        found = dict.fromkeys((level.label for level in RiskLevel), 0)
        for (tenant, level), count in counts.items():
            if tenants is None or tenant in tenants:
                found[RiskLevel(level).label] += count
        return found

    async def known_tenants(self) -> list[str]:
        """Tenants that have agents, by name."""
        await self.level_counts(None)
        assert self._cached_counts is not None
        return sorted({tenant for tenant, _ in self._cached_counts[1]})


def _count_levels(entries: Sequence[RiskViewEntry]) -> Counter[tuple[str, int]]:
    return Counter((entry.summary.name.tenant, entry.summary.level) for entry in entries)

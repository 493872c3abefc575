"""What the overview counts: sampled here while the process runs, bounded, and gone with it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ...scoring.records import RiskLevel
from ...scoring.view import Entry, RiskView
from ..http.services import PipelineStatus, Services
from .trail import Trail

SAMPLE_S = 5.0
SAMPLES = 720
"""An hour of samples."""

COUNTED_S = 1.0
"""Counts of levels are good for so long, s: many pages ask at once when something changes."""


class Sample(NamedTuple):
    """What the pipeline had done at one time."""

    at_ms: int
    events: int
    behind: int


class Figures:
    """Samples of the pipeline, agents by level, and how their risk moved. For one event loop.

    Args:
        services: of the application.
    """

    def __init__(self, services: Services) -> None:
        self._status: PipelineStatus = services.status
        self._view: RiskView = services.view
        self._now_ms = services.now_ms
        self._monotonic = services.monotonic
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._counted: tuple[float, Counter[tuple[str, int]]] | None = None
        self._counting = asyncio.Lock()
        self.trail = Trail()
        services.view.heard = self.trail.note

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_S)

    def sample(self) -> None:
        """Note what is known now."""
        self._samples.append(Sample(self._now_ms(), self._status.counts.get("events", 0), self._status.behind))

    def rates(self) -> list[tuple[int, float]]:
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

    def rate(self, over_s: float = 60.0) -> float | None:
        """Events per second lately; None = not known yet."""
        rates = self.rates()
        recent = [rate for at_ms, rate in rates if at_ms > rates[-1][0] - over_s * 1000]
        return sum(recent) / len(recent) if recent else None

    async def levels(self, tenants: Collection[str] | None) -> dict[str, int]:
        """Agents of the *tenants* (None = all) by level, a second old at most."""
        async with self._counting:
            if self._counted is None or self._monotonic() - self._counted[0] >= COUNTED_S:
                entries = self._view.entries()
                counts = await asyncio.to_thread(_count, entries)
                self._counted = self._monotonic(), counts
            counts = self._counted[1]
        found = dict.fromkeys((level.label for level in RiskLevel), 0)
        for (tenant, level), count in counts.items():
            if tenants is None or tenant in tenants:
                found[RiskLevel(level).label] += count
        return found

    async def tenants(self) -> list[str]:
        """Tenants that have agents, by name."""
        await self.levels(None)
        assert self._counted is not None
        return sorted({tenant for tenant, _ in self._counted[1]})


def _count(entries: Sequence[Entry]) -> Counter[tuple[str, int]]:
    return Counter((entry.summary.name.tenant, entry.summary.level) for entry in entries)

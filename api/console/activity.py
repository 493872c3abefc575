"""Activity of the fleet as this process saw it: risk over time, rates and counts by level.

The number of agents and of points per agent is bounded. A full series drops every other point, so that it covers the
same period more coarsely. It is lost when the process ends; then only decisions show earlier times.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

from trustwatch.scoring.records.agents import AgentSummary, RiskLevel

from ..http.runtime import Runtime, component_states

MAX_SERIES = 5_000
MAX_POINTS = 256  # Points of one agent; 12 bytes each, so all trails together have 16 MB at most
MIN_RISK_STEP = 0.01
MAX_POINT_INTERVAL_MS = 600_000  # A point is noted when risk has moved by `MIN_RISK_STEP`, or after so long
MIN_RECORDED_RISK = 0.02  # Agents that never had more risk than this leave no trail
SAMPLE_INTERVAL_S = 5.0
MAX_SAMPLES = 720  # An hour of samples
LEVEL_COUNTS_VALID_S = 1.0  # Validity of level counts, s: many pages request them at once when something changes


@dataclass(eq=False, repr=False)
class RiskSeries:
    """Keeps the risk over time of the *max_agents* agents whose risk changed last. Use it from one event loop."""

    max_agents: int = MAX_SERIES

    def __post_init__(self) -> None:
        # Not a cachetools cache: only a new point counts as use, but every update of the risk view does a lookup.
        self._series: OrderedDict[int, tuple[array[int], array[float]]] = OrderedDict()

    def record(self, summary: AgentSummary) -> None:
        key, risk, at_ms = summary.name.key, summary.risk_score, summary.evaluated_ms
        track = self._series.get(key)
        if track is None:
            if risk < MIN_RECORDED_RISK:
                return
            track = self._series[key] = array("q"), array("f")
            if len(self._series) > self.max_agents:
                self._series.popitem(last=False)
        elif abs(risk - track[1][-1]) < MIN_RISK_STEP and at_ms - track[0][-1] < MAX_POINT_INTERVAL_MS:
            return
        else:
            self._series.move_to_end(key)
        times, risks = track
        if times and at_ms <= times[-1]:
            risks[-1] = risk  # later news of the same moment
            return
        times.append(at_ms)
        risks.append(risk)
        if len(times) > MAX_POINTS:
            self._series[key] = times[::2], risks[::2]

    def points(self, key: int) -> list[tuple[int, float]]:
        """Return (UTC ms, risk) of an agent over time, oldest first."""
        return list(zip(*self._series.get(key, ((), ())), strict=True))


@dataclass(eq=False, repr=False)
class ActivitySampler:
    """Samples the pipeline, the agents by level, and how their risk changed. Use it from one event loop."""

    services: Runtime

    def __post_init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=MAX_SAMPLES)  # UTC ms, events judged until then
        self._cached_counts: tuple[float, Counter[tuple[str, int]]] | None = None
        self._count_lock = asyncio.Lock()
        self.risk_series = RiskSeries()
        self.component_changes: dict[str, tuple[bool, int]] = {}
        """Parts of the service: whether each can do its work, and since when that is known here, UTC ms."""
        self.services.risk_view.on_update = self.risk_series.record

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            self.note_components()
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    def sample(self) -> None:
        done = self.services.pipeline_status.work_counts.get("events", 0)
        self._samples.append((self.services.now_ms(), done))

    def note_components(self) -> dict[str, tuple[bool, int]]:
        """Read the status of the service's components; those that did not change keep their time."""
        states = component_states(self.services)
        for name, fine in states.items():
            if self.component_changes.get(name, (None, 0))[0] != fine:
                self.component_changes[name] = fine, self.services.now_ms()
        return {name: self.component_changes[name] for name in states}

    def throughput_series(self) -> list[tuple[int, float]]:
        """Return (UTC ms, events judged per second until then) of each sample except the first.

        A restarted pipeline counts from 0 again.
        """
        rates = []
        for (before_ms, before), (at_ms, events) in pairwise(self._samples):
            if at_ms > before_ms:
                rates.append((at_ms, (events - before if events >= before else events) * 1000 / (at_ms - before_ms)))
        return rates

    def throughput(self, over_s: float = 60.0) -> float | None:
        """Return the recent events per second, or None if not known yet."""
        rates = self.throughput_series()
        recent = [rate for at_ms, rate in rates if at_ms > rates[-1][0] - over_s * 1000]
        return sum(recent) / len(recent) if recent else None

    async def level_counts(self, tenants: Collection[str] | None) -> dict[str, int]:
        """Return the number of agents of the *tenants* (None = all) by level, at most a second old."""
        async with self._count_lock:
            now_s, cached = self.services.monotonic(), self._cached_counts
            if cached is None or now_s - cached[0] >= LEVEL_COUNTS_VALID_S:
                entries = self.services.risk_view.entries()
                counts = await asyncio.to_thread(
                    lambda: Counter((entry.summary.name.tenant, entry.summary.level) for entry in entries)
                )
                cached = self._cached_counts = self.services.monotonic(), counts
        by_level = dict.fromkeys((level.label for level in RiskLevel), 0)
        for (tenant, level), count in cached[1].items():
            if tenants is None or tenant in tenants:
                by_level[RiskLevel(level).label] += count
        return by_level

    async def known_tenants(self) -> list[str]:
        """Return the tenants that have agents, sorted by name."""
        await self.level_counts(None)
        assert self._cached_counts is not None
        return sorted({tenant for tenant, _ in self._cached_counts[1]})

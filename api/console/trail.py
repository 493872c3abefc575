"""Risk over time, as this process saw it: the store keeps decisions, and what happened between them is drawn from here.

Bounded: so many agents, so many points of each. A full trail loses every other point, so that it goes back as far as
before, more coarsely. It ends with the process; then decisions are all that is known of earlier times.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import NamedTuple

from ...scoring.records import AgentSummary

MAX_SERIES = 5_000
MAX_POINTS = 256
"""Points of one agent; 12 bytes each, so all trails together have 16 MB at most."""

MIN_RISK_STEP = 0.01
MAX_POINT_INTERVAL_MS = 600_000
"""A point is noted when risk has moved by STEP, or after so long."""

MIN_RECORDED_RISK = 0.02
"""Agents that never had more risk than this leave no trail."""


class RiskPoint(NamedTuple):
    """Risk of an agent at one time, UTC ms."""

    at_ms: int
    risk: float


class _AgentSeries:
    __slots__ = ("risks", "times")

    def __init__(self) -> None:
        self.times, self.risks = array("q"), array("f")

    def add(self, at_ms: int, risk: float) -> None:
        if self.times and at_ms <= self.times[-1]:
            self.risks[-1] = risk  # later news of the same moment
            return
        self.times.append(at_ms)
        self.risks.append(risk)
        if len(self.times) > MAX_POINTS:
            self.times, self.risks = self.times[::2], self.risks[::2]


class RiskSeries:
    """Trails of the agents that moved last. For one event loop.

    Args:
        agents: most agents that are kept.
    """

    def __init__(self, agents: int = MAX_SERIES) -> None:
        self._max_agents = agents
        self._series: OrderedDict[int, _AgentSeries] = OrderedDict()

    def record(self, summary: AgentSummary) -> None:
        """Take over what an agent is at now."""
        key, risk, at_ms = summary.name.key, summary.risk_score, summary.evaluated_ms
        track = self._series.get(key)
        if track is None:
            if risk < MIN_RECORDED_RISK:
                return
            track = self._series[key] = _AgentSeries()
            if len(self._series) > self._max_agents:
                self._series.popitem(last=False)
        elif abs(risk - track.risks[-1]) < MIN_RISK_STEP and at_ms - track.times[-1] < MAX_POINT_INTERVAL_MS:
            return
        else:
            self._series.move_to_end(key)
        track.add(at_ms, risk)

    def points(self, key: int) -> list[RiskPoint]:
        """What is known of an agent, oldest first."""
        track = self._series.get(key)
        return [] if track is None else [RiskPoint(*both) for both in zip(track.times, track.risks, strict=True)]

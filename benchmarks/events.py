"""Events for benchmarks: the simulator's enterprise, cut to the members that senders usually give (about 500 bytes)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import SimulationSettings

_KEPT: dict[str, tuple[str, ...]] = {
    "agent": ("id", "type", "version"),
    "principal": ("id",),
    "resource": ("type", "id", "external"),
    "client": ("ip",),
    "credential": ("method", "token_lifetime_s"),
}
_WHOLE = ("id", "time", "type", "action", "effect", "tenant", "session", "outcome", "bytes_in", "bytes_out", "task")


def raw_events(count: int, agents: int, per_agent_day: float, full: bool = False) -> list[bytes]:
    """JSON of *count* events of an enterprise of *agents*, in the order they happen; *full* keeps every member."""
    return [raw for raw, _ in islice(timed_events(agents, per_agent_day, full), count)]


def timed_events(agents: int, per_agent_day: float, full: bool = False) -> Iterator[tuple[bytes, int]]:
    """The same as a stream of two days, each event with the UTC milliseconds at which it happens."""
    settings = SimulationSettings(
        start=datetime(2026, 3, 2, 8, tzinfo=UTC),
        duration=timedelta(days=2),
        agents=agents,
        events_per_agent_day=per_agent_day,
    )
    for raw, _, at_ms in simulate(settings):
        yield raw if full else _cut(raw), at_ms


def _cut(raw: bytes) -> bytes:
    event: dict[str, Any] = json.loads(raw)
    kept = {name: event[name] for name in _WHOLE if name in event}
    for name, members in _KEPT.items():
        if name in event:
            kept[name] = {member: event[name][member] for member in members if member in event[name]}
    return json.dumps(kept, separators=(",", ":")).encode()

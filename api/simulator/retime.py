"""Compress event time, so that a simulated day can be played in a real minute."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime

from ...ingest.errors import ConfigError
from .rows import SimulatedEvent
from .settings import epoch_milliseconds
from .stream import format_second

_TIME_MEMBER = b'"time":"'
_TIME_LENGTH = len("2026-01-01T00:00:00.000Z")


def retime(
    events: Iterable[SimulatedEvent], *, factor: float, start: datetime, origin: datetime | None = None
) -> Iterator[SimulatedEvent]:
    """Divide the time since `origin` by `factor` and count it from `start`. Order, ids and labels stay as they are.

    Only `time` changes: `duration_ms` and `token_lifetime_s` keep their values, and hour-of-week loses its meaning.
    Counts per minute grow by the factor, so a model for compressed events must be trained on events compressed by the
    **same** factor, with the same `origin`; see docs/simulator.md.

    Args:
        factor: more than 0; 1440 plays a day in a minute.
        start: moment that `origin` becomes, with a UTC offset.
        origin: moment of the uncompressed stream; None takes the first event's.

    Raises:
        ConfigError: a factor that is not more than zero, or a moment without a UTC offset.
    """
    if not factor > 0:
        raise ConfigError(f"factor must be more than 0, not {factor!r}")
    if start.tzinfo is None or (origin is not None and origin.tzinfo is None):
        raise ConfigError("start and origin need a UTC offset")
    return _retime_events(
        events, factor, epoch_milliseconds(start), None if origin is None else epoch_milliseconds(origin)
    )


def _retime_events(
    events: Iterable[SimulatedEvent], factor: float, start_ms: int, origin_ms: int | None
) -> Iterator[SimulatedEvent]:
    for event, label, at_ms in events:
        if origin_ms is None:
            origin_ms = at_ms
        moved = start_ms + math.floor((at_ms - origin_ms) / factor)
        at = event.index(_TIME_MEMBER) + len(_TIME_MEMBER)
        stamp = f"{format_second(moved // 1000)}{moved % 1000:03d}Z".encode()
        yield SimulatedEvent(event[:at] + stamp + event[at + _TIME_LENGTH :], label, moved)

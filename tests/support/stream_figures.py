"""What waits in the streams of shared signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import func, select

from trustwatch.scoring.store.security_event_store import EVENT_STREAMS, SECURITY_EVENTS, SecurityEventStore


class StreamFigures(NamedTuple):
    """Number of streams by status, of SETs that wait, and when the oldest was queued (0 = none waits)."""

    streams: Mapping[str, int]
    waiting: int
    oldest_ms: int


def stream_figures(store: SecurityEventStore) -> StreamFigures:
    """Figures of all streams."""
    by_status = select(EVENT_STREAMS.c.status, func.count()).group_by(EVENT_STREAMS.c.status)
    waiting = select(func.count(), func.min(SECURITY_EVENTS.c.queued_ms)).select_from(SECURITY_EVENTS)
    with store._database.read() as connection:
        streams = {status: count for status, count in connection.execute(by_status)}
        count, oldest = connection.execute(waiting).one()
    return StreamFigures(streams, count, oldest or 0)

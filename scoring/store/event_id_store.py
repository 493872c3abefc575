"""Event ids of the last records of each partition, so that a new owner need not read the records again."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from ..records.commits import Commit, EventIdRun
from .database import Database
from .sql_schema import EVENT_IDS


class EventIdStore:
    """Hashes of event ids as commits wrote them, a run of consecutive records each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, partition: int, start_offset: int, end_offset: int) -> EventIdRun:
        """Hashes of the records before *end_offset*, back to *start_offset* as far as there is no gap."""
        table = EVENT_IDS.c
        query = select(table.first_offset, table.hashes).where(
            table.partition == partition, table.end_offset > start_offset, table.first_offset < end_offset
        )
        parts: list[bytes] = []
        first = end_offset
        with self._database.read() as connection:
            for row in connection.execute(query.order_by(table.first_offset.desc())):
                run = EventIdRun(row.first_offset, row.hashes)
                if run.end_offset != first:
                    break
                parts.append(run.hashes)
                first = run.first_offset
        spare = max(0, start_offset - first)
        return EventIdRun(first + spare, b"".join(reversed(parts))[spare * 8 :])


def write_event_ids(connection: Connection, commits: Sequence[Commit]) -> None:
    """Add the runs of *commits*, and remove those that are needed no more."""
    rows = [
        {
            "partition": commit.position.partition,
            "first_offset": run.first_offset,
            "end_offset": run.end_offset,
            "hashes": run.hashes,
        }
        for commit in commits
        if (run := commit.event_ids) is not None
    ]
    if rows:
        connection.execute(insert(EVENT_IDS), rows)
    for commit in commits:
        if commit.event_ids_needed_from:
            forget_event_ids(connection, commit.position.partition, commit.event_ids_needed_from)


def forget_event_ids(connection: Connection, partition: int, before_offset: int | None = None) -> None:
    """Remove the runs of a partition that end at or before an offset; None = all."""
    gone = delete(EVENT_IDS).where(EVENT_IDS.c.partition == partition)
    connection.execute(gone if before_offset is None else gone.where(EVENT_IDS.c.end_offset <= before_offset))

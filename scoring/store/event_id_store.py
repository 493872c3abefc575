"""Event ids of the last records of each partition, so that a new owner need not read the records again."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection, delete, insert, select

from ..records.commits import Commit, EventIdRun
from .database import Database
from .sql_schema import EVENT_IDS

_log = structlog.get_logger(__name__)


class EventIdStore:
    """Hashes of event ids as commits wrote them, a run of consecutive records each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, partition: int, start_offset: int, end_offset: int) -> EventIdRun:
        """The newest hashes that are stored of the records from *start_offset* to *end_offset*, without a gap.

        Commits store a run when it is long enough, so the last records may be missing; and the first, after a version
        that stored none. A row whose length is not that of its offsets counts as missing, and is logged.
        """
        table = EVENT_IDS.c
        query = select(table.first_offset, table.end_offset, table.hashes).where(
            table.partition == partition, table.end_offset > start_offset, table.end_offset <= end_offset
        )
        runs: list[EventIdRun] = []
        with self._database.read() as connection:
            for row in connection.execute(query.order_by(table.first_offset.desc())):
                run = EventIdRun(row.first_offset, row.hashes)
                if not isinstance(run.hashes, bytes) or len(run.hashes) != 8 * (row.end_offset - row.first_offset):
                    _log.warning(
                        "stored event ids are damaged; the log is read", partition=partition, offset=row.first_offset
                    )
                    break
                if runs and run.end_offset != runs[-1].first_offset:
                    break
                runs.append(run)
        first = runs[-1].first_offset if runs else end_offset
        spare = max(0, start_offset - first)
        return EventIdRun(first + spare, b"".join(run.hashes for run in reversed(runs))[spare * 8 :])


def write_event_ids(connection: Connection, commits: Sequence[Commit]) -> None:
    """Add the runs of *commits*, and remove those that they replace or that are needed no more."""
    for commit in commits:
        partition, run = commit.position.partition, commit.event_ids
        if run is not None:
            # Whoever found damaged ones has read them from the log, and stores them anew.
            again = (EVENT_IDS.c.partition == partition) & (EVENT_IDS.c.end_offset > run.first_offset)
            connection.execute(delete(EVENT_IDS).where(again))
            row = {"partition": partition, "first_offset": run.first_offset, "end_offset": run.end_offset}
            connection.execute(insert(EVENT_IDS), {**row, "hashes": run.hashes})
        if commit.event_ids_needed_from:
            forget_event_ids(connection, partition, commit.event_ids_needed_from)


def forget_event_ids(connection: Connection, partition: int, before_offset: int | None = None) -> None:
    """Remove the runs of a partition that end at or before an offset; None = all."""
    gone = delete(EVENT_IDS).where(EVENT_IDS.c.partition == partition)
    connection.execute(gone if before_offset is None else gone.where(EVENT_IDS.c.end_offset <= before_offset))

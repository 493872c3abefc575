"""A disk without room for the event log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trustwatch.ingest.log.event_log import EventLog


@contextmanager
def full_disk(log: EventLog) -> Iterator[None]:
    """SQLite refuses to let the file of *log* grow, as it does when the disk is full."""
    database = log._database.connection
    (before,) = database.execute("PRAGMA max_page_count").fetchone()
    database.execute("PRAGMA max_page_count = 1").close()  # at least what it has
    try:
        yield
    finally:
        database.execute(f"PRAGMA max_page_count = {before}").close()

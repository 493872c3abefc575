"""The writer of the event log, and recovery of what an earlier writer left."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import structlog

from ..durable_files import sync_directory
from ..errors import CorruptLog, Unavailable
from ..source import Record, RecordKind
from .log_database import (
    DATABASE_FILE,
    MAX_APPEND_BYTES,
    RECORD_HEAD,
    SEGMENT_BYTES,
    LogDatabase,
    SyncedOffset,
    decode_rows,
    lock_log,
    open_reading,
    record_bytes,
    reported_damage,
    segment_bases,
    segment_rows,
)
from .segment_import import import_segments

_log = structlog.get_logger(__name__)


class LogFailed(Unavailable):
    """The disk refused a write or an fsync (full, broken). Nothing unacknowledged is assumed to be kept.

    Callers may try again after `retry_after_s` seconds.
    """

    code = "log_failed"

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class EventLog:
    """Append-only log of one partition in a directory, opened for writing.

    Opening makes records of an earlier writer durable, imports a log of 0.1 or 0.2, and publishes the synced position.
    After a failed write the object refuses everything until `reopen`.

    Raises LogInUse, ConfigError, CorruptLog, LogFailed.
    """

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self.failed = False
        path = directory / DATABASE_FILE
        with ExitStack() as resources:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                sync_directory(directory.parent)
                resources.enter_context(lock_log(directory))
                self._synced = resources.enter_context(closing(SyncedOffset(directory, create=True)))
                import_segments(directory)
                if self._synced.get() and not path.exists():
                    raise CorruptLog(f"{path}: is missing, but records up to {self._synced.get()} were acknowledged")
                self._database = LogDatabase(path, segment_bytes)
                resources.callback(self._database.connection.close)
                self._check_acknowledged()
                self._database.check()
                sync_directory(directory)
                self._synced.set(self.next_offset)
            except (OSError, sqlite3.OperationalError) as error:
                raise LogFailed(f"{directory}: cannot open the event log: {error}") from error
            except sqlite3.DatabaseError as error:
                raise CorruptLog(f"{path}: damaged: {error}") from error
            self._resources = resources.pop_all()
        self._open = True

    def _check_acknowledged(self) -> None:
        if self.next_offset < self._synced.get():
            raise CorruptLog(
                f"{self._database.path}: ends with offset {self.next_offset}, but records up to offset "
                f"{self._synced.get()} were acknowledged"
            )

    @property
    def next_offset(self) -> int:
        """Offset that the next record gets."""
        return self._database.next_offset

    @property
    def first_offset(self) -> int:
        """Oldest offset still kept."""
        return segment_bases(self._database.connection)[0]

    def append(self, records: Sequence[Record]) -> int:
        """Write *records*; durable only after `sync`. No records write nothing. Raises LogFailed, ValueError."""
        self._require_healthy()
        first = self.next_offset
        if (size := record_bytes(records)) > MAX_APPEND_BYTES:
            raise ValueError(f"an append holds at most {MAX_APPEND_BYTES} bytes, not {size}")
        if records:
            self._write("append", lambda: self._database.append(records))
        return first

    def sync(self) -> None:
        """Make everything appended durable (SQLite calls `fdatasync` for its WAL), then show it to readers.

        Raises LogFailed.
        """
        self._require_healthy()
        if self._database.connection.in_transaction:
            self._write("commit", self._commit)

    def _commit(self) -> None:
        self._database.connection.execute("COMMIT")
        self._synced.set(self.next_offset)

    def _write(self, what: str, work: Callable[[], object]) -> None:
        """Do *work*; if the disk refuses, roll back what was not synced and refuse further records."""
        try:
            work()
        except (OSError, sqlite3.Error) as error:
            self.failed = True
            _log.error("event_log_failed", directory=str(self.directory), operation=what, error=str(error))
            try:
                self._roll_back()
                self._database.read_end()
            except sqlite3.Error as second:
                _log.warning("event_log_not_truncated", directory=str(self.directory), error=str(second))
            raise LogFailed(f"{self.directory}: {what} failed: {error}") from error

    def _roll_back(self) -> None:
        if self._database.connection.in_transaction:
            self._database.connection.execute("ROLLBACK")

    def _require_healthy(self) -> None:
        if not self._open or self.failed:
            raise LogFailed(f"{self.directory}: event log is closed or failed; it must be reopened")

    def reopen(self) -> None:
        """Read the end of the log again and continue, once the cause of a failure is fixed.

        Frames of the WAL that are not known to be synced are written over: SQLite does not count them.

        Raises LogFailed, CorruptLog.
        """

        def read_again() -> None:
            self._roll_back()
            self._database.connection.execute("PRAGMA wal_checkpoint").close()
            self._database.read_end()

        self.failed = True
        if not self._open:
            raise LogFailed(f"{self.directory}: event log is closed")
        self._write("reopen", read_again)
        self._check_acknowledged()
        self.failed = False

    def _transact(self, what: str, work: Callable[[], object]) -> None:
        """Do *work* in a separate transaction, after what was appended."""
        self.sync()
        self._require_healthy()
        self._write(what, lambda: self._database.connection.execute("BEGIN IMMEDIATE"))
        self._write(what, work)
        self._write(what, self._commit)

    def roll(self) -> int:
        """Begin a new segment, so that everything before it is in closed ones; return its first offset.

        Raises LogFailed.
        """
        self._transact("roll", self._database.roll)
        return self._database.base

    def replace_records(self, base: int, changes: dict[int, Record]) -> bool:
        """Replace records at some offsets of a closed segment; return False if retention dropped it meanwhile.

        After the next `clean` no file holds the old ones.
        """
        if base >= self._database.base:
            raise ValueError(f"{self._database.path}: segment {base} is being written and cannot be replaced")
        if base not in segment_bases(self._database.connection):
            return False
        self._transact("erasure", lambda: self._database.rewrite(base, changes))
        return True

    def clean(self) -> None:
        """Empty the WAL, which holds what was replaced. Raises LogFailed."""
        self.sync()
        (busy, *_) = self._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise LogFailed(f"{self.directory}: a reader keeps the log's WAL from being emptied")

    def drop_before(self, offset: int, min_age_ms: int, now_ms: int) -> int:
        """Delete whole segments of which every record is before *offset* and at least *min_age_ms* old.

        The last segment always stays. Pass the offset from which the duplicate window is rebuilt, which is before the
        committed one.
        """
        connection, dropped = self._database.connection, 0
        for base, following in pairwise(segment_bases(connection)):
            if following > offset:
                break
            heads = segment_rows(connection, base, base, what=f"substr(record, 1, {RECORD_HEAD.size})")
            if now_ms - max(int(RECORD_HEAD.unpack(head)[3]) for _, head in heads) < min_age_ms:
                break
            self._transact("drop", lambda base=base: self._database.drop(base))  # type: ignore[misc]
            dropped += 1
        if dropped:
            first = self.first_offset
            _log.info("event_log_dropped", directory=str(self.directory), segments=dropped, first_offset=first)
        return dropped

    def close(self) -> None:
        """Release files and lock. What was appended and not synced stays unacknowledged."""
        self._open = False
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def closed_segments(directory: Path, end: int) -> list[int]:
    """Return the first offsets of the closed segments that hold records before *end*."""
    if not (directory / DATABASE_FILE).exists():
        return []
    with reported_damage(directory / DATABASE_FILE), closing(open_reading(directory)) as database:
        return [base for base, _ in pairwise(segment_bases(database)) if base < end]


def changed_records(directory: Path, base: int, end: int, change: Callable[[Record], Record]) -> dict[int, Record]:
    """Return the new records of one segment before *end*, by offset, as *change* makes them.

    *change* returns the same object for a record that stays. Raises CorruptLog.
    """
    path = directory / DATABASE_FILE
    with reported_damage(path), closing(open_reading(directory)) as database:
        old = decode_rows(segment_rows(database, base, base), base, path)
    new = ((offset, record, change(record)) for offset, record in enumerate(old[: end - base], base))
    return {offset: after for offset, before, after in new if after is not before}


def count_erased(changes: dict[int, Any]) -> tuple[int, int]:
    """Count the records that *changes* removes, and those that it changes."""
    removed = sum(record.kind == RecordKind.ERASED for record in changes.values())
    return removed, len(changes) - removed

"""The file of the event log, a SQLite database in which each segment is a table, and the lock of its writer.

A segment is a table so that an erasure can rewrite it and drop the old one, whose pages SQLite then fills with zeros.
Single rows that are changed or deleted may leave copies of their neighbors in the pages.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import quote

import numpy as np

from ..durable_files import lock_file, sync_directory, write_file_atomically
from ..errors import ConfigError, CorruptLog, Unavailable
from ..source import Record

DATABASE_FILE = "events.db"
SEGMENT_BYTES = 64 * 1024 * 1024
MAX_APPEND_BYTES = 32 * 1024 * 1024
"""Largest size of the records of one append, in bytes."""
RECORD_HEAD = struct.Struct("<IBQq")
"""Before the payload of each record: CRC-32 of all that follows and the offset, kind, id hash, arrival."""
RECORD_HEADS = np.dtype([("crc", "<u4"), ("kind", "u1"), ("id_hash", "<u8"), ("received_ms", "<i8")])

_CHECKED = struct.Struct("<BQq")
_CHECKED_FROM = RECORD_HEAD.size - _CHECKED.size
_SYNCED = struct.Struct("=8sQ")
_SYNCED_MAGIC = b"TWSYNC1\n"
_BUSY_S = 10.0


class LogInUse(ConfigError):
    """Another process, or another object of this one, writes this log: an event log has exactly one writer."""

    code = "log_in_use"


def lock_log(directory: Path) -> BinaryIO:
    """Take the writer's lock; it is held until the returned file is closed, and ends with the process.

    Raises LogInUse.
    """
    file = (directory / "lock").open("a+b")
    if not lock_file(file, wait=False):
        file.seek(0)
        owner = file.read(32).decode(errors="replace") or "unknown"
        file.close()
        raise LogInUse(f"{directory}: event log is being written by process {owner}; only one writer is allowed")
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    file.flush()
    return file


class SyncedOffset:
    """Offset up to which records are known to be on disk, for the reading processes and for the next start.

    The writer moves it only after a commit, so it is never ahead of the disk. After a power loss it may be older.
    """

    def __init__(self, directory: Path, create: bool = False) -> None:
        self._path = directory / "synced"
        if create and (not self._path.exists() or self._path.stat().st_size != _SYNCED.size):
            write_file_atomically(self._path, _SYNCED.pack(_SYNCED_MAGIC, 0), temporary=self._path.with_suffix(".new"))
        self._fd = os.open(self._path, (os.O_RDWR if create else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            self.get()
        except CorruptLog:
            self.close()
            raise

    def get(self) -> int:
        """Offset after the last durable record."""
        content = os.pread(self._fd, _SYNCED.size + 1, 0)
        if len(content) != _SYNCED.size or not content.startswith(_SYNCED_MAGIC):
            raise CorruptLog(f"{self._path}: not a synced position; delete it and start the service to rebuild it")
        return int(_SYNCED.unpack(content)[1])

    def set(self, offset: int) -> None:
        """Publish *offset* to all readers."""
        os.pwrite(self._fd, offset.to_bytes(8, sys.byteorder), 8)

    def close(self) -> None:
        os.close(self._fd)


def record_bytes(records: Sequence[Record]) -> int:
    return RECORD_HEAD.size * len(records) + sum(len(record.payload) for record in records)


def encode_record(offset: int, record: Record) -> bytes:
    """Encode a record as its row holds it."""
    checked = _CHECKED.pack(record.kind, record.id_hash, record.received_ms) + record.payload
    return zlib.crc32(checked, offset & 0xFFFFFFFF).to_bytes(4, "little") + checked


@contextmanager
def reported_damage(path: Path) -> Iterator[None]:
    """Raise CorruptLog for damage that SQLite finds, and Unavailable if it cannot read."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{path}: cannot read the event log: {error}") from error
    except sqlite3.DatabaseError as error:
        raise CorruptLog(f"{path}: damaged: {error}") from error


def open_reading(directory: Path) -> sqlite3.Connection:
    name = f"file:{quote(str((directory / DATABASE_FILE).absolute()))}?mode=ro"
    return sqlite3.connect(name, uri=True, isolation_level=None, timeout=_BUSY_S, check_same_thread=False)


def segment_bases(database: sqlite3.Connection) -> list[int]:
    """First offsets of all segments, ascending."""
    return [base for (base,) in database.execute("SELECT base FROM segments ORDER BY base").fetchall()]


def segment_rows(
    database: sqlite3.Connection, base: int, start: int, most: int = -1, what: str = "record"
) -> list[tuple[int, bytes]]:
    """Rows of the segment *base* from offset *start* on, *most* at the most; none if it was dropped.

    Both statements run in one transaction, since an erasure may replace the table.
    """
    if not (inside := database.in_transaction):
        database.execute("BEGIN")
    try:
        name = database.execute("SELECT name FROM segments WHERE base = ?", (base,)).fetchone()
        if name is None:
            return []
        query = f"SELECT offset, {what} FROM {name[0]} WHERE offset >= ? ORDER BY offset LIMIT ?"  # noqa: S608
        return database.execute(query, (start, most)).fetchall()
    finally:
        if not inside:
            database.execute("COMMIT")


class LogDatabase:
    """The tables of the log, opened for writing. The caller holds the lock of its folder.

    *start* is the first offset of a log that does not exist yet.
    """

    def __init__(self, path: Path, segment_bytes: int = SEGMENT_BYTES, start: int = 0) -> None:
        self.path = path
        self.segment_bytes = segment_bytes
        self.next_offset = self.base = start
        self.table, self.size = "", 0
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False)
        try:
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "secure_delete=ON",
                "wal_autocheckpoint=4096",  # pages
                "cache_size=-32768",  # KiB
            ):
                self.connection.execute(f"PRAGMA {pragma}").close()
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS segments (base INTEGER PRIMARY KEY, name TEXT NOT NULL)"
            )
            if not segment_bases(self.connection):
                self._add_table(start, 0)
            self.connection.execute("COMMIT")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()  # now all of it is durable
            self.read_end()
        except BaseException:
            self.connection.close()
            raise

    def read_end(self) -> None:
        self.base, self.table = self.connection.execute("SELECT max(base), name FROM segments").fetchone()
        query = f"SELECT max(offset), coalesce(sum(length(record)), 0) FROM {self.table}"  # noqa: S608
        last, self.size = self.connection.execute(query).fetchone()
        self.next_offset = self.base if last is None else last + 1

    def _add_table(self, base: int, version: int) -> str:
        name = f"records_{base}_{version}"
        self.connection.execute(f"CREATE TABLE {name} (offset INTEGER PRIMARY KEY, record BLOB NOT NULL)")
        self.connection.execute("INSERT OR REPLACE INTO segments VALUES (?, ?)", (base, name))
        return name

    def append(self, records: Sequence[Record]) -> None:
        """Add records to the open transaction, or begin one."""
        first = self.next_offset
        rows = [(offset, encode_record(offset, record)) for offset, record in enumerate(records, first)]
        size = sum(len(raw) for _, raw in rows)
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")
        if self.size and self.size + size > self.segment_bytes:
            self.roll()
        self._insert(self.table, rows)
        self.next_offset += len(rows)
        self.size += size

    def _insert(self, table: str, rows: Iterable[tuple[int, bytes]]) -> None:
        self.connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)  # noqa: S608

    def roll(self) -> None:
        """Begin a new segment, unless the last one is empty."""
        if self.size:
            self.base, self.size = self.next_offset, 0
            self.table = self._add_table(self.base, 0)

    def drop(self, base: int) -> None:
        (name,) = self.connection.execute("SELECT name FROM segments WHERE base = ?", (base,)).fetchone()
        self.connection.execute(f"DROP TABLE {name}")
        self.connection.execute("DELETE FROM segments WHERE base = ? AND name = ?", (base, name))

    def rewrite(self, base: int, changes: dict[int, Record]) -> None:
        """Rewrite a segment with other records at some offsets, and drop the old table."""
        (name,) = self.connection.execute("SELECT name FROM segments WHERE base = ?", (base,)).fetchone()
        fresh = self._add_table(base, int(name.rpartition("_")[2]) + 1)
        rows = self.connection.execute(f"SELECT offset, record FROM {name} ORDER BY offset")  # noqa: S608
        with closing(rows):
            self._insert(fresh, ((at, encode_record(at, changes[at]) if at in changes else raw) for at, raw in rows))
        self.connection.execute(f"DROP TABLE {name}")

    def check(self) -> None:
        """Check that no segment is missing, and each record of the last one; other records are checked when read.

        Raises CorruptLog.
        """
        bases = segment_bases(self.connection)
        for base, following in pairwise(bases):
            last = segment_rows(self.connection, base, following - 1, what="offset")
            if [offset for offset, _ in last] != [following - 1]:
                raise CorruptLog(f"{self.path}: segment {base} does not end before offset {following}")
        decode_rows(segment_rows(self.connection, self.base, self.base), self.base, self.path)


def decode_rows(rows: Sequence[tuple[int, bytes]], first: int, path: Path, *, whole: bool = True) -> list[Record]:
    """Decode rows that begin with offset *first*. Raises CorruptLog if one is damaged or missing.

    Unless *whole*, records before the damage are returned, if there are any.
    """
    records: list[Record] = []
    try:
        for expected, (offset, raw) in enumerate(rows, first):
            if offset != expected:
                raise CorruptLog(f"{path}: records from offset {expected} up to {offset} are missing")
            crc = zlib.crc32(memoryview(raw)[_CHECKED_FROM:], offset & 0xFFFFFFFF)
            if len(raw) < RECORD_HEAD.size or RECORD_HEAD.unpack_from(raw)[0] != crc:
                raise CorruptLog(f"{path}: damaged record at offset {offset}")
            _, kind, id_hash, received_ms = RECORD_HEAD.unpack_from(raw)
            records.append(Record(kind, id_hash, received_ms, raw[RECORD_HEAD.size :]))
    except CorruptLog:
        if whole or not records:
            raise
    return records


class LogExtent(NamedTuple):
    """Offsets of a log: of its first record, and the one after its last durable record."""

    first_offset: int
    end_offset: int


def log_extent(directory: Path) -> LogExtent:
    """Return the first and end offset of a log. Raises ConfigError if there is none, CorruptLog."""
    path = directory / DATABASE_FILE
    if not path.exists():
        raise ConfigError(f"{directory}: no event log there; a service writes one when it starts")
    with reported_damage(path), closing(open_reading(directory)) as database, closing(SyncedOffset(directory)) as end:
        return LogExtent(segment_bases(database)[0], end.get())


def copy_log(source: Path, target: Path, needed_from: int) -> LogExtent:
    """Copy the current log into a new folder while its writer continues, and check every record of the copy.

    Raises ConfigError, CorruptLog, Unavailable.
    """
    acknowledged = log_extent(source).end_offset
    target.mkdir(parents=True)
    path = target / DATABASE_FILE
    with reported_damage(source / DATABASE_FILE), closing(sqlite3.connect(path)) as copy:
        with closing(open_reading(source)) as database:
            database.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE").close()  # one file, also for readers
        bases = segment_bases(copy)
        end = bases[0]
        for base in bases:
            if base != end:
                raise CorruptLog(f"{source / DATABASE_FILE}: records from offset {end} up to {base} are missing")
            end += len(decode_rows(segment_rows(copy, base, base), base, source / DATABASE_FILE))
    if end < acknowledged:
        raise CorruptLog(f"{source}: the log ends with offset {end}, but {acknowledged} were acknowledged")
    if bases[0] > needed_from:
        raise Unavailable(
            f"{source}: retention removed records from offset {needed_from} on before they were copied; try again"
        )
    with closing(SyncedOffset(target, create=True)) as synced:
        synced.set(end)
    sync_directory(target)
    return LogExtent(bases[0], end)

"""The embedded event log on SQLite, as it would be if it replaced `ingest/log`: only measured, see decision 0040.

A database file of its own: WAL, synchronous=FULL. Group commit is ours (`GroupCommit`), so callers wait in the same
queue and a round is one transaction; COMMIT flushes the WAL, then shows the rows to readers. Two layouts: a row for
each record under its offset, and a row for each round, with the records in a chunk of `ingest/log/log_frames.py`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from trustwatch.ingest.log import log_frames
from trustwatch.ingest.source import Record, RecordBatch

PAGE_BYTES, CHECKPOINT_BYTES = 4096, 16 << 20
"""What was best of pages of 4, 8 and 16 KiB and check points of 4, 16 and 64 MiB over all cells."""
MIN_PAUSE_S, MAX_PAUSE_S = 0.001, 0.010  # those of `LogReader`
_SIGN = 1 << 63
"""Id hashes have no sign, SQLite's integers have one."""


def database_path(directory: Path) -> Path:
    """File of the log in *directory*."""
    return directory / "log.db"


class RowLog:
    """What `GroupCommit` needs of a `CommitLog` as long as nothing fails; an error ends the benchmark.

    `append` inserts a row for each record into an open transaction, `sync` commits it.
    """

    failed = False
    TABLE = (
        "records (first INTEGER PRIMARY KEY, kind INTEGER NOT NULL, id_hash INTEGER NOT NULL,"
        " received_ms INTEGER NOT NULL, payload BLOB NOT NULL)"
    )
    END = "SELECT max(first) + 1 FROM records"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._database = sqlite3.connect(database_path(directory), isolation_level=None, check_same_thread=False)
        for pragma in (
            f"page_size={PAGE_BYTES}",
            "journal_mode=WAL",
            "synchronous=FULL",
            f"wal_autocheckpoint={CHECKPOINT_BYTES // PAGE_BYTES}",
            "cache_size=-32768",  # KiB
        ):
            self._database.execute(f"PRAGMA {pragma}").close()
        self._database.execute(f"CREATE TABLE IF NOT EXISTS {self.TABLE}")
        (end,) = self._database.execute(self.END).fetchone()
        self._next = int(end or 0)

    def append(self, records: Sequence[Record]) -> int:
        """See `CommitLog`."""
        if not self._database.in_transaction:
            self._database.execute("BEGIN IMMEDIATE")
        first = self._next
        self._insert(first, records)
        self._next = first + len(records)
        return first

    def _insert(self, first: int, records: Sequence[Record]) -> None:
        self._database.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?)",
            [
                (number, kind, id_hash - _SIGN, received_ms, payload)
                for number, (kind, id_hash, received_ms, payload, _) in enumerate(records, first)
            ],
        )

    def sync(self) -> None:
        """See `CommitLog`."""
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Release the file; the last one who has it open writes the WAL back and removes it."""
        self._database.close()


class ChunkLog(RowLog):
    """The same with a row for each round, so that SQLite inserts one row however many records it has."""

    TABLE = "chunks (first INTEGER PRIMARY KEY, following INTEGER NOT NULL, chunk BLOB NOT NULL)"
    END = "SELECT max(following) FROM (SELECT following FROM chunks ORDER BY first DESC LIMIT 1)"

    def _insert(self, first: int, records: Sequence[Record]) -> None:
        chunk = log_frames.encode_chunk(first, records)
        self._database.execute("INSERT INTO chunks VALUES (?, ?, ?)", (first, first + len(records), chunk))


class RowReader:
    """`poll` of a `Source` over a `RowLog`, from another process: a short transaction for each batch."""

    def __init__(self, directory: Path) -> None:
        name = f"file:{quote(str(database_path(directory)))}?mode=ro"
        self._database = sqlite3.connect(name, uri=True, isolation_level=None)
        self._offset = 0

    def seek(self, partition: int, offset: int) -> None:  # noqa: ARG002 (there is one)
        """See `Source.seek`."""
        self._offset = offset

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """See `Source.poll`."""
        deadline, pause = time.monotonic() + timeout_s, MIN_PAUSE_S
        while not (records := self._read(max_records)):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 2, MAX_PAUSE_S)
        batch = RecordBatch(0, self._offset, records)
        self._offset = batch.next_offset
        return batch

    def _read(self, most: int) -> list[Record]:
        found = self._database.execute(
            "SELECT kind, id_hash, received_ms, payload FROM records WHERE first >= ? ORDER BY first LIMIT ?",
            (self._offset, most),
        )
        with closing(found) as rows:
            return [Record(kind, id_hash + _SIGN, received_ms, payload) for kind, id_hash, received_ms, payload in rows]

    def close(self) -> None:
        """Release the file."""
        self._database.close()


class ChunkReader(RowReader):
    """The same over a `ChunkLog`; it can be sought to the first record of a chunk alone, and keeps chunks whole."""

    def _read(self, most: int) -> list[Record]:
        records: list[Record] = []
        query = "SELECT first, chunk FROM chunks WHERE first >= ? ORDER BY first"
        with closing(self._database.execute(query, (self._offset,))) as rows:
            for first, chunk in rows:
                header = log_frames.read_header(chunk, 0, first)
                assert header is not None and log_frames.is_intact(chunk, 0, header)
                records += log_frames.decode_records(chunk, 0, header)
                if len(records) >= most:
                    break
        return records

"""The reading side of the event log: a `Source` for another process, while the writer appends."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ..errors import CorruptLog
from ..source import PartitionOffsets, PartitionOwner, Record, RecordBatch
from .log_database import (
    DATABASE_FILE,
    RECORD_HEAD,
    RECORD_HEADS,
    SyncedOffset,
    decode_rows,
    open_reading,
    reported_damage,
    segment_rows,
)
from .segment_import import first_offset, read_old_log

_MIN_PAUSE_S = 0.001
_MAX_PAUSE_S = 0.010


class LogReader:
    """Implements `DurableSource` over the directory of an `EventLog`, usually from another process.

    It returns only records whose commit succeeded (the writer publishes that offset), so no reader has a record that a
    power loss takes back. Not thread-safe. Latency after a commit is 1 to 10 ms.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / DATABASE_FILE
        self._database: sqlite3.Connection | None = None
        self._synced: SyncedOffset | None = None
        self._offset = 0

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading at *offset*. Raises CorruptLog, ValueError."""
        end = self.end_offset(partition)
        if offset < 0:
            raise ValueError(f"offset must be 0 or more, is {offset}")
        if offset > end:
            raise CorruptLog(f"{self.directory}: offset {offset} is after the end of the log, {end}")
        if self._synced is not None:
            with reported_damage(self._path):
                self._segment_of(offset)
        self._offset = offset

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """At most *max_records* records, as soon as there are any; None after *timeout_s* seconds without.

        Raises CorruptLog, Unavailable.
        """
        deadline = time.monotonic() + timeout_s
        pause = _MIN_PAUSE_S
        while self._offset >= (end := self.end_offset(0)):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 2, _MAX_PAUSE_S)
        rows = self._rows(self._offset, min(end, self._offset + max_records))
        records = decode_rows(rows, self._offset, self._path, whole=False)
        batch = RecordBatch(0, self._offset, records)
        self._offset = batch.next_offset
        return batch

    def _rows(self, start: int, end: int, what: str = "record") -> list[tuple[int, bytes]]:
        """Return all rows in [start, end). Raises CorruptLog if some are missing."""
        rows: list[tuple[int, bytes]] = []
        with reported_damage(self._path):
            while start < end:
                found = segment_rows(self._connection(), self._segment_of(start), start, end - start, what)
                if not found:
                    raise CorruptLog(f"{self._path}: records from offset {start} up to {end} are missing")
                rows += found
                start = found[-1][0] + 1
        return rows

    def _segment_of(self, offset: int) -> int:
        """Return the first offset of the segment that holds *offset*. Raises CorruptLog if it is no longer kept."""
        query = "SELECT max(base) FILTER (WHERE base <= ?), min(base) FROM segments"
        base, kept = self._connection().execute(query, (offset,)).fetchone()
        if base is None:
            raise CorruptLog(f"{self.directory}: offset {offset} is no longer kept, the log starts at {kept or 0}")
        return int(base)

    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = open_reading(self.directory)
        return self._database

    def end_offset(self, partition: int) -> int:
        """Offset after the last durable record; 0 before a writer has created the log."""
        if partition != 0:
            raise ValueError(f"the embedded log has partition 0 only, not {partition}")
        if self._synced is None:
            if not self._path.exists():
                return 0
            self._synced = SyncedOffset(self.directory)
        return self._synced.get()

    def read_id_hashes(self, partition: int, start_offset: int, end_offset: int) -> npt.NDArray[np.uint64]:
        """Id hashes of the records from *start_offset* up to *end_offset*, to rebuild a duplicate window.

        The position of `poll` does not change. Raises CorruptLog.
        """
        end = self.end_offset(partition)
        if end_offset > end:
            raise CorruptLog(f"{self.directory}: offset {end_offset} is after the end of the log, {end}")
        rows = self._rows(start_offset, end_offset, f"substr(record, 1, {RECORD_HEAD.size})")
        heads = np.frombuffer(b"".join(head for _, head in rows), RECORD_HEADS)
        if len(heads) != max(0, end_offset - start_offset):
            raise CorruptLog(f"{self._path}: records between offset {start_offset} and {end_offset} are missing")
        return heads["id_hash"].astype(np.uint64)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._synced is not None:
            self._synced.close()
            self._synced = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LogGroupSource(LogReader):
    """Implements `GroupSource`: the one partition of the log belongs to the process that joins, until `close`.

    Each process that reads a log is a separate group, so `join` assigns at once.
    """

    failed_polls = 0

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._owner: PartitionOwner | None = None
        self._owned: frozenset[int] = frozenset()
        self._unsought: int | None = None  # offset that the owner asked for and that could not be sought
        self._paused = False

    def join(self, owner: PartitionOwner) -> None:
        """See `GroupSource.join`. Raises CorruptLog if the owner's offset is not kept, and what the owner raises."""
        offset = owner.assigned({0}).get(0)
        self._owner, self._owned, self._unsought = owner, frozenset({0}), offset
        if offset is None:
            self.pause(0)
        else:
            self.seek(0, offset)

    def owned(self) -> frozenset[int]:
        return self._owned

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading at *offset*, of the paused partition too. Raises as `LogReader.seek`."""
        if partition not in self._owned:
            raise ValueError(f"{self.directory}: no seek in partition {partition}, ours: {set(self._owned)}")
        super().seek(partition, offset)
        self._unsought, self._paused = None, False

    def pause(self, partition: int) -> None:
        self._paused = self._paused or partition in self._owned

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """See `Source.poll`. Raises CorruptLog, each time if the owner's offset is not kept."""
        if self._unsought is not None:
            self.seek(0, self._unsought)
        if self._paused or not self._owned:
            time.sleep(timeout_s)
            return None
        return super().poll(max_records, timeout_s)

    def offsets(self, since_ms: int) -> Mapping[int, PartitionOffsets]:  # noqa: ARG002 (older records pass quickly)
        """See `GroupSource.offsets`: arrival has no index here, so `since` is the oldest record."""
        first = first_offset(self.directory)
        return {0: PartitionOffsets(first, first, self.end_offset(0))}

    def read_id_hashes(self, partition: int, start_offset: int, end_offset: int) -> npt.NDArray[np.uint64]:
        """See `DurableSource.read_id_hashes`; 0 for records that retention removed. Raises CorruptLog."""
        first = min(max(start_offset, first_offset(self.directory)), max(start_offset, end_offset))
        kept = super().read_id_hashes(partition, first, end_offset)
        return np.concatenate([np.zeros(first - start_offset, np.uint64), kept])

    def note_position(self, offsets: Mapping[int, int]) -> None:
        """See `GroupSource.note_position`: no tool looks at groups of this log."""

    def close(self) -> None:
        owner, owned = self._owner, self._owned
        self._owner, self._owned, self._unsought = None, frozenset(), None
        try:
            if owner is not None:
                owner.revoked(owned)
        finally:
            super().close()


def read_log(directory: Path) -> Iterator[Record]:
    """All records that are durable now, the oldest first, of a log that may not be imported yet. Raises CorruptLog."""
    if not (directory / DATABASE_FILE).exists():
        yield from read_old_log(directory)
        return
    with LogReader(directory) as reader:
        reader.seek(0, first_offset(directory))
        end = reader.end_offset(0)
        while reader._offset < end and (batch := reader.poll(min(5_000, end - reader._offset), 0.0)) is not None:
            yield from batch.records

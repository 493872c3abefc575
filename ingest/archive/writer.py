"""The writing side: ranges of a log become files, each range once, whatever is killed.

A range of one partition is written file by file (to a temporary name, fsync, rename) and then taken into
`_position.json` by one atomic rename. What a crash leaves behind that position is removed at the next start, and its
range is written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow.parquet as pq

from ..events import NativeEvent
from .files import (
    TEMPORARY_SUFFIX,
    data_files,
    drop_days_before,
    event_folder,
    file_name,
    read_lock,
    rewrite_lock,
    superseded_files,
    write_file_atomically,
    writer_lock,
)
from .position import read_positions, write_positions
from .tables import event_table


class EventToArchive(NamedTuple):
    """One event. Times are UTC milliseconds."""

    offset: int
    received_ms: int
    event: NativeEvent
    raw: bytes

    @property
    def time_ms(self) -> int:
        """Its own time."""
        return int(self.event.time.timestamp() * 1000)


class EventArchive:
    """One archive; exactly one process may write it.

    Args:
        directory: made where it does not exist.
        topic: whose records it is made of; "" = the embedded log.
    """

    def __init__(self, directory: Path, topic: str = "") -> None:
        self.directory = directory
        self.topic = topic
        self._lock: BinaryIO | None = None
        self._offsets: dict[int, int] = {}

    def start(self) -> dict[int, int] | None:
        """Remove what a crash left half done. Returns the positions by partition, None before the first range.

        Raises:
            ConfigError: another process writes this archive.
            CorruptLog: it is one of another log, or does not say how far it goes.
        """
        if self._lock is None:
            self._lock = writer_lock(self.directory)
        # What goes here is read by nobody: what has no position, and what lies within a merged file. So readers, who
        # may take hours, are not waited for; who merges or erases is.
        with read_lock(self.directory, make=True):
            found = read_positions(self.directory, self.topic)
            self._offsets = dict(found or {})
            for path in self.directory.rglob(f"*{TEMPORARY_SUFFIX}"):
                path.unlink()
            for file in data_files(self.directory):
                if file.first >= self._offsets.get(file.partition, 0):
                    file.path.unlink()
            for path in superseded_files(self.directory, "events"):
                path.unlink()
        return found

    def write(self, base: int, end: int, events: Sequence[EventToArchive], partition: int = 0) -> int:
        """Write the range [base, end) of a partition with its *events*, and move the position behind it.

        Returns the number of files.
        """
        parts: dict[str, list[EventToArchive]] = {}
        for one in events:
            parts.setdefault(event_folder(one.time_ms, one.event.tenant or ""), []).append(one)
        name = file_name("events", partition if self.topic else None, base, end)
        for folder, rows in sorted(parts.items()):
            columns = event_table([(r.offset, r.received_ms, r.time_ms, r.event, r.raw) for r in rows], partition)
            write_file_atomically(
                self.directory / folder / name,
                lambda file, columns=columns: pq.write_table(columns, file, compression="zstd"),  # type: ignore[misc]
            )
        moved = {**self._offsets, partition: end}
        write_positions(self.directory, self.topic, moved)
        self._offsets = moved
        return len(parts)

    def drop_before(self, oldest_ms: int) -> int:
        """Remove the dates that end before a time, UTC milliseconds; returns how many files went."""
        with rewrite_lock(self.directory):
            return drop_days_before(self.directory, oldest_ms)

    def close(self) -> None:
        """Let another process write it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

"""The reading side of the event log: a `Source` for another process, while the writer appends."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from ..errors import CorruptLog
from ..source import Record, RecordBatch
from . import log_frames
from .log_segments import SyncedOffset, map_open_file, segment_bases, segment_path

BLOCK_BYTES = 1 << 20
"""Read at a time: many small chunks cost one system call."""

_MIN_PAUSE_S = 0.001
_MAX_PAUSE_S = 0.010


class ChunkCursor:
    """Walks over the chunks of all segments, up to a given offset, with one buffered read per block.

    The buffer never serves bytes that were read before they were synced: a writer may take those back.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.offset = 0
        self._file: BinaryIO | None = None
        self._path = directory
        self._position = 0
        self._buffer = b""
        self._start = 0
        self._valid_to = 0

    def seek(self, offset: int) -> None:
        """Stand at the chunk that holds *offset*, or at the end of the log.

        Raises:
            CorruptLog: the offset is no longer kept, or damage lies before it.
        """
        bases = segment_bases(self.directory)
        base = max((b for b in bases if b <= offset), default=None)
        if base is None:
            if bases or offset:
                kept = bases[0] if bases else 0
                raise CorruptLog(f"{self.directory}: offset {offset} is no longer kept, the log starts at {kept}")
            self.close()
            self.offset = 0
            return
        self._open(base)
        assert self._file is not None
        with map_open_file(self._file) as view:  # not by its path: an erasure may put another file there
            while (
                header := log_frames.read_header(view, self._position, self.offset)
            ) and header.next_offset <= offset:
                self._position += header.size
                self.offset = header.next_offset

    def next_chunk(self, end: int) -> tuple[log_frames.ChunkHeader, bytes, int]:
        """The chunk at the cursor, with the buffer and the position it lies at; the cursor moves behind it.

        Raises:
            CorruptLog: the chunk is damaged or missing; names file and byte.
        """
        if self._file is None:
            self._open(self.offset)
        at = self._position - self._start
        header = log_frames.read_header(self._buffer, at, self.offset) if self.offset < self._valid_to else None
        if header is None or at + header.size > len(self._buffer):
            self._fill(end)
            at = 0
            header = log_frames.read_header(self._buffer, 0, self.offset)
        if header is None or not log_frames.is_intact(self._buffer, at, header):
            raise CorruptLog(f"{self._path}: damaged chunk at byte {self._position} (offset {self.offset})")
        self._position += header.size
        self.offset = header.next_offset
        return header, self._buffer, at

    def _fill(self, end: int) -> None:
        """Read a block, larger where one chunk is, from the cursor on; at the end of a segment open the next."""
        block = self._read(BLOCK_BYTES)
        if not block:
            self._open(self.offset)
            block = self._read(BLOCK_BYTES)
        header = log_frames.read_header(block, 0)
        if header is not None and header.size > len(block):
            block = self._read(header.size)
        self._buffer, self._start, self._valid_to = block, self._position, end

    def _read(self, size: int) -> bytes:
        assert self._file is not None
        return os.pread(self._file.fileno(), size, self._position)

    def _open(self, base: int) -> None:
        path = segment_path(self.directory, base)
        self.close()
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise CorruptLog(f"{path}: segment is missing (offset {base})") from None
        self._path, self._position, self.offset = path, 0, base

    def close(self) -> None:
        """Release the open segment and the buffer."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._buffer, self._start, self._valid_to = b"", 0, 0


class LogReader:
    """Implements `Source` over the directory of an `EventLog`, usually from another process.

    It hands out only records whose fsync succeeded (the writer publishes that offset), so that nothing downstream can
    know a record that a power loss takes back. Not thread-safe. Latency after a commit is 1 to 10 ms.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._cursor = ChunkCursor(directory)
        self._synced: SyncedOffset | None = None
        self._pending: list[Record] = []
        self._taken = 0
        self._offset = 0

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading at *offset*.

        Raises:
            CorruptLog: the offset is no longer kept, or lies behind the end of the log: whoever remembers it has seen
                records that the log has lost (a wrong directory, a restored backup).
            ValueError: the partition is not 0, or the offset negative.
        """
        end = self.end_offset(partition)
        if offset < 0:
            raise ValueError(f"offset must be 0 or more, is {offset}")
        if offset > end:
            raise CorruptLog(f"{self.directory}: offset {offset} is behind the end of the log, {end}")
        self._cursor.seek(offset)
        self._pending, self._taken, self._offset = [], 0, offset

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """At most *max_records* records, as soon as there are any; None after *timeout_s* seconds without.

        Raises:
            CorruptLog: an acknowledged record can not be read back; names file and byte.
        """
        deadline = time.monotonic() + timeout_s
        pause = _MIN_PAUSE_S
        while self._offset >= (end := self.end_offset(0)):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 2, _MAX_PAUSE_S)
        records: list[Record] = []
        while len(records) < max_records and self._offset + len(records) < end:
            try:
                records += self._take(max_records - len(records), end)
            except CorruptLog:
                if not records:
                    raise
                break  # what lies before the damage is good; the next call meets the damage again
        batch = RecordBatch(0, self._offset, records)
        self._offset = batch.next_offset
        return batch

    def _take(self, most: int, end: int) -> list[Record]:
        """Up to *most* records of the current chunk; a chunk may be returned in parts."""
        if self._taken == len(self._pending):
            header, buffer, position = self._cursor.next_chunk(end)
            self._pending = log_frames.decode_records(buffer, position, header)
            self._taken = max(0, self._offset - header.base_offset)  # after a seek into the middle of a chunk
        part = self._pending[self._taken : self._taken + most]
        self._taken += len(part)
        return part

    def end_offset(self, partition: int) -> int:
        """Offset after the last durable record; 0 before a writer has created the log."""
        if partition != 0:
            raise ValueError(f"the embedded log has partition 0 only, not {partition}")
        if self._synced is None:
            try:
                self._synced = SyncedOffset(self.directory)
            except FileNotFoundError:
                return 0
        return self._synced.get()

    def read_id_hashes(self, partition: int, start_offset: int, end_offset: int) -> npt.NDArray[np.uint64]:
        """Id hashes of the records from *start_offset* up to *end_offset*, to rebuild a duplicate window.

        *partition* is 0, as there is no other. The position of `poll` is not touched.

        Raises:
            CorruptLog: part of the range is not kept, not yet durable, or damaged.
        """
        end = self.end_offset(partition)
        if end_offset > end:
            raise CorruptLog(f"{self.directory}: offset {end_offset} is behind the end of the log, {end}")
        if start_offset >= end_offset:
            return np.empty(0, np.uint64)
        cursor = ChunkCursor(self.directory)
        try:
            cursor.seek(start_offset)
            first = cursor.offset
            parts = []
            while cursor.offset < end_offset:
                header, buffer, position = cursor.next_chunk(end)
                parts.append(log_frames.id_hashes(buffer, position, header))
        finally:
            cursor.close()
        return np.concatenate(parts)[start_offset - first : end_offset - first]

    def close(self) -> None:
        """Release all files."""
        self._cursor.close()
        if self._synced is not None:
            self._synced.close()
            self._synced = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

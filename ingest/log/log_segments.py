"""The files of the event log: segments named by the offset of their first record, a lock, and the synced position."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from ..durable_files import lock_file, sync_file, write_file_atomically
from ..errors import ConfigError, CorruptLog
from ..source import Record, RecordKind
from . import log_frames

SEGMENT_SUFFIX = ".log"
REWRITTEN_SUFFIX = ".erasing"
"""Suffix of a segment that is being rewritten without erased records."""
_SYNCED = struct.Struct("=8sQ")
_SYNCED_MAGIC = b"TWSYNC1\n"


class LogInUse(ConfigError):
    """Another process, or another object of this one, writes this log: an event log has exactly one writer."""

    code = "log_in_use"


def segment_path(directory: Path, base_offset: int) -> Path:
    """File of the segment whose first record has *base_offset*."""
    return directory / f"{base_offset:020d}{SEGMENT_SUFFIX}"


def segment_bases(directory: Path) -> list[int]:
    """First offsets of all segments, ascending."""
    if not directory.is_dir():
        return []
    stems = (path.stem for path in directory.iterdir() if path.suffix == SEGMENT_SUFFIX)
    return sorted(int(stem) for stem in stems if len(stem) == 20 and stem.isdigit())


@contextmanager
def map_path(path: Path) -> Iterator[mmap.mmap | bytes]:
    """A file's bytes without copying them; empty bytes for an empty file, which cannot be mapped."""
    with path.open("rb") as file, map_open_file(file) as view:
        yield view


@contextmanager
def map_open_file(file: IO[bytes]) -> Iterator[mmap.mmap | bytes]:
    """Map an open file as `map_path` does; its path may lead to another file meanwhile."""
    if os.fstat(file.fileno()).st_size == 0:
        yield b""
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        yield view


def lock_log(directory: Path) -> BinaryIO:
    """Take the writer's lock; it is held until the returned file is closed, and ends with the process.

    Raises:
        LogInUse: another process holds it.
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
    """Offset up to which records are known to be on disk, shared with reading processes through a mapped file.

    The writer moves it only after a successful fsync, so it is never ahead of the disk. It is one aligned 64-bit word:
    loads and stores of it are atomic. After a power loss the file may hold an older value, never a newer one.
    """

    def __init__(self, directory: Path, create: bool = False) -> None:
        path = directory / "synced"
        if create and (not path.exists() or path.stat().st_size != _SYNCED.size):
            write_file_atomically(path, _SYNCED.pack(_SYNCED_MAGIC, 0), temporary=path.with_suffix(".new"))
        with path.open("r+b" if create else "rb") as file:
            if os.fstat(file.fileno()).st_size != _SYNCED.size:
                raise CorruptLog(f"{path}: not a synced position; open the log for writing once to rebuild it")
            access = mmap.ACCESS_WRITE if create else mmap.ACCESS_READ
            self._map = mmap.mmap(file.fileno(), 0, access=access)
        self._view = memoryview(self._map)
        self._words = self._view.cast("Q")
        if self._map[:8] != _SYNCED_MAGIC:
            self.close()
            raise CorruptLog(f"{path}: not a synced position; delete it and open the log for writing to rebuild it")

    def get(self) -> int:
        """Offset after the last durable record."""
        return self._words[1]

    def set(self, offset: int) -> None:
        """Publish *offset* to all readers."""
        self._words[1] = offset

    def close(self) -> None:
        """Release the mapping; on the writer's side the value is in the page cache and outlives the process."""
        self._words.release()
        self._view.release()
        self._map.close()


# Erasure rewrites closed segments: records are replaced, offsets stay, all of a segment at once. A new one is written
# beside the old one and synced; then one rename puts it in its place. Readers that have the old file open go on in it,
# since the same records have the same offsets; a kill at any moment leaves a whole segment.


RecordTransform = Callable[[Record], Record]
"""Gives the record that is to stand in a record's place, or the same object where it stays."""


class RewriteCount(NamedTuple):
    """Records removed and records changed by a rewrite; in a dry run, those that would be."""

    removed: int = 0
    changed: int = 0

    def plus(self, other: RewriteCount) -> RewriteCount:
        """Sum of both counts."""
        return RewriteCount(self.removed + other.removed, self.changed + other.changed)


def closed_segments(directory: Path, end: int) -> list[int]:
    """First offsets of the segments that hold records before *end*; the one that is written is left out."""
    return [base for base, _ in pairwise(segment_bases(directory)) if base < end]


def count_changes(directory: Path, base: int, end: int, change: RecordTransform) -> RewriteCount:
    """Count the records of one segment before *end* that *change* would replace. Raises CorruptLog."""
    return reduce(
        RewriteCount.plus, (count for _, count in _rewritten_chunks(directory, base, end, change)), RewriteCount()
    )


def write_rewritten_segment(
    directory: Path, base: int, end: int, change: RecordTransform
) -> tuple[Path, RewriteCount] | None:
    """Write one segment anew, with its records before *end* as *change* has them; None where nothing changes.

    Raises:
        CorruptLog: the segment is damaged, or has gone.
    """
    if count_changes(directory, base, end, change) == RewriteCount():
        return None
    fresh = segment_path(directory, base).with_suffix(REWRITTEN_SUFFIX)
    total = RewriteCount()
    with fresh.open("wb") as file:
        for chunk, count in _rewritten_chunks(directory, base, end, change):
            file.write(chunk)
            total = total.plus(count)
        sync_file(file)
    return fresh, total


def _rewritten_chunks(
    directory: Path, base: int, end: int, change: RecordTransform
) -> Iterator[tuple[bytes, RewriteCount]]:
    """Every chunk of a segment after the rewrite, with the count of its changes."""
    path, position, offset = segment_path(directory, base), 0, base
    try:
        with map_path(path) as view:
            for start, header in log_frames.walk_chunks(view, base):
                raw = view[start : start + header.size]
                position, offset = start + header.size, header.next_offset
                yield _rewritten_chunk(raw, header, change) if header.base_offset < end else (raw, RewriteCount())
            if position != len(view):
                raise CorruptLog(f"{path}: damaged chunk at byte {position} (offset {offset})")
    except FileNotFoundError:
        return  # retention was faster


def _rewritten_chunk(raw: bytes, header: log_frames.ChunkHeader, change: RecordTransform) -> tuple[bytes, RewriteCount]:
    old = log_frames.decode_records(raw, 0, header)
    new = [change(record) for record in old]
    removed = sum(b.kind == RecordKind.ERASED and a is not b for a, b in zip(old, new, strict=True))
    changed = sum(a is not b for a, b in zip(old, new, strict=True)) - removed
    if not removed + changed:
        return raw, RewriteCount()
    return _encode_chunks(header.base_offset, new), RewriteCount(removed, changed)


def _encode_chunks(base: int, records: Sequence[Record]) -> bytes:
    """Encode one chunk, or several if the records have become too large for one."""
    if len(records) > 1 and log_frames.payload_bytes(records) > log_frames.MAX_CHUNK_BYTES:
        half = len(records) // 2
        return _encode_chunks(base, records[:half]) + _encode_chunks(base + half, records[half:])
    return log_frames.encode_chunk(base, records)

"""The files of the event log: segments named by the offset of their first record, a lock, and the synced position."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from ..errors import ConfigError, CorruptLog

SEGMENT_SUFFIX = ".log"
REWRITTEN_SUFFIX = ".erasing"
"""Of a segment that is being written anew without what was erased (`rewriting.py`)."""
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


def sync_directory(directory: Path) -> None:
    """Make created and deleted names durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def map_path(path: Path) -> Iterator[mmap.mmap | bytes]:
    """A file's bytes without copying them; empty bytes for an empty file, which cannot be mapped."""
    with path.open("rb") as file, map_open_file(file) as view:
        yield view


@contextmanager
def map_open_file(file: IO[bytes]) -> Iterator[mmap.mmap | bytes]:
    """The same of an open file: what lies at its path may be another one meanwhile."""
    if os.fstat(file.fileno()).st_size == 0:
        yield b""
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        yield view


def lock_log(directory: Path) -> BinaryIO:
    """Take the writer's lock; it is held until the returned file is closed, and ends with the process.

    Raises:
        LogInUse: somebody else holds it.
    """
    file = (directory / "lock").open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read(32).decode(errors="replace") or "unknown"
        file.close()
        raise LogInUse(
            f"{directory}: event log is being written by process {owner}; only one writer is allowed"
        ) from None
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
            _create_synced(path)
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


def _create_synced(path: Path) -> None:
    """Written under another name first, so that a crash never leaves half a file."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(_SYNCED.pack(_SYNCED_MAGIC, 0))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_directory(path.parent)

"""A copy of the event log, made while its writer goes on: whole chunks up to one offset, checked as they are read."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ..durable_files import sync_directory, sync_file
from ..errors import ConfigError, CorruptLog, Unavailable
from . import log_frames
from .log_segments import SyncedOffset, segment_bases, segment_path


class LogExtent(NamedTuple):
    """Offsets of a log: of its first record, and the one after its last durable record."""

    first_offset: int
    end_offset: int


def log_extent(directory: Path) -> LogExtent:
    """First and end offset of a log, by its names and its synced position. Raises ConfigError where there is none."""
    try:
        with closing(SyncedOffset(directory)) as synced:
            end = synced.get()
    except FileNotFoundError:
        raise ConfigError(f"{directory}: no event log there; a service writes one when it starts") from None
    bases = segment_bases(directory)
    return LogExtent(bases[0] if bases else end, end)


def copy_log(source: Path, target: Path, needed_from: int) -> LogExtent:
    """Copy the records that are durable now into a new folder, which an `EventLog` can go on in.

    A segment is read by its path, at once and in order: retention may remove the oldest meanwhile, an erasure may put a
    rewritten one in its place. Either is whole.

    Raises:
        ConfigError: there is no log.
        CorruptLog: an acknowledged record can not be read back; names file and byte.
        Unavailable: retention was faster: the copy would begin behind *needed_from*.
    """
    end = log_extent(source).end_offset
    target.mkdir(parents=True)
    bases = [base for base in segment_bases(source) if base <= end]
    copied: list[int] = []
    reached = bases[0] if bases else 0
    for base in bases:
        try:
            content = segment_path(source, base).read_bytes()
        except FileNotFoundError:  # retention begins with the oldest: those before it are gone as well
            _remove(target, copied)
            copied.clear()
            continue
        if copied and base != reached:
            raise CorruptLog(f"{segment_path(source, base)}: the segment before it ends with offset {reached}")
        reached = _copy_segment(segment_path(source, base), content, base, end, segment_path(target, base))
        copied.append(base)
    if reached != end:
        raise CorruptLog(f"{source}: whole chunks end with offset {reached}, but {end} were acknowledged")
    if copied and copied[0] > needed_from:
        raise Unavailable(
            f"{source}: retention removed records from offset {needed_from} on while they were copied; try again"
        )
    with closing(SyncedOffset(target, create=True)) as synced:
        synced.set(end)
    sync_directory(target)
    return LogExtent(copied[0] if copied else end, end)


def _copy_segment(path: Path, content: bytes, base: int, end: int, target: Path) -> int:
    """Copy the whole chunks before *end*; returns the offset after them."""
    position, offset = 0, base
    for start, header in log_frames.walk_chunks(content, base):
        if header.next_offset > end:
            break
        position, offset = start + header.size, header.next_offset
    else:
        if offset < end and position < len(content):
            raise CorruptLog(f"{path}: damaged chunk at byte {position} (offset {offset})")
    with target.open("xb") as file, memoryview(content) as view:
        file.write(view[:position])
        sync_file(file)
    return offset


def _remove(folder: Path, bases: list[int]) -> None:
    for base in bases:
        segment_path(folder, base).unlink()

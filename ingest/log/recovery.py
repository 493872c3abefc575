"""What a writer does with the files that an earlier writer left behind."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from ..errors import CorruptLog
from . import frames
from .segments import map_path, segment_bases, segment_path

_log = structlog.get_logger(__name__)


class LogTail(NamedTuple):
    """Where writing goes on: the last segment, the byte after its last whole chunk, and the next offset."""

    base_offset: int
    position: int
    next_offset: int


def recover_log(directory: Path, synced_offset: int, check_all: bool) -> LogTail:
    """Find the end of the log, cut off what a crash left half written, and make what remains durable.

    Args:
        directory: folder of the log.
        synced_offset: last published position; records before it were acknowledged.
        check_all: verify every older segment too, not only the last one.

    Raises:
        CorruptLog: acknowledged records are damaged or missing; names file and byte.
    """
    bases = segment_bases(directory)
    if not bases:
        if synced_offset:
            raise CorruptLog(f"{directory}: no segments, but records up to offset {synced_offset} were acknowledged")
        segment_path(directory, 0).touch()
        bases = [0]
    if check_all:
        for base, following in pairwise(bases):
            _check_closed_segment(segment_path(directory, base), base, following)
    return _recover_last_segment(segment_path(directory, bases[-1]), bases[-1], synced_offset)


def _scan_segment(view: Any, base_offset: int, synced_offset: int) -> tuple[int, int, int]:
    """End position, end offset, and where the chunks end that are known to be synced."""
    position, offset, synced = 0, base_offset, 0
    for start, header in frames.walk_chunks(view, base_offset):
        position, offset = start + header.size, header.next_offset
        if offset <= synced_offset:
            synced = position
    return position, offset, synced


def _check_closed_segment(path: Path, base_offset: int, following: int) -> None:
    """An older segment has no torn tail: its last byte was synced before the next segment was created."""
    with map_path(path) as view:
        position, offset, _ = _scan_segment(view, base_offset, 0)
        if position != len(view):
            raise CorruptLog(f"{path}: damaged chunk at byte {position} (offset {offset})")
    if offset != following:
        raise CorruptLog(
            f"{path}: ends with offset {offset} at byte {position}, the next segment starts at {following}"
        )


def _recover_last_segment(path: Path, base_offset: int, synced_offset: int) -> LogTail:
    with map_path(path) as view:
        size = len(view)
        position, offset, synced = _scan_segment(view, base_offset, synced_offset)
        good = frames.find_intact_after(view, position, offset) if position < size else -1
    if good >= 0:
        raise CorruptLog(f"{path}: damaged chunk at byte {position} (offset {offset}), whole chunk after it at {good}")
    if offset < synced_offset:
        raise CorruptLog(
            f"{path}: whole chunks end at byte {position} of {size} with offset {offset}, "
            f"but records up to offset {synced_offset} were acknowledged"
        )
    if position < size:
        _log.warning(
            "event_log_tail_truncated", file=str(path), position=position, bytes=size - position, offset=offset
        )
    _truncate_and_sync(path, synced, position)
    return LogTail(base_offset, position, offset)


def _truncate_and_sync(path: Path, synced: int, end: int) -> None:
    """Truncate to *end* and make sure that the bytes before it are on disk.

    After a failed fsync the kernel may keep unwritten pages and call them clean, so another fsync would lie. Bytes that
    are not known to be synced are therefore written once more.
    """
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(synced)
        unproven = file.read(end - synced)
        file.seek(synced)
        file.write(unproven)
        file.flush()
        os.fsync(file.fileno())

"""Closed segments of the event log written anew: records are replaced, offsets stay, all of a segment at once.

A fresh segment is written beside the old one and synced; then one rename puts it in its place. Readers that have the
old file open go on in it, since the same records have the same offsets; a kill at any moment leaves a whole segment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ..errors import CorruptLog
from ..source import Record, RecordKind
from . import frames
from .segments import REWRITTEN_SUFFIX, map_path, segment_bases, segment_path

RecordTransform = Callable[[Record], Record]
"""Gives the record that is to stand in a record's place, or the same object where it stays."""


class RewriteCount(NamedTuple):
    """What was, or would be, replaced."""

    removed: int = 0
    changed: int = 0

    def plus(self, other: RewriteCount) -> RewriteCount:
        """Both together."""
        return RewriteCount(self.removed + other.removed, self.changed + other.changed)


def closed_segments(directory: Path, end: int) -> list[int]:
    """First offsets of the segments that hold records before *end*; the one that is written is left out."""
    return [base for base, _ in pairwise(segment_bases(directory)) if base < end]


def count_changes(directory: Path, base: int, end: int, change: RecordTransform) -> RewriteCount:
    """What *change* would do to the records of one segment before *end*. Raises CorruptLog."""
    return reduce(
        RewriteCount.plus, (found for _, found in _rewritten_chunks(directory, base, end, change)), RewriteCount()
    )


def write_rewritten_segment(
    directory: Path, base: int, end: int, change: RecordTransform
) -> tuple[Path, RewriteCount] | None:
    """Write one segment anew, with its records before *end* as *change* has them; None where nothing changes.

    Returns:
        The fresh file, synced, for `EventLog.replace_segment`; and what was replaced.

    Raises:
        CorruptLog: the segment is damaged, or has gone.
    """
    if count_changes(directory, base, end, change) == RewriteCount():
        return None
    fresh = segment_path(directory, base).with_suffix(REWRITTEN_SUFFIX)
    total = RewriteCount()
    with fresh.open("wb") as file:
        for chunk, found in _rewritten_chunks(directory, base, end, change):
            file.write(chunk)
            total = total.plus(found)
        file.flush()
        os.fsync(file.fileno())
    return fresh, total


def _rewritten_chunks(
    directory: Path, base: int, end: int, change: RecordTransform
) -> Iterator[tuple[bytes, RewriteCount]]:
    """Every chunk of a segment as it is to be, and what was replaced in it."""
    path, position, offset = segment_path(directory, base), 0, base
    try:
        with map_path(path) as view:
            for start, header in frames.walk_chunks(view, base):
                raw = view[start : start + header.size]
                position, offset = start + header.size, header.next_offset
                yield _rewritten_chunk(raw, header, change) if header.base_offset < end else (raw, RewriteCount())
            if position != len(view):
                raise CorruptLog(f"{path}: damaged chunk at byte {position} (offset {offset})")
    except FileNotFoundError:
        return  # retention was faster


def _rewritten_chunk(raw: bytes, header: frames.ChunkHeader, change: RecordTransform) -> tuple[bytes, RewriteCount]:
    old = frames.decode_records(raw, 0, header)
    new = [change(record) for record in old]
    removed = sum(b.kind == RecordKind.ERASED and a is not b for a, b in zip(old, new, strict=True))
    changed = sum(a is not b for a, b in zip(old, new, strict=True)) - removed
    if not removed + changed:
        return raw, RewriteCount()
    return _encode_chunks(header.base_offset, new), RewriteCount(removed, changed)


def _encode_chunks(base: int, records: Sequence[Record]) -> bytes:
    """One chunk, or several where the records have become too large for one."""
    if len(records) > 1 and frames.payload_bytes(records) > frames.MAX_CHUNK_BYTES:
        half = len(records) // 2
        return _encode_chunks(base, records[:half]) + _encode_chunks(base + half, records[half:])
    return frames.encode_chunk(base, records)

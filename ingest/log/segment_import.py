"""The import of an event log of 0.1 and 0.2, which was a folder of segment files, and the reader of those files.

A segment is named by the offset of its first record and holds chunks. All numbers are little-endian::

    offset  size  what
    0       4     magic `f5 54 57 31`; 0xf5 never occurs in UTF-8, so no JSON payload can look like a frame
    4       4     CRC-32 of everything that follows, header and payload
    8       8     offset of the first record
    16      4     number of records, at least 1
    20      4     bytes of payload that follow the header
    24      ...   one 21-byte entry per record: u32 length, u8 kind, u64 id_hash, i64 received_ms
    ...     ...   the records' bytes, in the same order
"""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import structlog

from ..durable_files import sync_directory
from ..errors import ConfigError, CorruptLog
from ..source import Record
from .log_database import (
    DATABASE_FILE,
    LogDatabase,
    SyncedOffset,
    encode_record,
    log_extent,
    reported_damage,
    segment_bases,
    segment_rows,
)

IMPORT_FILE = "events.importing"
COMMIT_BYTES = 8 * 1024 * 1024
FRAME_MAGIC = b"\xf5TW1"
_MAGIC = re.compile(re.escape(FRAME_MAGIC))
FRAME_HEADER = struct.Struct("<4sIQII")
RECORD_ENTRY = struct.Struct("<IBQq")

_log = structlog.get_logger(__name__)


def segment_paths(directory: Path) -> list[Path]:
    """Segment files of an old log, ascending by their first offset."""
    return sorted(path for path in directory.glob("*.log") if len(path.stem) == 20 and path.stem.isdigit())


def read_chunk(buffer: bytes, position: int) -> tuple[int, list[Record], int] | None:
    """First offset and records of the whole chunk at *position*, and the position after it; None if there is none."""
    body = position + FRAME_HEADER.size
    if body > len(buffer):
        return None
    magic, crc, base, count, size = FRAME_HEADER.unpack_from(buffer, position)
    records_at, end = body + RECORD_ENTRY.size * count, body + size
    if magic != FRAME_MAGIC or not count or records_at > end or end > len(buffer):
        return None
    if zlib.crc32(memoryview(buffer)[position + 8 : end]) != crc:
        return None
    records = []
    for length, kind, id_hash, received_ms in RECORD_ENTRY.iter_unpack(buffer[body:records_at]):
        records.append(Record(kind, id_hash, received_ms, buffer[records_at : records_at + length]))
        records_at += length
    return base, records, end


def old_records(directory: Path, synced: int) -> Iterator[tuple[int, list[Record]]]:
    """Offset and records of every chunk of an old log; an incomplete tail that was not acknowledged is left out.

    Raises CorruptLog.
    """
    paths = segment_paths(directory)
    offset = int(paths[0].stem) if paths else 0
    for path in paths:
        if int(path.stem) != offset:
            raise CorruptLog(f"{path}: the segment before it ends with offset {offset}")
        buffer, position = path.read_bytes(), 0
        while (chunk := read_chunk(buffer, position)) is not None and chunk[0] == offset:
            yield offset, chunk[1]
            offset, position = offset + len(chunk[1]), chunk[2]
        if position < len(buffer):
            chunks = (read_chunk(buffer, match.start()) for match in _MAGIC.finditer(buffer, position + 1))
            has_later = any(chunk is not None and chunk[0] > offset for chunk in chunks)
            if path != paths[-1] or offset < synced or has_later:
                raise CorruptLog(f"{path}: damaged chunk at byte {position} (offset {offset})")
            _log.warning("event_log_tail_truncated", file=str(path), position=position, bytes=len(buffer) - position)
    if offset < synced:
        raise CorruptLog(f"{directory}: ends with offset {offset}, but records up to offset {synced} were acknowledged")


def is_log(directory: Path) -> bool:
    """Return whether a folder holds an event log, imported or not."""
    return (directory / DATABASE_FILE).exists() or bool(segment_paths(directory))


def first_offset(directory: Path) -> int:
    """Return the offset of the oldest record that is kept; 0 if there is no log."""
    if (directory / DATABASE_FILE).exists():
        return log_extent(directory).first_offset
    return int(next((path.stem for path in segment_paths(directory)), 0))


def read_old_log(directory: Path) -> Iterator[Record]:
    """Records of an old log that was not imported yet. Raises CorruptLog."""
    with closing(SyncedOffset(directory)) as synced:
        end = synced.get()
    for offset, records in old_records(directory, end):
        yield from records[: max(0, end - offset)]


def import_segments(directory: Path) -> None:
    """Import the segment files of *directory*, if there are any, then remove them. The caller holds the log's lock.

    If it is killed, the next call resumes. The old files stay until the new log is durable and the number and digest of
    its records match. Raises ConfigError, CorruptLog, OSError, Unavailable.
    """
    paths = segment_paths(directory)
    if not paths:
        return
    if not (directory / DATABASE_FILE).exists():
        fresh = directory / IMPORT_FILE
        size = sum(path.stat().st_size for path in paths)
        done = sum(path.stat().st_size for path in directory.glob(f"{IMPORT_FILE}*"))
        needed, free = max(0, size * 5 // 4 - done) + 4 * COMMIT_BYTES, shutil.disk_usage(directory).free
        if free < needed:
            raise ConfigError(
                f"{directory}: to convert the event log of an earlier version, {needed} bytes of disk space are needed "
                f"and {free} are free; free some and start again (the log was not changed)"
            )
        _log.info("event_log_import_begins", directory=str(directory), segments=len(paths), bytes=size)
        with reported_damage(fresh), closing(SyncedOffset(directory)) as synced:
            count = _copy_and_compare(directory, synced.get(), fresh)
        fresh.rename(directory / DATABASE_FILE)
        sync_directory(directory)
        _log.info("event_log_imported", directory=str(directory), records=count)
    for path in (*paths, *directory.glob("*.erasing")):
        path.unlink()
    sync_directory(directory)


def _copy_and_compare(directory: Path, synced: int, fresh: Path) -> int:
    """Copy what is not copied yet, then compare both; return the number of records."""
    target = LogDatabase(fresh, start=int(segment_paths(directory)[0].stem))
    with closing(target.connection) as connection:
        written = target.size
        for offset, records in old_records(directory, synced):
            rest = records[max(0, target.next_offset - offset) :]
            if rest:
                target.append(rest)
            if (connection.in_transaction and target.size - written >= COMMIT_BYTES) or target.size < written:
                connection.execute("COMMIT")
                written = target.size
        if connection.in_transaction:
            connection.execute("COMMIT")
        old = _digest(
            encode_record(at, record)
            for offset, records in old_records(directory, synced)
            for at, record in enumerate(records, offset)
        )
        new = _digest(raw for base in segment_bases(connection) for _, raw in segment_rows(connection, base, base))
        if old != new:
            raise CorruptLog(f"{fresh}: differs from the segments: {new} instead of {old}; delete it and start again")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    return old[0]


def _digest(rows: Iterable[bytes]) -> tuple[int, str]:
    """Number and SHA-256 of rows, each of which begins with a check sum of its offset and content."""
    digest, count = hashlib.sha256(), 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        digest.update(row)
    return count, digest.hexdigest()

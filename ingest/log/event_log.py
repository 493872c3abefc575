"""The event log's writer, and recovery of what an earlier writer left behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import structlog

from ..durable_files import sync_directory, sync_file
from ..errors import CorruptLog, Unavailable
from ..source import Record
from . import log_frames
from .log_segments import REWRITTEN_SUFFIX, SyncedOffset, lock_log, map_path, segment_bases, segment_path

_log = structlog.get_logger(__name__)


class LogTail(NamedTuple):
    """End of the log, where writing goes on: the last segment, the byte after its last whole chunk, the next offset."""

    base_offset: int
    position: int
    next_offset: int


def recover_log(directory: Path, synced_offset: int, check_all: bool) -> LogTail:
    """Find the end of the log, cut off what a crash left half written, and make what remains durable.

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
    for start, header in log_frames.walk_chunks(view, base_offset):
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
        good = log_frames.find_intact_after(view, position, offset) if position < size else -1
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
        sync_file(file)


SEGMENT_BYTES = 64 * 1024 * 1024


class LogFailed(Unavailable):
    """The disk refused a write or an fsync (full, broken). Nothing unacknowledged is assumed to be kept.

    `retry_after_s` says after how many seconds another attempt makes sense.
    """

    code = "log_failed"

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class EventLog:
    """Append-only log of one partition in a directory, opened for writing.

    Opening truncates a tail that a crash tore (with a warning) and publishes the synced position. After a failed write
    or fsync the object refuses everything until `reopen` has read the files afresh.

    Raises:
        LogInUse: another writer holds the directory.
        CorruptLog: acknowledged records are damaged or missing.
        LogFailed: the directory cannot be written.
    """

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES, check_all: bool = True) -> None:
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.failed = False
        self._fd = -1
        with ExitStack() as resources:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                sync_directory(directory.parent)
                resources.enter_context(lock_log(directory))
                for left in directory.glob(f"*{REWRITTEN_SUFFIX}"):  # of an erasure that was killed; it begins anew
                    left.unlink()
                self._synced = resources.enter_context(closing(SyncedOffset(directory, create=True)))
                self._open(check_all)
            except OSError as error:
                raise LogFailed(f"{directory}: cannot open the event log: {error}") from error
            self._resources = resources.pop_all()

    def _open(self, check_all: bool) -> None:
        self._base, self._position, self._next = recover_log(self.directory, self._synced.get(), check_all)
        self._open_segment()
        sync_directory(self.directory)
        self._synced_position = self._position
        self._synced.set(self._next)
        self.failed = False

    def _open_segment(self) -> None:
        path = segment_path(self.directory, self._base)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)

    @property
    def next_offset(self) -> int:
        """Offset that the next record gets."""
        return self._next

    @property
    def synced_offset(self) -> int:
        """Offset after the last record known to be on disk."""
        return self._synced.get()

    @property
    def first_offset(self) -> int:
        """Oldest offset still kept."""
        return segment_bases(self.directory)[0]

    def append(self, records: Sequence[Record]) -> int:
        """Write *records* as one chunk; durable only after `sync`. No records write nothing.

        Raises:
            LogFailed: the write failed; nothing since the last `sync` counts as written.
            ValueError: the records are larger than one chunk may be.
        """
        self._require_healthy()
        first = self._next
        if not records:
            return first
        chunk = log_frames.encode_chunk(first, records)
        try:
            if self._position and self._position + len(chunk) > self.segment_bytes:
                self._roll()
            self._write(chunk)
        except OSError as error:
            raise self._fail("append", error) from error
        self._next = first + len(records)
        return first

    def _write(self, chunk: bytes) -> None:
        """Write all of a chunk; a write may be short (a nearly full disk): the rest is tried until the system fails."""
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._fd, view, self._position)
            self._position += written
            view = view[written:]

    def _roll(self) -> None:
        """The old segment is synced before the new one exists, so only the last segment can have a torn tail."""
        self.sync()
        os.close(self._fd)
        self._fd = -1
        self._base, self._position, self._synced_position = self._next, 0, 0
        self._open_segment()
        sync_directory(self.directory)

    def sync(self) -> None:
        """Make everything appended durable, then show it to readers.

        Raises:
            LogFailed: the fsync failed; nothing since the last `sync` counts as written.
        """
        self._require_healthy()
        if self._synced.get() == self._next:
            return
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._fail("fsync", error) from error
        self._synced_position = self._position
        self._synced.set(self._next)

    def _require_healthy(self) -> None:
        if self._fd < 0 or self.failed:
            raise LogFailed(f"{self.directory}: event log is closed or failed; it must be reopened")

    def _fail(self, what: str, error: OSError) -> LogFailed:
        """Refuse further records, and take back those not synced: they may be in memory and not on disk."""
        self.failed = True
        self._next = self._synced.get()
        _log.error("event_log_failed", directory=str(self.directory), operation=what, error=str(error))
        try:
            if self._fd >= 0:
                os.ftruncate(self._fd, self._synced_position)
        except OSError as second:
            _log.warning("event_log_not_truncated", directory=str(self.directory), error=str(second))
        return LogFailed(f"{self.directory}: {what} failed: {error}")

    def reopen(self) -> None:
        """Read the end of the log afresh and go on, after the cause of a failure is gone.

        Raises:
            LogFailed: the disk still refuses; the log stays failed.
            CorruptLog: acknowledged records are damaged or missing.
        """
        self.failed = True
        self._close_segment()
        try:
            self._open(check_all=False)
        except OSError as error:
            raise LogFailed(f"{self.directory}: cannot reopen the event log: {error}") from error

    def roll(self) -> int:
        """Begin a new segment, so that everything before it lies in closed ones; returns its first offset.

        Raises:
            LogFailed: the disk refused.
        """
        self._require_healthy()
        try:
            if self._position:
                self._roll()
        except OSError as error:
            raise self._fail("roll", error) from error
        return self._base

    def replace_segment(self, base: int, fresh: Path) -> bool:
        """Put *fresh*, a segment with the same offsets, in place of a closed one, in one rename."""
        path = segment_path(self.directory, base)
        if base >= self._base:
            raise ValueError(f"{path}: is being written and can not be replaced")
        if not path.exists():
            fresh.unlink()
            return False
        fresh.replace(path)
        sync_directory(self.directory)
        return True

    def drop_before(self, offset: int, min_age_ms: int, now_ms: int) -> int:
        """Delete whole segments of which every record is before *offset* and at least *min_age_ms* old.

        The last segment always stays. Pass the offset from which the duplicate window is rebuilt, not the committed
        one: that reaches further back.
        """
        bases = segment_bases(self.directory)
        dropped = 0
        for base, following in pairwise(bases):
            path = segment_path(self.directory, base)
            if following > offset or now_ms - _newest_ms(path, base) < min_age_ms:
                break
            path.unlink()
            dropped += 1
        if dropped:
            sync_directory(self.directory)
            _log.info("event_log_dropped", directory=str(self.directory), segments=dropped, first_offset=bases[dropped])
        return dropped

    def close(self) -> None:
        """Release files and lock. What was appended and not synced stays unacknowledged."""
        self._close_segment()
        self._resources.close()

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _newest_ms(path: Path, base_offset: int) -> int:
    """Arrival of the newest record in a segment's last chunk, UTC milliseconds."""
    with map_path(path) as view:
        position = 0
        while (header := log_frames.read_header(view, position, base_offset)) is not None:
            last, position, base_offset = position, position + header.size, header.next_offset
            if position == len(view):
                return log_frames.newest_ms(view, last, header)
    raise CorruptLog(f"{path}: damaged chunk at byte {position} (offset {base_offset})")

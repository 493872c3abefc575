"""The archiving processes, which the service starts if there is an archive: of events (`python -m
trustwatch.api.archive.worker`), and of feature vectors (`vector_worker`).

The first reads the log of events as a separate group, independently of the pipeline and the answers. The position is
stored with the files. A repeated event is archived once, by the same window as the pipeline's, rebuilt from the log
after a restart. The second makes files from the spool in which the pipeline leaves vectors. Both drop and merge the
files that they write.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import structlog

from trustwatch.ingest.archive.archive_files import (
    ArchiveFileKind,
    DataFile,
    drop_days_before,
    read_positions,
    rewrite_lock,
)
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive, VectorArchive
from trustwatch.ingest.archive.file_merging import merge_small_files
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.errors import MalformedEvent, TrustwatchError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.record_erasure import ErasedFilter
from trustwatch.ingest.source import GroupSource, RecordBatch, RecordKind
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.records.agents import RiskLevel

from .. import clock
from ..child_process import ChildRuntime, run_child
from ..composition import (
    event_log_name,
    load_erased_from_log,
    make_duplicate_window,
    open_event_source,
    spool_directory,
)
from ..settings.root import Settings
from ..settings.service_settings import ArchiveSettings

MAX_PENDING_RECORDS = 50_000
"""Records that wait for their files, of all partitions."""
MAX_PENDING_BYTES = 64 << 20
POLL_RECORDS, POLL_S = 2_000, 0.5
REPORT_EVERY_S = 2.0
GROUP_SUFFIX, GROUP_MEMBER = "-archive", "archiver"

MERGE_AFTER = timedelta(hours=6)
"""Small files of a date are merged this long after its end, when most of its late events have arrived."""
RETENTION_EVERY_S = 3_600.0
FIRST_RETENTION_S = 30.0
RETRY_S = 60.0
"""Pause before another attempt if the folder is being read, or the disk fails, s."""
OVERDUE_AFTER_S, PIECE_EVERY_S = 60.0, 5.0
"""If the log is never idle, maintenance begins this late, and does one step this often."""
VECTOR_MERGE_DELAY_MS = 900_000
"""Vectors are merged this long after they were written, when another worker's spool has delivered the offsets between
two files. Late events of a past date might otherwise arrive after the files were merged."""

_log = structlog.get_logger(__name__)


class ArchiveMaintenance:
    """Keeps one archive small and its files large."""

    def __init__(self, directory: Path, kind: ArchiveFileKind, settings: ArchiveSettings) -> None:
        self._directory = directory
        self._kind = kind
        self._settings = settings
        self.merged = 0
        """Small files that went into larger ones."""
        self._due_at = clock.monotonic() + FIRST_RETENTION_S
        self._merging = False
        self._worked_at = float("-inf")
        self._damaged: set[Path] = set()
        self._last_error = ""

    @property
    def overdue(self) -> bool:
        """True if a step is due even though there is other work."""
        since = self._worked_at + PIECE_EVERY_S if self._merging else self._due_at + OVERDUE_AFTER_S
        return clock.monotonic() >= since

    def step(self) -> bool:
        """Do a part of the due work, for seconds at most; return whether more is due at once.

        Archiving must continue if it fails: a failure is logged once, and tried again.
        """
        if not self._merging and clock.monotonic() < self._due_at:
            return False
        try:
            if self._merging:
                self._merging = self._merge_one()
            else:  # an erasure or a reader may hold the lock for hours: waiting would block the stop
                with rewrite_lock(self._directory, wait=False) as ours:
                    self._due_at = clock.monotonic() + (RETENTION_EVERY_S if ours else RETRY_S)
                    if ours:
                        drop_days_before(self._directory, clock.now_ms() - self._settings.retention_days * DAY_MS)
                self._merging = ours
            if not self._merging:
                self._last_error = ""
        except (OSError, TrustwatchError) as error:
            self._merging = False
            self._due_at = clock.monotonic() + RETRY_S
            if str(error) != self._last_error:
                self._last_error = str(error)
                _log.error("upkeep of an archive has to wait", directory=str(self._directory), error=self._last_error)
        self._worked_at = clock.monotonic()
        return self._merging

    def _merge_one(self) -> bool:
        before = (clock.utc_now() - MERGE_AFTER).date()
        positions = (read_positions(self._directory) or {}) if self._kind == "events" else None

        def counts(file: DataFile) -> bool:
            if positions is None:
                return file.path.stat().st_mtime * 1000 < clock.now_ms() - VECTOR_MERGE_DELAY_MS
            return file.end <= positions.get(file.partition, 0)

        for files in merge_small_files(self._directory, self._kind, before, counts, damaged=self._damaged):
            self.merged += files
            return True
        return False


class PartitionArchiver:
    """Records of one partition that have been read and are not yet in files."""

    def __init__(self, partition: int, base_offset: int, window: DuplicateWindow) -> None:
        self.partition = partition
        self.base_offset = self.next_offset = base_offset
        self.window = window
        self.events: list[EventToArchive] = []
        self.bytes = 0
        self.pending_since = 0.0
        self.oldest_ms = 0

    @property
    def pending_records(self) -> int:
        """Records of the range to write."""
        return self.next_offset - self.base_offset

    def add(self, batch: RecordBatch) -> None:
        """Add the records that were not seen before."""
        if self.next_offset == self.base_offset:
            self.pending_since, self.oldest_ms = clock.monotonic(), batch.records[0].received_ms
        offsets = np.arange(batch.base_offset, batch.next_offset, dtype=np.int64)
        seen = self.window.mark(np.array([record.id_hash for record in batch.records], np.uint64), offsets)
        for offset, record, repeated in zip(offsets.tolist(), batch.records, seen.tolist(), strict=True):
            if record.kind == RecordKind.EVENT and not repeated:
                try:
                    event = decode_event(record.payload)
                except MalformedEvent as error:  # it is in the dead letters, with its bytes
                    _log.warning("a logged record is not an event", offset=offset, error=str(error))
                    continue
                self.events.append(EventToArchive(offset, record.received_ms, event, record.payload))
                self.bytes += len(record.payload)
        self.next_offset = batch.next_offset


class EventArchiver:
    """Implements `PartitionOwner` over all partitions of the log of events."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        directory = settings.archive.directory
        assert directory is not None
        self._archive = EventArchive(directory, event_log_name(settings))
        self._source: GroupSource | None = None
        self._positions: dict[int, int] = {}
        self.partitions: dict[int, PartitionArchiver] = {}
        self._erased_filter = ErasedFilter()
        self.maintenance = ArchiveMaintenance(directory, "events", settings.archive)

    def start(self) -> None:
        """Open the source of records at the end of the archive. Raises CorruptLog, ConfigError."""
        self._positions = dict(self._archive.start() or {})
        # Subjects erased from now on are erased in the archive, once we are past the order.
        self._erased_filter = load_erased_from_log(self._settings)
        self._source = open_event_source(self._settings, suffix=GROUP_SUFFIX, member=GROUP_MEMBER)
        self._source.join(self)

    @property
    def source(self) -> GroupSource:
        """Source of records, available after `start`."""
        assert self._source is not None
        return self._source

    def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Begin at the end of the files; a new archive begins at the oldest record."""
        new = [partition for partition in partitions if partition not in self._positions]
        firsts = {at: kept.first for at, kept in self.source.offsets(0).items()} if new else {}
        for partition in partitions:
            base = self._positions.get(partition, firsts.get(partition, 0))
            window = make_duplicate_window(self._settings)
            start = window.first_offset_to_rebuild(base)
            window.restore(start, self.source.read_id_hashes(partition, start, base))
            self.partitions[partition] = PartitionArchiver(partition, base, window)
        return {partition: self.partitions[partition].base_offset for partition in partitions}

    def revoked(self, partitions: Collection[int]) -> None:
        for partition in partitions:
            self._flush(self.partitions.pop(partition))

    def lost(self, partitions: Collection[int]) -> None:
        """Read the records again. No other process may write the files, so none is wrong."""
        for partition in partitions:
            self.partitions.pop(partition, None)

    def step(self) -> None:
        """Read new records, and write ranges when they are due."""
        batch = self.source.poll(POLL_RECORDS, POLL_S)
        if batch is not None:
            self.partitions[batch.partition].add(self._erased_filter.filter_batch(batch))
        now, interval_s = clock.monotonic(), self._settings.archive.interval_s
        for archiver in self.partitions.values():
            if archiver.pending_records and now - archiver.pending_since >= interval_s:
                self._flush(archiver)
        archivers = self.partitions.values()
        while (
            sum(archiver.pending_records for archiver in archivers) >= MAX_PENDING_RECORDS
            or sum(archiver.bytes for archiver in archivers) >= MAX_PENDING_BYTES
        ):
            self._flush(max(archivers, key=lambda archiver: (archiver.bytes, archiver.pending_records)))
        if batch is None or self.maintenance.overdue:
            self.maintenance.step()

    def _flush(self, archiver: PartitionArchiver) -> None:
        if archiver.pending_records:
            self._archive.write(archiver.base_offset, archiver.next_offset, archiver.events, archiver.partition)
            self._positions[archiver.partition] = archiver.next_offset
            archiver.base_offset, archiver.events, archiver.bytes = archiver.next_offset, [], 0

    def flush(self) -> None:
        """Write the records that were read."""
        for archiver in self.partitions.values():
            self._flush(archiver)

    def report(self) -> float:
        """Report how far the files go to tools that show lag; return the age of the oldest waiting record in
        seconds."""
        self.source.note_position({at: archiver.base_offset for at, archiver in self.partitions.items()})
        waiting = [archiver.oldest_ms for archiver in self.partitions.values() if archiver.pending_records]
        return max(0.0, (clock.now_ms() - min(waiting)) / 1000) if waiting else 0.0

    def close(self) -> None:
        """Release the log and the archive; records that were read are written first, if partitions are handed back."""
        try:
            if self._source is not None:
                self._source.close()
        finally:
            self._archive.close()


def run_event_archive(child: ChildRuntime) -> None:
    """Archive events until stopped, and then write the records that were read."""
    archiver = EventArchiver(child.settings)
    reported_at = float("-inf")
    try:
        archiver.start()
        gc.freeze()
        while not child.should_stop:
            archiver.step()
            if clock.monotonic() - reported_at >= REPORT_EVERY_S:
                reported_at = clock.monotonic()
                child.send(msgspec.msgpack.encode(archiver.report()))
        archiver.flush()
    finally:
        archiver.close()


def run_vector_archive(child: ChildRuntime) -> None:
    """Write vectors from the spool to files until stopped."""
    settings, directory = child.settings, child.settings.archive.vectors
    assert directory is not None
    levels = [level.label for level in RiskLevel]
    archive = VectorArchive(directory, spool_directory(settings), levels, named=settings.distributed)
    archive.start()
    maintenance = ArchiveMaintenance(directory, "vectors", settings.archive)
    reported_at = float("-inf")
    gc.freeze()
    while not child.should_stop:
        busy = archive.archive_next_file()
        if not busy or maintenance.overdue:
            busy = maintenance.step() or busy
        if clock.monotonic() - reported_at >= REPORT_EVERY_S:
            reported_at = clock.monotonic()
            child.send(msgspec.msgpack.encode(0.0))
        if not busy:
            clock.sleep(POLL_S)


if __name__ == "__main__":
    raise SystemExit(run_child(run_event_archive))

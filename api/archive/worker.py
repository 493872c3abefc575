"""The archiving process: `python -m trustwatch.api.archive.worker`, started by the service where there is an archive.

It follows the event log with a reader of its own, or the events topic as a consumer group of its own, so the pipeline
and the answers notice nothing. Where to read on stands with the files. An event that came twice is archived once: the
same window as the pipeline's tells, rebuilt from the log after a restart.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Mapping

import msgspec
import numpy as np
import structlog

from ...ingest.archive.event_archive import EventArchive, EventToArchive
from ...ingest.duplicate_window import DuplicateWindow
from ...ingest.errors import MalformedEvent, Unavailable
from ...ingest.events import decode_event
from ...ingest.log.log_reader import LogReader
from ...ingest.log.log_segments import segment_bases
from ...ingest.record_erasure import ErasedFilter
from ...ingest.source import DurableSource, RecordBatch, RecordKind
from ...ingest.topics.protocols import TopicGroupSource
from ...scoring.pipeline.pipelines import ONLY_PARTITION
from .. import clock
from ..brokers import BrokerSettings, open_group_source, open_reader
from ..child_process import ChildRuntime, run_child
from ..composition import load_erased_filter, open_service_identities
from ..settings.root import Settings
from .archive_maintenance import ArchiveMaintenance
from .archive_status import ArchiveWorkerReport, encode_archive_report

MAX_PENDING_RECORDS = 50_000
"""Records that wait for their files, of all partitions."""
MAX_PENDING_BYTES = 64 << 20
POLL_RECORDS, POLL_S = 2_000, 0.5
REPORT_EVERY_S = 2.0
GROUP_SUFFIX, GROUP_MEMBER = "-archive", "archiver"
"""The group is named after the workers'; its one member keeps its name, so that a restart need not wait for its end."""

_log = structlog.get_logger(__name__)


class PartitionArchiver:
    """Records of one partition that are read and not yet in files.

    Args:
        partition: its number.
        base_offset: offset up to which it is archived.
        window: knows what was repeated.
    """

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
        """Records of the range that is to be written."""
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

    def mark_written(self) -> None:
        """Note that all records read so far are in files."""
        self.base_offset, self.events, self.bytes = self.next_offset, [], 0


class EventArchiver:
    """Follows one log, or all partitions of the events topic.

    Args:
        settings: of the service; `archive.directory` is set.
    """

    def __init__(self, settings: Settings) -> None:
        directory = settings.archive.directory
        assert directory is not None
        self._settings = settings
        self._brokers = _archive_group_settings(settings) if settings.distributed else None
        self._archive = EventArchive(directory, "" if self._brokers is None else self._brokers.names.events)
        self._source: DurableSource | None = None
        self._positions: dict[int, int] = {}
        self.partitions: dict[int, PartitionArchiver] = {}
        self._erased_filter = ErasedFilter()
        self.rows = self.files = 0
        self.maintenance = ArchiveMaintenance(directory, "events", settings.archive)

    def start(self) -> None:
        """Open the source of records where the archive ends.

        Raises:
            CorruptLog: the log does not go back, or on, to there; or the archive is of another log.
            ConfigError: another process writes this archive.
        """
        positions = self._archive.start()
        self._positions = dict(positions or {})
        if self._brokers is not None:
            # Who is erased from here on is erased in what was archived, once we are past that.
            self._erased_filter = load_erased_filter(self._settings, self._brokers.names.events)
            identities = open_service_identities(self._settings)
            source = open_group_source(self._brokers, member=GROUP_MEMBER, identities=identities)
            self._source = source
            source.join(self)
            return
        reader = LogReader(self._settings.data_dir / "log")
        self._source = reader
        first = min(segment_bases(reader.directory), default=0)
        base = first if positions is None else positions[ONLY_PARTITION]
        reader.seek(ONLY_PARTITION, base)
        self._open_partition(ONLY_PARTITION, base, first, DuplicateWindow())

    def _open_partition(self, partition: int, base: int, first: int, window: DuplicateWindow) -> None:
        start = max(window.first_offset_to_rebuild(base), first)
        window.restore(start, self.source.read_id_hashes(partition, start, base))
        self.partitions[partition] = PartitionArchiver(partition, base, window)

    @property
    def source(self) -> DurableSource:
        """Source of records, once it was started."""
        assert self._source is not None
        return self._source

    def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        """See `PartitionOwner`: begin where the files end; a new archive, at the oldest record that is kept."""
        new = [partition for partition in partitions if partition not in self._positions]
        firsts = self._first_offsets() if new else {}
        for partition in partitions:
            base = self._positions.get(partition, firsts.get(partition, 0))
            self._open_partition(partition, base, 0, DuplicateWindow(self._settings.brokers.duplicate_window))
        return {partition: self.partitions[partition].base_offset for partition in partitions}

    def revoked(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`."""
        for partition in partitions:
            self._flush(self.partitions.pop(partition))

    def lost(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`: what was read is read again. Nobody else may write the files, so none is wrong."""
        for partition in partitions:
            self.partitions.pop(partition, None)

    def _first_offsets(self) -> dict[int, int]:
        assert self._brokers is not None
        reader = open_reader(self._brokers, (self._brokers.names.events,))
        try:
            return {partition: offset for (_, partition), offset in reader.first_offsets().items()}
        finally:
            reader.close()

    def step(self) -> None:
        """Read what has come, and write ranges when it is time."""
        batch = self.source.poll(POLL_RECORDS, POLL_S)
        if batch is not None:
            self.partitions[batch.partition].add(self._erased_filter.filter_batch(batch))
        now, interval_s = clock.monotonic(), self._settings.archive.interval_s
        for archiver in list(self.partitions.values()):
            if archiver.pending_records and now - archiver.pending_since >= interval_s:
                self._flush(archiver)
        while self._is_over_limit():
            self._flush(max(self.partitions.values(), key=lambda archiver: (archiver.bytes, archiver.pending_records)))
        if batch is None or self.maintenance.overdue:
            self.maintenance.step()

    def _is_over_limit(self) -> bool:
        lanes = self.partitions.values()
        return (
            sum(archiver.pending_records for archiver in lanes) >= MAX_PENDING_RECORDS
            or sum(archiver.bytes for archiver in lanes) >= MAX_PENDING_BYTES
        )

    def _flush(self, archiver: PartitionArchiver) -> None:
        if archiver.pending_records:
            self.files += self._archive.write(
                archiver.base_offset, archiver.next_offset, archiver.events, archiver.partition
            )
            self.rows += len(archiver.events)
            self._positions[archiver.partition] = archiver.next_offset
            archiver.mark_written()

    def flush(self) -> None:
        """Write what was read."""
        for archiver in self.partitions.values():
            self._flush(archiver)

    def report(self) -> ArchiveWorkerReport:
        """Report of progress for the service."""
        waiting = [archiver.oldest_ms for archiver in self.partitions.values() if archiver.pending_records]
        lag_s = max(0.0, (clock.now_ms() - min(waiting)) / 1000) if waiting else 0.0
        try:
            behind = sum(self.source.end_offset(at) - archiver.base_offset for at, archiver in self.partitions.items())
        except Unavailable:
            behind = -1
        return ArchiveWorkerReport(self.rows, self.files, self.maintenance.merged, behind, lag_s)

    def note_position(self) -> None:
        """Tell Kafka's lag tools how far the files go."""
        if self._brokers is not None:
            source: TopicGroupSource = self._source  # type: ignore[assignment]
            source.note_position({at: archiver.base_offset for at, archiver in self.partitions.items()})

    def close(self) -> None:
        """Release the log and the archive."""
        if self._source is not None:
            self._source.close()
        self._archive.close()


def _archive_group_settings(settings: Settings) -> BrokerSettings:
    brokers = settings.brokers
    return msgspec.structs.replace(brokers, group_id=brokers.group_id + GROUP_SUFFIX)


def run_event_archive(child: ChildRuntime) -> None:
    """Archive until told to end; then what was read is in the archive."""
    archiver = EventArchiver(child.settings)
    told_at = float("-inf")
    try:
        archiver.start()
        gc.freeze()
        while not child.should_stop:
            archiver.step()
            if clock.monotonic() - told_at >= REPORT_EVERY_S:
                told_at = clock.monotonic()
                child.send(encode_archive_report(archiver.report()))
                archiver.note_position()
        archiver.flush()
    finally:
        archiver.close()


if __name__ == "__main__":
    raise SystemExit(run_child(run_event_archive))

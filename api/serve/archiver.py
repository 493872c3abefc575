"""The archiving process: `python -m trustwatch.api.serve.archiver`, started by the service where there is an archive.

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

from ...ingest.archive.writer import Archive, Archived
from ...ingest.dedup import DuplicateWindow
from ...ingest.errors import MalformedEvent, Unavailable
from ...ingest.events import decode_event
from ...ingest.kafka import KafkaSettings, open_group_source, open_reader
from ...ingest.kafka.protocols import KafkaGroupSource
from ...ingest.log import LogReader
from ...ingest.log.segments import segment_bases
from ...ingest.source import DurableSource, Kind, RecordBatch
from ...ingest.unread import Unread
from ...scoring.pipeline import PARTITION
from .. import clock
from ..edge.archived import ArchiveReport, encode_archive_report
from ..privacy.reading import unread_of
from ..settings import Settings
from .child import Child, run_child
from .upkeep import ArchiveUpkeep
from .wiring import kafka_settings

MOST = 50_000
"""Records that wait for their files, of all partitions."""
MOST_BYTES = 64 << 20
POLL, POLL_S = 2_000, 0.5
TELL_EVERY_S = 2.0
GROUP_SUFFIX, MEMBER = "-archive", "archiver"
"""The group is named after the workers'; its one member keeps its name, so that a restart need not wait for its end."""

_log = structlog.get_logger(__name__)


class Lane:
    """What was read of one partition and is not in files.

    Args:
        partition: its number.
        base: offset up to which it is archived.
        window: knows what was repeated.
    """

    def __init__(self, partition: int, base: int, window: DuplicateWindow) -> None:
        self.partition = partition
        self.base = self.next = base
        self.window = window
        self.events: list[Archived] = []
        self.bytes = 0
        self.since = 0.0
        self.oldest_ms = 0

    @property
    def waiting(self) -> int:
        """Records of the range that is to be written."""
        return self.next - self.base

    def take(self, batch: RecordBatch) -> None:
        """Add what is new."""
        if self.next == self.base:
            self.since, self.oldest_ms = clock.monotonic(), batch.records[0].received_ms
        offsets = np.arange(batch.base_offset, batch.next_offset, dtype=np.int64)
        seen = self.window.mark(np.array([record.id_hash for record in batch.records], np.uint64), offsets)
        for offset, record, repeated in zip(offsets.tolist(), batch.records, seen.tolist(), strict=True):
            if record.kind == Kind.EVENT and not repeated:
                try:
                    event = decode_event(record.payload)
                except MalformedEvent as error:  # it is in the dead letters, with its bytes
                    _log.warning("a logged record is no event", offset=offset, error=str(error))
                    continue
                self.events.append(Archived(offset, record.received_ms, event, record.payload))
                self.bytes += len(record.payload)
        self.next = batch.next_offset

    def settle(self) -> None:
        """All of it is in files."""
        self.base, self.events, self.bytes = self.next, [], 0


class Archiver:
    """Follows one log, or all partitions of the events topic.

    Args:
        settings: of the service; `archive.directory` is set.
    """

    def __init__(self, settings: Settings) -> None:
        directory = settings.archive.directory
        assert directory is not None
        self._settings = settings
        self._kafka = _group_settings(settings) if settings.kafka.bootstrap_servers else None
        self._archive = Archive(directory, "" if self._kafka is None else self._kafka.topics.events)
        self._source: DurableSource | None = None
        self._positions: dict[int, int] = {}
        self.lanes: dict[int, Lane] = {}
        self._unread = Unread()
        self.rows = self.files = 0
        self.upkeep = ArchiveUpkeep(directory, "events", settings.archive)

    def start(self) -> None:
        """Go to where the archive ends.

        Raises:
            CorruptLog: the log does not go back, or on, to there; or the archive is of another log.
            ConfigError: another process writes this archive.
        """
        positions = self._archive.start()
        self._positions = dict(positions or {})
        if self._kafka is not None:
            # Who is erased from here on is erased in what was archived, once we are past that.
            self._unread = unread_of(self._settings, self._kafka.topics.events)
            source = open_group_source(self._kafka)
            self._source = source
            source.join(self)
            return
        reader = LogReader(self._settings.data_dir / "log")
        self._source = reader
        first = min(segment_bases(reader.directory), default=0)
        base = first if positions is None else positions[PARTITION]
        reader.seek(PARTITION, base)
        self._open_lane(PARTITION, base, first, DuplicateWindow())

    def _open_lane(self, partition: int, base: int, first: int, window: DuplicateWindow) -> None:
        start = max(window.first_offset_to_rebuild(base), first)
        window.restore(start, self.source.read_id_hashes(partition, start, base))
        self.lanes[partition] = Lane(partition, base, window)

    @property
    def source(self) -> DurableSource:
        """What is read, once it was started."""
        assert self._source is not None
        return self._source

    def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        """See `PartitionOwner`: begin where the files end; a new archive, at the oldest record that is kept."""
        new = [partition for partition in partitions if partition not in self._positions]
        firsts = self._first_offsets() if new else {}
        for partition in partitions:
            base = self._positions.get(partition, firsts.get(partition, 0))
            self._open_lane(partition, base, 0, DuplicateWindow(self._settings.kafka.duplicate_window))
        return {partition: self.lanes[partition].base for partition in partitions}

    def revoked(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`."""
        for partition in partitions:
            self._flush(self.lanes.pop(partition))

    def lost(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`: what was read is read again. Nobody else may write the files, so none is wrong."""
        for partition in partitions:
            self.lanes.pop(partition, None)

    def _first_offsets(self) -> dict[int, int]:
        assert self._kafka is not None
        reader = open_reader(self._kafka, (self._kafka.topics.events,))
        try:
            return {partition: offset for (_, partition), offset in reader.first_offsets().items()}
        finally:
            reader.close()

    def step(self) -> None:
        """Read what has come, and write ranges when it is time."""
        batch = self.source.poll(POLL, POLL_S)
        if batch is not None:
            self.lanes[batch.partition].take(self._unread.batch(batch))
        now, interval_s = clock.monotonic(), self._settings.archive.interval_s
        for lane in list(self.lanes.values()):
            if lane.waiting and now - lane.since >= interval_s:
                self._flush(lane)
        while self._too_much():
            self._flush(max(self.lanes.values(), key=lambda lane: (lane.bytes, lane.waiting)))
        if batch is None or self.upkeep.overdue:
            self.upkeep.step()

    def _too_much(self) -> bool:
        lanes = self.lanes.values()
        return sum(lane.waiting for lane in lanes) >= MOST or sum(lane.bytes for lane in lanes) >= MOST_BYTES

    def _flush(self, lane: Lane) -> None:
        if lane.waiting:
            self.files += self._archive.write(lane.base, lane.next, lane.events, lane.partition)
            self.rows += len(lane.events)
            self._positions[lane.partition] = lane.next
            lane.settle()

    def flush(self) -> None:
        """Write what was read."""
        for lane in self.lanes.values():
            self._flush(lane)

    def report(self) -> ArchiveReport:
        """How it fares."""
        waiting = [lane.oldest_ms for lane in self.lanes.values() if lane.waiting]
        lag_s = max(0.0, (clock.now_ms() - min(waiting)) / 1000) if waiting else 0.0
        try:
            behind = sum(self.source.end_offset(at) - lane.base for at, lane in self.lanes.items())
        except Unavailable:
            behind = -1
        return ArchiveReport(self.rows, self.files, self.upkeep.merged, behind, lag_s)

    def note_position(self) -> None:
        """Tell Kafka's lag tools how far the files go."""
        if self._kafka is not None:
            source: KafkaGroupSource = self._source  # type: ignore[assignment]
            source.note_position({at: lane.base for at, lane in self.lanes.items()})

    def close(self) -> None:
        """Release the log and the archive."""
        if self._source is not None:
            self._source.close()
        self._archive.close()


def _group_settings(settings: Settings) -> KafkaSettings:
    kafka = kafka_settings(settings)
    return msgspec.structs.replace(kafka, group_id=kafka.group_id + GROUP_SUFFIX, group_instance_id=MEMBER)


def archive(child: Child) -> None:
    """Archive until told to end; then what was read is in the archive."""
    archiver = Archiver(child.settings)
    told_at = float("-inf")
    try:
        archiver.start()
        gc.freeze()
        while not child.ending:
            archiver.step()
            if clock.monotonic() - told_at >= TELL_EVERY_S:
                told_at = clock.monotonic()
                child.send(encode_archive_report(archiver.report()))
                archiver.note_position()
        archiver.flush()
    finally:
        archiver.close()


if __name__ == "__main__":
    raise SystemExit(run_child(archive))

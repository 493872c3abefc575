"""Records that the model worker follows: the embedded log, or the events topic in a consumer group of its own.

Nothing of it is on the workers' path: another group, its own pace, and no state but where it is in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from typing import Protocol

import msgspec

from ...ingest.duplicate_window import DuplicateWindow
from ...ingest.errors import Unavailable
from ...ingest.log.log_reader import LogReader
from ...ingest.log.log_segments import segment_bases
from ...ingest.record_erasure import ErasedFilter
from ...ingest.source import RecordBatch
from ...scoring.pipeline.pipelines import ONLY_PARTITION
from .. import clock
from ..brokers import BrokerSettings, open_group_source, open_reader
from ..composition import load_erased_filter, open_service_identities
from ..settings.root import Settings

POLL_RECORDS, POLL_S = 1_000, 0.5
REPORT_EVERY_S = 5.0
END_OFFSETS_EVERY_S = 5.0
"""Shortest time between two look-ups of the ends of partitions."""
GROUP_SUFFIX, GROUP_MEMBER = "-keeper", "keeper"
"""The group is named after the workers'; its one member keeps its name, so that whoever takes over need not wait."""


class RecordStream(Protocol):
    """Records in the order of each partition, from wherever they are to be read again."""

    @property
    def multi_partition(self) -> bool:
        """True if partitions may be read at different speeds."""

    def make_duplicate_window(self) -> DuplicateWindow:
        """A window that recognises repeated events of one partition as the workers do."""

    def rewind(self, since_ms: int) -> Mapping[int, int]:
        """Go back to what arrived at *since_ms*, or a little before it; returns the first offset of each partition.

        Raises CorruptLog, Unavailable.
        """

    def poll(self) -> RecordBatch | None:
        """The next records; None where there are none for a moment. Raises CorruptLog, Fenced."""

    def is_caught_up(self) -> bool:
        """True if all was handed out that was there when this was last true (or at `rewind`)."""

    def close(self) -> None:
        """Release files and connections."""


def open_record_stream(settings: Settings) -> RecordStream:
    """The record stream of the configured log. Raises ConfigError, Unavailable."""
    return TopicRecordStream(settings) if settings.distributed else LogRecordStream(settings)


class LogRecordStream:
    """The embedded log.

    Args:
        settings: of the service.
    """

    multi_partition = False

    def __init__(self, settings: Settings) -> None:
        self._reader = LogReader(settings.data_dir / "log")

    def make_duplicate_window(self) -> DuplicateWindow:
        """See `RecordStream`."""
        return DuplicateWindow()

    def rewind(self, since_ms: int) -> dict[int, int]:  # noqa: ARG002 (its first segments are skipped quickly)
        """See `RecordStream`: all that is kept."""
        first = min(segment_bases(self._reader.directory), default=0)
        self._reader.seek(ONLY_PARTITION, first)
        return {ONLY_PARTITION: first}

    def poll(self) -> RecordBatch | None:
        """See `RecordStream`."""
        return self._reader.poll(POLL_RECORDS, POLL_S)

    def is_caught_up(self) -> bool:
        """See `RecordStream`: one partition is always in order."""
        return True

    def close(self) -> None:
        """See `RecordStream`."""
        self._reader.close()


class TopicRecordStream:
    """The events topic. There is one member, by its name: a second one puts the first out.

    Args:
        settings: of the service.
    """

    multi_partition = True

    def __init__(self, settings: Settings) -> None:
        brokers = settings.brokers
        self._brokers: BrokerSettings = msgspec.structs.replace(brokers, group_id=brokers.group_id + GROUP_SUFFIX)
        self._topic = brokers.names.events
        self._settings, self._erased_filter = settings, ErasedFilter()
        self._duplicate_window = settings.brokers.duplicate_window
        self._next_offsets: dict[int, int] = {}
        self._target_offsets: dict[int, int] = {}
        self._source = open_group_source(
            self._brokers, member=GROUP_MEMBER, identities=open_service_identities(settings)
        )
        self._joined = self._idle = False
        self._reported_at = self._targets_set_at = float("-inf")

    def make_duplicate_window(self) -> DuplicateWindow:
        """See `RecordStream`."""
        return DuplicateWindow(self._duplicate_window)

    def rewind(self, since_ms: int) -> dict[int, int]:
        """See `RecordStream`."""
        with closing(open_reader(self._brokers, (self._topic,))) as reader:
            firsts, self._target_offsets = reader.offsets_at(since_ms), _offsets_by_partition(reader.end_offsets())
        self._next_offsets, self._idle = _offsets_by_partition(firsts), False
        self._erased_filter = load_erased_filter(self._settings, self._topic)
        for partition in self._source.owned():
            self._source.seek(partition, self._next_offsets[partition])
        if not self._joined:
            self._source.join(self)
            self._joined = True
        return dict(self._next_offsets)

    def assigned(self, partitions: Collection[int]) -> dict[int, int]:
        """See `PartitionOwner`: go on where reading was."""
        return {partition: self._next_offsets.setdefault(partition, 0) for partition in partitions}

    def revoked(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`: nothing is kept that somebody else would need."""

    def lost(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`: what was read counts, nobody else counts it."""

    def poll(self) -> RecordBatch | None:
        """See `RecordStream`."""
        failed = self._source.failed_polls
        batch = self._source.poll(POLL_RECORDS, POLL_S)
        if batch is not None:
            self._next_offsets[batch.partition] = batch.next_offset
            batch = self._erased_filter.filter_batch(batch)
        elif self._source.failed_polls == failed and len(self._source.owned()) >= len(self._target_offsets):
            self._idle = True  # nothing waits anywhere: the last offsets may be markers that no poll returns
        if clock.monotonic() - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = clock.monotonic()
            self._source.note_position({at: self._next_offsets[at] for at in self._source.owned()})
        return batch

    def is_caught_up(self) -> bool:
        """See `RecordStream`. Brokers that do not answer are no reason to end: then it is not."""
        behind = any(self._next_offsets.get(partition, 0) < goal for partition, goal in self._target_offsets.items())
        if (behind and not self._idle) or clock.monotonic() - self._targets_set_at < END_OFFSETS_EVERY_S:
            return False
        try:
            self._target_offsets = {partition: self._source.end_offset(partition) for partition in self._target_offsets}
        except Unavailable:
            return False
        self._targets_set_at, self._idle = clock.monotonic(), False
        return True

    def close(self) -> None:
        """See `RecordStream`."""
        self._source.close()


def _offsets_by_partition(offsets: Mapping[tuple[str, int], int]) -> dict[int, int]:
    return {partition: offset for (_, partition), offset in offsets.items()}

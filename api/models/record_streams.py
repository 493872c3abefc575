"""Records that the model worker follows.

Nothing of it is on the workers' path: another group, its own pace, and no state but where it is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.record_erasure import ErasedFilter
from trustwatch.ingest.source import GroupSource, RecordBatch

from .. import clock
from ..event_sources import load_erased_from_log, make_duplicate_window, open_event_source
from ..settings.root import Settings

POLL_RECORDS, POLL_S = 1_000, 0.5
REPORT_EVERY_S = 5.0
END_OFFSETS_EVERY_S = 5.0
"""Shortest time between two look-ups of the ends of partitions."""
GROUP_SUFFIX, GROUP_MEMBER = "-keeper", "keeper"


class RecordStream:
    """Records in the order of each partition, which can be read again. It has all partitions."""

    def __init__(
        self,
        source: GroupSource,
        make_duplicate_window: Callable[[], DuplicateWindow],
        load_erased: Callable[[], ErasedFilter],
        *,
        multi_partition: bool,
    ) -> None:
        self.multi_partition = multi_partition
        self.make_duplicate_window = make_duplicate_window
        self._source, self._load_erased, self._erased_filter = source, load_erased, ErasedFilter()
        self._next_offsets: dict[int, int] = {}
        self._target_offsets: dict[int, int] = {}
        self._joined = self._idle = False
        self._reported_at = self._targets_set_at = float("-inf")

    def rewind(self, since_ms: int) -> dict[int, int]:
        """Go back to what arrived at *since_ms*, or a little before it; returns the first offset of each partition.

        Raises CorruptLog, Unavailable.
        """
        offsets = self._source.offsets(since_ms)
        self._next_offsets = {partition: at.since for partition, at in offsets.items()}
        self._target_offsets = {partition: at.end for partition, at in offsets.items()}
        self._idle, self._erased_filter = False, self._load_erased()
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
        """The next records; None where there are none for a moment. Raises CorruptLog, Fenced."""
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
        """True if all was handed out that was there when this was last true (or at `rewind`).

        A log that does not answer is no reason to end: then it is not.
        """
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
        """Release files and connections."""
        self._source.close()


def open_record_stream(settings: Settings) -> RecordStream:
    """The record stream of the configured log. Raises ConfigError, Unavailable."""
    return RecordStream(
        open_event_source(settings, suffix=GROUP_SUFFIX, member=GROUP_MEMBER),
        lambda: make_duplicate_window(settings),
        lambda: load_erased_from_log(settings),
        multi_partition=settings.distributed,
    )

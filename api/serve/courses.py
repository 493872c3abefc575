"""What the keeper follows: the embedded log, or all partitions of the events topic as a consumer group of its own.

Nothing of it is on the workers' path: another group, its own pace, and no state but where it is in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from typing import Protocol

import msgspec

from ...ingest.dedup import DuplicateWindow
from ...ingest.errors import Unavailable
from ...ingest.kafka import KafkaSettings, open_group_source, open_reader
from ...ingest.log import LogReader
from ...ingest.log.segments import segment_bases
from ...ingest.source import RecordBatch
from ...ingest.unread import Unread
from ...scoring.pipeline import PARTITION
from .. import clock
from ..privacy.reading import unread_of
from ..settings import Settings
from .wiring import kafka_settings

POLL, POLL_S = 1_000, 0.5
TELL_EVERY_S = 5.0
AIM_EVERY_S = 5.0
"""How often the ends of partitions are looked up, at most."""
GROUP_SUFFIX, MEMBER = "-keeper", "keeper"
"""The group is named after the workers'; its one member keeps its name, so that whoever takes over need not wait."""


class Course(Protocol):
    """Records in the order of each partition, from wherever they are to be read again."""

    @property
    def several(self) -> bool:
        """Whether partitions may be read at different speeds."""

    def window(self) -> DuplicateWindow:
        """A window that recognises repeated events of one partition as the workers do."""

    def begin(self, since_ms: int) -> Mapping[int, int]:
        """Go back to what arrived at *since_ms*, or a little before it; returns the first offset of each partition.

        Raises CorruptLog, Unavailable.
        """

    def poll(self) -> RecordBatch | None:
        """The next records; None where there are none for a moment. Raises CorruptLog, Fenced."""

    def reached(self) -> bool:
        """Whether all was handed out that was there when this was last true (or at `begin`)."""

    def close(self) -> None:
        """Release files and connections."""


def course_of(settings: Settings) -> Course:
    """The one that the settings mean. Raises ConfigError, Unavailable."""
    return TopicCourse(settings) if settings.kafka.bootstrap_servers else LogCourse(settings)


class LogCourse:
    """The embedded log.

    Args:
        settings: of the service.
    """

    several = False

    def __init__(self, settings: Settings) -> None:
        self._reader = LogReader(settings.data_dir / "log")

    def window(self) -> DuplicateWindow:
        """See `Course`."""
        return DuplicateWindow()

    def begin(self, since_ms: int) -> dict[int, int]:  # noqa: ARG002 (its first segments are skipped quickly)
        """See `Course`: all that is kept."""
        first = min(segment_bases(self._reader.directory), default=0)
        self._reader.seek(PARTITION, first)
        return {PARTITION: first}

    def poll(self) -> RecordBatch | None:
        """See `Course`."""
        return self._reader.poll(POLL, POLL_S)

    def reached(self) -> bool:
        """See `Course`: one partition is always in order."""
        return True

    def close(self) -> None:
        """See `Course`."""
        self._reader.close()


class TopicCourse:
    """The events topic. There is one member, by its name: a second one puts the first out.

    Args:
        settings: of the service.
    """

    several = True

    def __init__(self, settings: Settings) -> None:
        kafka = kafka_settings(settings)
        self._kafka: KafkaSettings = msgspec.structs.replace(
            kafka, group_id=kafka.group_id + GROUP_SUFFIX, group_instance_id=MEMBER
        )
        self._topic = kafka.topics.events
        self._settings, self._unread = settings, Unread()
        self._duplicates = settings.kafka.duplicate_window
        self._next: dict[int, int] = {}
        self._goals: dict[int, int] = {}
        self._source = open_group_source(self._kafka)
        self._joined = self._idle = False
        self._told = self._aimed = float("-inf")

    def window(self) -> DuplicateWindow:
        """See `Course`."""
        return DuplicateWindow(self._duplicates)

    def begin(self, since_ms: int) -> dict[int, int]:
        """See `Course`."""
        with closing(open_reader(self._kafka, (self._topic,))) as reader:
            firsts, self._goals = reader.offsets_at(since_ms), _by_partition(reader.end_offsets())
        self._next, self._idle = _by_partition(firsts), False
        self._unread = unread_of(self._settings, self._topic)
        for partition in self._source.owned():
            self._source.seek(partition, self._next[partition])
        if not self._joined:
            self._source.join(self)
            self._joined = True
        return dict(self._next)

    def assigned(self, partitions: Collection[int]) -> dict[int, int]:
        """See `PartitionOwner`: go on where reading was."""
        return {partition: self._next.setdefault(partition, 0) for partition in partitions}

    def revoked(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`: nothing is kept that somebody else would need."""

    def lost(self, partitions: Collection[int]) -> None:
        """See `PartitionOwner`: what was read counts, nobody else counts it."""

    def poll(self) -> RecordBatch | None:
        """See `Course`."""
        failed = self._source.failed_polls
        batch = self._source.poll(POLL, POLL_S)
        if batch is not None:
            self._next[batch.partition] = batch.next_offset
            batch = self._unread.batch(batch)
        elif self._source.failed_polls == failed and len(self._source.owned()) >= len(self._goals):
            self._idle = True  # nothing waits anywhere: the last offsets may be markers that no poll returns
        if clock.monotonic() - self._told >= TELL_EVERY_S:
            self._told = clock.monotonic()
            self._source.note_position({at: self._next[at] for at in self._source.owned()})
        return batch

    def reached(self) -> bool:
        """See `Course`. Brokers that do not answer are no reason to end: then it is not."""
        behind = any(self._next.get(partition, 0) < goal for partition, goal in self._goals.items())
        if (behind and not self._idle) or clock.monotonic() - self._aimed < AIM_EVERY_S:
            return False
        try:
            self._goals = {partition: self._source.end_offset(partition) for partition in self._goals}
        except Unavailable:
            return False
        self._aimed, self._idle = clock.monotonic(), False
        return True

    def close(self) -> None:
        """See `Course`."""
        self._source.close()


def _by_partition(offsets: Mapping[tuple[str, int], int]) -> dict[int, int]:
    return {partition: offset for (_, partition), offset in offsets.items()}

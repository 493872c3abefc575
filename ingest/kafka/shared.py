"""What both Kafka clients share: the bases of their group sources, readers and writers."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from contextlib import closing
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import structlog

from ..errors import ConfigError, CorruptLog, Unavailable
from ..identities import IdentityHasher
from ..source import GroupSource, PartitionOffsets, PartitionOwner, RecordBatch, TopicWriter
from ..topics.protocols import StartPositions, TopicReader, partition_offsets
from ..topics.record_codec import RecordRun, id_hash_in
from .settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning

_log = structlog.get_logger(__name__)
CLOSE_S = 5.0
"""Longest time for leaving a group and ending connections."""
_READ_BACK_S = 0.1
TopicPartitionKey: TypeAlias = tuple[str, int]
"""Topic and partition."""


def missing_topic(topic: str) -> ConfigError:
    return ConfigError(f"there is no topic {topic}, or we may not see it; create the topics first")


class KafkaTopicReader(TopicReader, ABC):
    """What the readers of both clients share; see `TopicReader`. Raises Unavailable or ConfigError.

    Without a group it reads all partitions, or those numbered in *partitions*.
    """

    def __init__(
        self,
        settings: KafkaClientSettings,
        topics: Collection[str],
        group_id: str = "",
        start: StartPositions = "earliest",
        tuning: KafkaTuning = DEFAULT_TUNING,
        partitions: Collection[int] | None = None,
    ) -> None:
        self.settings = settings
        self.failed_polls = 0
        self._start, self._tuning = start, tuning
        self._end_targets: dict[TopicPartitionKey, int] = {}
        self._open(group_id)
        try:
            counts = {topic: self._count_partitions(topic) for topic in topics}
            if group_id:
                self._subscribe(list(topics))
            else:
                read = {topic: range(count) if partitions is None else partitions for topic, count in counts.items()}
                self._assign_all([(topic, number) for topic in topics for number in read[topic]])
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _open(self, group_id: str) -> None:
        """Open the consumer."""

    @abstractmethod
    def _count_partitions(self, topic: str) -> int:
        """Number of partitions. Raises ConfigError or Unavailable."""

    @abstractmethod
    def _subscribe(self, topics: list[str]) -> None:
        """Join the group."""

    @abstractmethod
    def _assign_all(self, keys: list[TopicPartitionKey]) -> None:
        """Read all these partitions, each from its start position."""

    @abstractmethod
    def position(self, key: TopicPartitionKey) -> int:
        """Offset that is read next; after the last record, that after any transaction marker. Raises Unavailable."""

    @abstractmethod
    def _partitions(self) -> Collection[TopicPartitionKey]:
        """Partitions that are read."""

    @abstractmethod
    def _ends_of(self, keys: Collection[TopicPartitionKey]) -> dict[TopicPartitionKey, int]:
        """Offset after the last record of each. Raises Unavailable."""

    def end_offsets(self) -> dict[TopicPartitionKey, int]:
        return self._ends_of(self._partitions())

    def lag(self) -> int | None:
        ends = self.end_offsets()
        return sum(max(0, end - self.position(key)) for key, end in ends.items()) if ends else None

    def at_end(self) -> bool:
        keys = self._partitions()
        self._end_targets |= self._ends_of([key for key in keys if key not in self._end_targets])
        return bool(keys) and all(self.position(key) >= self._end_targets[key] for key in keys)

    def _skip_lost(self, key: TopicPartitionKey, offset: int, start: int, end: int) -> None:
        """Log that records from *offset* on were not read before retention removed them, and continue at *start*."""
        _log.error(
            "records are gone that were not read",
            topic=key[0],
            partition=key[1],
            offset=offset,
            start=start,
            end=end,
            lost=max(0, start - offset),
        )
        self.seek(*key, start)


class KafkaGroupSource(GroupSource, ABC):
    """What the group sources of both clients share. Not thread-safe: one thread calls everything."""

    def __init__(
        self, settings: KafkaClientSettings, tuning: KafkaTuning, member: str, identities: IdentityHasher
    ) -> None:
        self.settings = settings
        self.topic = settings.topic_names.events
        self.failed_polls = 0
        self._tuning, self._member, self._identities = tuning, member, identities
        self._buffer = FairBuffer()
        self._owned: set[int] = set()
        self._owner: PartitionOwner | None = None
        self._last_poll = time.monotonic()
        self._closed = False

    @abstractmethod
    def _open_reader(self, partitions: Collection[int] | None = None) -> KafkaTopicReader:
        """Open a reader of the topic, or of some of its partitions, on a separate connection."""

    @abstractmethod
    def _bounds(self, partition: int) -> tuple[int, int]:
        """First offset that is kept, and the one after the last. Raises Unavailable or ValueError."""

    @abstractmethod
    def _move(self, partition: int, offset: int) -> None:
        """Read *partition* from *offset* on, even if it is paused."""

    def owned(self) -> frozenset[int]:
        return frozenset(self._owned)

    def _has_slept(self) -> bool:
        """True after a pause so long that the group may have given our partitions to others."""
        return time.monotonic() - self._last_poll > self.settings.session_timeout_ms / 1000

    def _take_away(self, partitions: Collection[int], *, lost: bool) -> set[int]:
        """Let the owner give up those of *partitions* that are ours; returns them."""
        ours = self._owned & set(partitions)
        self._buffer.drop(partitions)
        self._owned -= ours
        if ours and self._owner is not None:
            (self._owner.lost if lost else self._owner.revoked)(ours)
        return ours

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading at *offset*, of a paused partition too. Raises CorruptLog, ValueError or Unavailable."""
        if partition not in self._owned or offset < 0:
            raise ValueError(f"{self.topic}: no seek to offset {offset} of partition {partition}, ours: {self._owned}")
        start, end = self._bounds(partition)
        if not start <= offset <= end:
            raise offset_out_of_range(self.topic, partition, offset, start, end)
        self._buffer.drop([partition])
        self._move(partition, offset)

    def _gone(self, partition: int, offset: int) -> CorruptLog:
        """Return the error that explains why an offset cannot be read; reading never skips to another."""
        try:
            start, end = self._bounds(partition)
        except Unavailable:
            return CorruptLog(f"{self.topic}[{partition}]: offset {offset} is out of range")
        return offset_out_of_range(self.topic, partition, offset, start, end)

    def end_offset(self, partition: int) -> int:
        """See `Source.end_offset`; records after an open transaction do not count. Raises Unavailable or ValueError."""
        return self._bounds(partition)[1]

    def offsets(self, since_ms: int) -> dict[int, PartitionOffsets]:
        """See `GroupSource.offsets`. Raises Unavailable, ConfigError."""
        with closing(self._open_reader()) as reader:
            return partition_offsets(reader, since_ms)

    def read_id_hashes(self, partition: int, start_offset: int, end_offset: int) -> npt.NDArray[np.uint64]:
        """See `DurableSource.read_id_hashes`. Raises CorruptLog or Unavailable.

        The hash is 0 for records that are not events, for gaps, and for records that retention removed (an event that
        old is not repeated).
        """
        hashes = np.zeros(max(0, end_offset - start_offset), np.uint64)
        if not len(hashes):
            return hashes
        start, end = self._bounds(partition)
        if end_offset > end:
            raise offset_out_of_range(self.topic, partition, end_offset, start, end)
        if start < end_offset:
            self._read_back(partition, max(start, start_offset), start_offset, hashes)
        return hashes

    def _read_back(self, partition: int, first: int, start: int, hashes: npt.NDArray[np.uint64]) -> None:
        """Fill *hashes*, which begin with offset *start*, from offset *first* on."""
        patience_s, end = self._tuning.request_timeout_ms / 1000, start + len(hashes)
        key, position, heard = (self.topic, partition), -1, time.monotonic()
        with closing(self._open_reader([partition])) as reader:
            reader.seek(*key, first)
            while (now_at := reader.position(key)) < end:  # the last offsets may be transaction markers
                if now_at == position and time.monotonic() - heard > patience_s:
                    raise Unavailable(f"{self.topic}[{partition}]: no records from {position} on")
                heard = heard if now_at == position else time.monotonic()
                position = now_at
                for fetched in reader.poll(_READ_BACK_S):
                    for record in fetched.records:
                        if start <= record.offset < end:
                            hashes[record.offset - start] = id_hash_in(record.headers)


class FairBuffer:
    """Runs by partition. Partitions take turns, so that a full one does not starve the others."""

    def __init__(self) -> None:
        self._runs: OrderedDict[int, deque[RecordRun]] = OrderedDict()

    def add(self, partition: int, runs: Iterable[RecordRun]) -> None:
        """Append *runs* to those of the same partition; runs without a gap between them are joined."""
        waiting = self._runs.setdefault(partition, deque())
        for run in runs:
            if waiting and waiting[-1].base_offset + len(waiting[-1].records) == run.base_offset:
                waiting[-1].records.extend(run.records)
            else:
                waiting.append(run)
        if not waiting:
            del self._runs[partition]

    def take(self, max_records: int) -> RecordBatch | None:
        """The next batch, at most *max_records* long; None if the buffer is empty."""
        if not self._runs:
            return None
        partition, runs = next(iter(self._runs.items()))
        base, records = runs.popleft()
        if len(records) > max_records:
            runs.appendleft(RecordRun(base + max_records, records[max_records:]))
            records = records[:max_records]
        if runs:
            self._runs.move_to_end(partition)
        else:
            del self._runs[partition]
        return RecordBatch(partition, base, records)

    def first_offsets(self) -> dict[int, int]:
        """Offset of the next record of each partition that has some."""
        return {partition: runs[0].base_offset for partition, runs in self._runs.items()}

    def drop(self, partitions: Collection[int]) -> None:
        """Drop the records of *partitions* that were revoked, or are read from another offset."""
        for partition in partitions:
            self._runs.pop(partition, None)


def offset_out_of_range(topic: str, partition: int, offset: int, start: int, end: int) -> CorruptLog:
    """Error for *offset* of a partition that keeps [start, end), with the likely cause."""
    where = f"{topic}[{partition}]: offset {offset}"
    if offset < start:
        return CorruptLog(
            f"{where} is no longer kept, the partition starts at {start}: retention removed {start - offset} records"
            " that were not applied yet; restore the topic, or move the stored position on and accept the loss"
        )
    return CorruptLog(
        f"{where} is after the end of the partition, {end}: another cluster, a recreated topic, or acknowledged"
        " records lost by an unclean election"
    )


class LastWaits:
    """Bounds the waits of a writer for brokers once its process is to end; after one failed, none waits any more.

    A worker then ends soon without brokers, and in order with them, however long its other work takes.
    """

    def __init__(self) -> None:
        self._within_s = math.inf
        self._since_s = -math.inf

    @property
    def over(self) -> bool:
        """True if no call waits any more."""
        return self._within_s <= 0.0

    def begin(self, within_s: float) -> None:
        """Limit each wait to *within_s* seconds, a running one from now on. A second call changes nothing.

        Any thread and any signal handler may call this.
        """
        if self._within_s == math.inf:
            self._since_s = time.monotonic()
            self._within_s = within_s

    def is_over_at(self, began_s: float, timeout_s: float) -> bool:
        """Return whether a wait of *timeout_s* seconds that began at *began_s*, of the monotonic clock, is over."""
        return self.left_s(began_s, timeout_s) <= 0.0

    def left_s(self, began_s: float, timeout_s: float) -> float:
        """Seconds that are left of such a wait; 0 = none."""
        ends_s = min(began_s + timeout_s, max(began_s, self._since_s) + self._within_s)
        return max(0.0, ends_s - time.monotonic())

    def note_in_vain(self) -> None:
        """Note that brokers did not acknowledge something."""
        if self._within_s < math.inf:
            self._within_s = 0.0


class KafkaTopicWriter(TopicWriter, ABC):
    """What the writers of both clients share; see `TopicWriter`."""

    def __init__(self, settings: KafkaClientSettings, tuning: KafkaTuning) -> None:
        self.settings = settings
        self.replaced = 0
        self._tuning = tuning
        self._partitions: dict[str, int] = {}
        self._last_waits = LastWaits()

    @abstractmethod
    def _count_partitions(self, topic: str) -> int | None:
        """Number of partitions; None if there is no such topic, or we may not see it. Raises Unavailable."""

    def bound_waits(self, within_s: float) -> None:
        self._last_waits.begin(within_s)

    def partitions(self, topic: str) -> int:
        """See `TopicWriter.partitions`; the answer is kept: growing a topic is a drained migration."""
        if topic not in self._partitions:
            count = self._count_partitions(topic)
            if count is None:
                raise missing_topic(topic)
            self._partitions[topic] = count
        return self._partitions[topic]

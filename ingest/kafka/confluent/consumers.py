"""`TopicReader` and `GroupSource` over confluent-kafka."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from ...errors import CorruptLog, Fenced, TrustwatchError, Unavailable
from ...identities import IdentityHasher
from ...source import PartitionOwner, Record, RecordBatch
from ...topics.protocols import MAX_POLL_RECORDS, FetchedRecords, start_position_of
from ...topics.record_codec import RecordRun, SourcePartition, TopicRecord, own_record, to_record
from ..settings import KafkaClientSettings, KafkaTuning
from ..shared import CLOSE_S, KafkaGroupSource, KafkaTopicReader, TopicPartitionKey
from .client_connection import (
    DAMAGED_DATA_ERRORS,
    OFFSET_GONE_ERRORS,
    BoundedCall,
    consume,
    offset_bounds,
    open_consumer,
    partition_count,
    translate_error,
    translated_errors,
)

_log = structlog.get_logger(__name__)


class ConfluentTopicReader(KafkaTopicReader):
    """`KafkaTopicReader` over confluent-kafka."""

    def _open(self, group_id: str) -> None:
        self._pending_error: TrustwatchError | None = None
        self._positions: dict[TopicPartitionKey, int] = {}
        self._committing: BoundedCall | None = None
        self._consumer = open_consumer(
            self.settings,
            self._tuning,
            self._on_error,
            group_id=group_id or self.settings.group_id,
            enable_partition_eof=True,
            session_timeout_ms=self.settings.session_timeout_ms,
            max_poll_interval_ms=self._tuning.max_poll_interval_ms,
        )

    def _count_partitions(self, topic: str) -> int:
        return partition_count(self._consumer, topic, self._tuning.metadata_timeout_ms)

    def _subscribe(self, topics: list[str]) -> None:
        with translated_errors("reading topics"):
            self._consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked)

    def _assign_all(self, keys: list[TopicPartitionKey]) -> None:
        bounds = {key: self._bounds(key) for key in keys}
        self._end_targets = {key: end for key, (_, end) in bounds.items()}
        with translated_errors("reading topics"):
            self._assign_at({key: self._first(key, both) for key, both in bounds.items()})

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Called by librdkafka within `consume`."""
        try:
            with translated_errors("asking for committed offsets"):
                stored = self._consumer.committed(partitions, self._tuning.metadata_timeout_ms / 1000)
            stored_offsets = {_partition_key(partition): partition.offset for partition in stored}
            self._assign_at(
                {
                    partition: offset if offset >= 0 else self._first(partition, self._bounds(partition))
                    for partition, offset in stored_offsets.items()
                }
            )
        except TrustwatchError as error:
            self._pending_error = error  # poll raises it; nothing is read meanwhile

    def _first(self, key: TopicPartitionKey, bounds: tuple[int, int]) -> int:
        """Start offset in a partition for which the group has stored none."""
        return bounds[1 if start_position_of(key[0], self._start) == "latest" else 0]

    def _assign_at(self, positions: dict[TopicPartitionKey, int]) -> None:
        self._positions = positions
        self._consumer.assign([TopicPartition(*key, offset) for key, offset in positions.items()])

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Called by librdkafka within `consume`, and within `close` by another thread."""
        for partition in partitions:
            self._positions.pop(_partition_key(partition), None)

    def poll(self, timeout_s: float, max_records: int = MAX_POLL_RECORDS) -> list[FetchedRecords]:
        """See `TopicReader.poll`.

        Records that retention removed before they were read are logged as an error and skipped.
        """
        with translated_errors("reading topics"):
            messages = consume(self._consumer, max_records, timeout_s)
        records_by_partition: dict[TopicPartitionKey, list[TopicRecord]] = {}
        for message in messages:
            key = message.topic(), message.partition()
            if message.error() is not None:
                self._handle_message_error(message, key)
            elif key in self._positions:
                records_by_partition.setdefault(key, []).append(_kafka_record(message))
                self._positions[key] = message.offset() + 1
        raised, self._pending_error = self._pending_error, None
        if raised:
            raise raised
        return [FetchedRecords(*key, records) for key, records in records_by_partition.items()]

    def _handle_message_error(self, message: Message, key: TopicPartitionKey) -> None:
        error = message.error()
        if error.code() == KafkaError._PARTITION_EOF:
            if key in self._positions:  # the last offsets may be transaction markers
                self._positions[key] = max(self._positions[key], message.offset())
        elif error.code() in OFFSET_GONE_ERRORS and key in self._positions:
            self._skip_lost(key, self._positions[key], *self._bounds(key))
        elif error.code() in DAMAGED_DATA_ERRORS:
            self._pending_error = CorruptLog(f"{key[0]}[{key[1]}]: offset {message.offset()}: {error.str()}")
        else:
            self._on_error(error)

    def _on_error(self, error: KafkaError) -> None:
        """Error callback of librdkafka, which reconnects automatically."""
        self.failed_polls += 1
        _log.warning("Kafka does not answer", error=f"{error.name()}: {error.str()}")
        refused = translate_error("connecting to Kafka", error)
        if not isinstance(refused, Unavailable):
            self._pending_error = refused

    def commit(self) -> None:
        """See `TopicReader.commit`. One that was given up must end first, so that it does not move the group back."""
        limit_s = self._tuning.metadata_timeout_ms / 1000
        offsets = [TopicPartition(*key, offset) for key, offset in self._positions.items()]
        if not offsets:
            return
        if self._committing is not None and not self._committing.wait(limit_s):
            raise Unavailable("committing offsets: no broker has answered the commit before")
        self._committing = BoundedCall(partial(self._consumer.commit, offsets=offsets, asynchronous=False))
        with translated_errors("committing offsets"):
            if not self._committing.run(limit_s):
                raise Unavailable(f"committing offsets: no broker answered in {limit_s:g} s")

    def first_offsets(self) -> dict[TopicPartitionKey, int]:
        return {key: self._bounds(key)[0] for key in self._positions}

    def offsets_at(self, time_ms: int) -> dict[TopicPartitionKey, int]:
        ends = self.end_offsets()
        asked = [TopicPartition(*key, max(0, time_ms)) for key in ends]
        with translated_errors("asking for offsets"):
            answers = self._consumer.offsets_for_times(asked, self._tuning.metadata_timeout_ms / 1000) if asked else []
        offsets = {
            _partition_key(answer): answer.offset for answer in answers if answer.error is None and answer.offset >= 0
        }
        return {key: offsets.get(key, end) for key, end in ends.items()}

    def seek(self, topic: str, partition: int, offset: int) -> None:
        with translated_errors("reading topics"):
            self._assign_at(self._positions | {(topic, partition): offset})

    def position(self, key: TopicPartitionKey) -> int:
        return self._positions[key]

    def _partitions(self) -> Collection[TopicPartitionKey]:
        return self._positions.keys()

    def _ends_of(self, keys: Collection[TopicPartitionKey]) -> dict[TopicPartitionKey, int]:
        return {key: self._bounds(key)[1] for key in keys}

    def _bounds(self, key: TopicPartitionKey) -> tuple[int, int]:
        return offset_bounds(self._consumer, TopicPartition(*key), self._tuning.metadata_timeout_ms)

    def close(self) -> None:
        """Leave the group, release connections. If no broker answers for some seconds, that is logged."""
        with translated_errors("leaving the group"):
            if not BoundedCall(self._close_consumer).run(CLOSE_S):
                _log.warning("no broker confirmed that this reader left its group; the group removes it")

    def _close_consumer(self) -> None:
        if self._committing is not None:  # it uses the consumer
            self._committing.wait(None)
        self._consumer.close()


def _partition_key(partition: TopicPartition) -> TopicPartitionKey:
    return partition.topic, partition.partition


def _kafka_record(message: Message) -> TopicRecord:
    return TopicRecord(
        message.offset(), message.timestamp()[1], message.key(), message.value(), message.headers() or []
    )


_IGNORED_ERRORS = frozenset({KafkaError._PARTITION_EOF, KafkaError._MAX_POLL_EXCEEDED})


class ConfluentGroupSource(KafkaGroupSource):
    """The events topic, read as a member of a consumer group. Raises ConfigError or Unavailable."""

    def __init__(
        self,
        settings: KafkaClientSettings,
        tuning: KafkaTuning,
        member: str,
        identities: IdentityHasher,
    ) -> None:
        super().__init__(settings, tuning, member, identities)
        self._next: dict[int, int] = {}
        self._pending_error: Exception | None = None
        self._broken: dict[int, CorruptLog] = {}
        self._leaving: BoundedCall | None = None
        self._query_consumer: Consumer | None = None
        self._overslept = False
        static = {"group_instance_id": member} if member else {}
        self._consumer = open_consumer(
            settings,
            tuning,
            self._on_error,
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=min(3_000, settings.session_timeout_ms // 3),
            max_poll_interval_ms=tuning.max_poll_interval_ms,
            **static,
        )
        try:
            self._partition_count = partition_count(self._consumer, self.topic, tuning.metadata_timeout_ms)
        except TrustwatchError:
            self._consumer.close()
            raise

    def join(self, owner: PartitionOwner) -> None:
        """Become a member of the group; *owner* is called from within `poll` and `close`."""
        self._owner = owner
        with translated_errors(f"joining the group {self.settings.group_id}"):
            self._consumer.subscribe(
                [self.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """At most *max_records* records of one partition; None after *timeout_s* seconds without any.

        While no broker answers there are none: that is logged, and counted in `failed_polls`. Raises CorruptLog, Fenced
        or ConfigError.
        """
        slept = self._has_slept()
        # After a long pause, poll first: the buffer may hold records of partitions that are lost.
        batch = None if slept else self._buffer.take(max_records)
        if batch is None:
            with translated_errors(f"reading {self.topic}"):
                self._buffer_messages(self._fetch(max_records, 0 if slept else timeout_s))
            batch = self._buffer.take(max_records)
        if batch is None and self._broken:
            raise next(iter(self._broken.values()))
        return batch

    def _fetch(self, most: int, timeout_s: float) -> list[Message]:
        now = time.monotonic()
        self._overslept = now - self._last_poll > self._tuning.max_poll_interval_ms / 1000
        self._last_poll = now
        return consume(self._consumer, most, 0 if self._pending_error else timeout_s)

    def _buffer_messages(self, messages: list[Message]) -> None:
        runs: list[tuple[int, RecordRun]] = []
        partition, expected = -1, 0
        add: Callable[[Record], None] | None = None  # to the run that the last message was put into
        for message in messages:
            if message.error() is not None:
                self._handle_message_error(message)
                continue
            offset = message.offset()
            if message.partition() != partition or offset != expected or add is None:
                partition = message.partition()
                if offset < self._next.get(partition, 1 << 63):
                    add = None  # not ours any more, or from before a seek
                    continue
                run = RecordRun(offset, [])
                runs.append((partition, run))
                add = run.records.append
            headers, value, time_ms = message.headers() or (), message.value(), message.timestamp()[1]
            record = own_record(time_ms, value, headers)
            if record is None:
                origin = SourcePartition(self.topic, partition, self._partition_count, self._identities)
                record = to_record(TopicRecord(offset, time_ms, message.key(), value, headers), origin)
            add(record)
            self._next[partition] = expected = offset + 1
        for partition, run in runs:
            self._buffer.add(partition, [run])
        raised, self._pending_error = self._pending_error, None
        if raised:
            raise raised

    def _handle_message_error(self, message: Message) -> None:
        error, partition = message.error(), message.partition()
        code = error.code()
        if code in OFFSET_GONE_ERRORS and partition in self._next:
            self._broken[partition] = self._gone(partition, self._next[partition])
        elif code in DAMAGED_DATA_ERRORS and partition in self._next:
            text = f"{self.topic}[{partition}]: offset {message.offset()}: {error.str()}"
            self._broken[partition] = CorruptLog(text)
        elif code not in _IGNORED_ERRORS:
            self._on_error(error)

    def _on_error(self, error: KafkaError) -> None:
        """Error callback of librdkafka, which reconnects automatically."""
        self.failed_polls += 1
        _log.warning("Kafka does not answer", topic=self.topic, error=f"{error.name()}: {error.str()}")
        refused: Exception = translate_error("reading Kafka", error)
        if error.code() == KafkaError._FATAL:
            name = self._member
            refused = Fenced(f"member {name!r} of the group {self.settings.group_id} is shut out: {error.str()}")
        if not isinstance(refused, Unavailable):
            self._pending_error = self._pending_error or refused

    def _assigned(self, consumer: Consumer, topic_partitions: list[TopicPartition]) -> None:
        """Called by librdkafka within `consume`."""
        partitions = {topic_partition.partition for topic_partition in topic_partitions}
        offsets: Mapping[int, int] = {}
        if partitions and self._owner is not None:
            with self._kept_for_poll():
                offsets = self._owner.assigned(partitions)
                self._owned |= partitions
        at = [TopicPartition(self.topic, partition, offsets.get(partition, OFFSET_END)) for partition in partitions]
        consumer.incremental_assign(at)
        self._next.update(offsets)
        if waiting := [one for one in at if one.partition not in offsets]:  # or the owner failed: no record is returned
            consumer.pause(waiting)

    def _revoked(self, _: Consumer, topic_partitions: list[TopicPartition]) -> None:
        """Called by librdkafka within `consume`, and within `close` by another thread."""
        self._give_up(topic_partitions, lost=self._overslept)  # then the group removed us long ago: it is reported late

    def _lost(self, _: Consumer, topic_partitions: list[TopicPartition]) -> None:
        """Called as `_revoked` is."""
        self._give_up(topic_partitions, lost=True)

    def _give_up(self, topic_partitions: list[TopicPartition], *, lost: bool) -> None:
        drop = partial(self._drop, {topic_partition.partition for topic_partition in topic_partitions}, lost)
        if self._leaving is None:
            drop()
        else:
            self._leaving.call_back(drop)

    def _drop(self, partitions: set[int], lost: bool) -> None:
        for partition in partitions:
            self._next.pop(partition, None)
            self._broken.pop(partition, None)
        with self._kept_for_poll():
            self._take_away(partitions, lost=lost)

    @contextlib.contextmanager
    def _kept_for_poll(self) -> Iterator[None]:
        """Keep an error of the partition owner for `poll` to raise, so that it does not break the rebalance."""
        try:
            yield
        except Exception as error:
            self._pending_error = self._pending_error or error

    def _move(self, partition: int, offset: int) -> None:
        topic_partition = TopicPartition(self.topic, partition, offset)
        with translated_errors(f"seeking in {self.topic}[{partition}]"):
            self._consumer.incremental_unassign([topic_partition])
            self._consumer.incremental_assign([topic_partition])
            self._consumer.resume([topic_partition])
        self._next[partition] = offset
        self._broken.pop(partition, None)

    def pause(self, partition: int) -> None:
        """Return no more records of *partition* until it is assigned again, or sought."""
        self._buffer.drop([partition])
        if self._next.pop(partition, None) is not None:
            with translated_errors(f"pausing {self.topic}[{partition}]"):
                self._consumer.pause([TopicPartition(self.topic, partition)])

    def _bounds(self, partition: int) -> tuple[int, int]:
        topic_partition = TopicPartition(self.topic, partition)
        if not 0 <= partition < self._partition_count:
            raise ValueError(
                f"{self.topic} has the partitions 0 to {self._partition_count - 1}, no partition {partition}"
            )
        return offset_bounds(self._open_query_consumer(), topic_partition, self._tuning.metadata_timeout_ms)

    def _open_query_consumer(self) -> Consumer:
        """Consumer for requests of offsets. On the fetching connection a reply would wait for the fetch before it, half
        a second on a quiet topic."""
        if self._query_consumer is None:
            self._query_consumer = open_consumer(self.settings, self._tuning, self._on_error)
        return self._query_consumer

    def _open_reader(self, partitions: Collection[int] | None = None) -> ConfluentTopicReader:
        return ConfluentTopicReader(self.settings, (self.topic,), tuning=self._tuning, partitions=partitions)

    def note_position(self, offsets: Mapping[int, int]) -> None:
        """Commit positions to the group, for tools that show lag only; a failure is ignored."""
        with contextlib.suppress(KafkaException):
            self._consumer.commit(offsets=[TopicPartition(self.topic, *pair) for pair in offsets.items()])

    def close(self) -> None:
        """Hand the partitions back (`revoked` is called) and leave the group.

        If no broker answers within some seconds, that is logged, and the group removes the member after its time-out.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with translated_errors("leaving the group"):
                self._leaving = BoundedCall(self._consumer.close)
                self._end(self._leaving, "no broker confirmed that this member left the group; the group removes it")
        finally:
            self._owned.clear()
            if self._query_consumer is not None:
                self._end(BoundedCall(self._query_consumer.close), "a connection does not end")
        if self._pending_error:
            raise self._pending_error

    def _end(self, closing: BoundedCall, otherwise: str) -> None:
        if not closing.run(CLOSE_S):
            _log.warning(otherwise, group=self.settings.group_id, waited_s=CLOSE_S)

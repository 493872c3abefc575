"""`TopicReader` over confluent-kafka."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from ...errors import CorruptLog, TrustwatchError, Unavailable
from ...topics.protocols import MAX_POLL_RECORDS, FetchedRecords, StartPositions, start_position_of
from ...topics.record_codec import TopicRecord
from ..settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning
from ..shared import CLOSE_S, KafkaTopicReader, TopicPartitionKey
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
    """See `TopicReader`. Raises Unavailable or ConfigError."""

    def __init__(
        self,
        settings: KafkaClientSettings,
        topics: Collection[str],
        group_id: str = "",
        start: StartPositions = "earliest",
        tuning: KafkaTuning = DEFAULT_TUNING,
        partitions: Collection[int] | None = None,
    ) -> None:
        super().__init__(settings, start, tuning)
        self._pending_error: TrustwatchError | None = None
        self._positions: dict[TopicPartitionKey, int] = {}
        self._committing: BoundedCall | None = None
        self._consumer = open_consumer(
            settings,
            tuning,
            self._on_error,
            group_id=group_id or settings.group_id,
            enable_partition_eof=True,
            session_timeout_ms=settings.session_timeout_ms,
            max_poll_interval_ms=tuning.max_poll_interval_ms,
        )
        try:
            limit = tuning.metadata_timeout_ms
            counts = {topic: partition_count(self._consumer, topic, limit) for topic in topics}
            if group_id:
                with translated_errors("reading topics"):
                    self._consumer.subscribe(list(topics), on_assign=self._assigned, on_revoke=self._revoked)
            else:
                read = {topic: range(count) if partitions is None else partitions for topic, count in counts.items()}
                self._assign_all([(topic, number) for topic in topics for number in read[topic]])
        except TrustwatchError:
            self._consumer.close()
            raise

    def _assign_all(self, keys: list[TopicPartitionKey]) -> None:
        """Read all partitions, each from its start position."""
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

"""`TopicReader` over confluent-kafka."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TypeAlias

import structlog
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from ...errors import CorruptLog, TrustwatchError, Unavailable
from ...topics import record_codec
from ...topics.protocols import MAX_POLL_RECORDS, FetchedRecords, StartPositions, start_position_of
from ..settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning
from .client_connection import (
    CLOSE_S,
    DAMAGED_DATA_ERRORS,
    OFFSET_GONE_ERRORS,
    BoundedCall,
    offset_bounds,
    open_consumer,
    partition_count,
    translate_error,
    translated_errors,
)

_log = structlog.get_logger(__name__)
TopicPartitionKey: TypeAlias = tuple[str, int]
"""Topic and partition."""


class ConfluentTopicReader:
    """See `TopicReader`. Raises Unavailable or ConfigError."""

    def __init__(
        self,
        settings: KafkaClientSettings,
        topics: Collection[str],
        group_id: str = "",
        start: StartPositions = "earliest",
        tuning: KafkaTuning = DEFAULT_TUNING,
    ) -> None:
        self.settings = settings
        self._tuning = tuning
        self.failed_polls = 0
        self._start = start
        self._pending_error: TrustwatchError | None = None
        self._positions: dict[TopicPartitionKey, int] = {}
        self._end_targets: dict[TopicPartitionKey, int] = {}
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
                self._assign_all([(topic, n) for topic, count in counts.items() for n in range(count)])
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
            messages = self._consumer.consume(max_records, 0)
            if not messages:
                messages = self._consumer.consume(1, timeout_s)
                messages += self._consumer.consume(max_records - 1, 0) if max_records > 1 else []
        records_by_partition: dict[TopicPartitionKey, list[record_codec.TopicRecord]] = {}
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
            self._skip_lost(key)
        elif error.code() in DAMAGED_DATA_ERRORS:
            self._pending_error = CorruptLog(f"{key[0]}[{key[1]}]: offset {message.offset()}: {error.str()}")
        else:
            self._on_error(error)

    def _skip_lost(self, key: TopicPartitionKey) -> None:
        offset = self._positions[key]
        start, end = self._bounds(key)
        lost = max(0, start - offset)
        _log.error(
            "records are gone that were not read",
            topic=key[0],
            partition=key[1],
            offset=offset,
            start=start,
            end=end,
            lost=lost,
        )
        self._assign_at(self._positions | {key: start})

    def _on_error(self, error: KafkaError) -> None:
        """Error callback of librdkafka, which reconnects automatically."""
        self.failed_polls += 1
        _log.warning("Kafka does not answer", error=f"{error.name()}: {error.str()}")
        refused = translate_error("connecting to Kafka", error)
        if not isinstance(refused, Unavailable):
            self._pending_error = refused

    def commit(self) -> None:
        offsets = [TopicPartition(*key, offset) for key, offset in self._positions.items()]
        if offsets:
            self._commit_within(offsets, self._tuning.metadata_timeout_ms / 1000)

    def _commit_within(self, offsets: list[TopicPartition], limit_s: float) -> None:
        """Commit; an earlier one that was given up must end first, so that it does not move the group back."""
        if self._committing is not None and not self._committing.wait(limit_s):
            raise Unavailable("committing offsets: no broker has answered the commit before")
        self._committing = BoundedCall(partial(self._consumer.commit, offsets=offsets, asynchronous=False))
        with translated_errors("committing offsets"):
            if not self._committing.run(limit_s):
                raise Unavailable(f"committing offsets: no broker answered in {limit_s:g} s")

    def end_offsets(self) -> dict[TopicPartitionKey, int]:
        return {key: self._bounds(key)[1] for key in self._positions}

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

    def _bounds(self, key: TopicPartitionKey) -> tuple[int, int]:
        return offset_bounds(self._consumer, TopicPartition(*key), self._tuning.metadata_timeout_ms)

    def lag(self) -> int | None:
        behind = [max(0, end - self._positions[key]) for key, end in self.end_offsets().items()]
        return sum(behind) if behind else None

    def at_end(self) -> bool:
        self._end_targets |= {key: self._bounds(key)[1] for key in self._positions if key not in self._end_targets}
        return bool(self._positions) and all(at >= self._end_targets[key] for key, at in self._positions.items())

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


def _kafka_record(message: Message) -> record_codec.TopicRecord:
    return record_codec.TopicRecord(
        message.offset(), message.timestamp()[1], message.key(), message.value(), message.headers() or []
    )

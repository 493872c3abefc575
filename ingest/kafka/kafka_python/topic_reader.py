"""`TopicReader` over kafka-python."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import structlog
from kafka import KafkaConsumer, TopicPartition, errors

from ...errors import CorruptLog, Unavailable
from ...topics.protocols import MAX_POLL_RECORDS, FetchedRecords, StartPositions, start_position_of
from ..settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning
from ..shared import CLOSE_S, KafkaTopicReader, TopicPartitionKey
from .client_connection import (
    consumer_options,
    group_options,
    offset_bounds,
    open_client,
    partition_count,
    to_kafka_record,
    translated_errors,
)
from .retained_join import retain_joins

_log = structlog.get_logger(__name__)


class KafkaPythonTopicReader(KafkaTopicReader):
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
        options = consumer_options(settings, tuning)
        if group_id:
            options |= {"group_id": group_id, **group_options(settings, tuning)}
        self._consumer = open_client(KafkaConsumer, **options)
        try:
            counts = {topic: partition_count(self._consumer, topic) for topic in topics}
            if group_id:
                retain_joins(self._consumer)
                self._consumer.subscribe(list(topics))
            else:
                read = {topic: range(count) if partitions is None else partitions for topic, count in counts.items()}
                self._assign_all([TopicPartition(topic, number) for topic in topics for number in read[topic]])
        except BaseException:
            self._consumer.close(timeout_ms=int(CLOSE_S * 1000))
            raise

    def _assign_all(self, partitions: list[TopicPartition]) -> None:
        """Read all partitions, each from its start position."""
        self._consumer.assign(partitions)
        self._end_targets = self._ends_of(partitions)
        for partition in partitions:
            if start_position_of(partition.topic, self._start) == "latest":
                self._consumer.seek(partition, self._end_targets[partition])
            else:
                self._consumer.seek_to_beginning(partition)

    def poll(self, timeout_s: float, max_records: int = MAX_POLL_RECORDS) -> list[FetchedRecords]:
        """See `TopicReader.poll`.

        Records that retention removed before they were read are logged as an error and skipped.
        """
        try:
            with translated_errors("reading topics"):
                fetched = self._fetch(int(timeout_s * 1000), max_records)
        except Unavailable as error:
            self.failed_polls += 1
            _log.warning("Kafka does not answer", error=str(error))
            return []
        return [
            FetchedRecords(partition.topic, partition.partition, [to_kafka_record(record) for record in records])
            for partition, records in fetched.items()
        ]

    def _fetch(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, list[object]]:
        try:
            records: Mapping[TopicPartition, list[object]] = self._consumer.poll(timeout_ms, max_records=max_records)
            return records
        except errors.NoOffsetForPartitionError:  # a new group
            missing = [
                partition for partition in self._consumer.assignment() if self._consumer.committed(partition) is None
            ]
            for partition in missing:
                late = start_position_of(partition.topic, self._start) == "latest"
                (self._consumer.seek_to_end if late else self._consumer.seek_to_beginning)(partition)
        except errors.OffsetOutOfRangeError as error:
            for partition, offset in dict(error.args[0]).items():
                start, end = offset_bounds(self._consumer, partition, self._tuning.metadata_timeout_ms)
                self._skip_lost(partition, offset, start, end)
        except (errors.CorruptRecordError, errors.LogTruncationError) as error:
            raise CorruptLog(f"reading topics: {error}") from error
        return {}

    def commit(self) -> None:
        with translated_errors("committing offsets"):
            self._consumer.commit(timeout_ms=self._tuning.metadata_timeout_ms)

    def first_offsets(self) -> dict[TopicPartitionKey, int]:
        partitions = list(self._consumer.assignment())
        with translated_errors("asking for offsets"):
            return self._consumer.beginning_offsets(partitions, self._tuning.metadata_timeout_ms) if partitions else {}

    def offsets_at(self, time_ms: int) -> dict[TopicPartitionKey, int]:
        ends = self.end_offsets()
        with translated_errors("asking for offsets"):
            offsets = self._consumer.offsets_for_times(dict.fromkeys(ends, max(0, time_ms))) if ends else {}
        return {key: end if offsets.get(key) is None else offsets[key].offset for key, end in ends.items()}

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._consumer.seek(TopicPartition(topic, partition), offset)

    def position(self, key: TopicPartitionKey) -> int:
        with translated_errors("asking for positions"):
            position: int | None = self._consumer.position(TopicPartition(*key), self._tuning.metadata_timeout_ms)
        if position is None:
            raise Unavailable("asking for positions: no answer in time")
        return position

    def _partitions(self) -> Collection[TopicPartitionKey]:
        partitions: Collection[TopicPartitionKey] = self._consumer.assignment()
        return partitions

    def _ends_of(self, keys: Collection[TopicPartitionKey]) -> dict[TopicPartitionKey, int]:
        with translated_errors("asking for offsets"):
            return self._consumer.end_offsets(list(keys), self._tuning.metadata_timeout_ms) if keys else {}

    def close(self) -> None:
        self._consumer.close(timeout_ms=int(CLOSE_S * 1000))

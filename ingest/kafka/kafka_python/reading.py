"""What all consumers of kafka-python share."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from ...errors import ConfigError
from .. import wire
from ..settings import KafkaClientSettings
from .options import connection_options, translated_errors


def consumer_options(settings: KafkaClientSettings) -> dict[str, Any]:
    """Options of a consumer: committed records only, no offset made up where ours is gone, bounded memory."""
    return {
        **connection_options(settings),
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        "fetch_max_bytes": settings.fetch_max_bytes,
        "max_partition_fetch_bytes": settings.partition_fetch_bytes,
        "metrics_enabled": False,
    }


def to_kafka_record(record: ConsumerRecord) -> wire.KafkaRecord:
    """A record in our words."""
    return wire.KafkaRecord(record.offset, record.timestamp, record.key, record.value, record.headers)


def partition_count(consumer: KafkaConsumer, topic: str) -> int:
    """Number of partitions.

    Raises:
        ConfigError: there is no such topic, or we may not see it.
        Unavailable: no broker answers.
    """
    with translated_errors(f"asking for topic {topic}"):
        count = len(consumer.partitions_for_topic(topic))
    if not count:
        raise ConfigError(f"there is no topic {topic}, or we may not see it; create the topics first")
    return count


def offset_bounds(consumer: KafkaConsumer, place: TopicPartition, timeout_ms: int) -> tuple[int, int]:
    """First offset that is kept, and the one after the last.

    Raises:
        Unavailable: no broker answered in time.
        ValueError: there is no such partition.
    """
    end = end_offset(consumer, place, timeout_ms)
    with translated_errors(f"asking for the offsets of {place.topic}[{place.partition}]"):
        return consumer.beginning_offsets([place], timeout_ms)[place], end


def end_offset(consumer: KafkaConsumer, place: TopicPartition, timeout_ms: int) -> int:
    """The offset after the last record. Raises as `bounds`."""
    count = partition_count(consumer, place.topic)
    if not 0 <= place.partition < count:
        raise ValueError(f"{place.topic} has the partitions 0 to {count - 1}, no partition {place.partition}")
    with translated_errors(f"asking for the offsets of {place.topic}[{place.partition}]"):
        offset: int = consumer.end_offsets([place], timeout_ms)[place]
        return offset

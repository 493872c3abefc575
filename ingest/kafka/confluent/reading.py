"""What all consumers of librdkafka share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from ...errors import ConfigError
from ..settings import KafkaClientSettings
from .options import LIBRDKAFKA_LOGGER, connection_options, translated_errors

OFFSET_GONE_ERRORS = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
"""The offset that we read from is not there."""

DAMAGED_DATA_ERRORS = frozenset({KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._LOG_TRUNCATION})
"""A record batch fails its CRC or cannot be uncompressed, or acknowledged records are gone."""


def open_consumer(settings: KafkaClientSettings, error_cb: Callable[[KafkaError], None], **more: Any) -> Consumer:
    """A consumer of committed records only, with no offset made up where ours is gone, and with bounded memory.

    Args:
        error_cb: told of lost connections, on the thread that polls.
        more: further options, with `_` for `.` in their names.

    Raises:
        ConfigError: an option is wrong, such as a file that is missing.
    """
    options = {
        **connection_options(settings),
        "group.id": settings.group_id,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
        "check.crcs": True,
        "fetch.max.bytes": settings.fetch_max_bytes,
        "max.partition.fetch.bytes": settings.partition_fetch_bytes,
        "receive.message.max.bytes": settings.fetch_max_bytes + settings.partition_fetch_bytes,
        "queued.max.messages.kbytes": settings.fetch_max_bytes // 1024,
        "fetch.queue.backoff.ms": 5,  # a full queue is looked at again then; the default of a second starves us
        "error_cb": error_cb,
        **{name.replace("_", "."): value for name, value in more.items()},
    }
    with translated_errors(f"Kafka at {', '.join(settings.bootstrap_servers)}"):
        return Consumer(options, logger=LIBRDKAFKA_LOGGER)


def partition_count(consumer: Consumer, topic: str, timeout_ms: int) -> int:
    """Number of partitions.

    Raises:
        ConfigError: there is no such topic, or we may not see it.
        Unavailable: no broker answers.
    """
    with translated_errors(f"asking for topic {topic}"):
        found = consumer.list_topics(topic, timeout_ms / 1000).topics.get(topic)
    if found is None or not found.partitions:
        raise ConfigError(f"there is no topic {topic}, or we may not see it; create the topics first")
    return len(found.partitions)


def offset_bounds(consumer: Consumer, place: TopicPartition, timeout_ms: int) -> tuple[int, int]:
    """First offset that is kept, and the one after the last.

    Raises:
        Unavailable: no broker answered in time.
    """
    with translated_errors(f"asking for the offsets of {place.topic}[{place.partition}]"):
        start, end = consumer.get_watermark_offsets(place, timeout_ms / 1000)
    return start, end

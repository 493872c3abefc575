"""`TopicWriter` over confluent-kafka."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from ...errors import ConfigError, Unavailable
from ...record_keys import partition_of
from ..settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning
from .client_connection import LIBRDKAFKA_LOGGER, connection_options, translate_error, translated_errors

_log = structlog.get_logger(__name__)
_BATCH_BYTES = 1024 * 1024
_QUEUE_KBYTES = 64 * 1024
_LINGER_MS = 1  # a record waits so long twice on its way, and more requests cost librdkafka little
_CLOSE_S = 5.0
_WAIT_S = 0.05


class _QueuedRecords:
    """Number of records that were queued within a time and have no outcome, and of those before them.

    Args:
        before: of the time before; None = there was none.
    """

    def __init__(self, before: _QueuedRecords | None = None) -> None:
        self.count = 0
        self._before = before

    def waiting(self) -> int:
        """Records of this time and of all before it."""
        if self._before is not None and not self._before.waiting():
            self._before = None
        return self.count + (0 if self._before is None else self._before.waiting())


class ConfluentTopicWriter:
    """An idempotent producer with the acknowledgement of all in-sync replicas. Safe to use from several threads.

    Raises:
        Unavailable: no broker answers.
        ConfigError: an option is wrong.
    """

    def __init__(self, settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> None:
        self.settings = settings
        self.replaced = 0
        self._tuning = tuning
        self._partitions: dict[str, int] = {}
        self._lock = threading.Lock()
        self._failed: KafkaError | None = None
        self._queued = _QueuedRecords()
        """Records that were queued since the last `flush` began."""
        self._refused: ConfigError | None = None
        self._producer = self._open()
        self._list_topics()

    def _open(self) -> Producer:
        options: dict[str, Any] = {
            **connection_options(self.settings, self._tuning),
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": _LINGER_MS,
            "batch.size": _BATCH_BYTES,
            "compression.type": self._tuning.compression,
            "delivery.timeout.ms": self._tuning.delivery_timeout_ms,
            "queue.buffering.max.kbytes": _QUEUE_KBYTES,
            "allow.auto.create.topics": False,
            "error_cb": self._on_error,
        }
        with translated_errors(f"Kafka at {', '.join(self.settings.bootstrap_servers)}"):
            return Producer(options, logger=LIBRDKAFKA_LOGGER)

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Collection[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """See `TopicWriter.send`."""
        if partition is None:
            partition = -1 if key is None else partition_of(key, self.partitions(topic))
        deadline = time.monotonic() + self._tuning.metadata_timeout_ms / 1000
        with self._lock:
            queued = self._queued
            queued.count += 1
        try:
            self._queue(topic, value, key, partition, headers, timestamp_ms, partial(self._delivered, queued), deadline)
        except BaseException:
            with self._lock:
                queued.count -= 1
            raise

    def _queue(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        headers: Collection[tuple[str, bytes]],
        timestamp_ms: int | None,
        on_delivery: Callable[[KafkaError | None, Any], None],
        deadline: float,
    ) -> None:
        while True:
            producer = self._producer
            try:
                producer.produce(
                    topic,
                    value,
                    key,
                    partition,
                    on_delivery=on_delivery,
                    timestamp=timestamp_ms or 0,
                    headers=list(headers) or None,
                )
                return
            except BufferError:
                producer.poll(_WAIT_S)
                if time.monotonic() > deadline:
                    raise Unavailable(f"writing to {topic}: {len(producer)} records wait already") from None
            except KafkaException as error:
                self._handle_queue_error(topic, error.args[0], producer)

    def _handle_queue_error(self, topic: str, error: KafkaError, producer: Producer) -> None:
        """Handle a record that was not queued. Raises unless another try is worth while."""
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise ValueError(f"{topic}: record is too large: {error.str()}")
        if not error.fatal() and error.code() != KafkaError._FATAL:
            raise translate_error(f"writing to {topic}", error)
        self._renew_producer(error, producer)
        raise Unavailable(f"writing to {topic}: {error.str()}")

    def _renew_producer(self, error: KafkaError, given_up: Producer) -> None:
        """An idempotent producer that lost its sequence refuses everything from then on; a new one begins afresh.

        Whoever waits for records of the old one gets *error*. Another thread may have done this already.
        """
        with self._lock:
            if self._producer is not given_up:
                return
            self._failed, self._queued = self._failed or error, _QueuedRecords()
            waiting = len(given_up)
            _log.warning("a Kafka producer is replaced", cause=f"{error.name()}: {error.str()}", unacknowledged=waiting)
            self.replaced += 1
            given_up.purge()
            self._producer = self._open()

    def _on_error(self, error: KafkaError) -> None:
        """Called by librdkafka within `poll` and `flush`, of lost connections too: it reconnects by itself."""
        raised = translate_error("writing to Kafka", error)
        if isinstance(raised, ConfigError):
            self._refused = raised

    def _delivered(self, queued: _QueuedRecords, error: KafkaError | None, _: Any) -> None:
        """Called by librdkafka within `poll`, by whichever thread."""
        with self._lock:
            queued.count -= 1
            if error is not None:
                self._failed = self._failed or error

    def flush(self, timeout_s: float) -> None:
        """See `TopicWriter.flush`. What another thread sends meanwhile is not waited for: that might never end."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            producer, queued = self._producer, self._queued
            self._queued = _QueuedRecords(queued)
        while (waiting := queued.waiting()) and self._failed is None and time.monotonic() < deadline:
            producer.poll(_WAIT_S)
        with self._lock:
            failed, self._failed = self._failed, None
        if failed is not None and (failed.fatal() or failed.code() == KafkaError._FATAL):
            self._renew_producer(failed, producer)
        if failed is not None:
            raise Unavailable(f"writing to Kafka: {failed.name()}: {failed.str()}")
        if waiting:
            raise Unavailable(f"writing to Kafka: {waiting} records are not acknowledged after {timeout_s} s")

    def partitions(self, topic: str) -> int:
        """See `TopicWriter.partitions`; the answer is kept: growing a topic is a drained migration."""
        if topic not in self._partitions:
            self._list_topics()
        if topic not in self._partitions:
            raise ConfigError(f"there is no topic {topic}, or we may not see it; create the topics first")
        return self._partitions[topic]

    def _list_topics(self) -> None:
        """List all topics: asking for a single one would create it on a broker that creates topics by itself."""
        try:
            topics = self._producer.list_topics(timeout=self._tuning.metadata_timeout_ms / 1000).topics
        except KafkaException as error:
            self._producer.poll(0)  # error_cb may know why
            raise self._refused or translate_error("asking for topics", error.args[0]) from error
        self._partitions |= {name: len(topic.partitions) for name, topic in topics.items() if topic.partitions}

    def close(self) -> None:
        """Release connections; what was not flushed may be lost."""
        with contextlib.suppress(KafkaException):
            self._producer.flush(_CLOSE_S)
            self._producer.purge()

"""`TopicWriter` over confluent-kafka."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection
from functools import partial
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from ...errors import ConfigError, Unavailable
from ...record_keys import partition_of
from ..settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning
from ..shared import CLOSE_S, KafkaTopicWriter
from .client_connection import LIBRDKAFKA_LOGGER, connection_options, translate_error, translated_errors

_log = structlog.get_logger(__name__)
_BATCH_BYTES = 1024 * 1024
_QUEUE_KBYTES = 64 * 1024
_LINGER_MS = 0
"""While requests are under way, further records gather for the next one. With a linger, librdkafka checks all waiting
records every millisecond while a broker does not answer, and takes a quarter of a core."""
_MAX_IN_FLIGHT = 2
"""Requests that a broker may have at once. At 5, which is also librdkafka's limit for each partition, the thread of an
idempotent producer checks without a pause whether the next request may leave, and takes a whole core."""
_POLL_S = 0.01
"""Longest wait of one poll for outcomes: another thread may serve the last one."""
_RECORDS_PER_POLL = 64
"""Records between two polls while nothing is flushed, since outcomes would pile up otherwise."""


class ConfluentTopicWriter(KafkaTopicWriter):
    """An idempotent producer with the acknowledgement of all in-sync replicas. Safe to use from several threads.

    Raises Unavailable or ConfigError.
    """

    def __init__(self, settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> None:
        super().__init__(settings, tuning)
        self._lock = threading.Lock()
        """Guards the attributes below."""
        self._failed: KafkaError | None = None
        """The first failure that no `flush` has raised yet."""
        self._failures = 0
        """Number of failures."""
        self._raised_failures = 0
        """Number of failures that a `flush` has raised. A flush that began before waits for them, too, and raises."""
        self._flushes = 0
        """Number of flushes that began."""
        self._pending: dict[int, int] = {}
        """Number of records without an outcome, by the number of flushes that had begun when they were sent."""
        self._is_lost = False
        """True if the producer reported an error after which it refuses everything."""
        self._refused: ConfigError | None = None
        self._producer = self._open()
        self._count_partitions("")

    def _open(self) -> Producer:
        options: dict[str, Any] = {
            **connection_options(self.settings, self._tuning),
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": _LINGER_MS,
            "batch.size": _BATCH_BYTES,
            "max.in.flight.requests.per.connection": _MAX_IN_FLIGHT,
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
        if partition is None:
            partition = -1 if key is None else partition_of(key, self.partitions(topic))
        began_s, timeout_s = time.monotonic(), self._tuning.metadata_timeout_ms / 1000
        while True:
            with self._lock:
                producer, pending, flushes = self._producer, self._pending, self._flushes
                try:
                    producer.produce(
                        topic,
                        value,
                        key,
                        partition,
                        on_delivery=partial(self._note_outcome, pending, flushes),
                        timestamp=timestamp_ms or 0,
                        headers=list(headers) or None,
                    )
                    pending[flushes] = unserved = pending.get(flushes, 0) + 1
                    break
                except BufferError:
                    refused = None
                except KafkaException as error:
                    refused = error.args[0]
            if refused is not None:
                raise self._refusal(topic, refused, producer)
            if self._last_waits.left_s(began_s, timeout_s) <= 0.0:
                raise Unavailable(f"writing to {topic}: {len(producer)} records wait already")
            producer.poll(_POLL_S)
        if not unserved % _RECORDS_PER_POLL:
            producer.poll(0)

    def _refusal(self, topic: str, error: KafkaError, producer: Producer) -> Exception:
        """Return the error to raise for a record that librdkafka did not accept."""
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return ValueError(f"{topic}: record is too large: {error.str()}")
        if not _is_fatal(error):
            return translate_error(f"writing to {topic}", error)
        self._renew_producer(error, producer)
        return Unavailable(f"writing to {topic}: {error.str()}")

    def _note_outcome(self, pending: dict[int, int], flushes: int, error: KafkaError | None, _: Any) -> None:
        """Count the outcome of one record. librdkafka calls this within `poll`."""
        with self._lock:
            pending[flushes] -= 1
            if not pending[flushes]:
                del pending[flushes]
            if error is not None and pending is self._pending:  # that a producer was replaced is noted already
                self._note_failure(error)
                self._is_lost = self._is_lost or _is_fatal(error)

    def _note_failure(self, error: KafkaError) -> None:
        self._failed = error if self._failures == self._raised_failures else self._failed
        self._failures += 1

    def _renew_producer(self, error: KafkaError, given_up: Producer) -> None:
        """Replace a producer that lost its sequence, since it refuses everything from then on.

        Calls that wait for its records raise *error*. Another thread may have replaced it already.
        """
        with self._lock:
            if self._producer is not given_up:
                return
            self._note_failure(error)
            waiting = sum(self._pending.values())
            _log.warning("a Kafka producer is replaced", cause=f"{error.name()}: {error.str()}", unacknowledged=waiting)
            self._pending, self._is_lost = {}, False
            self.replaced += 1
            given_up.purge()
            self._producer = self._open()

    def _on_error(self, error: KafkaError) -> None:
        """Keep an error that no retry resolves. librdkafka calls this within `poll`, and reconnects automatically."""
        raised = translate_error("writing to Kafka", error)
        if isinstance(raised, ConfigError):
            self._refused = raised

    def flush(self, timeout_s: float) -> None:
        """See `TopicWriter.flush`. Records that other threads send meanwhile are not waited for: it might never end."""
        began_s = time.monotonic()
        with self._lock:
            producer, pending, raised, last = self._producer, self._pending, self._raised_failures, self._flushes
            self._flushes += 1
        while True:
            with self._lock:
                waiting = sum(count for flushes, count in pending.items() if flushes <= last)
                if not waiting or self._failures > raised or self._last_waits.left_s(began_s, timeout_s) <= 0.0:
                    failed = self._failed if self._failures > raised else None
                    self._raised_failures = self._failures
                    break
            producer.poll(_POLL_S)
        if failed is not None or waiting:
            self._last_waits.note_in_vain()
        if failed is not None:
            if self._is_lost:
                self._renew_producer(failed, producer)
            raise Unavailable(f"writing to Kafka: {failed.name()}: {failed.str()}")
        if waiting:
            waited_s = time.monotonic() - began_s
            raise Unavailable(f"writing to Kafka: {waiting} records are not acknowledged after {waited_s:.1f} s")

    def _count_partitions(self, topic: str) -> int | None:
        """List all topics: a request for a single one would create it on a broker that creates topics automatically."""
        try:
            topics = self._producer.list_topics(timeout=self._tuning.metadata_timeout_ms / 1000).topics
        except KafkaException as error:
            self._producer.poll(0)  # error_cb may know why
            raise self._refused or translate_error("asking for topics", error.args[0]) from error
        self._partitions |= {name: len(known.partitions) for name, known in topics.items() if known.partitions}
        return self._partitions.get(topic)

    def close(self) -> None:
        """Release connections; what was not flushed may be lost."""
        began_s = time.monotonic()
        while self._pending and self._last_waits.left_s(began_s, CLOSE_S) > 0.0:
            self._producer.poll(_POLL_S)
        with contextlib.suppress(KafkaException):
            self._producer.purge()


def _is_fatal(error: KafkaError) -> bool:
    return bool(error.fatal() or error.code() == KafkaError._FATAL)

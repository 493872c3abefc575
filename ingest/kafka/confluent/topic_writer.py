"""`TopicWriter` over confluent-kafka."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from ...errors import ConfigError, Unavailable
from ...record_keys import partition_of
from ..settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning
from ..shared import CLOSE_S, KafkaTopicWriter
from .client_connection import LIBRDKAFKA_LOGGER, connection_options, translate_error, translated_errors

# Where five records of a partition are on their way, an idempotent producer of librdkafka sends the next ones only once
# the broker has answered. Until then its thread asks without a pause whether it may: each producer takes a core, just
# when the machine has none to spare. So it gets the records of one request at a time; the others wait here.


MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_RECORDS = 10_000
"""librdkafka's own limit of a request."""

LINGER_S = 0.001
"""Time that librdkafka waits for more records of a request; a record waits so long twice on its way."""

_JOIN_S = 0.7 * LINGER_S
"""Time in which further records surely get into a request: what comes too late would have to wait in librdkafka."""

_RECORD_OVERHEAD_BYTES = 400


class PendingRecords:
    """Number of records that were sent within a time and have no outcome, and of those before them."""

    def __init__(self, before: PendingRecords | None = None) -> None:
        self.count = 0
        self._before = before

    def waiting(self) -> int:
        """Records of this time and of all before it."""
        before = 0 if self._before is None else self._before.waiting()
        if not before:
            self._before = None
        return self.count + before


class OutgoingRecord(NamedTuple):
    """A record as librdkafka takes it, and what it counts as.

    Attributes:
        size_bytes: upper bound of its bytes in a request, about what it takes in memory.
        sent_s: when it was sent, of the monotonic clock.
        pending: the records that it is counted with.
    """

    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int
    size_bytes: int
    sent_s: float
    pending: PendingRecords


def size_of_record(value: bytes | None, key: bytes | None, headers: Collection[tuple[str, bytes]]) -> int:
    size = len(value or b"") + len(key or b"") + _RECORD_OVERHEAD_BYTES
    for name, content in headers:
        size += len(name) + len(content)
    return size


class PartitionQueue:
    """Records of one partition without an outcome, in the order in which they were sent."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.waiting: deque[OutgoingRecord] = deque()
        self.handed_over = 0
        """Records that librdkafka has."""
        self._bytes = 0
        self._since_s = 0.0

    def takes(self, record: OutgoingRecord, now_s: float) -> bool:
        """Return whether *record* gets into the request that librdkafka is about to send, or begins one."""
        return not self.handed_over or (
            self.is_joinable(now_s)
            and self.handed_over < MAX_BATCH_RECORDS
            and self._bytes + record.size_bytes <= MAX_BATCH_BYTES
        )

    def is_joinable(self, now_s: float) -> bool:
        """Return whether the request that librdkafka gathers has not left yet."""
        return now_s - self._since_s < _JOIN_S

    def note_handed_over(self, record: OutgoingRecord, now_s: float) -> None:
        if not self.handed_over:
            self._bytes, self._since_s = 0, now_s
        self.handed_over += 1
        self._bytes += record.size_bytes


_log = structlog.get_logger(__name__)
_QUEUE_KBYTES = 64 * 1024
_MAX_WAITING_BYTES = _QUEUE_KBYTES * 1024
_LARGE_BYTES = 256 * 1024
"""A larger record is handed over by its sender, whose error it is if it is too large."""

_POLL_S = 0.1
_FLUSH_POLL_S = 0.01
"""Longest wait of a flush for an outcome: the last one may be served by another thread."""

_EXPIRY_INTERVAL_S = 1.0
_WAIT_S = 0.05


class ConfluentTopicWriter(KafkaTopicWriter):
    """An idempotent producer with the acknowledgement of all in-sync replicas. Safe to use from several threads.

    A separate thread serves outcomes while records wait for them, and hands these over. Raises Unavailable or
    ConfigError.
    """

    def __init__(self, settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> None:
        super().__init__(settings, tuning)
        self._changed = threading.Condition(threading.Lock())
        """Guards all below; woken when nothing of a partition waits any more."""
        self._failed: KafkaError | None = None
        """The failure that was noted last."""
        self._failures = 0
        """Number of failures that were noted."""
        self._raised_failures = 0
        """Number of failures that a `flush` has raised. A flush that began before waits for them, too, and raises."""
        self._pending = PendingRecords()
        """Records that were sent since the last `flush` began."""
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self._full: set[PartitionQueue] = set()
        """Queues with records that librdkafka had no room for."""
        self._waiting_bytes = 0
        self._must_serve = threading.Event()
        """Set while a record waits."""
        self._closing = False
        self._refused: ConfigError | None = None
        self._producer = self._open()
        self._count_partitions("")
        self._thread = threading.Thread(target=self._serve_outcomes, name="kafka-outcomes", daemon=True)
        self._thread.start()

    def _open(self) -> Producer:
        options: dict[str, Any] = {
            **connection_options(self.settings, self._tuning),
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": LINGER_S * 1000,
            "batch.size": MAX_BATCH_BYTES,
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
        size, at_ms = size_of_record(value, key, headers), timestamp_ms or 0
        self._serve_outcome_of(topic, partition)
        with self._changed:
            queue, producer = self._await_room(topic, partition, size), self._producer
            record = OutgoingRecord(value, key, list(headers), at_ms, size, time.monotonic(), self._pending)
            try:
                self._enqueue(queue, record)
                return
            except KafkaException as error:
                failure = error.args[0]
        self._handle_refusal(topic, failure, producer)

    def _serve_outcome_of(self, topic: str, partition: int) -> None:
        """Look whether the request before has its outcome, so that the next record need not wait for another thread."""
        queue = self._queues.get((topic, partition))
        if queue is not None and queue.handed_over and not queue.waiting and not queue.is_joinable(time.monotonic()):
            self._producer.poll(0)

    def _await_room(self, topic: str, partition: int, size_bytes: int) -> PartitionQueue:
        """The queue of a partition, once a record may join it. Raises Unavailable if that takes too long."""
        began_s, timeout_s = time.monotonic(), self._tuning.metadata_timeout_ms / 1000
        while True:
            queue = self._queues.get((topic, partition))
            if queue is None:
                queue = self._queues[topic, partition] = PartitionQueue(topic, partition)
            if self._waiting_bytes < _MAX_WAITING_BYTES and not (size_bytes > _LARGE_BYTES and queue.waiting):
                return queue
            if self._last_waits.is_over_at(began_s, timeout_s):
                raise Unavailable(f"writing to {topic}: {self._pending.waiting()} records wait already")
            self._changed.wait(_WAIT_S)

    def _enqueue(self, queue: PartitionQueue, record: OutgoingRecord) -> None:
        """Hand *record* over now or later. Raises KafkaException if librdkafka refuses it."""
        if not queue.waiting and (queue.takes(record, record.sent_s) or record.size_bytes > _LARGE_BYTES):
            try:
                self._hand_over(queue, record, record.sent_s)
                return
            except BufferError:
                self._full.add(queue)
        record.pending.count += 1
        queue.waiting.append(record)
        self._waiting_bytes += record.size_bytes
        # The thread looks at the bytes once more after it has cleared this: to find it set is enough, and costs little.
        if not self._must_serve.is_set():
            self._must_serve.set()

    def _hand_over(self, queue: PartitionQueue, record: OutgoingRecord, now_s: float) -> None:
        """Raises BufferError if librdkafka has no room, KafkaException if it refuses the record."""
        self._producer.produce(
            queue.topic,
            record.value,
            record.key,
            queue.partition,
            on_delivery=partial(self._note_outcome, queue, record.pending),
            timestamp=record.timestamp_ms,
            headers=record.headers or None,
        )
        queue.note_handed_over(record, now_s)
        record.pending.count += 1

    def _hand_over_waiting(self, queue: PartitionQueue) -> None:
        """Hand over what waits and gets into one request."""
        while queue.waiting and queue.takes(record := queue.waiting[0], now_s := time.monotonic()):
            try:
                self._hand_over(queue, record, now_s)
            except BufferError:
                self._full.add(queue)
                return
            except KafkaException as error:
                self._note_failure(error.args[0])
            except Exception as error:  # its sender has continued, and others wait after it: a flush raises it
                self._note_failure(KafkaError(KafkaError._FAIL, f"{type(error).__name__}: {error}"))
            self._forget_first(queue)
        if not queue.waiting:
            self._changed.notify_all()

    def _note_failure(self, error: KafkaError) -> None:
        self._failed = error if self._failures == self._raised_failures else self._failed
        self._failures += 1

    def _forget_first(self, queue: PartitionQueue) -> None:
        record = queue.waiting.popleft()
        record.pending.count -= 1
        self._waiting_bytes -= record.size_bytes

    def _serve_outcomes(self) -> None:
        """Serve outcomes while records wait for them; otherwise `send` and `flush` do, and no thread takes turns."""
        expiry_s = time.monotonic() + _EXPIRY_INTERVAL_S
        while not self._closing:
            self._must_serve.wait(_EXPIRY_INTERVAL_S)
            self._producer.poll(_POLL_S if self._waiting_bytes else 0)
            if not self._waiting_bytes:
                self._must_serve.clear()
                if self._waiting_bytes:  # set in between
                    self._must_serve.set()
            if time.monotonic() >= expiry_s:
                expiry_s = time.monotonic() + _EXPIRY_INTERVAL_S
                self._expire()

    def _expire(self) -> None:
        """Give up records that waited as long as librdkafka would hold them; their sender gets the error."""
        with self._changed:
            before_s = time.monotonic() - self._tuning.delivery_timeout_ms / 1000
            for queue in self._queues.values():
                while queue.waiting and queue.waiting[0].sent_s < before_s:
                    self._forget_first(queue)
                    self._note_failure(KafkaError(KafkaError._MSG_TIMED_OUT))

    def _note_outcome(self, queue: PartitionQueue, pending: PendingRecords, error: KafkaError | None, _: Any) -> None:
        """Called by librdkafka within `poll`."""
        with self._changed:
            queue.handed_over -= 1
            pending.count -= 1
            if error is not None and self._queues.get((queue.topic, queue.partition)) is queue:
                self._note_failure(error)  # of a producer that was replaced it was noted already
            if not queue.handed_over and queue.waiting:
                self._hand_over_waiting(queue)
            full, self._full = self._full, set()
            for stopped in full:
                self._hand_over_waiting(stopped)

    def _handle_refusal(self, topic: str, error: KafkaError, producer: Producer) -> None:
        """Raise what a record that librdkafka refused means."""
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise ValueError(f"{topic}: record is too large: {error.str()}")
        if not error.fatal() and error.code() != KafkaError._FATAL:
            raise translate_error(f"writing to {topic}", error)
        self._renew_producer(error, producer)
        raise Unavailable(f"writing to {topic}: {error.str()}")

    def _renew_producer(self, error: KafkaError, given_up: Producer) -> None:
        """An idempotent producer that lost its sequence refuses everything from then on; a new one begins afresh.

        Calls that wait for records of the old one get *error*. Another thread may have done this already.
        """
        with self._changed:
            if self._producer is not given_up:
                return
            self._note_failure(error)
            waiting = self._pending.waiting()
            self._forget_all()
            self._changed.notify_all()
            _log.warning("a Kafka producer is replaced", cause=f"{error.name()}: {error.str()}", unacknowledged=waiting)
            self.replaced += 1
            given_up.purge()
            self._producer = self._open()

    def _forget_all(self) -> None:
        for queue in self._queues.values():
            while queue.waiting:
                self._forget_first(queue)
        self._pending, self._queues, self._full = PendingRecords(), {}, set()

    def _on_error(self, error: KafkaError) -> None:
        """Called by librdkafka within `poll`, of lost connections too: it reconnects automatically."""
        raised = translate_error("writing to Kafka", error)
        if isinstance(raised, ConfigError):
            self._refused = raised

    def flush(self, timeout_s: float) -> None:
        """See `TopicWriter.flush`. What another thread sends meanwhile is not waited for: that might never end."""
        began_s = time.monotonic()
        with self._changed:
            producer, pending, raised = self._producer, self._pending, self._raised_failures
            self._pending = PendingRecords(pending)
        while (waiting := pending.waiting()) and self._failures == raised:
            if self._last_waits.is_over_at(began_s, timeout_s):
                break
            producer.poll(_FLUSH_POLL_S)
        with self._changed:
            failed = self._failed if self._failures > raised else None
            self._raised_failures = self._failures
        if failed is not None or waiting:
            self._last_waits.note_in_vain()
        if failed is not None and (failed.fatal() or failed.code() == KafkaError._FATAL):
            self._renew_producer(failed, producer)
        if failed is not None:
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
        while self._pending.waiting() and not self._last_waits.is_over_at(began_s, CLOSE_S):
            self._producer.poll(_FLUSH_POLL_S)
        with self._changed:
            self._closing = True
            self._forget_all()
            self._must_serve.set()
        self._thread.join()
        with contextlib.suppress(KafkaException):
            self._producer.purge()

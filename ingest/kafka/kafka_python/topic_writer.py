"""`TopicWriter` over kafka-python."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection
from contextlib import closing

import structlog
from kafka import KafkaProducer, errors
from kafka.producer.future import FutureRecordMetadata

from ...errors import Unavailable
from ...record_keys import partition_of
from ..settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning
from ..shared import CLOSE_S, KafkaTopicWriter
from .client_connection import KafkaPythonAdmin, connection_options, open_client, translated_errors


class ReplaceableProducer(KafkaProducer):
    """`close` of kafka-python flushes first, and raises if that takes too long; thread and sockets then stay."""

    _given_up = False

    def flush(self, timeout: float | None = None) -> None:
        """Wait for what was sent, unless this producer is given up."""
        if not self._given_up:
            super().flush(timeout)

    def give_up(self) -> None:
        """End thread and connections at once. Sends without an outcome fail; some may have been written."""
        self._given_up = True
        self.close(0)


class UnacknowledgedSends:
    """Knows the oldest send without an outcome, and whether one failed. Not thread-safe."""

    _monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._open: deque[tuple[float, FutureRecordMetadata]] = deque()
        self.failure: BaseException | None = None
        """Reason of the first failure that was seen."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, sent: FutureRecordMetadata) -> None:
        self._open.append((self._monotonic(), sent))

    def settle(self) -> None:
        """Forget the oldest sends as far as they have an outcome; a failure is kept in `failure`."""
        while self._open and self._open[0][1].is_done:
            _, sent = self._open.popleft()
            if sent.failed():
                self.failure = self.failure or sent.exception

    def oldest_age_s(self) -> float:
        """Time since the oldest send without an outcome; 0 if all have one."""
        return self._monotonic() - self._open[0][0] if self._open else 0.0


_log = structlog.get_logger(__name__)
_BATCH_BYTES = 256 * 1024
_LINGER_MS = 5
_METADATA_MS = 1_500
_REOPEN_MS = 3_000
"""Longest wait for a broker when a producer is replaced: incoming events wait for it."""

_FLUSH_SLICE_S = 0.5
"""kafka-python's `flush` waits its whole time again for each batch."""

_SILENCE_MARGIN_S = 5.0
"""Time beyond `delivery_timeout_ms`, within which kafka-python promises an outcome, that a record may go without."""


class KafkaPythonTopicWriter(KafkaTopicWriter):
    """An idempotent producer with the acknowledgement of all in-sync replicas. Safe to use from several threads.

    The producer is replaced when a record failed, and when its oldest record has no outcome long after the time within
    which kafka-python promises one. An idempotent producer of kafka-python cannot continue then: after a record that
    the broker refuses it fails all others, and after one that expired during a retry it may stop for good. Records
    without an outcome are not sent again here, since they may have been written: `flush` raises, and the caller sends
    them again (`TopicWriter.flush`). Raises Unavailable or ConfigError.
    """

    def __init__(self, settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> None:
        super().__init__(settings, tuning)
        self._lock = threading.Lock()
        self._failed: BaseException | None = None
        self._sends = UnacknowledgedSends()
        self._silence_s = tuning.delivery_timeout_ms / 1000 + _SILENCE_MARGIN_S
        self._producer: ReplaceableProducer | None = self._open(tuning.request_timeout_ms)

    def _open(self, patience_ms: int) -> ReplaceableProducer:
        tuning, longest = self._tuning, self._tuning.delivery_timeout_ms - _LINGER_MS
        options = connection_options(self.settings, tuning) | {
            "request_timeout_ms": min(tuning.request_timeout_ms, longest),
            "bootstrap_timeout_ms": min(tuning.request_timeout_ms, patience_ms),
        }
        return open_client(
            ReplaceableProducer,
            enable_idempotence=True,
            acks="all",
            linger_ms=_LINGER_MS,
            batch_size=_BATCH_BYTES,
            compression_type=None if tuning.compression == "none" else tuning.compression,
            delivery_timeout_ms=tuning.delivery_timeout_ms,
            max_block_ms=min(tuning.metadata_timeout_ms, _METADATA_MS),
            allow_auto_create_topics=False,
            metrics_enabled=False,
            **options,
        )

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
        if partition is None and key is not None:
            partition = partition_of(key, self.partitions(topic))
        with self._lock, translated_errors(f"writing to {topic}"):
            self._replace_where_needed()
            if self._producer is None:
                if self._last_waits.over:
                    raise Unavailable(f"writing to {topic}: this process ends, and its last producer was given up")
                self._producer = self._open(_REOPEN_MS)
            try:
                sent = self._producer.send(
                    topic, value=value, key=key, headers=list(headers), partition=partition, timestamp_ms=timestamp_ms
                )
            except errors.MessageSizeTooLargeError as error:
                raise ValueError(f"{topic}: record is too large: {error}") from error
            self._sends.add(sent)

    def _replace_where_needed(self) -> None:
        """Give the producer up if it cannot continue; `send` opens the next one."""
        self._sends.settle()
        failure, silence_s = self._sends.failure, self._sends.oldest_age_s()
        if failure is None and silence_s <= self._silence_s:
            return
        failure = failure or errors.KafkaTimeoutError(f"the oldest record has no outcome after {silence_s:.0f} s")
        _log.warning(
            "a Kafka producer is replaced",
            cause=f"{type(failure).__name__}: {failure}",
            unacknowledged=len(self._sends),
        )
        given_up, self._producer, self._sends = self._producer, None, UnacknowledgedSends()
        self._failed = self._failed or failure
        self.replaced += 1
        if given_up is not None:
            given_up.give_up()

    def flush(self, timeout_s: float) -> None:
        with self._lock:  # else of two that belong together one may be replaced in between
            producer, sends = self._producer, self._sends
        try:
            if producer is not None:
                with translated_errors("writing to Kafka"):
                    self._flush_within(producer, timeout_s)
        finally:
            with self._lock:
                self._replace_where_needed()
                failed, self._failed = self._failed, None
                if failed is None and sends is not self._sends:
                    failed = errors.KafkaError("the producer was replaced meanwhile")
        if failed is not None:
            raise Unavailable(f"writing to Kafka: {type(failed).__name__}: {failed}") from failed

    def _flush_within(self, producer: ReplaceableProducer, timeout_s: float) -> None:
        """Flush; give up after *timeout_s* seconds, or as soon as a record has failed."""
        began_s = time.monotonic()
        while True:
            try:
                producer.flush(min(_FLUSH_SLICE_S, self._last_waits.left_s(began_s, timeout_s)))
                return
            except errors.KafkaTimeoutError:
                with self._lock:
                    self._sends.settle()
                    failed = self._sends.failure is not None
                if failed or self._last_waits.is_over_at(began_s, timeout_s):
                    self._last_waits.note_in_vain()
                    raise

    def _count_partitions(self, topic: str) -> int | None:
        """Count partitions by the admin client: the producer cannot distinguish a missing topic from a lost broker."""
        if self._last_waits.over:
            raise Unavailable(f"asking for topic {topic}: this process ends, and no broker answered before")
        limit_ms = min(self._tuning.request_timeout_ms, self._tuning.metadata_timeout_ms)
        try:
            with closing(KafkaPythonAdmin(self.settings, self._tuning._replace(request_timeout_ms=limit_ms))) as admin:
                description = admin.describe(topic)
        except Unavailable:
            self._last_waits.note_in_vain()
            raise
        return None if description is None else description.partitions

    def close(self) -> None:
        """Release connections; what was not flushed may be lost."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(self._last_waits.left_s(time.monotonic(), CLOSE_S))
        except errors.KafkaTimeoutError:  # no broker answers
            producer.give_up()

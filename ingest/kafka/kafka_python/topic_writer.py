"""`TopicWriter` over kafka-python."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection

from kafka import KafkaProducer, errors

from ...errors import ConfigError, Unavailable
from ...record_keys import partition_of
from ..settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning
from .client_connection import connection_options, open_client, translated_errors
from .topic_admin import KafkaPythonAdmin

_BATCH_BYTES = 256 * 1024
_LINGER_MS = 5
_CLOSE_S = 5.0


class KafkaPythonTopicWriter:
    """An idempotent producer with the acknowledgement of all in-sync replicas. Safe to use from several threads.

    Raises:
        Unavailable: no broker answers.
        ConfigError: the broker refuses our login.
    """

    def __init__(self, settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> None:
        self.settings = settings
        self._tuning = tuning
        self._partitions: dict[str, int] = {}
        self._lock = threading.Lock()
        self._failed: BaseException | None = None
        longest = tuning.delivery_timeout_ms - _LINGER_MS
        self._producer = open_client(
            KafkaProducer,
            enable_idempotence=True,
            acks="all",
            linger_ms=_LINGER_MS,
            batch_size=_BATCH_BYTES,
            compression_type=None if tuning.compression == "none" else tuning.compression,
            delivery_timeout_ms=tuning.delivery_timeout_ms,
            max_block_ms=tuning.metadata_timeout_ms,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            **connection_options(settings, tuning) | {"request_timeout_ms": min(tuning.request_timeout_ms, longest)},
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
        """See `TopicWriter.send`."""
        if partition is None and key is not None:
            partition = partition_of(key, self.partitions(topic))
        with translated_errors(f"writing to {topic}"):
            try:
                sent = self._producer.send(
                    topic, value=value, key=key, headers=list(headers), partition=partition, timestamp_ms=timestamp_ms
                )
            except errors.MessageSizeTooLargeError as error:
                raise ValueError(f"{topic}: record is too large: {error}") from error
        sent.add_errback(self._on_send_failed)

    def _on_send_failed(self, error: BaseException) -> None:
        """Note a failure; called on the producer's thread."""
        with self._lock:
            self._failed = self._failed or error

    def flush(self, timeout_s: float) -> None:
        """See `TopicWriter.flush`."""
        with translated_errors("writing to Kafka"):
            self._producer.flush(timeout_s)
        with self._lock:
            failed, self._failed = self._failed, None
        if failed is not None:
            raise Unavailable(f"writing to Kafka: {type(failed).__name__}: {failed}") from failed

    def partitions(self, topic: str) -> int:
        """See `TopicWriter.partitions`; the answer is kept: growing a topic is a drained migration."""
        if topic not in self._partitions:
            self._partitions[topic] = self._count_partitions(topic)
        return self._partitions[topic]

    def _count_partitions(self, topic: str) -> int:
        """Count partitions by the admin client: the producer cannot tell a missing topic from a lost broker."""
        admin = KafkaPythonAdmin(self.settings, self._tuning)
        try:
            description = admin.describe(topic)
        finally:
            admin.close()
        if description is None:
            raise ConfigError(f"there is no topic {topic}, or we may not see it; create the topics first")
        return description.partitions

    def close(self) -> None:
        """Release connections; what was not flushed may be lost."""
        with contextlib.suppress(errors.KafkaTimeoutError):  # no broker answers; the process ends without it
            self._producer.close(_CLOSE_S)

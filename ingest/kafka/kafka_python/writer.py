"""`TopicWriter` over kafka-python."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection

from kafka import KafkaProducer, errors

from ...errors import ConfigError, Unavailable
from ...routing import partition_of
from ..settings import KafkaSettings
from .options import connection, translated

_BATCH_BYTES = 256 * 1024
_LINGER_MS = 5
_CLOSE_S = 5.0


class Writer:
    """An idempotent producer with the acknowledgement of all in-sync replicas. Safe to use from several threads.

    Raises:
        Unavailable: no broker answers.
        ConfigError: the broker refuses our login.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self._partitions: dict[str, int] = {}
        self._lock = threading.Lock()
        self._failed: BaseException | None = None
        with translated(f"Kafka at {', '.join(settings.bootstrap_servers)}"):
            self._producer = KafkaProducer(
                enable_idempotence=True, acks="all", linger_ms=_LINGER_MS, batch_size=_BATCH_BYTES,
                compression_type=None if settings.compression == "none" else settings.compression,
                delivery_timeout_ms=settings.delivery_timeout_ms, max_block_ms=settings.metadata_timeout_ms,
                allow_auto_create_topics=False, metrics_enabled=False, **connection(settings),
            )  # fmt: skip

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, *, partition: int | None = None,
        headers: Collection[tuple[str, bytes]] = (), timestamp_ms: int | None = None,
    ) -> None:  # fmt: skip
        """See `TopicWriter.send`."""
        if partition is None and key is not None:
            partition = partition_of(key, self.partitions(topic))
        with translated(f"writing to {topic}"):
            try:
                sent = self._producer.send(
                    topic, value=value, key=key, headers=list(headers), partition=partition, timestamp_ms=timestamp_ms
                )
            except errors.MessageSizeTooLargeError as error:
                raise ValueError(f"{topic}: record is too large: {error}") from error
        sent.add_errback(self._fail)

    def _fail(self, error: BaseException) -> None:
        """On the producer's thread."""
        with self._lock:
            self._failed = self._failed or error

    def flush(self, timeout_s: float) -> None:
        """See `TopicWriter.flush`."""
        with translated("writing to Kafka"):
            self._producer.flush(timeout_s)
        with self._lock:
            failed, self._failed = self._failed, None
        if failed is not None:
            raise Unavailable(f"writing to Kafka: {type(failed).__name__}: {failed}") from failed

    def partitions(self, topic: str) -> int:
        """See `TopicWriter.partitions`; the answer is kept: growing a topic is a drained migration."""
        known = self._partitions.get(topic)
        if known is not None:
            return known
        try:
            found = self._producer.partitions_for(topic)
        except errors.UnknownTopicOrPartitionError:
            found = set()
        except errors.KafkaTimeoutError as error:
            if not self._producer.bootstrap_connected():
                raise Unavailable(f"asking for topic {topic}: {error}") from error
            found = set()
        if not found:
            raise ConfigError(f"there is no topic {topic}, or we may not see it; create the topics first")
        self._partitions[topic] = len(found)
        return len(found)

    def close(self) -> None:
        """Release connections; what was not flushed may be lost."""
        with contextlib.suppress(errors.KafkaTimeoutError):  # no broker answers; the process ends without it
            self._producer.close(_CLOSE_S)

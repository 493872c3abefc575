"""Translation of our settings to librdkafka's options, and of its errors to ours."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ...errors import ConfigError, Unavailable
from ...settings import reveal
from ..settings import CLIENT_ID, KafkaClientSettings, KafkaSecuritySettings, KafkaTuning
from ..shared import missing_topic

# While no broker answers, librdkafka keeps a commit as long as a session of the group lasts, 45 seconds by default and
# half an hour at most, and forever if brokers accept connections but do not answer. `close` waits for all commits.

_LOOK_S = 0.1


class BoundedCall:
    """A call on a separate thread; rebalance callbacks that it causes run on the thread that waits for it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._callbacks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        """To be run; None = the call has ended."""
        self._ended = threading.Event()
        self._given_up = False
        self._error: Exception | None = None

    def run(self, within_s: float) -> bool:
        """Make the call; the time that callbacks take does not count.

        Raises whatever the call raises.
        """
        threading.Thread(target=self._run, name="kafka-bounded", daemon=True).start()
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                callback = self._callbacks.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                self._given_up = True
                return False
            if callback is None:
                break
            began_s = time.monotonic()
            callback()
            deadline_s += time.monotonic() - began_s
        if self._error is not None:
            raise self._error
        return True

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # raised again in the thread that waits
            self._error = error
        finally:
            self._ended.set()
            self._callbacks.put(None)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the end of a call that `run` gave up (None = forever); False = it has not ended yet."""
        return self._ended.wait(timeout_s)

    def call_back(self, work: Callable[[], None]) -> None:
        """Run a callback of the consumer on the thread that waits; return when it ended or was given up."""
        done = threading.Event()

        def callback() -> None:
            try:
                work()
            finally:
                done.set()

        self._callbacks.put(callback)
        while not done.wait(_LOOK_S) and not self._given_up:
            pass


LIBRDKAFKA_LOGGER = logging.getLogger("trustwatch.kafka")
"""Takes librdkafka's own log lines, which would go to standard error otherwise."""

_RECONNECT_MS = 2_000
_CRITICAL_LOG_LEVEL = 2
"""Level of syslog: `error_cb` reports lost connections, librdkafka would log each attempt too."""

_MAX_MESSAGE_BYTES = 1024 * 1024
_REFUSED_ERRORS = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError._INVALID_ARG,
    }
)


def connection_options(settings: KafkaClientSettings, tuning: KafkaTuning) -> dict[str, Any]:
    """Options for every librdkafka client: addresses, security, time limits."""
    return {
        "bootstrap.servers": ",".join(settings.bootstrap_servers),
        "client.id": CLIENT_ID,
        "socket.timeout.ms": tuning.request_timeout_ms,
        "reconnect.backoff.max.ms": _RECONNECT_MS,
        "message.max.bytes": _MAX_MESSAGE_BYTES,
        "log_level": _CRITICAL_LOG_LEVEL,
        "security.protocol": settings.security.protocol,
        **_tls_options(settings.security),
        **_sasl_options(settings.security),
    }


def _tls_options(security: KafkaSecuritySettings) -> dict[str, str]:
    if "SSL" not in security.protocol:
        return {}
    options = {
        "ssl.ca.location": security.ca_file,
        "ssl.certificate.location": security.certificate_file,
        "ssl.key.location": security.key_file,
    }
    given = {name: str(value) for name, value in options.items() if value}
    return {"ssl.endpoint.identification.algorithm": "https", **given}


def _sasl_options(security: KafkaSecuritySettings) -> dict[str, Any]:
    if security.mechanism is None:
        return {}
    if security.mechanism != "OAUTHBEARER":
        return {
            "sasl.mechanisms": security.mechanism,
            "sasl.username": security.username,
            "sasl.password": reveal(security.password),
        }
    optional = {"sasl.oauthbearer.scope": security.scope, "https.ca.location": security.ca_file}
    return {
        "sasl.mechanisms": security.mechanism,
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": security.client_id,
        "sasl.oauthbearer.client.secret": reveal(security.client_secret),
        "sasl.oauthbearer.token.endpoint.url": security.token_url,
    } | {name: str(value) for name, value in optional.items() if value}


def translate_error(what: str, error: KafkaError) -> ConfigError | Unavailable:
    """Our error for one of librdkafka's; *what* was tried."""
    message = f"{what}: {error.name()}: {error.str()}"
    return ConfigError(message) if error.code() in _REFUSED_ERRORS else Unavailable(message)


@contextlib.contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Translate errors of librdkafka raised inside. Raises ConfigError or Unavailable."""
    try:
        yield
    except KafkaException as error:
        raise translate_error(what, error.args[0]) from error


OFFSET_GONE_ERRORS = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
"""The offset that we read from does not exist."""

DAMAGED_DATA_ERRORS = frozenset({KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._LOG_TRUNCATION})
"""A record batch fails its CRC or cannot be uncompressed, or acknowledged records are missing."""


def open_consumer(
    settings: KafkaClientSettings, tuning: KafkaTuning, error_cb: Callable[[KafkaError], None], **more: Any
) -> Consumer:
    """Open a consumer of committed records only, without a made-up offset if ours is deleted, and with bounded memory.

    Raises ConfigError.
    """
    options = {
        **connection_options(settings, tuning),
        "group.id": settings.group_id,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
        "check.crcs": True,
        "fetch.max.bytes": tuning.fetch_max_bytes,
        "max.partition.fetch.bytes": tuning.partition_fetch_bytes,
        "receive.message.max.bytes": tuning.fetch_max_bytes + tuning.partition_fetch_bytes,
        "queued.max.messages.kbytes": tuning.fetch_max_bytes // 1024,
        "fetch.queue.backoff.ms": 5,  # time until a full queue is checked again; the default of a second is too long
        "error_cb": error_cb,
        **{name.replace("_", "."): value for name, value in more.items()},
    }
    with translated_errors(f"Kafka at {', '.join(settings.bootstrap_servers)}"):
        return Consumer(options, logger=LIBRDKAFKA_LOGGER)


def consume(consumer: Consumer, most: int, timeout_s: float) -> list[Message]:
    """Messages that wait, at most so many: wait for one, then take the rest, since `consume` waits for all of them."""
    messages: list[Message] = consumer.consume(most, 0)
    if not messages and timeout_s > 0:
        messages = consumer.consume(1, timeout_s)
        if messages and most > 1:
            messages += consumer.consume(most - 1, 0)
    return messages


def partition_count(consumer: Consumer, topic: str, timeout_ms: int) -> int:
    """Number of partitions. Raises ConfigError or Unavailable."""
    with translated_errors(f"asking for topic {topic}"):
        metadata = consumer.list_topics(topic, timeout_ms / 1000).topics.get(topic)
    if metadata is None or not metadata.partitions:
        raise missing_topic(topic)
    return len(metadata.partitions)


def offset_bounds(consumer: Consumer, partition: TopicPartition, timeout_ms: int) -> tuple[int, int]:
    """First offset that is kept, and the one after the last. Raises Unavailable."""
    with translated_errors(f"asking for the offsets of {partition.topic}[{partition.partition}]"):
        start, end = consumer.get_watermark_offsets(partition, timeout_ms / 1000)
    return start, end

"""Translation of our settings to kafka-python's options, and of its errors to ours."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx2
import msgspec
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition, errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.consumer.fetcher import ConsumerRecord
from kafka.net.compat import KafkaNetClient
from kafka.net.sasl.oauth import AbstractTokenProvider

from ...errors import ConfigError, Unavailable
from ...settings import reveal
from ...topics.protocols import TOPIC_DEFINITIONS, TopicDescription, TopicNames
from ...topics.record_codec import TopicRecord
from ..settings import CLIENT_ID, DEFAULT_TUNING, KafkaClientSettings, KafkaSecuritySettings, KafkaTuning
from ..shared import missing_topic

ClientT = TypeVar("ClientT")

_RECONNECT_MS = 2_000
_TOKEN_TIMEOUT_S = 10.0
_REFUSED_ERRORS = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.AuthorizationError,
    errors.KafkaConfigurationError,
)


def connection_options(settings: KafkaClientSettings, tuning: KafkaTuning) -> dict[str, Any]:
    """Options for every kafka-python client: addresses, security, time limits."""
    return {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": CLIENT_ID,
        "request_timeout_ms": tuning.request_timeout_ms,
        "bootstrap_timeout_ms": tuning.request_timeout_ms,
        "reconnect_backoff_max_ms": _RECONNECT_MS,
        "security_protocol": settings.security.protocol,
        **_tls_options(settings.security),
        **_sasl_options(settings.security),
    }


def open_client(make: Callable[..., ClientT], **options: Any) -> ClientT:
    """Open a consumer, producer or admin client. One that finds no broker leaves its I/O thread and sockets: end them.

    Raises ConfigError or Unavailable.
    """
    clients: list[KafkaNetClient] = []
    client_class = options.pop("kafka_client", KafkaNetClient)

    def client(**config: Any) -> KafkaNetClient:
        clients.append(client_class(**config))
        return clients[-1]

    with translated_errors(f"Kafka at {', '.join(options['bootstrap_servers'])}"):
        try:
            return make(kafka_client=client, **options)
        except BaseException as error:
            for left in clients:
                left.close()
            if isinstance(error, errors.KafkaTimeoutError):  # the reason is only in kafka-python's log
                raise errors.KafkaTimeoutError(f"{error} (no broker answers, or none accepts our login)") from error
            raise


def _tls_options(security: KafkaSecuritySettings) -> dict[str, Any]:
    if "SSL" not in security.protocol:
        return {}
    return {
        "ssl_check_hostname": True,
        "ssl_cafile": None if security.ca_file is None else str(security.ca_file),
        "ssl_certfile": None if security.certificate_file is None else str(security.certificate_file),
        "ssl_keyfile": None if security.key_file is None else str(security.key_file),
    }


def _sasl_options(security: KafkaSecuritySettings) -> dict[str, Any]:
    if security.mechanism is None:
        return {}
    if security.mechanism == "OAUTHBEARER":
        return {"sasl_mechanism": security.mechanism, "sasl_oauth_token_provider": KafkaTokenProvider(security)}
    return {
        "sasl_mechanism": security.mechanism,
        "sasl_plain_username": security.username,
        "sasl_plain_password": reveal(security.password),
    }


class _KafkaAccessToken(msgspec.Struct):
    access_token: str


class KafkaTokenProvider(AbstractTokenProvider):
    """Gets an access token for each login (RFC 6749, section 4.4); the broker ends the session when it expires.

    A connection lives for hours, so tokens are not kept: no clock is available here to check whether an old one is
    still valid. Unlike the authenticators of `scoring/delivery/actuators` it blocks, since kafka-python calls it on a
    separate thread, and it sends id and secret as they are: Kafka's own clients do not encode them unless configured
    to, and servers expect the same from ours.
    """

    def __init__(self, security: KafkaSecuritySettings) -> None:
        self._security = security
        self._verify: str | bool = True if security.ca_file is None else str(security.ca_file)
        self._lock = threading.Lock()

    def token(self) -> str:
        """An access token. Raises Unavailable."""
        security, url = self._security, self._security.token_url or ""
        form = {"grant_type": "client_credentials"} | ({"scope": security.scope} if security.scope else {})
        try:
            with self._lock:
                answer = httpx2.post(
                    url,
                    data=form,
                    auth=(security.client_id or "", reveal(security.client_secret)),
                    timeout=_TOKEN_TIMEOUT_S,
                    verify=self._verify,
                )
            answer.raise_for_status()
            return msgspec.json.decode(answer.content, type=_KafkaAccessToken).access_token
        except (httpx2.HTTPError, msgspec.MsgspecError) as error:
            raise Unavailable(f"{url}: no token for Kafka: {error}") from None


@contextlib.contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Translate errors of kafka-python raised inside; *what* was tried. Raises ConfigError or Unavailable."""
    try:
        yield
    except _REFUSED_ERRORS as error:
        raise ConfigError(f"{what}: {type(error).__name__}: {error}") from error
    except errors.KafkaError as error:
        raise Unavailable(f"{what}: {type(error).__name__}: {error}") from error


def consumer_options(settings: KafkaClientSettings, tuning: KafkaTuning) -> dict[str, Any]:
    """Options of a consumer: committed records only, no invented offset if ours was deleted, bounded memory."""
    return {
        **connection_options(settings, tuning),
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        "fetch_max_bytes": tuning.fetch_max_bytes,
        "max_partition_fetch_bytes": tuning.partition_fetch_bytes,
        "metrics_enabled": False,
    }


def group_options(settings: KafkaClientSettings, tuning: KafkaTuning) -> dict[str, int]:
    """Times of a member of a group."""
    return {
        "session_timeout_ms": settings.session_timeout_ms,
        "heartbeat_interval_ms": min(3_000, settings.session_timeout_ms // 3),
        "max_poll_interval_ms": tuning.max_poll_interval_ms,
    }


def to_kafka_record(record: ConsumerRecord) -> TopicRecord:
    return TopicRecord(record.offset, record.timestamp, record.key, record.value, record.headers)


def partition_count(consumer: KafkaConsumer, topic: str) -> int:
    """Number of partitions. Raises ConfigError or Unavailable."""
    with translated_errors(f"asking for topic {topic}"):
        count = len(consumer.partitions_for_topic(topic))
    if not count:
        raise missing_topic(topic)
    return count


def offset_bounds(consumer: KafkaConsumer, partition: TopicPartition, timeout_ms: int) -> tuple[int, int]:
    """First offset that is kept, and the one after the last. Raises Unavailable or ValueError."""
    end = end_offset(consumer, partition, timeout_ms)
    with translated_errors(f"asking for the offsets of {partition.topic}[{partition.partition}]"):
        return consumer.beginning_offsets([partition], timeout_ms)[partition], end


def end_offset(consumer: KafkaConsumer, partition: TopicPartition, timeout_ms: int) -> int:
    """Offset after the last record. Raises as `offset_bounds`."""
    count = partition_count(consumer, partition.topic)
    if not 0 <= partition.partition < count:
        raise ValueError(f"{partition.topic} has the partitions 0 to {count - 1}, no partition {partition.partition}")
    with translated_errors(f"asking for the offsets of {partition.topic}[{partition.partition}]"):
        offset: int = consumer.end_offsets([partition], timeout_ms)[partition]
        return offset


class KafkaPythonAdmin:
    """See `TopicAdmin`. Raises Unavailable or ConfigError."""

    def __init__(self, settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> None:
        self._client = open_client(KafkaAdminClient, **connection_options(settings, tuning))

    def create_topics(self, topics: TopicNames, partitions: int, replication: int) -> list[str]:
        created = []
        acknowledging = 2 if replication >= 3 else 1  # a majority, and one broker may be down
        for definition in TOPIC_DEFINITIONS:
            name = definition.name(topics)
            options: dict[str, Any] = {
                "num_partitions": partitions,
                "replication_factor": replication,
                "configs": {**definition.configs, "min.insync.replicas": str(acknowledging)},
            }
            with translated_errors(f"creating topic {name}"):
                try:
                    self._client.create_topics({name: options}, wait_for_metadata=True)
                    created.append(name)
                except errors.TopicAlreadyExistsError:
                    pass
                except (errors.InvalidReplicationFactorError, errors.InvalidConfigurationError) as error:
                    raise ConfigError(f"creating topic {name}: {error}") from error
        return created

    def describe(self, name: str) -> TopicDescription | None:
        with translated_errors(f"asking for topic {name}"):
            (topic,) = self._client.describe_topics([name])
            if topic["error_code"] == errors.UnknownTopicOrPartitionError.errno:
                return None
            (configs,) = self._client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])[
                "topic"
            ].items()
        partitions = topic["partitions"]
        replication = min((len(partition["replica_nodes"]) for partition in partitions), default=0)
        values = {key: str(entry["value"]) for key, entry in configs[1].items()}
        return TopicDescription(name, len(partitions), replication, values)

    def grow_partitions(self, name: str, partitions: int) -> None:
        topic = self.describe(name)
        if topic is None or topic.partitions > partitions:
            has = "does not exist" if topic is None else f"has {topic.partitions} partitions"
            raise ConfigError(f"topic {name} {has}; it cannot get {partitions} (Kafka removes none)")
        if topic.partitions < partitions:
            with translated_errors(f"growing topic {name}"):
                self._client.create_partitions({name: partitions})

    def close(self) -> None:
        self._client.close()

"""What a Kafka client is told: plain data, without a word of any client in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from ..timestamps import DAY_MS, HOUR_MS, MINUTE_MS

KafkaClientName = Literal["kafka-python", "confluent"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

_SECRET_FIELDS = frozenset({"password", "client_secret", "key_password"})


class _SecretHidingStruct(msgspec.Struct, frozen=True, kw_only=True):
    """Its repr shows that a secret is set, and no secret."""

    def __repr__(self) -> str:
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={'***' if name in _SECRET_FIELDS and value else repr(value)}" for name, value in values)
        return f"{type(self).__name__}({', '.join(shown)})"


class KafkaTopics(msgspec.Struct, frozen=True, kw_only=True):
    """Names of our topics."""

    events: str = "trustwatch.events"
    dead_letters: str = "trustwatch.events.dlq"
    risk: str = "trustwatch.risk"
    decisions: str = "trustwatch.decisions"
    alerts: str = "trustwatch.alerts"


class TlsSettings(_SecretHidingStruct, frozen=True, kw_only=True):
    """Files in PEM format; "" = the system's authorities, and no certificate of our own.

    `check_hostname` off is for test clusters whose certificates name no host.
    """

    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    key_password: str = ""
    check_hostname: bool = True


class SaslSettings(_SecretHidingStruct, frozen=True, kw_only=True):
    """How we authenticate: user and password, or (OAUTHBEARER) client credentials that buy a token."""

    mechanism: SaslMechanism = "SCRAM-SHA-512"
    username: str = ""
    password: str = ""
    token_endpoint: str = ""
    client_id: str = ""
    client_secret: str = ""
    scope: str = ""


class KafkaClientSettings(_SecretHidingStruct, frozen=True, kw_only=True):
    """Everything that a client needs. Times in milliseconds, sizes in bytes.

    Args:
        bootstrap_servers: `host:port` of some brokers.
        client: which library speaks to them; `confluent` needs the extra `fast`.
        group_id: consumer group of the workers.
        group_instance_id: a name that stays the same over restarts makes the worker a static member; "" = dynamic.
        session_timeout_ms: a member that is silent for so long has died.
        max_poll_interval_ms: longest time between two polls; loading a partition's state must fit into it.
        fetch_max_bytes: bound of one fetch from one broker, compressed; the client holds a few of them.
        partition_fetch_bytes: bound of what one fetch holds of one partition, compressed (a larger message comes all
            the same). All of it is uncompressed at once: behind a backlog it decides how much memory a worker takes.
        request_timeout_ms: how long a broker may take to answer.
        metadata_timeout_ms: how long questions such as `end_offset` may take in all.
        delivery_timeout_ms: a record that is not acknowledged after so long has failed.
        compression: of what we produce.
    """

    bootstrap_servers: tuple[str, ...]
    client: KafkaClientName = "kafka-python"
    client_id: str = "trustwatch"
    group_id: str = "trustwatch"
    group_instance_id: str = ""
    topics: KafkaTopics = KafkaTopics()
    security_protocol: SecurityProtocol = "PLAINTEXT"
    tls: TlsSettings = TlsSettings()
    sasl: SaslSettings | None = None
    session_timeout_ms: int = 45_000
    max_poll_interval_ms: int = 300_000
    fetch_max_bytes: int = 16 * 1024 * 1024
    partition_fetch_bytes: int = 1024 * 1024
    request_timeout_ms: int = 10_000
    metadata_timeout_ms: int = 5_000
    delivery_timeout_ms: int = 20_000
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"


# Our topics and their settings, in one table: `docs/operations.md` shows it, and the admin client creates them so.


class TopicDefinition(NamedTuple):
    """One topic. `role` is the member of `Topics` that names it; `configs` are Kafka's own words."""

    role: str
    keyed_by: str
    holds: str
    configs: Mapping[str, str]

    def name(self, topics: KafkaTopics) -> str:
        """Its configured name."""
        name: str = getattr(topics, self.role)
        return name


_COMMON_CONFIGS = {"unclean.leader.election.enable": "false", "message.timestamp.type": "CreateTime"}


def _retention_configs(days: int) -> dict[str, str]:
    return {**_COMMON_CONFIGS, "cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)}


TOPIC_DEFINITIONS = (
    TopicDefinition(
        "events",
        "agent",
        "every event, tick, command and refused input: what state is made of",
        # A time of arrival in the future would make its agent's later events late: the broker refuses it.
        {**_retention_configs(7), "message.timestamp.after.max.ms": str(HOUR_MS)},
    ),
    TopicDefinition(
        "dead_letters", "letter", "what was refused, with reason, source offset and raw bytes", _retention_configs(30)
    ),
    TopicDefinition(
        "risk",
        "agent",
        "the latest risk of each agent: API replicas read it from the beginning",
        {
            **_COMMON_CONFIGS,
            "cleanup.policy": "compact",
            "min.cleanable.dirty.ratio": "0.1",
            "min.compaction.lag.ms": str(MINUTE_MS),
            "max.compaction.lag.ms": str(HOUR_MS),
            "delete.retention.ms": str(DAY_MS),
            "segment.bytes": str(64 * 1024 * 1024),
            "segment.ms": str(HOUR_MS),
        },
    ),
    TopicDefinition("decisions", "agent", "every change of level, with its reasons", _retention_configs(30)),
    TopicDefinition("alerts", "agent", "what people are told", _retention_configs(30)),
)


def with_min_insync_replicas(configs: Mapping[str, str], replication: int) -> dict[str, str]:
    """*configs* with `min.insync.replicas`: a write is acknowledged by a majority, and one broker may be down."""
    return {**configs, "min.insync.replicas": str(2 if replication >= 3 else 1)}

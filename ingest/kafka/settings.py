"""Operators' settings of Apache Kafka, and our topics: without a word of any client in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from ..settings import Name, Secret, SettingsPart, check_url, setting
from ..timestamps import DAY_MS, HOUR_MS, MINUTE_MS

KafkaClientName = Literal["kafka-python", "confluent"]
KafkaProtocolName = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanismName = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


class KafkaSecuritySettings(SettingsPart, frozen=True):
    """Security of connections to brokers: our trust in them and our credentials."""

    protocol: Annotated[KafkaProtocolName, setting("how brokers are spoken to; with SASL also `mechanism`")] = (
        "PLAINTEXT"
    )
    ca_file: Annotated[Path | None, setting("certificates of the brokers' authority, PEM; null is the system's")] = None
    certificate_file: Annotated[Path | None, setting("our certificate for mutual TLS, PEM")] = None
    key_file: Annotated[Path | None, setting("key of our certificate, PEM")] = None
    mechanism: Annotated[SaslMechanismName | None, setting("SASL mechanism")] = None
    username: Annotated[str | None, setting("for PLAIN and SCRAM")] = None
    password: Annotated[Secret | None, setting("for PLAIN and SCRAM: `{env: NAME}` or `{file: PATH}`")] = None
    token_url: Annotated[str | None, setting("token endpoint, for OAUTHBEARER")] = None
    client_id: Annotated[str | None, setting("client at the token endpoint")] = None
    client_secret: Annotated[Secret | None, setting("its secret: `{env: NAME}` or `{file: PATH}`")] = None
    scope: Annotated[str | None, setting("scope to ask for at the token endpoint")] = None

    def __post_init__(self) -> None:
        if self.protocol.startswith("SASL") != (self.mechanism is not None):
            raise ValueError("`mechanism` belongs to the protocols SASL_PLAINTEXT and SASL_SSL, and these need one")
        if self.mechanism == "OAUTHBEARER":
            if not (self.token_url and self.client_id and self.client_secret):
                raise ValueError("OAUTHBEARER needs `token_url`, `client_id` and `client_secret`")
            check_url(self.token_url, "`token_url`", loopback_http=True)
        elif self.mechanism is not None and not (self.username and self.password):
            raise ValueError(f"{self.mechanism} needs `username` and `password`")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("`certificate_file` and `key_file` belong together")


class KafkaTopics(SettingsPart, frozen=True):
    """Names of our own topics."""

    events: Annotated[Name, setting("audit events, by agent")] = "trustwatch.events"
    dead_letters: Annotated[Name, setting("records that are no audit events, with the reason in their headers")] = (
        "trustwatch.events.dlq"
    )
    risk: Annotated[Name, setting("latest risk of every agent; compacted")] = "trustwatch.risk"
    decisions: Annotated[Name, setting("changes of level")] = "trustwatch.decisions"
    alerts: Annotated[Name, setting("alerts, as they go to webhooks")] = "trustwatch.alerts"


class KafkaClientSettings(SettingsPart, frozen=True):
    """Settings of every Kafka client."""

    bootstrap_servers: Annotated[
        tuple[str, ...], setting("brokers, `HOST:PORT`; none keeps events in the log below `data_dir`")
    ] = ()
    client: Annotated[
        KafkaClientName, setting("`confluent` needs the extra `fast` and takes far less CPU per record")
    ] = "kafka-python"
    security: Annotated[KafkaSecuritySettings, setting("TLS and authentication")] = KafkaSecuritySettings()
    group_id: Annotated[Name, setting("consumer group of the workers; further groups begin with it")] = "trustwatch"
    names: Annotated[KafkaTopics, setting("names of our topics")] = KafkaTopics()
    session_timeout_s: Annotated[
        float, setting("a worker silent for so long loses its partitions, s", ge=6, le=1800)
    ] = 45.0

    @property
    def session_timeout_ms(self) -> int:
        """`session_timeout_s` as clients take it."""
        return int(self.session_timeout_s * 1000)


class KafkaTuning(NamedTuple):
    """Client limits that are not operator settings. Times in milliseconds, sizes in bytes.

    Attributes:
        client_id: name of this process in the brokers' logs.
        max_poll_interval_ms: longest time between two polls; loading a partition's state must fit into it.
        fetch_max_bytes: bound of one fetch from one broker, compressed; the client holds a few of them.
        partition_fetch_bytes: bound of what one fetch holds of one partition, compressed (a larger message comes all
            the same). All of it is uncompressed at once: behind a backlog it decides how much memory a worker takes.
        request_timeout_ms: longest time for a broker's answer.
        metadata_timeout_ms: longest time for requests such as `end_offset`, in all.
        delivery_timeout_ms: a record that is not acknowledged after so long has failed.
        compression: of what we produce.
        key_password: of the key of our certificate.
        check_hostname: off for test clusters whose certificates name no host.
    """

    client_id: str = "trustwatch"
    max_poll_interval_ms: int = 300_000
    fetch_max_bytes: int = 16 * 1024 * 1024
    partition_fetch_bytes: int = 1024 * 1024
    request_timeout_ms: int = 10_000
    metadata_timeout_ms: int = 5_000
    delivery_timeout_ms: int = 20_000
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    key_password: Secret | None = None
    check_hostname: bool = True


DEFAULT_TUNING = KafkaTuning()


# One table of our topics and their settings: `docs/operations.md` shows it, and the admin client creates them from it.


class TopicDefinition(NamedTuple):
    """One topic. `role` is the member of `KafkaTopics` that names it; `configs` are Kafka's own words."""

    role: str
    keyed_by: str
    holds: str
    configs: Mapping[str, str]

    def name(self, topics: KafkaTopics) -> str:
        """Configured name of the topic."""
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

"""Foreign topics: gateways and authorization servers write there in their own formats, each topic with one mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ...ingest.errors import ConfigError
from ...ingest.formats.format_registry import create_parser
from ...ingest.formats.raw_records import FormatParser
from ...ingest.formats.record_mapping import MappingSpec
from ...ingest.kafka.settings import KafkaTopics
from ...ingest.settings import Name, Secret, SettingsPart, SilenceSeconds, check_url, setting

TopicEventRate = Annotated[float, msgspec.Meta(ge=0.1)]
TopicName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]


class ForeignTopicSettings(SettingsPart, frozen=True):
    """One foreign topic: a source of events, bound like a caller to what it may speak for."""

    topic: Annotated[TopicName, setting("topic to read")]
    name: Annotated[Name, setting("name of the source in logs, metrics and dead letters; no caller may have it")]
    format: Annotated[
        str,
        setting(
            "`native`, `cloudevents`, `ndjson`, `envoy`, `agentgateway`, `kong`, `apisix`, `caddy`, `keycloak`, "
            "`hydra`, `otlp` or `mapping`"
        ),
    ]
    tenants: Annotated[tuple[Name, ...], setting("tenants it may speak for; the only one is the default", min_length=1)]
    issuers: Annotated[
        tuple[Name, ...], setting("agent issuers it may name; the only one is the default", min_length=1)
    ]
    mapping: Annotated[MappingSpec, setting("own mapping (`mapping`), or changes to that of a gateway")] = MappingSpec()
    sources: Annotated[tuple[Name, ...], setting("glob patterns of the event `source` it may use")] = ()
    trusted: Annotated[bool, setting("whether its word on an agent's type and capabilities counts")] = False
    events_per_s: Annotated[
        TopicEventRate | None, setting("events per second that are read; the rest waits in Kafka. null is no limit")
    ] = None
    silence_s: Annotated[
        SilenceSeconds | None, setting("it counts as silent after so long without a record, s; null is never")
    ] = None
    start: Annotated[Literal["earliest", "latest"], setting("where reading begins the first time")] = "earliest"

    def __post_init__(self) -> None:
        try:
            self.parser()
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def parser(self) -> FormatParser:
        """Takes its records apart. Raises ConfigError where format or mapping is wrong."""
        return create_parser(self.format, self.mapping)


# Apache Kafka: where it is, how we authenticate, and what our topics are called.


KafkaProtocolName = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanismName = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
KafkaClientName = Literal["kafka-python", "confluent"]


class KafkaSecuritySettings(SettingsPart, frozen=True):
    """How brokers are trusted, and what we show them."""

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


class KafkaSettings(SettingsPart, frozen=True):
    """The distributed form: events through Kafka instead of the log below `data_dir`."""

    bootstrap_servers: Annotated[
        tuple[str, ...], setting("brokers, `HOST:PORT`; none keeps events in the log below `data_dir`")
    ] = ()
    client: Annotated[
        KafkaClientName, setting("`confluent` needs the extra `fast` and takes far less CPU per record")
    ] = "kafka-python"
    security: Annotated[KafkaSecuritySettings, setting("TLS and authentication")] = KafkaSecuritySettings()
    group_id: Annotated[Name, setting("consumer group of the workers; further groups begin with it")] = "trustwatch"
    names: Annotated[KafkaTopics, setting("names of our topics")] = KafkaTopics()
    partitions: Annotated[int, setting("partitions of topics that `trustwatch topics create` makes", ge=1, le=1024)] = 8
    replication: Annotated[int, setting("copies of each of these partitions", ge=1, le=16)] = 3
    session_timeout_s: Annotated[
        float, setting("a worker that is silent for so long loses its partitions, s", ge=6, le=1800)
    ] = 45.0
    duplicate_window: Annotated[
        int,
        setting("records per partition within which a repeated event is recognised, at least", ge=1024, le=4_194_304),
    ] = 65_536
    topics: Annotated[
        tuple[ForeignTopicSettings, ...], setting("foreign topics to take events from; see docs/ingest-topics.md")
    ] = ()

    def __post_init__(self) -> None:
        ours = msgspec.structs.astuple(self.names)
        for index, source in enumerate(self.topics):
            if source.topic in ours:
                raise ValueError(f"`topics[{index}]`: {source.topic} is a topic of our own")
            if any(source.name == other.name or source.topic == other.topic for other in self.topics[:index]):
                raise ValueError(f"`topics[{index}]`: another one has the same name or topic")
        if self.topics and not self.bootstrap_servers:
            raise ValueError("`topics` needs `bootstrap_servers`")

"""Operators' settings of Apache Kafka, and our topics: without a word of any client in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec

from ..extras import ExtraName
from ..settings import Name, Secret, SettingsPart, check_url, setting
from ..topics.protocols import TopicNames, TopicRole

KafkaClientName = Literal["kafka-python", "confluent"]
KafkaProtocolName = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanismName = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


class KafkaSecuritySettings(SettingsPart, frozen=True):
    """Security of connections to brokers: our trust in them and our credentials."""

    protocol: Annotated[KafkaProtocolName, setting("protocol of the brokers; SASL needs `mechanism`")] = "PLAINTEXT"
    ca_file: Annotated[Path | None, setting("authority of the brokers' certificates, PEM; null is the system's")] = None
    certificate_file: Annotated[Path | None, setting("our certificate for mutual TLS, PEM")] = None
    key_file: Annotated[Path | None, setting("key of our certificate, PEM")] = None
    mechanism: Annotated[SaslMechanismName | None, setting("SASL mechanism")] = None
    username: Annotated[str | None, setting("for PLAIN and SCRAM")] = None
    password: Annotated[Secret | None, setting("for PLAIN and SCRAM")] = None
    token_url: Annotated[str | None, setting("token endpoint, for OAUTHBEARER")] = None
    client_id: Annotated[str | None, setting("client at the token endpoint")] = None
    client_secret: Annotated[Secret | None, setting("its secret")] = None
    scope: Annotated[str | None, setting("requested scope")] = None

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


class KafkaClientSettings(SettingsPart, frozen=True):
    """Settings of every Kafka client."""

    bootstrap_servers: Annotated[
        tuple[str, ...], setting("brokers, `HOST:PORT`; none keeps events in a log in `data_dir`")
    ] = ()
    client: Annotated[KafkaClientName, setting("`confluent` needs the extra `fast` and far less CPU")] = "kafka-python"
    security: Annotated[KafkaSecuritySettings, setting("TLS and authentication")] = KafkaSecuritySettings()
    group_id: Annotated[Name, setting("consumer group of the workers; further groups begin with it")] = "trustwatch"
    names: Annotated[
        Mapping[TopicRole, Name], setting("names of our topics; one that is not named has its default")
    ] = msgspec.field(default_factory=lambda: dict(zip(get_args(TopicRole), TopicNames(), strict=True)))
    session_timeout_s: Annotated[
        float, setting("a worker silent for so long loses its partitions, s", ge=6, le=1800)
    ] = 45.0

    def needed_extras(self) -> Iterator[tuple[ExtraName, str]]:
        """Extras with the setting, of those that the service calls `kafka`, that asks for them."""
        if self.bootstrap_servers:
            yield "kafka", "`kafka.bootstrap_servers` names brokers"
            if self.client == "confluent":
                yield "fast", "`kafka.client` is `confluent`"

    @property
    def topic_names(self) -> TopicNames:
        return TopicNames(**{str(role): name for role, name in self.names.items()})

    @property
    def session_timeout_ms(self) -> int:
        return int(self.session_timeout_s * 1000)


CLIENT_ID = "trustwatch"
"""Name of our processes in the brokers' logs."""


class KafkaTuning(NamedTuple):
    """Client limits that are not operator settings. Times in milliseconds, sizes in bytes.

    Attributes:
        max_poll_interval_ms: longest time between two polls; loading a partition's state must fit into it.
        fetch_max_bytes: bound of one fetch from one broker, compressed; the client holds a few of them.
        partition_fetch_bytes: bound of what one fetch holds of one partition, compressed (a larger message comes all
            the same). All of it is uncompressed at once: behind a backlog it decides how much memory a worker takes.
        request_timeout_ms: longest time for a broker's answer.
        metadata_timeout_ms: longest time for requests such as `end_offset`, in all.
        delivery_timeout_ms: a record that is not acknowledged after so long has failed.
        compression: of what we produce.
    """

    max_poll_interval_ms: int = 300_000
    fetch_max_bytes: int = 16 * 1024 * 1024
    partition_fetch_bytes: int = 1024 * 1024
    request_timeout_ms: int = 10_000
    metadata_timeout_ms: int = 5_000
    delivery_timeout_ms: int = 20_000
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"


DEFAULT_TUNING = KafkaTuning()

"""Apache Kafka behind the protocols of `ingest/source.py`: two clients, one behaviour (`tests/contract/`)."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec

from ..errors import ConfigError
from ..source import TopicWriter
from .log import KafkaCommitLog
from .protocols import FetchedRecords, KafkaAdmin, KafkaGroupSource, StartPositions, TopicDescription, TopicReader
from .settings import KafkaClientSettings, KafkaTopics, SaslSettings, TlsSettings
from .topics import TOPIC_DEFINITIONS, TopicDefinition
from .wire import KafkaRecord

__all__ = [
    "TOPIC_DEFINITIONS",
    "FetchedRecords",
    "KafkaAdmin",
    "KafkaClientSettings",
    "KafkaCommitLog",
    "KafkaGroupSource",
    "KafkaRecord",
    "KafkaTopics",
    "SaslSettings",
    "TlsSettings",
    "TopicDefinition",
    "TopicDescription",
    "TopicReader",
    "open_admin",
    "open_group_source",
    "open_reader",
    "open_writer",
    "warm_up",
]

_PACKAGES = {"kafka-python": "kafka_python", "confluent": "confluent"}
_REQUIRED_PACKAGES = {
    "kafka-python": {"kafka": "kafka-python", "crc32c": "crc32c"},
    "confluent": {"confluent_kafka": "trustwatch[fast]"},
}
"""Client -> modules it cannot do without, and what to install for each. Without `crc32c` kafka-python checks records in
pure Python, at eight times the cost of all the rest."""


def open_group_source(settings: KafkaClientSettings) -> KafkaGroupSource:
    """The events topic as a member of the workers' group.

    Raises:
        ConfigError: the client is not installed, or the brokers refuse us.
        Unavailable: no broker answers.
    """
    source: KafkaGroupSource = _client_module(settings, "source").GroupSource(settings)
    return source


def open_writer(settings: KafkaClientSettings) -> TopicWriter:
    """An idempotent writer. Raises as `open_group_source`."""
    writer: TopicWriter = _client_module(settings, "writer").Writer(settings)
    return writer


def open_reader(
    settings: KafkaClientSettings, topics: Collection[str], group_id: str = "", start: StartPositions = "earliest"
) -> TopicReader:
    """A reader of any topics: with a group from its committed offsets, without one from *start*.

    A new group begins at *start* too.

    Raises as `open_group_source`; ConfigError too where a topic does not exist.
    """
    reader: TopicReader = _client_module(settings, "reader").Reader(settings, topics, group_id, start)
    return reader


def open_admin(settings: KafkaClientSettings) -> KafkaAdmin:
    """Makes and describes topics; it needs no speed, so kafka-python does for both clients. Raises as the others."""
    admin: KafkaAdmin = _client_module(msgspec.structs.replace(settings, client="kafka-python"), "admin").Admin(
        settings
    )
    return admin


def warm_up(settings: KafkaClientSettings) -> None:
    """Run what the chosen client compiles once, before a group counts on this process. Raises ConfigError."""
    if settings.client == "kafka-python":
        _client_module(settings, "batches").warm_up()


def _client_module(settings: KafkaClientSettings, name: str) -> Any:
    """A module of the chosen client, imported only now."""
    missing = [package for module, package in _REQUIRED_PACKAGES[settings.client].items() if find_spec(module) is None]
    if missing:
        wanted = " ".join(f"'{package}'" for package in missing)
        raise ConfigError(f"the Kafka client `{settings.client}` is not complete here: pip install {wanted}")
    return import_module(f".{_PACKAGES[settings.client]}.{name}", __name__)

"""Apache Kafka through the protocols of `ingest/source.py`: two clients with the same behavior (`tests/contract/`)."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import Any

import msgspec

from ..extras import ExtraName, require_extra
from ..identities import IdentityHasher
from ..source import GroupSource, TopicWriter
from ..topics.protocols import (
    FetchedRecords,
    StartPositions,
    TopicAdmin,
    TopicDescription,
    TopicReader,
)
from ..topics.record_codec import TopicRecord
from ..topics.topic_commit_log import TopicCommitLog
from ..topics.topic_definitions import TOPIC_DEFINITIONS, TopicDefinition, TopicNames
from .settings import DEFAULT_TUNING, KafkaClientSettings, KafkaSecuritySettings, KafkaTuning

__all__ = [
    "TOPIC_DEFINITIONS",
    "FetchedRecords",
    "KafkaClientSettings",
    "KafkaSecuritySettings",
    "KafkaTuning",
    "TopicAdmin",
    "TopicCommitLog",
    "TopicDefinition",
    "TopicDescription",
    "TopicNames",
    "TopicReader",
    "TopicRecord",
    "open_admin",
    "open_group_source",
    "open_reader",
    "open_writer",
]

_PACKAGES = {"kafka-python": "kafka_python", "confluent": "confluent"}
_PREFIXES = {"kafka-python": "KafkaPython", "confluent": "Confluent"}
"""Prefix of the class names of each client."""
_EXTRAS: dict[str, ExtraName] = {"kafka-python": "kafka", "confluent": "fast"}


def open_group_source(
    settings: KafkaClientSettings,
    tuning: KafkaTuning = DEFAULT_TUNING,
    *,
    member: str = "",
    identities: IdentityHasher = IdentityHasher(),  # noqa: B008
) -> GroupSource:
    """Open the events topic as a member of the workers' group. Raises ConfigError or Unavailable."""
    source: GroupSource = _client_class(settings, "group_source", "GroupSource")(settings, tuning, member, identities)
    return source


def open_writer(settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> TopicWriter:
    """Open an idempotent writer. Raises as `open_group_source`."""
    writer: TopicWriter = _client_class(settings, "topic_writer", "TopicWriter")(settings, tuning)
    return writer


def open_reader(
    settings: KafkaClientSettings,
    topics: Collection[str],
    group_id: str = "",
    start: StartPositions = "earliest",
    tuning: KafkaTuning = DEFAULT_TUNING,
) -> TopicReader:
    """Open a reader of any topics: with a group from its committed offsets, without one from *start*.

    A new group also begins at *start*.

    Raises as `open_group_source`; also ConfigError if a topic does not exist.
    """
    make_reader = _client_class(settings, "topic_reader", "TopicReader")
    reader: TopicReader = make_reader(settings, topics, group_id, start, tuning)
    return reader


def open_admin(settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> TopicAdmin:
    """Open an admin client for topics; kafka-python serves both clients. Raises as the others."""
    made_by = msgspec.structs.replace(settings, client="kafka-python")
    admin: TopicAdmin = _client_class(made_by, "topic_admin", "Admin")(settings, tuning)
    return admin


def _client_class(settings: KafkaClientSettings, module: str, name: str) -> Any:
    return getattr(_client_module(settings, module), f"{_PREFIXES[settings.client]}{name}")


def _client_module(settings: KafkaClientSettings, name: str) -> Any:
    """A module of the chosen client, imported only now."""
    require_extra(_EXTRAS[settings.client], f"the Kafka client `{settings.client}` is needed")
    return import_module(f".{_PACKAGES[settings.client]}.{name}", __name__)

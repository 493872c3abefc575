"""Apache Kafka through the protocols of `ingest/source.py`: two clients with the same behavior (`tests/contract/`)."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import Any

import msgspec

from ..extras import ExtraName, require_extra
from ..identities import IdentityHasher
from ..source import GroupSource, TopicWriter
from ..topics.protocols import StartPositions, TopicAdmin, TopicReader
from .settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning

_CLIENTS: dict[str, tuple[ExtraName, str, str]] = {
    "kafka-python": ("kafka", "kafka_python", "KafkaPython"),
    "confluent": ("fast", "confluent", "Confluent"),
}
"""Extra, package and prefix of the class names of each client."""


def open_group_source(
    settings: KafkaClientSettings,
    tuning: KafkaTuning = DEFAULT_TUNING,
    *,
    member: str = "",
    identities: IdentityHasher = IdentityHasher(),  # noqa: B008
) -> GroupSource:
    """Open the events topic as a member of the workers' group. Raises ConfigError or Unavailable."""
    source: GroupSource = _client_class(settings, "consumers", "GroupSource")(settings, tuning, member, identities)
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
    make_reader = _client_class(settings, "consumers", "TopicReader")
    reader: TopicReader = make_reader(settings, topics, group_id, start, tuning)
    return reader


def open_admin(settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> TopicAdmin:
    """Open an admin client for topics; kafka-python serves both clients. Raises as the others."""
    made_by = msgspec.structs.replace(settings, client="kafka-python")
    admin: TopicAdmin = _client_class(made_by, "client_connection", "Admin")(settings, tuning)
    return admin


def _client_class(settings: KafkaClientSettings, module: str, name: str) -> Any:
    """A class of the chosen client, whose module is imported only now."""
    extra, package, prefix = _CLIENTS[settings.client]
    require_extra(extra, f"the Kafka client `{settings.client}` is needed")
    return getattr(import_module(f".{package}.{module}", __name__), prefix + name)

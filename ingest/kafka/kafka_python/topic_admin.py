"""`TopicAdmin` over kafka-python."""

from __future__ import annotations

from typing import Any

from kafka import KafkaAdminClient, errors
from kafka.admin import ConfigResource, ConfigResourceType

from ...errors import ConfigError
from ...topics.protocols import TopicDescription
from ...topics.topic_definitions import TOPIC_DEFINITIONS, TopicNames, with_min_insync_replicas
from ..settings import DEFAULT_TUNING, KafkaClientSettings, KafkaTuning
from .client_connection import connection_options, open_client, translated_errors


class KafkaPythonAdmin:
    """See `TopicAdmin`. Raises Unavailable or ConfigError."""

    def __init__(self, settings: KafkaClientSettings, tuning: KafkaTuning = DEFAULT_TUNING) -> None:
        self._client = open_client(KafkaAdminClient, **connection_options(settings, tuning))

    def create_topics(self, topics: TopicNames, partitions: int, replication: int) -> list[str]:
        created = []
        for definition in TOPIC_DEFINITIONS:
            name = definition.name(topics)
            options: dict[str, Any] = {
                "num_partitions": partitions,
                "replication_factor": replication,
                "configs": with_min_insync_replicas(definition.configs, replication),
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

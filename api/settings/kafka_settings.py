"""Settings of Apache Kafka in the service."""

from __future__ import annotations

from typing import Annotated

from trustwatch.ingest.kafka.settings import KafkaClientSettings
from trustwatch.ingest.settings import setting

from .access_settings import ForeignTopicSettings


class KafkaSettings(KafkaClientSettings, frozen=True):
    """The distributed form: events through Kafka instead of the log below `data_dir`."""

    partitions: Annotated[
        int, setting("partitions that `trustwatch topics create` makes", after="names", ge=1, le=1024)
    ] = 8
    replication: Annotated[int, setting("copies of each partition", after="partitions", ge=1, le=16)] = 3
    topics: Annotated[tuple[ForeignTopicSettings, ...], setting("foreign topics to read events from")] = ()

    def __post_init__(self) -> None:
        for index, source in enumerate(self.topics):
            if source.topic in self.topic_names:
                raise ValueError(f"`topics[{index}]`: {source.topic} is our own topic")
            if any(source.name == other.name or source.topic == other.topic for other in self.topics[:index]):
                raise ValueError(f"`topics[{index}]`: another one has the same name or topic")
        if self.topics and not self.bootstrap_servers:
            raise ValueError("`topics` needs `bootstrap_servers`")

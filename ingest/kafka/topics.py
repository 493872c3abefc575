"""Our topics and their settings, in one table: `docs/operations.md` shows it, and the admin client creates them so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .settings import KafkaTopics

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS


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
    return {**_COMMON_CONFIGS, "cleanup.policy": "delete", "retention.ms": str(days * _DAY_MS)}


TOPIC_DEFINITIONS = (
    TopicDefinition(
        "events",
        "agent",
        "every event, tick, command and refused input: what state is made of",
        # A time of arrival in the future would make its agent's later events late: the broker refuses it.
        {**_retention_configs(7), "message.timestamp.after.max.ms": str(_HOUR_MS)},
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
            "min.compaction.lag.ms": str(_MINUTE_MS),
            "max.compaction.lag.ms": str(_HOUR_MS),
            "delete.retention.ms": str(_DAY_MS),
            "segment.bytes": str(64 * 1024 * 1024),
            "segment.ms": str(_HOUR_MS),
        },
    ),
    TopicDefinition("decisions", "agent", "every change of level, with its reasons", _retention_configs(30)),
    TopicDefinition("alerts", "agent", "what people are told", _retention_configs(30)),
)


def with_min_insync_replicas(configs: Mapping[str, str], replication: int) -> dict[str, str]:
    """*configs* with `min.insync.replicas`: a write is acknowledged by a majority, and one broker may be down."""
    return {**configs, "min.insync.replicas": str(2 if replication >= 3 else 1)}

"""Names of our topics, and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ..timestamps import DAY_MS, HOUR_MS, MINUTE_MS

TopicRole = Literal["events", "dead_letters", "risk", "decisions", "alerts"]


class TopicNames(NamedTuple):
    """Names of our topics, by role."""

    events: str = "trustwatch.events"
    dead_letters: str = "trustwatch.events.dlq"
    risk: str = "trustwatch.risk"
    decisions: str = "trustwatch.decisions"
    alerts: str = "trustwatch.alerts"


# One table of our topics and their settings: `docs/operations.md` shows it, and the admin client creates them from it.


class TopicDefinition(NamedTuple):
    """One topic. `role` is the member of `TopicNames` that names it; `configs` are Kafka's own words."""

    role: str
    keyed_by: str
    holds: str
    configs: Mapping[str, str]

    def name(self, topics: TopicNames) -> str:
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

"""Our topics, and their protocols in addition to `GroupSource` and `TopicWriter` (ingest/source.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from ..source import PartitionOffsets
from ..timestamps import DAY_MS, HOUR_MS, MINUTE_MS
from .record_codec import TopicRecord

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
    TopicDefinition("alerts", "agent", "alerts for people", _retention_configs(30)),
)


StartPosition = Literal["earliest", "latest"]

StartPositions = StartPosition | Mapping[str, StartPosition]
"""Start of reading: for all topics, or by topic; a topic that is not named is read from its beginning."""


def start_position_of(topic: str, starts: StartPositions) -> StartPosition:
    return starts if isinstance(starts, str) else starts.get(topic, "earliest")


MAX_POLL_RECORDS = 5_000
"""Records of one poll if the caller sets no bound."""


class FetchedRecords(NamedTuple):
    """Records of one partition, in the order of their offsets; never empty."""

    topic: str
    partition: int
    records: list[TopicRecord]


class TopicReader(Protocol):
    """Reads any topics: as a member of a group from its committed offsets, or without a group from given positions.

    With a group, what was not committed before the end comes again. Not thread-safe.
    """

    def poll(self, timeout_s: float, max_records: int = MAX_POLL_RECORDS) -> list[FetchedRecords]:
        """Return waiting records; [] after *timeout_s* seconds without any, and while no broker answers.

        Raises CorruptLog, ConfigError.
        """

    def commit(self) -> None:
        """Commit the records returned so far (group only). Raises Unavailable; then a restart may return them again."""

    def end_offsets(self) -> Mapping[tuple[str, int], int]:
        """Offset that the next record will get, of each partition that is read. Raises Unavailable."""

    def first_offsets(self) -> Mapping[tuple[str, int], int]:
        """Offset of the oldest record that is kept, of each partition that is read. Raises Unavailable."""

    def offsets_at(self, time_ms: int) -> Mapping[tuple[str, int], int]:
        """Offset of the first record that is not older than *time_ms*, of each partition that is read.

        If all are older, it is the end. Raises Unavailable.
        """

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Continue reading at *offset*, which must be kept (without a group only)."""

    def lag(self) -> int | None:
        """Number of records not read yet; None while no partition is ours. Raises Unavailable."""

    def at_end(self) -> bool:
        """True once all records that existed when reading began are returned; it stays true.

        With a group: those that existed at the first call for a partition; False while no partition is ours. Raises
        Unavailable.
        """

    def close(self) -> None:
        """Leave the group, release connections."""


def partition_offsets(reader: TopicReader, since_ms: int) -> dict[int, PartitionOffsets]:
    """Offsets by partition of the one topic that *reader* reads, with `since` for *since_ms*. Raises Unavailable."""
    firsts, recent, ends = reader.first_offsets(), reader.offsets_at(since_ms), reader.end_offsets()
    return {key[1]: PartitionOffsets(firsts[key], recent[key], end) for key, end in ends.items()}


class TopicDescription(NamedTuple):
    """A topic as it is. `configs` holds what differs from the broker's defaults, and what was requested."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


class TopicAdmin(Protocol):
    """Makes and describes topics."""

    def create_topics(self, topics: TopicNames, partitions: int, replication: int) -> list[str]:
        """Create those of our topics that are missing; return their names. Existing ones stay as they are.

        Raises Unavailable, ConfigError.
        """

    def describe(self, name: str) -> TopicDescription | None:
        """The topic, or None if there is none. Raises Unavailable."""

    def grow_partitions(self, name: str, partitions: int) -> None:
        """Give a topic more partitions; existing records stay in their partitions. No change if it has that many.

        Raises ConfigError if it has more or does not exist, Unavailable.
        """

    def close(self) -> None:
        """Release connections."""

"""What both clients provide beside `GroupSource` and `TopicWriter` (ingest/source.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from ..source import GroupSource
from .record_codec import KafkaRecord
from .settings import KafkaTopics

StartPosition = Literal["earliest", "latest"]

StartPositions = StartPosition | Mapping[str, StartPosition]
"""Where reading begins: for all topics, or by topic; a topic that is not named is read from its beginning."""


def start_position_of(topic: str, starts: StartPositions) -> StartPosition:
    """Where reading of *topic* begins."""
    return starts if isinstance(starts, str) else starts.get(topic, "earliest")


MAX_POLL_RECORDS = 5_000
"""Records of one poll where the caller has no bound of its own."""


class FetchedRecords(NamedTuple):
    """Records of one partition, in the order of their offsets; never empty."""

    topic: str
    partition: int
    records: list[KafkaRecord]


class KafkaGroupSource(GroupSource, Protocol):
    """A `GroupSource` that can tell lag tools how far it is."""

    failed_polls: int
    """How often no broker answered."""

    def note_position(self, offsets: Mapping[int, int]) -> None:
        """Tell the group how far we are, for tools that show lag; nothing depends on it, and failure is not told."""


class TopicReader(Protocol):
    """Reads any topics: as a member of a group from its committed offsets, or without one from where it is told to.

    With a group, what was not committed before the end comes again. Not thread-safe.
    """

    def poll(self, timeout_s: float, max_records: int = MAX_POLL_RECORDS) -> list[FetchedRecords]:
        """What is there, or [] after *timeout_s* seconds without any; while no broker answers there is none.

        Raises CorruptLog, ConfigError.
        """

    def commit(self) -> None:
        """Group only: what was handed out is done. Raises Unavailable; then it comes again after a restart."""

    def end_offsets(self) -> Mapping[tuple[str, int], int]:
        """Offset that the next record will get, of each partition that is read. Raises Unavailable."""

    def first_offsets(self) -> Mapping[tuple[str, int], int]:
        """Offset of the oldest record that is kept, of each partition that is read. Raises Unavailable."""

    def offsets_at(self, time_ms: int) -> Mapping[tuple[str, int], int]:
        """Offset of the first record that is not older than *time_ms*, of each partition that is read.

        Where all are older it is the end. Raises Unavailable.
        """

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Without a group only: read on at *offset*, which is kept."""

    def lag(self) -> int | None:
        """Records that wait to be handed out; None where no partition is ours. Raises Unavailable."""

    def at_end(self) -> bool:
        """Whether everything was handed out that was there when reading began, and so for good once it is true.

        With a group, what was there when this was first asked about a partition; False while none is ours. Raises
        Unavailable.
        """

    def close(self) -> None:
        """Leave the group, release connections."""


class TopicDescription(NamedTuple):
    """A topic as it is. `configs` holds what differs from the broker's defaults, and what was asked for."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


class KafkaAdmin(Protocol):
    """Makes and describes topics."""

    def create_topics(self, topics: KafkaTopics, partitions: int, replication: int) -> list[str]:
        """Create those of our topics that are missing; returns their names. What is there already stays as it is.

        Raises Unavailable, ConfigError.
        """

    def describe(self, name: str) -> TopicDescription | None:
        """The topic, or None where there is none. Raises Unavailable."""

    def grow_partitions(self, name: str, partitions: int) -> None:
        """Give a topic more partitions; existing records stay where they are. No change where it has that many.

        Raises ConfigError where it has more or does not exist, Unavailable.
        """

    def close(self) -> None:
        """Release connections."""

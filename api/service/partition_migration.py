"""Migration to another number of partitions, and the number that the state was made for.

An agent's partition follows from its name and their number. With another number, agents would be worked on in two
places: so the number is kept with the state, and a worker that finds another one at the brokers refuses to start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.record_keys import agent_partition_key, partition_of
from trustwatch.ingest.topics.protocols import TopicAdmin, TopicNames, TopicReader
from trustwatch.scoring.pipeline.risk_topic_reader import epoch_of_record
from trustwatch.scoring.pipeline.topic_publisher import TopicPublisher
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.commits import Position
from trustwatch.scoring.store.sql_store import SqlStore

PARTITION_COUNT_KEY = "events.partitions"
GROWTH_TARGET_KEY = "events.growing_to"


def check_partitions(store: SqlStore, count: int) -> None:
    """Raise ConfigError if the state was made for another number of partitions, or a move was not finished."""
    growing = store.metadata.get(GROWTH_TARGET_KEY)
    if growing:
        raise ConfigError(f"a move to {growing} partitions was not finished: run `trustwatch topics grow {growing}`")
    stored = store.metadata.put_default(PARTITION_COUNT_KEY, str(count))
    if count < int(stored):
        raise ConfigError(
            f"the events topic has {count} partitions, the state was made for {stored}: it is another topic, or a "
            f"new one; restore it, or make it with {stored} partitions"
        )
    if count > int(stored):
        raise ConfigError(
            f"the events topic has {count} partitions, the state was made for {stored}; stop senders and workers, then "
            f"run `trustwatch topics grow {count}`, which moves every agent to its new partition"
        )


class GrowthResult(NamedTuple):
    """Result of moving agents to more partitions."""

    before: int
    after: int
    moved: int  # agents that have another partition now


@dataclass(eq=False)
class PartitionGrowth:
    """Moves everything to more partitions. Nothing may write or work meanwhile; run it again after any failure."""

    _store: SqlStore
    _admin: TopicAdmin
    _reader: TopicReader
    _topics: TopicNames
    _drain: Callable[[], None]
    _report_progress: Callable[[str], None]

    def run(self, partitions: int) -> GrowthResult:
        """Check that all is drained, then move. Raises ConfigError, Unavailable."""
        description = self._admin.describe(self._topics.events)
        if description is None:
            raise ConfigError(f"there is no topic {self._topics.events}; run `trustwatch topics create` first")
        before = int(self._store.metadata.put_default(PARTITION_COUNT_KEY, str(description.partitions)))
        if partitions < max(before, description.partitions):
            raise ConfigError(
                f"{self._topics.events} has {max(before, description.partitions)} partitions, and a topic loses none"
            )
        growing_to = self._store.metadata.get(GROWTH_TARGET_KEY) or ""
        if not growing_to:
            self._report_progress("applying what waits")
            self._drain()
        self._check_drained()
        self._store.metadata.put(GROWTH_TARGET_KEY, str(partitions))
        for position in self._store.partitions.list_positions():  # a worker that still runs is fenced from here on
            self._store.partitions.set_position(position.partition, position.offset)
        for topic in (self._topics.events, self._topics.risk):
            self._report_progress(f"{topic}: {partitions} partitions")
            self._admin.grow_partitions(topic, partitions)
        ends = self._end_offsets()
        for partition in range(partitions):
            self._store.partitions.set_position(partition, ends.get(partition, 0))
        self._report_progress("moving agents")
        moved = self._store.partitions.repartition(lambda name: _partition_of_agent(name, partitions))
        self._store.metadata.put(PARTITION_COUNT_KEY, str(partitions))
        self._store.metadata.put(GROWTH_TARGET_KEY, "")
        return GrowthResult(before, partitions, moved)

    def _check_drained(self) -> None:
        """Refuse waiting records: they are in the old partitions of their agents, and would be applied out of order."""
        applied = {position.partition: position.offset for position in self._store.partitions.list_positions()}
        waiting = {at: end - applied.get(at, 0) for at, end in self._end_offsets().items() if end > applied.get(at, 0)}
        if waiting:
            listed = ", ".join(f"{count} in partition {at}" for at, count in sorted(waiting.items()))
            raise ConfigError(
                f"records still arrive: some wait ({listed}); stop senders and workers and run this again"
            )

    def _end_offsets(self) -> dict[int, int]:
        events = self._topics.events
        return {partition: end for (topic, partition), end in self._reader.end_offsets().items() if topic == events}


def _partition_of_agent(name: AgentName, partitions: int) -> int:
    return partition_of(agent_partition_key(name.tenant, name.issuer, name.agent_id), partitions)


# A restored database has to be newer than everything in the topics: readers of the risk topic drop what is older than
# what they have, by epoch and offset, and a backup knows neither the epochs that were handed out since it was made nor
# what was published in them.

POLL_S = 0.5


class PartitionExtent(NamedTuple):
    """Contents of a partition of the events topic: offset of its first record, and of the next one to come."""

    first: int
    end: int


class RestoreResult(NamedTuple):
    """Result of a restore."""

    above: int  # the highest epoch that was ever published
    partitions: int
    agents: int  # whose risk was published again


def partition_extents(reader: TopicReader) -> dict[int, PartitionExtent]:
    """Offsets of each partition of the topic that *reader* reads. Raises Unavailable."""
    first, ends = reader.first_offsets(), reader.end_offsets()
    return {topic_partition[1]: PartitionExtent(first[topic_partition], end) for topic_partition, end in ends.items()}


def highest_epoch(reader: TopicReader) -> int:
    """Highest epoch that anything on the risk topic carries; 0 = the topic is empty. Reads the topic to its end."""
    highest = 0
    while not reader.at_end():
        for part in reader.poll(POLL_S):
            for record in part.records:
                highest = max(highest, epoch_of_record(record.value))
    return highest


def resume_offsets(
    store: SqlStore, topic: Mapping[int, PartitionExtent], *, anew: bool, accept_loss: bool
) -> dict[int, int]:
    """Offsets at which each partition is to be read on. Raises ConfigError."""
    made_for = store.metadata.get(PARTITION_COUNT_KEY)
    if made_for is not None and int(made_for) != len(topic):
        raise ConfigError(
            f"the events topic has {len(topic)} partitions, this state was made for {made_for}: what was sent since "
            "the topic grew cannot be applied in order; restore a backup made after that, or the topic of that time"
        )
    if anew:
        return {partition: held_offsets.first for partition, held_offsets in topic.items()}
    stored = {position.partition: position.offset for position in store.partitions.list_positions()}
    next_offsets = {partition: stored.get(partition, 0) for partition in topic}
    lost = {at: next_ for at, next_ in next_offsets.items() if not topic[at].first <= next_ <= topic[at].end}
    if lost and not accept_loss:
        listed = ", ".join(f"{at}: {next_}, holds {topic[at].first} to {topic[at].end}" for at, next_ in lost.items())
        raise ConfigError(
            f"the events topic does not hold what comes next (partition: offset, what it holds: {listed}); with "
            "--accept-loss the state continues without it; if the topic was made again, use --events-anew"
        )
    return {at: min(max(next_, topic[at].first), topic[at].end) for at, next_ in next_offsets.items()}


def restore_partitions(
    store: SqlStore, risk: TopicReader, next_offsets: Mapping[int, int], publisher: TopicPublisher
) -> RestoreResult:
    """Let every partition continue at its offset in an epoch above all published ones, and publish all risk again.

    May be run again after any failure. Raises Unavailable.
    """
    above, published = highest_epoch(risk), 0
    positions: list[Position] = [
        store.partitions.set_position(at, next_, above) for at, next_ in sorted(next_offsets.items())
    ]
    for position in positions:
        published += publisher.publish_all_agents(position)
    return RestoreResult(above, len(positions), published)

"""Migration to another number of partitions, and the number that the state was made for.

An agent's partition follows from its name and their number. With another number, agents would be worked on in two
places: so the number is kept with the state, and a worker that finds another one at the brokers refuses to start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.record_keys import agent_partition_key, partition_of
from trustwatch.ingest.topics.protocols import TopicAdmin, TopicNames, TopicReader
from trustwatch.scoring.pipeline.risk_topic_reader import epoch_of_record
from trustwatch.scoring.pipeline.topic_publisher import TopicPublisher
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


def grow_partitions(
    partitions: int,
    store: SqlStore,
    admin: TopicAdmin,
    reader: TopicReader,
    topics: TopicNames,
    drain: Callable[[], None],
    report_progress: Callable[[str], None],
) -> GrowthResult:
    """Move everything to more partitions. Nothing may write or work meanwhile; run it again after any failure.

    Raises ConfigError, Unavailable.
    """
    description = admin.describe(topics.events)
    if description is None:
        raise ConfigError(f"there is no topic {topics.events}; run `trustwatch topics create` first")
    before = int(store.metadata.put_default(PARTITION_COUNT_KEY, str(description.partitions)))
    if partitions < max(before, description.partitions):
        raise ConfigError(
            f"{topics.events} has {max(before, description.partitions)} partitions, and a topic loses none"
        )
    if not store.metadata.get(GROWTH_TARGET_KEY):
        report_progress("applying what waits")
        drain()
    # What waits is in the old partitions of its agents, and would be applied out of order.
    applied = {position.partition: position.offset for position in store.partitions.list_positions()}
    ends = {at: end for (topic, at), end in sorted(reader.end_offsets().items()) if topic == topics.events}
    waiting = [f"{end - applied.get(at, 0)} in partition {at}" for at, end in ends.items() if end > applied.get(at, 0)]
    if waiting:
        listed = ", ".join(waiting)
        raise ConfigError(f"records still arrive: some wait ({listed}); stop senders and workers and run this again")
    store.metadata.put(GROWTH_TARGET_KEY, str(partitions))
    for position in store.partitions.list_positions():  # a worker that still runs is fenced from here on
        store.partitions.set_position(position.partition, position.offset)
    for topic in (topics.events, topics.risk):
        report_progress(f"{topic}: {partitions} partitions")
        admin.grow_partitions(topic, partitions)
    ends = {at: end for (topic, at), end in reader.end_offsets().items() if topic == topics.events}
    for partition in range(partitions):
        store.partitions.set_position(partition, ends.get(partition, 0))
    report_progress("moving agents")
    moved = store.partitions.repartition(
        lambda name: partition_of(agent_partition_key(name.tenant, name.issuer, name.agent_id), partitions)
    )
    store.metadata.put(PARTITION_COUNT_KEY, str(partitions))
    store.metadata.put(GROWTH_TARGET_KEY, "")
    return GrowthResult(before, partitions, moved)


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
    """Return the offsets of each partition of the topic that *reader* reads. Raises Unavailable."""
    first, ends = reader.first_offsets(), reader.end_offsets()
    return {topic_partition[1]: PartitionExtent(first[topic_partition], end) for topic_partition, end in ends.items()}


def resume_offsets(
    store: SqlStore, topic: Mapping[int, PartitionExtent], *, anew: bool, accept_loss: bool
) -> dict[int, int]:
    """Return the offset at which reading continues in each partition. Raises ConfigError."""
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
    above = 0  # the highest epoch on the risk topic; 0 if it is empty
    while not risk.at_end():
        for part in risk.poll(POLL_S):
            above = max([above, *(epoch_of_record(record.value) for record in part.records)])
    positions = [store.partitions.set_position(at, next_, above) for at, next_ in sorted(next_offsets.items())]
    published = sum(publisher.publish_all_agents(position) for position in positions)
    return RestoreResult(above, len(positions), published)

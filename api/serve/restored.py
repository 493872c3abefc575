"""After another state of the database was put in place: make it newer than everything that the topics tell.

Readers of the risk topic drop what is older than what they have, by epoch and offset. A back-up knows neither the
epochs that were handed out since it was made nor what was told in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...ingest.errors import ConfigError
from ...ingest.kafka import TopicReader
from ...scoring.follow import epoch_of_record
from ...scoring.publish import TopicPublisher
from ...scoring.records import Position
from ...scoring.store import Store
from .partitions import PARTITION_COUNT_KEY

POLL_S = 0.5


class PartitionOffsets(NamedTuple):
    """What a partition of the events topic holds: offset of its first record, and of the next one to come."""

    first: int
    end: int


class RestoreResult(NamedTuple):
    """What was done."""

    above: int  # the highest epoch that was ever told
    partitions: int
    agents: int  # whose risk was told again


def partition_offsets(reader: TopicReader) -> dict[int, PartitionOffsets]:
    """What each partition of the topic that *reader* reads holds. Raises Unavailable."""
    first, ends = reader.first_offsets(), reader.end_offsets()
    return {place[1]: PartitionOffsets(first[place], end) for place, end in ends.items()}


def highest_epoch(reader: TopicReader) -> int:
    """Highest epoch that anything on the risk topic carries; 0 = nothing was told. Reads the topic to its end."""
    highest = 0
    while not reader.at_end():
        for part in reader.poll(POLL_S):
            for record in part.records:
                highest = max(highest, epoch_of_record(record.value))
    return highest


def resume_offsets(
    store: Store, topic: Mapping[int, PartitionOffsets], *, anew: bool, accept_loss: bool
) -> dict[int, int]:
    """Where each partition is to be read on.

    Args:
        store: the state as it was put back.
        topic: what the events topic holds.
        anew: the topic was made again, so all that it holds is new.
        accept_loss: go on at the nearest record where the one that comes next is gone.

    Raises:
        ConfigError: the state is of another number of partitions; or records are lost, and nobody has accepted that.
    """
    made_for = store.get_meta(PARTITION_COUNT_KEY)
    if made_for is not None and int(made_for) != len(topic):
        raise ConfigError(
            f"the events topic has {len(topic)} partitions, this state was made for {made_for}: what was sent since "
            "the topic grew can not be applied in order; restore a back-up made after that, or the topic of that time"
        )
    if anew:
        return {partition: one.first for partition, one in topic.items()}
    known = {position.partition: position.offset for position in store.positions()}
    wanted = {partition: known.get(partition, 0) for partition in topic}
    lost = {at: next_ for at, next_ in wanted.items() if not topic[at].first <= next_ <= topic[at].end}
    if lost and not accept_loss:
        told = ", ".join(f"{at}: {next_}, holds {topic[at].first} to {topic[at].end}" for at, next_ in lost.items())
        raise ConfigError(
            f"the events topic does not hold what comes next (partition: offset, what it holds: {told}); with "
            "--accept-loss the state goes on without it; if the topic was made again, use --events-anew"
        )
    return {at: min(max(next_, topic[at].first), topic[at].end) for at, next_ in wanted.items()}


def restore_partitions(
    store: Store, risk: TopicReader, next_offsets: Mapping[int, int], publisher: TopicPublisher
) -> RestoreResult:
    """Let every partition go on at its offset in an epoch above all that were told, and tell all risk again.

    May be run again after any failure. Raises Unavailable.
    """
    above, told = highest_epoch(risk), 0
    positions: list[Position] = [store.set_position(at, next_, above) for at, next_ in sorted(next_offsets.items())]
    for position in positions:
        told += publisher.publish_all_agents(position)
    return RestoreResult(above, len(positions), told)

"""What holds for every `GroupSource`, whatever keeps the log: archive and model worker follow each in the same way.

What only a group of several members shows is in `test_group_source_contract.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from trustwatch.ingest import kafka as ours
from trustwatch.ingest.errors import CorruptLog, Fenced
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.log_reader import LogGroupSource
from trustwatch.ingest.source import GroupSource, Record

from ..support.followers import Follower, poll_until
from ..support.kafka_topics import CLIENTS, NOW_MS, TUNING, make_topic, record, settings, write

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster

PIECE = 10
"""Records that are removed together where a log removes no single ones."""
RECORDS = [record(number) for number in range(50)]


class WrittenLog(Protocol):
    """A log with one partition, as its writer and its operator have it."""

    def write(self, records: Iterable[Record]) -> None:
        """Append records, durably."""

    def remove_before(self, offset: int) -> None:
        """What retention does; *offset* is a multiple of PIECE."""

    def open(self) -> GroupSource:
        """A source of it, not joined yet."""


class EmbeddedLog:
    """Segments of ten records."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, records: Iterable[Record]) -> None:
        kept = [*records]
        with EventLog(self._directory, segment_bytes=1) as log:
            for first in range(0, len(kept), PIECE):
                log.append(kept[first : first + PIECE])
            log.sync()

    def remove_before(self, offset: int) -> None:
        with EventLog(self._directory, segment_bytes=1) as log:
            log.drop_before(offset, 0, NOW_MS + 60_000)

    def open(self) -> GroupSource:
        return LogGroupSource(self._directory)


class TopicLog:
    """A topic of a real broker."""

    def __init__(self, cluster: KafkaCluster, client: str) -> None:
        self._cluster, self._settings = cluster, settings(cluster, client)
        make_topic(cluster, self._settings.topic_names.events)

    def write(self, records: Iterable[Record]) -> None:
        write(self._settings, records, partition=0)

    def remove_before(self, offset: int) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=self._cluster.bootstrap.split(","))) as admin:
            admin.delete_records({TopicPartition(self._settings.topic_names.events, 0): offset})

    def open(self) -> GroupSource:
        return ours.open_group_source(self._settings, TUNING)


LOGS: dict[str, Any] = {
    "embedded": lambda request, directory: EmbeddedLog(directory),
    **{
        client: partial(lambda client, request, _: TopicLog(request.getfixturevalue("kafka"), client), client)
        for client in CLIENTS
    },
}
KINDS = [pytest.param(name, marks=pytest.mark.integration if name in CLIENTS else ()) for name in LOGS]


@pytest.fixture(params=KINDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> WrittenLog:
    """A log of each kind, with the fifty records."""
    made: WrittenLog = LOGS[request.param](request, tmp_path / "log")
    made.write(RECORDS)
    return made


@pytest.fixture
def sources() -> Iterator[ExitStack]:
    """Sources that are closed after the test."""
    with ExitStack() as stack:
        yield stack


def follow(
    log: WrittenLog, sources: ExitStack, starts: Mapping[int, int] | None = None, kind: type[Follower] = Follower
) -> Follower:
    source = log.open()
    sources.callback(source.close)
    return kind(source, starts)


def join_and_read(follower: Follower, number: int) -> None:
    """Join, and read until *number* records are here."""
    follower.source.join(follower)
    poll_until(lambda: follower.count == number, follower)


def test_the_owner_says_where_reading_begins(log: WrittenLog, sources: ExitStack) -> None:
    """Every record from there on, in order, those too that are written later; before it joins, none."""
    follower = follow(log, sources, {0: 13})
    assert follower.source.owned() == frozenset()
    assert follower.source.poll(10, 0.05) is None
    join_and_read(follower, 37)
    log.write([record(50)])
    poll_until(lambda: follower.count == 38, follower)
    assert follower.offsets[0] == list(range(13, 51))
    assert follower.records[0] == [one._replace(key=b"") for one in [*RECORDS[13:], record(50)]]
    assert follower.source.owned() == {0}
    assert follower.source.failed_polls == 0
    follower.source.note_position({0: 51})
    follower.source.close()
    follower.source.close()
    assert follower.source.owned() == frozenset()
    assert follower.log == [("assigned", {0}), ("revoked", {0})]


@pytest.mark.parametrize("max_records", [1, 7, 1000])
def test_batches_are_bounded_and_consecutive(log: WrittenLog, sources: ExitStack, max_records: int) -> None:
    """Never larger than requested, never empty, without gaps; from wherever the source is told, forth and back."""
    follower = follow(log, sources)
    follower.source.join(follower)
    poll_until(follower.source.owned, follower)
    for offset in (33, 0, 49, 8, 50):
        follower.source.seek(0, offset)
        found: list[Record] = []
        while len(found) < len(RECORDS) - offset:
            batch = follower.source.poll(max_records, 5)
            assert batch is not None
            assert (batch.partition, batch.base_offset) == (0, offset + len(found))
            assert 1 <= len(batch.records) <= max_records
            found += batch.records
        assert found == [one._replace(key=b"") for one in RECORDS[offset:]]
        assert follower.source.poll(max_records, 0) is None
        assert follower.source.end_offset(0) == len(RECORDS)
    with pytest.raises(CorruptLog, match="after the end"):
        follower.source.seek(0, len(RECORDS) + 1)


def test_offsets_say_what_is_kept(log: WrittenLog, sources: ExitStack) -> None:
    """Of all partitions, for whoever has not joined too: a new follower begins at the oldest record."""
    source = follow(log, sources).source
    assert {at: (kept.first, kept.end) for at, kept in source.offsets(0).items()} == {0: (0, 50)}
    log.remove_before(20)
    for since_ms, behind in ((0, 20), (NOW_MS + 33, 33), (NOW_MS + 9_999, 50)):
        (kept,) = source.offsets(since_ms).values()
        assert (kept.first, kept.end) == (20, 50)
        assert 20 <= kept.since <= behind
        assert source.end_offset(0) == 50


def test_records_that_are_gone_stop_the_reader(log: WrittenLog, sources: ExitStack) -> None:
    """Retention that removed what was not read is never passed over; it is told each time, until one seeks."""
    log.remove_before(20)
    follower = follow(log, sources, {0: 7})
    with pytest.raises(CorruptLog, match=r"offset 7 is no longer kept.* 20"):
        join_and_read(follower, 1)
    with pytest.raises(CorruptLog, match=r"offset 7 is no longer kept.* 20"):
        poll_until(lambda: follower.count, follower)
    with pytest.raises(CorruptLog, match="no longer kept"):
        follower.source.seek(0, 19)
    follower.source.seek(0, 20)
    poll_until(lambda: follower.count == 30, follower)
    assert follower.offsets[0] == list(range(20, 50))


def test_a_position_behind_the_end_stops_the_reader(log: WrittenLog, sources: ExitStack) -> None:
    """The follower remembers records that the log does not have: another log, or acknowledged records lost."""
    follower = follow(log, sources, {0: 51})
    with pytest.raises(CorruptLog, match=r"offset 51 is after the end of the \w+, 50"):
        join_and_read(follower, 1)


def test_id_hashes_are_read_back(log: WrittenLog, sources: ExitStack) -> None:
    """One per offset; what retention removed counts as unknown; reading does not move the position."""
    follower = follow(log, sources)
    join_and_read(follower, 50)
    expected = np.array([one.id_hash for one in RECORDS], np.uint64)
    for start, end in ((0, 50), (1, 2), (43, 50), (7, 7)):
        hashes = follower.source.read_id_hashes(0, start, end)
        assert (hashes.dtype, hashes.tolist()) == (np.uint64, expected[start:end].tolist())
    with pytest.raises(CorruptLog, match="after the end"):
        follower.source.read_id_hashes(0, 0, 51)
    log.remove_before(20)
    expected[:20] = 0
    for start, end in ((15, 50), (0, 20), (3, 9), (20, 21)):
        assert follower.source.read_id_hashes(0, start, end).tolist() == expected[start:end].tolist()
    log.write([record(50)])
    poll_until(lambda: follower.count == 51, follower)


def test_a_paused_partition_waits_for_a_seek(log: WrittenLog, sources: ExitStack) -> None:
    """Nothing of it comes, what is written meanwhile neither; it stays ours."""
    follower = follow(log, sources)
    follower.source.join(follower)
    poll_until(lambda: 0 in follower.records, follower)
    follower.source.pause(0)
    seen = follower.count
    log.write([record(50)])
    for _ in range(5):
        follower.step()
    assert follower.count == seen
    assert follower.source.owned() == {0}
    follower.records[0], follower.offsets[0] = [], []
    follower.source.seek(0, 45)
    poll_until(lambda: follower.offsets[0] == list(range(45, 51)), follower)


def test_partitions_of_others_are_not_sought(log: WrittenLog, sources: ExitStack) -> None:
    """Before it joins, and one that there is not."""
    follower = follow(log, sources)
    with pytest.raises(ValueError, match="partition"):
        follower.source.seek(0, 0)
    join_and_read(follower, 50)
    with pytest.raises(ValueError, match="partition"):
        follower.source.seek(1, 0)
    with pytest.raises(ValueError, match="partition"):
        follower.source.end_offset(1)


def test_a_partition_without_an_offset_waits_until_it_is_sought(log: WrittenLog, sources: ExitStack) -> None:
    """Though it is ours meanwhile, and has records: its owner has to get something first."""

    class Unready(Follower):
        def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
            super().assigned(partitions)
            return {}

    follower = follow(log, sources, kind=Unready)
    follower.source.join(follower)
    poll_until(follower.source.owned, follower)
    log.write([record(50)])
    for _ in range(10):
        follower.step()
    assert follower.count == 0 and follower.source.owned() == {0}
    follower.source.seek(0, 20)
    poll_until(lambda: follower.count == 31, follower)
    assert follower.offsets == {0: list(range(20, 51))}


def test_what_the_owner_raises_comes_out(log: WrittenLog, sources: ExitStack) -> None:
    """A store that does not answer, or a fence: the owner decides, and nothing is handed out meanwhile."""

    class Refusing(Follower):
        def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
            raise Fenced("another worker")

    follower = follow(log, sources, kind=Refusing)
    with pytest.raises(Fenced, match="another worker"):
        join_and_read(follower, 1)
    for _ in range(5):
        follower.step()
    assert follower.count == 0
    assert follower.source.owned() == frozenset()
    follower.source.close()
    assert follower.log == []  # what was never taken over is not given back

"""What holds for every `DurableSource`: a new implementation is added to SOURCES and must pass all of this."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from trustwatch.ingest.errors import CorruptLog
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.log_reader import LogGroupSource, LogReader
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import DurableSource, Record, RecordBatch, RecordKind

from ..support.followers import Follower
from ..support.kafka_topics import CLIENTS, Member, make_topic, settings, write

RECORDS = [
    Record(RecordKind.EVENT, raw_id_hash(payload), 1_700_000_000_000, payload)
    for payload in (b'{"id":"%d","pad":"%s"}' % (i, b"x" * (i * 37 % 400)) for i in range(50))
]


def event_log(directory: Path, _: pytest.FixtureRequest) -> DurableSource:
    with EventLog(directory, segment_bytes=3000) as log:
        for start in range(0, 50, 8):
            log.append(RECORDS[start : start + 8])
        log.sync()
    return LogReader(directory)


def log_group(directory: Path, request: pytest.FixtureRequest) -> DurableSource:
    event_log(directory, request).close()
    source = LogGroupSource(directory)
    source.join(Follower(source))
    return source


def kafka(client: str, _: Path, request: pytest.FixtureRequest) -> DurableSource:
    cluster = request.getfixturevalue("kafka")
    made = settings(cluster, client)
    make_topic(cluster, made.topic_names.events)
    write(made, RECORDS, partition=0)
    member = Member(made)
    deadline = time.monotonic() + 90
    while not member.source.owned():
        assert time.monotonic() < deadline
        member.step(max_records=1)
    if member.count:
        member.source.seek(0, 0)
    return member.source


SOURCES: dict[str, Callable[[Path, pytest.FixtureRequest], DurableSource]] = {
    "event_log": event_log,
    "log_group": log_group,
    **{client: partial(kafka, client) for client in CLIENTS},
}
KINDS = [pytest.param(name, marks=pytest.mark.integration if name in CLIENTS else ()) for name in SOURCES]


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DurableSource]:
    source = SOURCES[request.param](tmp_path, request)
    yield source
    source.close()


def poll(source: DurableSource, max_records: int) -> RecordBatch | None:
    """Records come at once from a disk, and within seconds from a broker."""
    return source.poll(max_records, 0 if isinstance(source, LogReader | LogGroupSource) else 5)


def drain(source: DurableSource, max_records: int) -> list[Record]:
    found: list[Record] = []
    next_offset = None
    end = source.end_offset(0)
    while next_offset != end:
        batch = poll(source, max_records)
        assert batch is not None
        assert batch.partition == 0
        assert 1 <= len(batch.records) <= max_records
        assert next_offset in (None, batch.base_offset)
        next_offset = batch.next_offset
        found += batch.records
    assert source.poll(max_records, 0) is None
    return found


@pytest.mark.parametrize("max_records", [1, 7, 1000])
def test_all_records_in_order_without_gaps(source: DurableSource, max_records: int) -> None:
    """Batches are consecutive, never larger than asked and never empty, and hold every record as it was written."""
    source.seek(0, 0)
    assert drain(source, max_records) == RECORDS


def test_a_new_source_starts_at_the_beginning(source: DurableSource) -> None:
    """Without a seek the first record comes first."""
    assert drain(source, 10) == RECORDS


@pytest.mark.parametrize("offset", [0, 1, 8, 19, 20, 33, 49, 50])
def test_seek_forward_and_back(source: DurableSource, offset: int) -> None:
    """From wherever it stands, a source continues at the offset it is told, in the middle of a chunk too."""
    for _ in range(2):
        source.seek(0, offset)
        if offset == len(RECORDS):
            assert source.poll(3, 0) is None
        else:
            batch = poll(source, 3)
            assert batch is not None
            assert batch.base_offset == offset
            source.seek(0, offset)
            assert drain(source, 11) == RECORDS[offset:]


def test_end_offset_is_that_of_the_next_record(source: DurableSource) -> None:
    """It does not depend on what was read, and reading does not depend on it."""
    assert source.end_offset(0) == len(RECORDS)
    assert poll(source, 5) is not None
    assert source.end_offset(0) == len(RECORDS)
    assert drain(source, 100) == RECORDS[5:]


def test_an_offset_that_never_was_is_refused(source: DurableSource) -> None:
    """Reading on from a place that the source does not have would skip or repeat records."""
    with pytest.raises(CorruptLog):
        source.seek(0, len(RECORDS) + 1)


def test_only_partition_zero(source: DurableSource) -> None:
    """All have one partition here; another one is a caller's error."""
    with pytest.raises(ValueError, match=r"partition"):
        source.seek(1, 0)
    with pytest.raises(ValueError, match=r"partition"):
        source.end_offset(1)


def test_close_twice(source: DurableSource) -> None:
    """Closing a closed source does nothing."""
    source.poll(1, 0)
    source.close()
    source.close()

"""Reading the event log while it is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trustwatch.ingest.errors import CorruptLog
from trustwatch.ingest.log.event_log import EventLog, LogFailed
from trustwatch.ingest.log.log_database import DATABASE_FILE, encode_record
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.source import Record, RecordKind

from ...support.full_disk import full_disk


def make(number: int, size: int = 20) -> Record:
    return Record(RecordKind.EVENT, number + 1, number, f"{number}".encode().ljust(size, b"."))


def test_unsynced_records_are_not_shown(tmp_path: Path) -> None:
    """What a power loss could take back is not handed out; after the fsync it is."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        log.append([make(0)])
        assert reader.poll(10, 0) is None
        assert reader.end_offset(0) == 0
        log.sync()
        batch = reader.poll(10, 0)
        assert batch is not None
        assert batch.records == [make(0)]


def test_records_taken_back_by_the_writer_are_never_served(tmp_path: Path) -> None:
    """A reader gets what was written in their place."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        log.append([make(0)])
        log.sync()
        log.append([make(50)])
        assert reader.poll(10, 0) is not None
        with full_disk(log), pytest.raises(LogFailed):
            log.append([make(51, 100_000)])
        log.reopen()
        log.append([make(1)])
        log.sync()
        batch = reader.poll(10, 0)
        assert batch is not None
        assert batch.records == [make(1)]


@pytest.mark.parametrize("max_records", [1, 3, 1000])
def test_every_seek_and_batch_size(tmp_path: Path, max_records: int) -> None:
    """From every offset, in any portion, the same records follow."""
    records = [make(i) for i in range(23)]
    with EventLog(tmp_path, segment_bytes=400) as log, LogReader(tmp_path) as reader:
        for start, end in ((0, 4), (4, 5), (5, 12), (12, 23)):
            log.append(records[start:end])
        log.sync()
        for start in range(24):
            reader.seek(0, start)
            got: list[Record] = []
            while (batch := reader.poll(max_records, 0)) is not None:
                assert len(batch.records) <= max_records
                got += batch.records
            assert got == records[start:]


def test_damage_is_met_after_what_is_good_before_it(tmp_path: Path) -> None:
    """Records before the damage are handed out; then every poll raises, naming file and offset."""
    with EventLog(tmp_path) as log:
        log.append([make(i) for i in range(3)])
        log.sync()
    path = tmp_path / DATABASE_FILE
    raw = encode_record(1, make(1))
    path.write_bytes(path.read_bytes().replace(raw, raw[:-1] + b"x"))
    with LogReader(tmp_path) as reader:
        batch = reader.poll(10, 0)
        assert batch is not None
        assert batch.records == [make(0)]
        for _ in range(2):
            with pytest.raises(CorruptLog, match=r"events\.db: damaged record at offset 1"):
                reader.poll(10, 0)


def test_a_missing_record_is_no_gap(tmp_path: Path) -> None:
    """A row that is gone is damage, at its offset and in the hashes."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        log.append([make(i) for i in range(4)])
        log.sync()
        log._database.connection.execute(f"DELETE FROM {log._database.table} WHERE offset = 2")
        batch = reader.poll(10, 0)
        assert batch is not None
        assert batch.records == [make(0), make(1)]
        with pytest.raises(CorruptLog, match="from offset 2 up to 3 are missing"):
            reader.poll(10, 0)
        with pytest.raises(CorruptLog, match="missing"):
            reader.read_id_hashes(0, 0, 4)


def test_id_hashes_of_a_range(tmp_path: Path) -> None:
    """Hashes of any range, over chunk and segment borders, in order; reading on is not disturbed."""
    with EventLog(tmp_path, segment_bytes=300) as log, LogReader(tmp_path) as reader:
        for first in range(0, 20, 4):
            log.append([make(i) for i in range(first, first + 4)])
        log.sync()
        first_batch = reader.poll(3, 0)
        assert first_batch is not None
        for start, end in ((0, 20), (3, 9), (7, 8), (5, 5)):
            hashes = reader.read_id_hashes(0, start, end)
            assert hashes.dtype == np.uint64
            assert hashes.tolist() == list(range(start + 1, end + 1))
        with pytest.raises(CorruptLog, match="after the end"):
            reader.read_id_hashes(0, 0, 21)
        next_batch = reader.poll(100, 0)
        assert next_batch is not None
        assert next_batch.base_offset == 3
        assert len(next_batch.records) == 17

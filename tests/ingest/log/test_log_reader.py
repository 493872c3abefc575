"""Reading the event log while it is written."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from trustwatch.ingest.errors import CorruptLog
from trustwatch.ingest.log.event_log import EventLog, LogFailed
from trustwatch.ingest.log.log_database import DATABASE_FILE, encode_record, open_reading, segment_bases
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.source import Record

from ...support.full_disk import full_disk
from ...support.log_records import make_record


def polled(reader: LogReader, timeout_s: float = 0.0) -> list[Record]:
    batch = reader.poll(10, timeout_s)
    return [] if batch is None else batch.records


def test_unsynced_records_are_not_shown(tmp_path: Path) -> None:
    """What a power loss could take back is not handed out; after the fsync it is."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        log.append([make_record(0)])
        assert reader.poll(10, 0) is None
        assert reader.end_offset(0) == 0
        log.sync()
        assert polled(reader) == [make_record(0)]


def test_records_taken_back_by_the_writer_are_never_served(tmp_path: Path) -> None:
    """A reader gets what was written in their place."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        log.append([make_record(0)])
        log.sync()
        log.append([make_record(50)])
        assert reader.poll(10, 0) is not None
        with full_disk(log), pytest.raises(LogFailed):
            log.append([make_record(51, 100_000)])
        log.reopen()
        log.append([make_record(1)])
        log.sync()
        assert polled(reader) == [make_record(1)]


def test_reader_before_the_writer(tmp_path: Path) -> None:
    """A reader may open first; it waits for the log to appear, and follows it into new segments."""
    directory = tmp_path / "log"
    with LogReader(directory) as reader:
        reader.seek(0, 0)
        assert reader.poll(10, 0) is None
        with EventLog(directory, segment_bytes=100) as log:
            for i in range(5):
                log.append([make_record(i)])
                log.sync()
                assert polled(reader) == [make_record(i)]
        with closing(open_reading(directory)) as database:
            assert len(segment_bases(database)) > 1


def test_poll_wakes_when_a_record_arrives(tmp_path: Path) -> None:
    """A waiting poll returns the record that another thread commits, long before its time-out."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:

        def write() -> None:
            log.append([make_record(0)])
            log.sync()

        timer = threading.Timer(0.02, write)
        timer.start()
        assert polled(reader, 60) == [make_record(0)]
        timer.join()


def test_records_larger_than_a_page(tmp_path: Path) -> None:
    """Records of any size, beside small ones."""
    records = [make_record(i, size) for i, size in enumerate([10, 1 << 21, 5, 1 << 20, 700, 3, 4_000])]
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        for record in records:
            log.append([record])
        log.sync()
        assert polled(reader) == records


def test_damage_is_met_after_what_is_good_before_it(tmp_path: Path) -> None:
    """Records before the damage are handed out; then every poll raises, naming file and offset."""
    with EventLog(tmp_path) as log:
        log.append([make_record(i) for i in range(3)])
        log.sync()
    path = tmp_path / DATABASE_FILE
    raw = encode_record(1, make_record(1))
    path.write_bytes(path.read_bytes().replace(raw, raw[:-1] + b"x"))
    with LogReader(tmp_path) as reader:
        assert polled(reader) == [make_record(0)]
        for _ in range(2):
            with pytest.raises(CorruptLog, match=r"events\.db: damaged record at offset 1"):
                reader.poll(10, 0)


def test_a_missing_record_is_no_gap(tmp_path: Path) -> None:
    """A row that is gone is damage, at its offset and in the hashes."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        log.append([make_record(i) for i in range(4)])
        log.sync()
        log._database.connection.execute(f"DELETE FROM {log._database.table} WHERE offset = 2")
        assert polled(reader) == [make_record(0), make_record(1)]
        with pytest.raises(CorruptLog, match="from offset 2 up to 3 are missing"):
            reader.poll(10, 0)
        with pytest.raises(CorruptLog, match="missing"):
            reader.read_id_hashes(0, 0, 4)

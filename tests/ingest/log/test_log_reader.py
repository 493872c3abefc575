"""Reading the event log while it is written."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from trustwatch.ingest.errors import CorruptLog
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.log_frames import encode_chunk
from trustwatch.ingest.log.log_reader import BLOCK_BYTES, LogReader
from trustwatch.ingest.log.log_segments import segment_path
from trustwatch.ingest.source import Record, RecordKind


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


def test_records_taken_back_by_the_writer_are_never_served_from_a_buffer(tmp_path: Path) -> None:
    """A reader that has buffered unsynced bytes reads again what was written in their place."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        log.append([make(0)])
        log.sync()
        log.append([make(50)])
        assert reader.poll(10, 0) is not None
        log._fail("test", OSError("taken back"))
        log.reopen()
        log.append([make(1)])
        log.sync()
        batch = reader.poll(10, 0)
        assert batch is not None
        assert batch.records == [make(1)]


def test_a_torn_chunk_at_the_tail_is_waited_for(tmp_path: Path) -> None:
    """Half a chunk is not shown; whole and synced it is."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        log.append([make(0)])
        log.sync()
        assert reader.poll(10, 0) is not None
        with segment_path(tmp_path, 0).open("ab") as file:
            file.write(encode_chunk(1, [make(1)])[:30])
        assert reader.poll(10, 0) is None
        log.append([make(1)])
        log.sync()
        batch = reader.poll(10, 0)
        assert batch is not None
        assert batch.records == [make(1)]


def test_reader_before_the_writer(tmp_path: Path) -> None:
    """A reader may open first; it waits for the log to appear, and follows it into new segments."""
    directory = tmp_path / "log"
    with LogReader(directory) as reader:
        reader.seek(0, 0)
        assert reader.poll(10, 0) is None
        with EventLog(directory, segment_bytes=100) as log:
            for i in range(5):
                log.append([make(i)])
                log.sync()
                batch = reader.poll(10, 0)
                assert batch is not None
                assert (batch.base_offset, batch.records) == (i, [make(i)])
        assert len(list(directory.glob("*.log"))) > 1


def test_poll_wakes_when_a_record_arrives(tmp_path: Path) -> None:
    """A waiting poll returns the record that another thread commits, long before its time-out."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:

        def write() -> None:
            log.append([make(0)])
            log.sync()

        timer = threading.Timer(0.02, write)
        timer.start()
        batch = reader.poll(10, 60)
        timer.join()
        assert batch is not None
        assert batch.records == [make(0)]


def test_chunks_larger_than_a_block_and_across_blocks(tmp_path: Path) -> None:
    """Chunk borders need not meet the reader's blocks."""
    records = [make(i, size) for i, size in enumerate([10, BLOCK_BYTES * 2, 5, BLOCK_BYTES - 60, 700, 3])]
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        for record in records:
            log.append([record])
        log.sync()
        batch = reader.poll(100, 0)
        assert batch is not None
        assert batch.records == records


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
    """Records before the damage are handed out; then every poll raises, naming file and byte."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        for i in range(3):
            log.append([make(i)])
        log.sync()
        path = segment_path(tmp_path, 0)
        data = bytearray(path.read_bytes())
        size = len(data) // 3
        data[size + 40] ^= 1
        path.write_bytes(data)
        batch = reader.poll(10, 0)
        assert batch is not None
        assert batch.records == [make(0)]
        for _ in range(2):
            with pytest.raises(CorruptLog, match=f"0000.log: damaged chunk at byte {size} "):
                reader.poll(10, 0)


def test_an_offset_behind_the_end_is_refused(tmp_path: Path) -> None:
    """A store that knows more records than the log has is told so at once."""
    with EventLog(tmp_path) as log, LogReader(tmp_path) as reader:
        log.append([make(0)])
        log.sync()
        with pytest.raises(CorruptLog, match="offset 2 is behind the end of the log, 1"):
            reader.seek(0, 2)


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
        with pytest.raises(CorruptLog, match="behind the end"):
            reader.read_id_hashes(0, 0, 21)
        next_batch = reader.poll(100, 0)
        assert next_batch is not None
        assert next_batch.base_offset == 3
        assert len(next_batch.records) == 17

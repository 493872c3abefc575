"""Opening, appending, rolling, damage and retention of the event log."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from trustwatch.ingest.errors import CorruptLog
from trustwatch.ingest.log.event_log import EventLog, LogFailed
from trustwatch.ingest.log.log_frames import MAX_CHUNK_BYTES, encode_chunk
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.log_segments import LogInUse, segment_path
from trustwatch.ingest.source import Record, RecordKind


def make(number: int, size: int = 20) -> Record:
    return Record(RecordKind.EVENT, number + 1, 1_000 * number, f"{number}".encode().ljust(size, b"."))


def fill(directory: Path, chunks: int, per_chunk: int = 3, segment_bytes: int = 1 << 20) -> list[int]:
    """Write synced chunks; returns the byte at which each starts in a log of one segment."""
    starts = []
    with EventLog(directory, segment_bytes) as log:
        for chunk in range(chunks):
            starts.append(segment_path(directory, 0).stat().st_size)
            log.append([make(chunk * per_chunk + i) for i in range(per_chunk)])
            log.sync()
    return starts


def read_all(directory: Path, start: int = 0) -> list[Record]:
    with LogReader(directory) as reader:
        reader.seek(0, start)
        records: list[Record] = []
        while (batch := reader.poll(7, 0)) is not None:
            assert batch.base_offset == start + len(records)
            records += batch.records
        return records


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


def test_offsets_are_consecutive_over_chunks_segments_and_reopening(tmp_path: Path) -> None:
    """Records come back as written, numbered from 0 without gaps, whatever chunks and segments they lie in."""
    records = [make(i, 30 + i) for i in range(60)]
    for start in (0, 25):
        with EventLog(tmp_path, segment_bytes=500) as log:
            assert log.next_offset == start
            for first in range(start, start + 25, 5):
                assert log.append(records[first : first + 5]) == first
            log.sync()
    assert len(list(tmp_path.glob("*.log"))) > 3
    assert read_all(tmp_path) == records[:50]


def test_only_one_writer(tmp_path: Path) -> None:
    """A second writer is refused, named the process that writes, and may write once the first has closed."""
    with EventLog(tmp_path), pytest.raises(LogInUse, match=str(os.getpid())):
        EventLog(tmp_path)
    EventLog(tmp_path).close()


@pytest.mark.parametrize("keep", [1, 23, 24, 40, -1])
def test_a_torn_tail_is_truncated_and_said(tmp_path: Path, keep: int) -> None:
    """Half a chunk at the end is cut off with a warning that counts its bytes; what was synced stays."""
    fill(tmp_path, 2)
    path = segment_path(tmp_path, 0)
    size = path.stat().st_size
    torn = encode_chunk(6, [make(6), make(7)])[:keep]
    with path.open("ab") as file:
        file.write(torn)
    with capture_logs() as logs, EventLog(tmp_path) as log:
        assert log.next_offset == 6
        assert path.stat().st_size == size
        log.append([make(6)])
        log.sync()
    (warning,) = [entry for entry in logs if entry["event"] == "event_log_tail_truncated"]
    assert (warning["bytes"], warning["position"], warning["log_level"]) == (len(torn), size, "warning")
    assert read_all(tmp_path) == [make(i) for i in range(7)]


def test_zeros_at_the_tail_are_a_torn_tail(tmp_path: Path) -> None:
    """A file system may have grown the file without its data."""
    fill(tmp_path, 1)
    with segment_path(tmp_path, 0).open("ab") as file:
        file.write(bytes(5000))
    with EventLog(tmp_path) as log:
        assert log.next_offset == 3


def test_a_whole_chunk_that_was_not_acknowledged_is_kept(tmp_path: Path) -> None:
    """Killed between write and fsync: the chunk is whole, so it counts, and is durable from then on."""
    fill(tmp_path, 1)
    with segment_path(tmp_path, 0).open("ab") as file:
        file.write(encode_chunk(3, [make(3)]))
    with EventLog(tmp_path) as log:
        assert (log.next_offset, log.synced_offset) == (4, 4)
    assert read_all(tmp_path) == [make(i) for i in range(4)]


@pytest.mark.parametrize("inside", [0, 5, 9, 17, 21, 30, 100])
@pytest.mark.parametrize("synced_file", [True, False])
def test_damage_before_a_whole_chunk_is_refused(tmp_path: Path, inside: int, synced_file: bool) -> None:
    """One flipped bit in magic, check sum, header or payload of a middle chunk stops the start, naming the byte."""
    starts = fill(tmp_path, 3)
    flip(segment_path(tmp_path, 0), starts[1] + inside)
    if not synced_file:
        (tmp_path / "synced").unlink()
    with pytest.raises(CorruptLog, match=f"0000.log.*byte {starts[1]}"):
        EventLog(tmp_path)


def test_damage_of_the_last_acknowledged_chunk_is_no_torn_tail(tmp_path: Path) -> None:
    """Nothing whole follows, but the synced position says that the chunk was acknowledged."""
    starts = fill(tmp_path, 3)
    flip(segment_path(tmp_path, 0), starts[2] + 50)
    with pytest.raises(CorruptLog, match="up to offset 9 were acknowledged"):
        EventLog(tmp_path)


def test_damage_in_an_older_segment_is_refused(tmp_path: Path) -> None:
    """Also where it looks like a torn tail: an older segment cannot have one."""
    fill(tmp_path, 9, segment_bytes=400)
    first, second = sorted(tmp_path.glob("*.log"))[:2]
    flip(second, second.stat().st_size - 1)
    with pytest.raises(CorruptLog, match=second.name):
        EventLog(tmp_path)
    EventLog(tmp_path, check_all=False).close()
    with pytest.raises(CorruptLog, match=second.name):
        read_all(tmp_path)
    second.unlink()
    with pytest.raises(CorruptLog, match=first.name):
        EventLog(tmp_path)


def test_a_lost_log_is_refused(tmp_path: Path) -> None:
    """All segments gone, but records were acknowledged: an empty log would be a lie."""
    fill(tmp_path, 1)
    segment_path(tmp_path, 0).unlink()
    with pytest.raises(CorruptLog, match="up to offset 3"):
        EventLog(tmp_path)


def test_bytes_that_look_like_a_chunk_inside_a_torn_record_do_not_matter(tmp_path: Path) -> None:
    """A JSON payload can not hold the magic; an older offset in a copied frame is not taken for a later chunk."""
    fill(tmp_path, 2)
    hostile = encode_chunk(0, [make(0)]).decode("latin-1").encode()
    torn = encode_chunk(6, [Record(RecordKind.EVENT, 1, 1, hostile)])[:-1]
    with segment_path(tmp_path, 0).open("ab") as file:
        file.write(torn)
    with EventLog(tmp_path) as log:
        assert log.next_offset == 6


def test_a_failed_fsync_takes_back_and_refuses_until_reopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After EIO the unsynced records are gone, nothing is accepted, and `reopen` continues at the synced offset."""

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with EventLog(tmp_path) as log:
        log.append([make(0)])
        log.sync()
        log.append([make(99)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            with pytest.raises(LogFailed, match="I/O error"):
                log.sync()
            with pytest.raises(LogFailed, match="reopen"):
                log.append([make(1)])
            with pytest.raises(LogFailed, match="I/O error"):
                log.reopen()
        with pytest.raises(LogFailed):
            log.sync()
        log.reopen()
        assert log.append([make(1)]) == 1
        log.sync()
    assert read_all(tmp_path) == [make(0), make(1)]


def test_oversized_and_empty_appends(tmp_path: Path) -> None:
    """Nothing writes nothing; more than a chunk may hold is a caller's error that leaves the log usable."""
    with EventLog(tmp_path) as log:
        assert log.append([]) == 0
        with pytest.raises(ValueError, match="at most"):
            log.append([Record(0, 1, 1, bytes(MAX_CHUNK_BYTES))])
        assert log.append([make(0)]) == 0


def test_retention_drops_only_old_consumed_whole_segments(tmp_path: Path) -> None:
    """A segment goes when all its records are before the offset and old enough; the last one never goes."""
    with EventLog(tmp_path, segment_bytes=100) as log:
        for i in range(6):
            log.append([make(i, 90)])  # one segment each, received at 0 s, 1 s, ... 5 s
        log.sync()
        assert log.drop_before(2, 1_000, 0) == 0
        assert log.drop_before(4, 1_000, 3_500) == 3
        assert log.first_offset == 3
        assert log.drop_before(6, 0, 10**9) == 2
        assert (log.first_offset, log.next_offset) == (5, 6)
    assert read_all(tmp_path, 5) == [make(5, 90)]
    with LogReader(tmp_path) as reader, pytest.raises(CorruptLog, match="no longer kept"):
        reader.seek(0, 2)
    with EventLog(tmp_path) as log:
        assert log.next_offset == 6

"""A copy of the event log while it is written: whole, up to one offset, and good to go on in."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from trustwatch.ingest.errors import ConfigError, CorruptLog, Unavailable
from trustwatch.ingest.log import log_copy
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.log_copy import LogExtent, copy_log, log_extent
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.log_segments import segment_bases, segment_path
from trustwatch.ingest.source import Record, RecordKind


def make(number: int) -> Record:
    return Record(RecordKind.EVENT, number + 1, number, f"{number}".encode().ljust(40, b"."))


def fill(log: EventLog, first: int, count: int) -> None:
    """Append records, each a chunk of its own."""
    for number in range(first, first + count):
        log.append([make(number)])
    log.sync()


def read(directory: Path, start: int = 0) -> list[Record]:
    with LogReader(directory) as reader:
        reader.seek(0, start)
        records: list[Record] = []
        while (batch := reader.poll(1000, 0)) is not None:
            records += batch.records
        return records


def test_the_copy_is_the_log_and_a_writer_goes_on_in_it(tmp_path: Path) -> None:
    """Several segments; what is appended and not durable is not in it."""
    with EventLog(tmp_path / "log", segment_bytes=500) as log:
        fill(log, 0, 30)
        log.append([make(30)])
        assert copy_log(tmp_path / "log", tmp_path / "copy", 0) == LogExtent(0, 30)

    assert len(segment_bases(tmp_path / "copy")) > 1
    assert read(tmp_path / "copy") == [make(number) for number in range(30)]
    with EventLog(tmp_path / "copy") as copy:
        assert copy.next_offset == 30
        fill(copy, 30, 1)
    assert read(tmp_path / "copy", 29) == [make(29), make(30)]


def test_empty_logs(tmp_path: Path) -> None:
    """One without a record, and one of which retention left the last segment alone, which is empty."""
    with EventLog(tmp_path / "log", segment_bytes=500) as log:
        assert copy_log(tmp_path / "log", tmp_path / "none", 0) == LogExtent(0, 0)
        fill(log, 0, 9)
        log.roll()
        log.drop_before(9, 0, 1_000)
        assert copy_log(tmp_path / "log", tmp_path / "kept", 9) == LogExtent(9, 9)

    for name, end in (("none", 0), ("kept", 9)):
        with EventLog(tmp_path / name) as copy:
            assert copy.next_offset == end
    with pytest.raises(ConfigError, match="no event log there"):
        log_extent(tmp_path / "nowhere")


def test_damage_is_not_copied(tmp_path: Path) -> None:
    """A closed segment with a bad byte, and a log that lost its last one."""
    with EventLog(tmp_path / "log", segment_bytes=500) as log:
        fill(log, 0, 30)
    last = segment_path(tmp_path / "log", segment_bases(tmp_path / "log")[-1])
    whole = last.read_bytes()
    last.write_bytes(b"")
    with pytest.raises(CorruptLog, match="whole chunks end with offset"):
        copy_log(tmp_path / "log", tmp_path / "short", 0)
    last.write_bytes(whole)
    first = segment_path(tmp_path / "log", 0)
    first.write_bytes(first.read_bytes().replace(b"3.", b"4.", 1))
    with pytest.raises(CorruptLog, match=r"damaged chunk at byte 255 \(offset 3\)"):
        copy_log(tmp_path / "log", tmp_path / "bad", 0)


def test_retention_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that go while others are copied: the copy begins behind them, or is refused where they are needed."""
    with EventLog(tmp_path / "log", segment_bytes=500) as log:
        fill(log, 0, 30)
        bases = segment_bases(tmp_path / "log")
        seen = iter(range(100))

        def path_and_drop(directory: Path, base: int) -> Path:
            if directory == tmp_path / "log" and next(seen) == 1:  # the first one is copied
                log.drop_before(bases[2], 0, 1_000)
            return segment_path(directory, base)

        monkeypatch.setattr(log_copy, "segment_path", path_and_drop)
        monkeypatch.setattr(log_copy, "segment_bases", lambda _directory: bases)
        assert copy_log(tmp_path / "log", tmp_path / "copy", bases[2]) == LogExtent(bases[2], 30)
        assert read(tmp_path / "copy", bases[2])[0] == make(bases[2])
        with pytest.raises(Unavailable, match="retention removed records"):
            copy_log(tmp_path / "log", tmp_path / "again", bases[1])


def test_a_copy_beside_a_busy_writer_holds_all_that_was_durable(tmp_path: Path) -> None:
    """Copies are taken while records come: each is a prefix of the log, no shorter than when it began."""
    with EventLog(tmp_path / "log", segment_bytes=2_000) as log:
        fill(log, 0, 1)
        writer = threading.Thread(target=fill_on, args=(log, 1, 400))
        writer.start()
        for number in range(10):
            before = log.synced_offset
            extent = copy_log(tmp_path / "log", tmp_path / f"copy-{number}", 0)
            assert extent.end_offset >= before
            assert read(tmp_path / f"copy-{number}") == [make(one) for one in range(extent.end_offset)]
        writer.join()


def fill_on(log: EventLog, first: int, count: int) -> None:
    """Append records, each durable before the next one."""
    for number in range(first, first + count):
        fill(log, number, 1)

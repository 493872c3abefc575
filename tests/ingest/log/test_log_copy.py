"""A copy of the event log while it is written: whole, up to one offset, and good to go on in."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from trustwatch.ingest.errors import CorruptLog, Unavailable
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.log_database import (
    DATABASE_FILE,
    LogExtent,
    copy_log,
    encode_record,
    open_reading,
    segment_bases,
)

from ...support.log_records import make_record, read_records


def fill(log: EventLog, first: int, count: int) -> None:
    """Append records, each a chunk of its own."""
    for number in range(first, first + count):
        log.append([make_record(number)])
    log.sync()


def test_the_copy_is_the_log_and_a_writer_goes_on_in_it(tmp_path: Path) -> None:
    """Several segments; what is appended and not durable is not in it."""
    with EventLog(tmp_path / "log", segment_bytes=500) as log:
        fill(log, 0, 30)
        log.append([make_record(30)])
        assert copy_log(tmp_path / "log", tmp_path / "copy", 0) == LogExtent(0, 30)

    with closing(open_reading(tmp_path / "copy")) as database:
        assert len(segment_bases(database)) > 1
    assert read_records(tmp_path / "copy") == [make_record(number) for number in range(30)]
    with EventLog(tmp_path / "copy") as copy:
        assert copy.next_offset == 30
        fill(copy, 30, 1)
    assert read_records(tmp_path / "copy", 29) == [make_record(29), make_record(30)]


def test_damage_is_not_copied(tmp_path: Path) -> None:
    """A record of a closed segment with a bad byte, rows that are gone, and a file that lost its end."""
    with EventLog(tmp_path / "log", segment_bytes=500) as log:
        fill(log, 0, 30)
    path = tmp_path / "log" / DATABASE_FILE
    whole = path.read_bytes()
    raw = encode_record(3, make_record(3))
    path.write_bytes(whole.replace(raw, raw[:-1] + b"x"))
    with pytest.raises(CorruptLog, match="damaged record at offset 3"):
        copy_log(tmp_path / "log", tmp_path / "bad", 0)
    path.write_bytes(whole)
    for lost, message in ((4, r"from offset \d+ up to \d+ are missing"), (29, "29, but 30 were acknowledged")):
        with closing(sqlite3.connect(path)) as database:
            for base in segment_bases(database):
                (name,) = database.execute("SELECT name FROM segments WHERE base = ?", (base,)).fetchone()
                database.execute(f"DELETE FROM {name} WHERE offset = ?", (lost,))
            database.commit()
        with pytest.raises(CorruptLog, match=message):
            copy_log(tmp_path / "log", tmp_path / f"lost-{lost}", 0)
        for left in path.parent.glob(f"{DATABASE_FILE}-*"):
            left.unlink()
        path.write_bytes(whole)


def test_retention_may_be_faster(tmp_path: Path) -> None:
    """The copy begins where the log does, or is refused if records before that are needed."""
    with EventLog(tmp_path / "log", segment_bytes=500) as log:
        fill(log, 0, 30)
        log.drop_before(20, 0, 1_000_000)
        first = log.first_offset
        assert 0 < first <= 20
        assert copy_log(tmp_path / "log", tmp_path / "copy", first) == LogExtent(first, 30)
        assert read_records(tmp_path / "copy", first)[0] == make_record(first)
        with pytest.raises(Unavailable, match="retention removed records"):
            copy_log(tmp_path / "log", tmp_path / "again", first - 1)


def test_a_copy_beside_a_busy_writer_holds_all_that_was_durable(tmp_path: Path) -> None:
    """Copies are taken while records come: each is a prefix of the log, no shorter than when it began."""
    with EventLog(tmp_path / "log", segment_bytes=2_000) as log:
        fill(log, 0, 1)
        writer = threading.Thread(target=fill_on, args=(log, 1, 400))
        writer.start()
        for number in range(10):
            before = log._synced.get()
            extent = copy_log(tmp_path / "log", tmp_path / f"copy-{number}", 0)
            assert extent.end_offset >= before
            assert read_records(tmp_path / f"copy-{number}") == [make_record(one) for one in range(extent.end_offset)]
        writer.join()


def fill_on(log: EventLog, first: int, count: int) -> None:
    """Append records, each durable before the next one."""
    for number in range(first, first + count):
        fill(log, number, 1)

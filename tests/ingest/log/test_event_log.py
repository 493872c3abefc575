"""Opening, appending, rolling, damage and retention of the event log."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection, Cursor, OperationalError, connect
from typing import Any

import pytest

from trustwatch.ingest.errors import CorruptLog
from trustwatch.ingest.log.event_log import EventLog, LogFailed
from trustwatch.ingest.log.log_database import (
    DATABASE_FILE,
    MAX_APPEND_BYTES,
    LogInUse,
    encode_record,
    open_reading,
    segment_bases,
)
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.source import Record

from ...support.full_disk import full_disk
from ...support.log_records import make_record, read_records


def fill(directory: Path, chunks: int, per_chunk: int = 3, segment_bytes: int = 1 << 20) -> None:
    """Write synced records, some in each append."""
    with EventLog(directory, segment_bytes) as log:
        for chunk in range(chunks):
            log.append([make_record(chunk * per_chunk + i) for i in range(per_chunk)])
            log.sync()


def flip(directory: Path, record: Record, offset: int) -> None:
    """Change one bit of a record in the file."""
    path = directory / DATABASE_FILE
    raw = encode_record(offset, record)
    content = path.read_bytes()
    assert content.count(raw) == 1
    path.write_bytes(content.replace(raw, raw[:30] + bytes([raw[30] ^ 0x40]) + raw[31:]))


def file_count(directory: Path) -> int:
    """Segments of a log."""
    with closing(open_reading(directory)) as database:
        return len(segment_bases(database))


def test_offsets_are_consecutive_over_chunks_segments_and_reopening(tmp_path: Path) -> None:
    """Records come back as written, numbered from 0 without gaps, whatever chunks and segments they lie in."""
    records = [make_record(i, 30 + i) for i in range(60)]
    for start in (0, 25):
        with EventLog(tmp_path, segment_bytes=500) as log:
            assert log.next_offset == start
            for first in range(start, start + 25, 5):
                assert log.append(records[first : first + 5]) == first
            log.sync()
    assert file_count(tmp_path) > 3
    assert read_records(tmp_path) == records[:50]


def test_only_one_writer(tmp_path: Path) -> None:
    """A second writer is refused, named the process that writes, and may write once the first has closed."""
    with EventLog(tmp_path), pytest.raises(LogInUse, match=str(os.getpid())):
        EventLog(tmp_path)
    EventLog(tmp_path).close()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_torn_tail_of_the_wal_is_left_out(tmp_path: Path, share: float) -> None:
    """Half a transaction that nobody was told about does not count; what was synced stays."""
    with EventLog(tmp_path) as log:
        log.append([make_record(i) for i in range(6)])
        log.sync()
        before = copied(tmp_path)
        log.append([make_record(6, 3_000), make_record(7, 9_000)])
        log.sync()
        after = copied(tmp_path)
    wal = f"{DATABASE_FILE}-wal"
    end = len(before[wal]) + int(share * (len(after[wal]) - len(before[wal])))
    restore(tmp_path, {**before, wal: after[wal][:end]})
    with EventLog(tmp_path) as log:
        assert log.next_offset == 6
        log.append([make_record(6)])
        log.sync()
    assert read_records(tmp_path) == [make_record(i) for i in range(7)]


def copied(directory: Path) -> dict[str, bytes]:
    """The files as a process that is killed now leaves them."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}


def restore(directory: Path, files: dict[str, bytes]) -> None:
    for path in directory.iterdir():
        path.unlink()
    for name, content in files.items():
        (directory / name).write_bytes(content)


def test_a_whole_transaction_that_was_not_acknowledged_is_kept(tmp_path: Path) -> None:
    """Killed between the write and its acknowledgement: it is whole, so it counts, and is durable from then on."""
    with EventLog(tmp_path) as log:
        log.append([make_record(i) for i in range(3)])
        log.sync()
        synced = (tmp_path / "synced").read_bytes()
        log.append([make_record(3)])
        log.sync()
        files = copied(tmp_path)
    restore(tmp_path, {**files, "synced": synced})
    with EventLog(tmp_path) as log:
        assert (log.next_offset, log._synced.get()) == (4, 4)
        assert (tmp_path / f"{DATABASE_FILE}-wal").stat().st_size == 0
    assert read_records(tmp_path) == [make_record(i) for i in range(4)]


@pytest.mark.parametrize("lost", ["damaged", "removed"])
def test_an_acknowledged_transaction_that_the_wal_lost_is_refused(tmp_path: Path, lost: str) -> None:
    """SQLite takes a bad frame for the end; the synced position says that there was more."""
    with EventLog(tmp_path) as log:
        for i in range(3):
            log.append([make_record(i)])
            log.sync()
        files = copied(tmp_path)
    wal = f"{DATABASE_FILE}-wal"
    content = files.pop(wal)
    if lost == "damaged":
        files[wal] = content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
    restore(tmp_path, files)
    with pytest.raises(CorruptLog, match="records up to offset 3 were acknowledged"):
        EventLog(tmp_path)


def test_damage_of_a_record_is_refused(tmp_path: Path) -> None:
    """In the last segment the start is refused; in an older one, reading and copying are."""
    fill(tmp_path, 3)
    flip(tmp_path, make_record(4), 4)
    with pytest.raises(CorruptLog, match=r"events\.db: damaged record at offset 4"):
        EventLog(tmp_path)
    older = tmp_path / "older"
    fill(older, 9, segment_bytes=200)
    flip(older, make_record(4), 4)
    EventLog(older).close()
    with pytest.raises(CorruptLog, match=r"events\.db: damaged record at offset 4"):
        read_records(older)


def test_damage_of_a_page_is_refused(tmp_path: Path) -> None:
    """Whatever page of SQLite it is, the log does not open or the records in the page are not read."""
    fill(tmp_path, 60, segment_bytes=2_000)
    path = tmp_path / DATABASE_FILE
    whole = path.read_bytes()
    for page in range(0, len(whole), 4096):
        path.write_bytes(whole[:page] + bytes(64 if page else 120) + whole[page + (64 if page else 120) :])
        with pytest.raises(CorruptLog, match=r"events\.db"):
            EventLog(tmp_path).close()
            read_records(tmp_path)
    path.write_bytes(whole)
    EventLog(tmp_path).close()


def test_a_lost_segment_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 60, segment_bytes=500)
    with closing(connect(tmp_path / DATABASE_FILE)) as database, database:
        (base,) = database.execute("SELECT base FROM segments ORDER BY base LIMIT 1 OFFSET 2").fetchone()
        database.execute("DELETE FROM segments WHERE base = ?", (base,))
    with pytest.raises(CorruptLog, match=rf"does not end before offset (?!{base})"):
        EventLog(tmp_path)


def test_a_lost_log_is_refused(tmp_path: Path) -> None:
    """The file is gone, but records were acknowledged: an empty log would be a lie."""
    fill(tmp_path, 1)
    (tmp_path / DATABASE_FILE).unlink()
    for _ in range(2):
        with pytest.raises(CorruptLog, match="is missing, but records up to 3 were acknowledged"):
            EventLog(tmp_path)


def test_a_failed_write_takes_back_and_refuses_until_reopened(tmp_path: Path) -> None:
    """After a full disk the unsynced records are gone, nothing is accepted, and `reopen` continues where it was."""
    with EventLog(tmp_path) as log:
        log.append([make_record(0)])
        log.sync()
        with full_disk(log):
            with pytest.raises(LogFailed, match="full"):
                log.append([make_record(99, 100_000)])
            with pytest.raises(LogFailed, match="reopen"):
                log.append([make_record(1)])
            with pytest.raises(LogFailed):
                log.sync()
            log.reopen()
            with pytest.raises(LogFailed, match="full"):
                log.append([make_record(98, 100_000)])
        assert log.next_offset == 1
        log.reopen()
        assert log.append([make_record(1)]) == 1
        log.sync()
    assert read_records(tmp_path) == [make_record(0), make_record(1)]


def test_a_failed_commit_is_not_acknowledged(tmp_path: Path) -> None:
    """A COMMIT that SQLite refuses, as it does after a failed fsync: what it held is taken back."""

    class Broken(Connection):
        def execute(self, sql: str, *arguments: Any) -> Cursor:
            if sql == "COMMIT":
                raise OperationalError("disk I/O error")
            return super().execute(sql, *arguments)

    with EventLog(tmp_path) as log:
        log.append([make_record(0)])
        log.sync()
        sound = log._database.connection
        log._database.connection = connect(tmp_path / DATABASE_FILE, isolation_level=None, factory=Broken)
        log.append([make_record(99)])
        with pytest.raises(LogFailed, match="disk I/O error"):
            log.sync()
        assert (log.next_offset, log._synced.get(), log.failed) == (1, 1, True)
        log._database.connection.close()
        log._database.connection = sound
        log.reopen()
        assert log.append([make_record(1)]) == 1
        log.sync()
    assert read_records(tmp_path) == [make_record(0), make_record(1)]


def test_a_commit_returns_after_its_sync(tmp_path: Path) -> None:
    """In WAL mode with `synchronous=FULL` SQLite calls fdatasync for the WAL before COMMIT returns."""
    with EventLog(tmp_path) as log:
        execute = log._database.connection.execute
        pragmas = [execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]


def test_oversized_and_empty_appends(tmp_path: Path) -> None:
    """Nothing writes nothing; more than a chunk may hold is a caller's error that leaves the log usable."""
    with EventLog(tmp_path) as log:
        assert log.append([]) == 0
        with pytest.raises(ValueError, match="at most"):
            log.append([Record(0, 1, 1, bytes(MAX_APPEND_BYTES))])
        assert log.append([make_record(0)]) == 0


def test_retention_drops_only_old_consumed_whole_segments(tmp_path: Path) -> None:
    """A segment goes when all its records are before the offset and old enough; the last one never goes."""
    with EventLog(tmp_path, segment_bytes=100) as log:
        for i in range(6):
            log.append([make_record(i, 90)])  # one segment each, received at 0 s, 1 s, ... 5 s
        log.sync()
        assert log.drop_before(2, 1_000, 0) == 0
        assert log.drop_before(4, 1_000, 3_500) == 3
        assert log.first_offset == 3
        assert log.drop_before(6, 0, 10**9) == 2
        assert (log.first_offset, log.next_offset) == (5, 6)
    assert read_records(tmp_path, 5) == [make_record(5, 90)]
    with LogReader(tmp_path) as reader, pytest.raises(CorruptLog, match="no longer kept"):
        reader.seek(0, 2)
    with EventLog(tmp_path) as log:
        assert log.next_offset == 6

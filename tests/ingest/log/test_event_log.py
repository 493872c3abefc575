"""Opening, appending, rolling, damage and retention of the event log."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from sqlite3 import Connection, Cursor, OperationalError, connect
from typing import Any

import pytest

from trustwatch.ingest.errors import CorruptLog
from trustwatch.ingest.log.event_log import EventLog, LogFailed
from trustwatch.ingest.log.log_database import (
    DATABASE_FILE,
    encode_record,
    open_reading,
    segment_bases,
)
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.source import Record, RecordKind

from ...support.full_disk import full_disk


def make(number: int, size: int = 20) -> Record:
    return Record(RecordKind.EVENT, number + 1, 1_000 * number, f"{number}".encode().ljust(size, b"."))


def fill(directory: Path, chunks: int, per_chunk: int = 3, segment_bytes: int = 1 << 20) -> None:
    """Write synced records, some in each append."""
    with EventLog(directory, segment_bytes) as log:
        for chunk in range(chunks):
            log.append([make(chunk * per_chunk + i) for i in range(per_chunk)])
            log.sync()


def read_all(directory: Path, start: int = 0) -> list[Record]:
    with LogReader(directory) as reader:
        reader.seek(0, start)
        records: list[Record] = []
        while (batch := reader.poll(7, 0)) is not None:
            assert batch.base_offset == start + len(records)
            records += batch.records
        return records


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
    records = [make(i, 30 + i) for i in range(60)]
    for start in (0, 25):
        with EventLog(tmp_path, segment_bytes=500) as log:
            assert log.next_offset == start
            for first in range(start, start + 25, 5):
                assert log.append(records[first : first + 5]) == first
            log.sync()
    assert file_count(tmp_path) > 3
    assert read_all(tmp_path) == records[:50]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_torn_tail_of_the_wal_is_left_out(tmp_path: Path, share: float) -> None:
    """Half a transaction that nobody was told about does not count; what was synced stays."""
    with EventLog(tmp_path) as log:
        log.append([make(i) for i in range(6)])
        log.sync()
        before = copied(tmp_path)
        log.append([make(6, 3_000), make(7, 9_000)])
        log.sync()
        after = copied(tmp_path)
    wal = f"{DATABASE_FILE}-wal"
    end = len(before[wal]) + int(share * (len(after[wal]) - len(before[wal])))
    restore(tmp_path, {**before, wal: after[wal][:end]})
    with EventLog(tmp_path) as log:
        assert log.next_offset == 6
        log.append([make(6)])
        log.sync()
    assert read_all(tmp_path) == [make(i) for i in range(7)]


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
        log.append([make(i) for i in range(3)])
        log.sync()
        synced = (tmp_path / "synced").read_bytes()
        log.append([make(3)])
        log.sync()
        files = copied(tmp_path)
    restore(tmp_path, {**files, "synced": synced})
    with EventLog(tmp_path) as log:
        assert (log.next_offset, log.synced_offset) == (4, 4)
        assert (tmp_path / f"{DATABASE_FILE}-wal").stat().st_size == 0
    assert read_all(tmp_path) == [make(i) for i in range(4)]


@pytest.mark.parametrize("lost", ["damaged", "removed"])
def test_an_acknowledged_transaction_that_the_wal_lost_is_refused(tmp_path: Path, lost: str) -> None:
    """SQLite takes a bad frame for the end; the synced position says that there was more."""
    with EventLog(tmp_path) as log:
        for i in range(3):
            log.append([make(i)])
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
    flip(tmp_path, make(4), 4)
    with pytest.raises(CorruptLog, match=r"events\.db: damaged record at offset 4"):
        EventLog(tmp_path)
    older = tmp_path / "older"
    fill(older, 9, segment_bytes=200)
    flip(older, make(4), 4)
    EventLog(older).close()
    with pytest.raises(CorruptLog, match=r"events\.db: damaged record at offset 4"):
        read_all(older)


def test_damage_of_a_page_is_refused(tmp_path: Path) -> None:
    """Whatever page of SQLite it is, the log does not open or the records in the page are not read."""
    fill(tmp_path, 60, segment_bytes=2_000)
    path = tmp_path / DATABASE_FILE
    whole = path.read_bytes()
    for page in range(0, len(whole), 4096):
        path.write_bytes(whole[:page] + bytes(64 if page else 120) + whole[page + (64 if page else 120) :])
        with pytest.raises(CorruptLog, match=r"events\.db"):
            EventLog(tmp_path).close()
            read_all(tmp_path)
    path.write_bytes(whole)
    EventLog(tmp_path).close()


def test_a_lost_segment_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 60, segment_bytes=500)
    with closing(connect(tmp_path / DATABASE_FILE)) as database, database:
        (base,) = database.execute("SELECT base FROM segments ORDER BY base LIMIT 1 OFFSET 2").fetchone()
        database.execute("DELETE FROM segments WHERE base = ?", (base,))
    with pytest.raises(CorruptLog, match=rf"does not end before offset (?!{base})"):
        EventLog(tmp_path)


def test_a_failed_write_takes_back_and_refuses_until_reopened(tmp_path: Path) -> None:
    """After a full disk the unsynced records are gone, nothing is accepted, and `reopen` continues where it was."""
    with EventLog(tmp_path) as log:
        log.append([make(0)])
        log.sync()
        with full_disk(log):
            with pytest.raises(LogFailed, match="full"):
                log.append([make(99, 100_000)])
            with pytest.raises(LogFailed, match="reopen"):
                log.append([make(1)])
            with pytest.raises(LogFailed):
                log.sync()
            log.reopen()
            with pytest.raises(LogFailed, match="full"):
                log.append([make(98, 100_000)])
        assert log.next_offset == 1
        log.reopen()
        assert log.append([make(1)]) == 1
        log.sync()
    assert read_all(tmp_path) == [make(0), make(1)]


def test_a_failed_commit_is_not_acknowledged(tmp_path: Path) -> None:
    """A COMMIT that SQLite refuses, as it does after a failed fsync: what it held is taken back."""

    class Broken(Connection):
        def execute(self, sql: str, *arguments: Any) -> Cursor:
            if sql == "COMMIT":
                raise OperationalError("disk I/O error")
            return super().execute(sql, *arguments)

    with EventLog(tmp_path) as log:
        log.append([make(0)])
        log.sync()
        sound = log._database.connection
        log._database.connection = connect(tmp_path / DATABASE_FILE, isolation_level=None, factory=Broken)
        log.append([make(99)])
        with pytest.raises(LogFailed, match="disk I/O error"):
            log.sync()
        assert (log.next_offset, log.synced_offset, log.failed) == (1, 1, True)
        log._database.connection.close()
        log._database.connection = sound
        log.reopen()
        assert log.append([make(1)]) == 1
        log.sync()
    assert read_all(tmp_path) == [make(0), make(1)]


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

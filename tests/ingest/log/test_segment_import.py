"""Logs of 0.1 and 0.2: their segment files are imported once, whole, and whatever kills the import."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from trustwatch.ingest.errors import ConfigError, CorruptLog
from trustwatch.ingest.log import segment_import
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.log_database import DATABASE_FILE, LogDatabase
from trustwatch.ingest.log.segment_import import IMPORT_FILE, import_segments, read_old_log
from trustwatch.ingest.source import Record, RecordKind

from ...support.deadly_steps import DeadlyStep, exit_code
from ...support.log_records import read_records
from ...support.old_logs import encode_chunk, segment_path, write_old_log, write_synced


def make(number: int, size: int = 40) -> Record:
    return Record(RecordKind(number % 3), number + (1 << 63), number, f"{number}".encode().ljust(size, b"."))


CHUNKS = [[make(number) for number in range(first, first + 4)] for first in range(0, 40, 4)]
RECORDS = [record for chunk in CHUNKS for record in chunk]


def old_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.log")}


def test_an_old_log_is_imported_and_goes_on(tmp_path: Path) -> None:
    """Every record as it was, at its offset; the old files go; a writer goes on behind the last one."""
    write_old_log(tmp_path, CHUNKS)
    (tmp_path / "00000000000000000000.erasing").write_bytes(b"left of an erasure that was killed")
    assert list(read_old_log(tmp_path)) == RECORDS
    with EventLog(tmp_path) as log:
        assert (log.first_offset, log.next_offset, log._synced.get()) == (0, 40, 40)
        log.append([make(40)])
        log.sync()
    assert read_records(tmp_path) == [*RECORDS, make(40)]
    EventLog(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {DATABASE_FILE, "lock", "synced"}


@pytest.mark.parametrize("records", [0, 3])
def test_a_log_that_begins_later_keeps_its_offsets(tmp_path: Path, records: int) -> None:
    """Retention dropped what came before, or even all."""
    write_old_log(tmp_path, [[make(number)] for number in range(records)], first=7_000)
    with EventLog(tmp_path) as log:
        assert (log.first_offset, log.next_offset) == (7_000, 7_000 + records)
    assert read_records(tmp_path, 7_000) == [make(number) for number in range(records)]


def import_until_killed(folder: Path, number: int) -> None:
    """A step is a statement of SQLite, or a rename, a removal or an fsync of a file."""
    step = DeadlyStep(number)
    segment_import.COMMIT_BYTES = 200
    connect = sqlite3.connect

    def counted(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.set_trace_callback(step.count)
        return connection

    sqlite3.connect = counted  # type: ignore[assignment]
    os.fsync = step.before(os.fsync)
    Path.rename, Path.unlink = step.before(Path.rename), step.before(Path.unlink)  # type: ignore[method-assign]
    EventLog(folder).close()


def test_a_kill_at_every_step_loses_nothing(tmp_path: Path) -> None:
    """Until the new log is in its place the old files are byte-equal; the next start ends the work."""
    write_old_log(tmp_path / "old", CHUNKS)
    old, resumed = old_files(tmp_path / "old"), 0
    for step in range(1, 1_000, 3):
        folder = tmp_path / "log"
        shutil.copytree(tmp_path / "old", folder)
        status = exit_code(import_until_killed, folder, step)
        if not (folder / DATABASE_FILE).exists():
            assert old_files(folder) == old
            resumed += (folder / IMPORT_FILE).exists()
        EventLog(folder).close()
        assert read_records(folder) == RECORDS
        EventLog(folder).close()
        assert {path.name for path in folder.iterdir()} == {DATABASE_FILE, "lock", "synced"}
        shutil.rmtree(folder)
        if status == 0:
            assert resumed > 10
            return
        assert status == -signal.SIGKILL
    raise AssertionError("the import never ended")


def test_an_import_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed, in the middle of a chunk even, is not written again."""
    write_old_log(tmp_path, CHUNKS)
    database = LogDatabase(tmp_path / IMPORT_FILE)
    database.append(RECORDS[:18])
    database.connection.execute("COMMIT")
    database.connection.close()
    written: list[Record] = []
    append = LogDatabase.append
    monkeypatch.setattr(LogDatabase, "append", lambda self, records: (written.extend(records), append(self, records)))
    EventLog(tmp_path).close()
    assert written == RECORDS[18:]
    assert read_records(tmp_path) == RECORDS


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the bytes that are needed and those that are free."""
    write_old_log(tmp_path, CHUNKS)
    old = old_files(tmp_path)
    monkeypatch.setattr(segment_import.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(ConfigError, match=r"bytes of disk space are needed and 1000 are free"):
        EventLog(tmp_path)
    assert old_files(tmp_path) == old
    assert not list(tmp_path.glob("events*"))


def test_a_copy_that_differs_is_refused(tmp_path: Path) -> None:
    """Same number of records, another byte: nothing is put in place, and the old files stay."""
    write_old_log(tmp_path, CHUNKS)
    old = old_files(tmp_path)
    database = LogDatabase(tmp_path / IMPORT_FILE)
    database.append([make(99), *RECORDS[1:5]])
    database.connection.execute("COMMIT")
    database.connection.close()
    with pytest.raises(CorruptLog, match=r"differs from the segments.*delete it"):
        EventLog(tmp_path)
    assert old_files(tmp_path) == old
    assert not (tmp_path / DATABASE_FILE).exists()


@pytest.mark.parametrize("torn", [encode_chunk(40, [make(40), make(41)])[:50], bytes(5_000), b"\xf5"])
def test_a_torn_tail_is_left_out_and_said(tmp_path: Path, torn: bytes) -> None:
    """Half a chunk that nobody was told about; what was acknowledged is there."""
    write_old_log(tmp_path, CHUNKS)
    with max(tmp_path.glob("*.log")).open("ab") as file:
        file.write(torn)
    with capture_logs() as logs, EventLog(tmp_path) as log:
        assert log.next_offset == 40
    assert any(entry["event"] == "event_log_tail_truncated" and entry["bytes"] == len(torn) for entry in logs)
    assert read_records(tmp_path) == RECORDS


def test_a_whole_chunk_that_was_not_acknowledged_is_kept(tmp_path: Path) -> None:
    """Killed between write and fsync; a reader of the old files does not show it yet."""
    write_old_log(tmp_path, CHUNKS)
    write_synced(tmp_path, 38)
    assert list(read_old_log(tmp_path)) == RECORDS[:38]
    with EventLog(tmp_path) as log:
        assert log.next_offset == 40


@pytest.mark.parametrize("segment", [0, 12, 36])
@pytest.mark.parametrize("inside", [0, 5, 9, 17, 30, 150])
def test_damage_is_refused(tmp_path: Path, segment: int, inside: int) -> None:
    """A flipped bit in any segment, the last one too where the records were acknowledged; the old files stay."""
    write_old_log(tmp_path, CHUNKS)
    path = segment_path(tmp_path, segment)
    content = bytearray(path.read_bytes())
    content[inside] ^= 0x40
    path.write_bytes(content)
    old = old_files(tmp_path)
    with pytest.raises(CorruptLog, match=f"{path.name}: damaged chunk at byte 0"):
        EventLog(tmp_path)
    assert old_files(tmp_path) == old


def test_damage_before_a_whole_chunk_is_refused_though_nothing_says_it_was_acknowledged(tmp_path: Path) -> None:
    """After a power loss `synced` may be older; a later offset in a copied frame inside a payload does not count."""
    end = write_old_log(tmp_path, CHUNKS[:3])
    path = segment_path(tmp_path, 0)
    whole = path.read_bytes()
    write_synced(tmp_path, 0)
    path.write_bytes(whole.replace(b"5.", b"6.", 1))
    with pytest.raises(CorruptLog, match="damaged chunk"):
        import_segments(tmp_path)
    hostile = encode_chunk(0, [make(0)])
    path.write_bytes(whole + encode_chunk(end, [Record(0, 1, 1, hostile)])[:-1])
    import_segments(tmp_path)


def test_lost_segments_are_refused(tmp_path: Path) -> None:
    """One in the middle, the last one, and all of them."""
    write_old_log(tmp_path, CHUNKS)
    whole = old_files(tmp_path)
    for lost, message in (
        ([12], "ends with offset 12"),
        ([36], "36, but records up to offset 40"),
        ([0, 12, 24, 36], "is missing, but records up to 40"),
    ):
        for base in lost:
            segment_path(tmp_path, base).unlink()
        with pytest.raises(CorruptLog, match=message):
            EventLog(tmp_path)
        for path in tmp_path.glob("events*"):
            path.unlink()
        for name, content in whole.items():
            (tmp_path / name).write_bytes(content)

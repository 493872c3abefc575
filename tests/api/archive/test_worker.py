"""The archive: every event once, whatever is killed; readable with pandas and DuckDB; replayed as it was logged."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pandas
import pytest

from trustwatch.api.archive import worker
from trustwatch.api.archive.archive_status import archived_offset
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings
from trustwatch.ingest.archive.archive_reader import raw_lines
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.errors import ConfigError, CorruptLog, TrustwatchError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordKind

from ...support.checkout import ROOT, process_command

START_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z
TENANTS = ("acme", "globex/eu", "", "ü" * 300)


def event(number: int) -> bytes:
    at = datetime.fromtimestamp(START_MS / 1000 + number * 432, UTC).isoformat()
    made: dict[str, Any] = {
        "id": f"e-{number}",
        "time": at,
        "type": "api.call",
        "action": "read",
        "outcome": "success",
        "agent": {"id": f"agent-{number % 7}", "type": "Reader"},
        "resource": {"id": f"r-{number}"},
        "scopes": {"granted": ["a", "b"]},
        "status": 2**70 if number == 3 else 200,
        "unknown": [1, {"x": "ü"}],
    }
    if tenant := TENANTS[number % 4]:
        made["tenant"] = tenant
    return json.dumps(made, ensure_ascii=number % 2 == 0, indent=1 if number % 5 == 0 else None).encode()


def record(number: int) -> Record:
    raw = event(number)
    return Record(RecordKind.EVENT, raw_id_hash(raw), START_MS + number, raw)


def fill(data_dir: Path, events: int) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    with EventLog(data_dir / "log") as log:
        for start in range(0, events, 30):
            records = [record(number) for number in range(start, min(start + 30, events))]
            log.append([*records, records[0], *records[::7], Record(RecordKind.TICK, 0, START_MS, bytes(8))])
        log.sync()


def archive_all(data_dir: Path, directory: Path) -> worker.EventArchiver:
    settings = Settings(data_dir=data_dir, archive=ArchiveSettings(directory=directory, retention_days=36_500))
    run = worker.EventArchiver(settings)
    try:
        run.start()
        while run.partitions[0].next_offset < run.source.end_offset(0):
            run.step()
        run.flush()
    except TrustwatchError:
        run.close()
        raise
    return run


def check(directory: Path, events: int) -> None:
    lines = list(raw_lines(directory))
    assert [json.loads(line)["id"] for line in lines] == [f"e-{number}" for number in range(events)]
    assert [json.loads(line) for line in lines] == [json.loads(event(number)) for number in range(events)]
    assert not list(directory.rglob("*.tmp"))


def test_it_is_read_by_analysts_tools(tmp_path: Path) -> None:
    fill(tmp_path / "data", 500)
    archive_all(tmp_path / "data", tmp_path / "archive").close()
    check(tmp_path / "archive", 500)
    frame = pandas.read_parquet(tmp_path / "archive").sort_values("offset")
    assert list(frame["id"]) == [f"e-{number}" for number in range(500)]
    assert [bytes(raw) for raw in frame["raw"]] == [event(number) for number in range(500)]
    assert list(frame["tenant_name"][:4]) == list(TENANTS)
    assert set(frame["date"].astype(str)) == {"2025-12-01", "2025-12-02", "2025-12-03"}
    assert frame["time"].iloc[1] == pandas.Timestamp("2025-12-01T00:07:12Z")
    assert frame["status"].isna().sum() == 1 and list(frame["scopes_granted"].iloc[0]) == ["a", "b"]
    glob = f"{tmp_path}/archive/*/*/*.parquet"
    found = duckdb.sql(
        f"select date, tenant_name, count(*), count(distinct id) from read_parquet('{glob}', hive_partitioning=true) "
        "where tenant = 'globex/eu' group by all order by 1"
    ).fetchall()
    assert [(str(day), tenant, rows, ids) for day, tenant, rows, ids in found] == [
        ("2025-12-01", "globex/eu", 50, 50),
        ("2025-12-02", "globex/eu", 50, 50),
        ("2025-12-03", "globex/eu", 25, 25),
    ]


class Crash(BaseException):
    """Whatever ends a process."""


@pytest.mark.parametrize("what", ["replace", "fsync"])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ranges = [(0, 80), (80, 160), (160, 200)]
    events = [EventToArchive(n, START_MS, decode_event(event(n)), event(n)) for n in range(200)]
    for step in count():
        directory = tmp_path / f"{what}-{step}"
        with monkeypatch.context() as patched:
            owner: Any = Path if what == "replace" else os
            original, calls = getattr(owner, what), count()

            def failing(*args: Any, at: int = step, go: Any = original, numbers: Iterator[int] = calls) -> Any:
                if next(numbers) == at:
                    raise Crash
                return go(*args)

            patched.setattr(owner, what, failing)
            try:
                write_from(directory, ranges, events)
                crashed = False
            except Crash:
                crashed = True
        if not crashed:
            assert step > 10
            break
        write_from(directory, ranges, events)
        check(directory, 200)


def write_from(directory: Path, ranges: list[tuple[int, int]], events: list[EventToArchive]) -> None:
    archive = EventArchive(directory)
    try:
        position = (archive.start() or {0: 0})[0]
        for base, end in ranges:
            if base >= position:
                archive.write(base, end, events[base:end])
    finally:
        archive.close()


def test_killed_again_and_again_it_has_every_event_once(tmp_path: Path) -> None:
    events, dice = 4_000, random.Random(1)
    fill(tmp_path / "data", events)
    command = process_command("archive_process", tmp_path / "data", tmp_path / "archive")
    killed = 0
    for _ in range(60):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"started\n"
        if killed < 6:
            time.sleep(dice.uniform(0.02, 0.25))
            process.send_signal(signal.SIGKILL)
        status = process.wait(60)
        process.stdout.close()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
    assert status == 0 and killed >= 3
    check(tmp_path / "archive", events)


def test_a_restart_goes_on_and_knows_what_was_repeated(tmp_path: Path) -> None:
    fill(tmp_path / "data", 60)
    archive_all(tmp_path / "data", tmp_path / "archive").close()
    with EventLog(tmp_path / "data" / "log") as log:
        log.append([record(5), record(60), record(59)])
        log.sync()
        end = log.next_offset
    archive_all(tmp_path / "data", tmp_path / "archive").close()
    check(tmp_path / "archive", 61)
    assert archived_offset(tmp_path / "archive") == end


def test_retention_removes_whole_dates(tmp_path: Path) -> None:
    fill(tmp_path / "data", 500)
    archive_all(tmp_path / "data", tmp_path / "archive").close()
    before = archived_offset(tmp_path / "archive")
    assert EventArchive(tmp_path / "archive").drop_before(START_MS + 2 * 86_400_000) > 0
    assert [path.name for path in (tmp_path / "archive").glob("date=*")] == ["date=2025-12-03"]
    assert archived_offset(tmp_path / "archive") == before
    assert [json.loads(line)["id"] for line in raw_lines(tmp_path / "archive")] == [f"e-{n}" for n in range(400, 500)]


def test_what_can_not_go_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not an archive"):
        list(raw_lines(tmp_path))
    fill(tmp_path / "data", 60)
    archive_all(tmp_path / "data", tmp_path / "archive").close()
    fill(tmp_path / "other", 3)
    with pytest.raises(CorruptLog, match="after the end of the log"):
        archive_all(tmp_path / "other", tmp_path / "archive")
    next((tmp_path / "archive").rglob("*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="cannot be read"):
        list(raw_lines(tmp_path / "archive"))
    (tmp_path / "archive" / "_position.json").write_text("{}")
    with pytest.raises(CorruptLog, match="does not say"):
        archive_all(tmp_path / "data", tmp_path / "archive")


def test_one_process_writes_an_archive(tmp_path: Path) -> None:
    fill(tmp_path / "data", 60)
    running = archive_all(tmp_path / "data", tmp_path / "archive")
    with pytest.raises(ConfigError, match="another process writes"):
        EventArchive(tmp_path / "archive").start()
    running.close()
    other = EventArchive(tmp_path / "archive", "topic")
    with closing(other), pytest.raises(CorruptLog, match="of an embedded log, not of the topic topic"):
        other.start()

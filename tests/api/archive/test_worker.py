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
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pandas
import pytest
from typer.testing import CliRunner

from trustwatch.api.archive import worker
from trustwatch.api.archive.slice import archived_offset
from trustwatch.api.cli.history_input import history_files
from trustwatch.api.cli.main import make_app
from trustwatch.api.cli.topic_input import TimeWindow
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings
from trustwatch.ingest.archive.archive_files import event_folder, file_name
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
    """An event; a day has 200 of them."""
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
    """A log of events, each seventh twice, with ticks among them."""
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
    """Every event once, as it was logged, in order."""
    lines = list(raw_lines(directory))
    assert [json.loads(line)["id"] for line in lines] == [f"e-{number}" for number in range(events)]
    assert [json.loads(line) for line in lines] == [json.loads(event(number)) for number in range(events)]
    assert not list(directory.rglob("*.tmp"))


def test_it_is_read_by_analysts_tools(tmp_path: Path) -> None:
    """pandas and DuckDB see the same rows and partitions; `raw` is what was logged."""
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


def test_partitions_are_names_that_any_file_system_takes() -> None:
    assert event_folder(START_MS, "../../etc") == "date=2025-12-01/tenant=..%2F..%2Fetc"
    assert event_folder(START_MS, "") == "date=2025-12-01/tenant=~"
    one, other = (event_folder(START_MS, "ü" * 300 + end) for end in "ab")
    assert one != other and len(one.rpartition("/")[2]) < 255


class Crash(BaseException):
    """Whatever ends a process."""


@pytest.mark.parametrize("what", ["replace", "fsync"])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Killed before each single rename and fsync of a range; the next start makes the archive whole."""
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
    """What a writer does after a start."""
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
    """Behind a restart, a repetition of an event from before it is still one."""
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
    """Dates that end before the time go; the position and the others stay."""
    fill(tmp_path / "data", 500)
    archive_all(tmp_path / "data", tmp_path / "archive").close()
    before = archived_offset(tmp_path / "archive")
    assert EventArchive(tmp_path / "archive").drop_before(START_MS + 2 * 86_400_000) > 0
    assert [path.name for path in (tmp_path / "archive").glob("date=*")] == ["date=2025-12-03"]
    assert archived_offset(tmp_path / "archive") == before
    assert [json.loads(line)["id"] for line in raw_lines(tmp_path / "archive")] == [f"e-{n}" for n in range(400, 500)]


def test_what_can_not_go_on_is_said(tmp_path: Path) -> None:
    """No archive, a position that is none, an archive ahead of its log, a damaged file."""
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


def test_settings_are_refused_where_no_archive_can_be(tmp_path: Path) -> None:
    from trustwatch.api.settings.loading import load_settings

    path = tmp_path / "t.yaml"
    for vectors in ("kept", "kept/vectors", "."):
        path.write_text(f"archive: {{directory: kept, vectors: {vectors}}}\n")
        with pytest.raises(ConfigError, match=r"\$\.archive\.vectors"):
            load_settings(path, {})
    path.write_text("archive: {directory: kept, vectors: vectors}\n")
    settings = load_settings(path, {})
    assert settings.archive.directory == tmp_path / "kept"


def test_one_process_writes_an_archive(tmp_path: Path) -> None:
    """A second one is refused, and so is a log that the archive is not of."""
    fill(tmp_path / "data", 60)
    running = archive_all(tmp_path / "data", tmp_path / "archive")
    with pytest.raises(ConfigError, match="another process writes"):
        EventArchive(tmp_path / "archive").start()
    running.close()
    other = EventArchive(tmp_path / "archive", "topic")
    with closing(other), pytest.raises(CorruptLog, match="of an embedded log, not of the topic topic"):
        other.start()


def test_histories_come_from_archives_and_logs(tmp_path: Path) -> None:
    """A folder among the events becomes a file of its events, one a line; an archive's dates outside are not opened."""
    fill(tmp_path / "data", 500)
    archive_all(tmp_path / "data", tmp_path / "archive").close()
    settings, archive_, data = Settings(), str(tmp_path / "archive"), tmp_path / "data"
    with history_files([archive_, str(data)], settings) as both:
        for file, repeated in zip(both, (False, True), strict=True):
            ids = [json.loads(line)["id"] for line in file.read_bytes().splitlines()]
            assert [name for at, name in enumerate(ids) if name not in ids[:at]] == [f"e-{n}" for n in range(500)]
            assert (len(ids) > 500) == repeated  # a log has what was sent twice; the window of the replay drops it
    assert not any(file.exists() for file in both)
    for path in (tmp_path / "archive" / "date=2025-12-01").rglob("*.parquet"):
        path.write_bytes(b"PAR1")
    window = TimeWindow(datetime(2025, 12, 2, 6, tzinfo=UTC), datetime(2025, 12, 3, tzinfo=UTC))
    with history_files([archive_], settings, window) as (file,):
        assert [json.loads(line)["id"] for line in file.read_bytes().splitlines()] == [
            f"e-{n}" for n in range(250, 400)
        ]
    late = TimeWindow(datetime.fromtimestamp(START_MS / 1000, UTC) + timedelta(hours=1, milliseconds=480))
    with history_files([str(data / "log")], settings, late) as (
        file,
    ):  # by arrival, since a log is not sorted otherwise
        assert json.loads(file.read_bytes().splitlines()[0])["id"] == "e-480"
    with pytest.raises(ConfigError, match="neither an archive"), history_files([str(tmp_path)], settings):
        pass


def test_the_command_tells_what_an_archive_holds(tmp_path: Path) -> None:
    """Rows by date, and how far it goes; events that have no vector are counted."""
    fill(tmp_path / "data", 500)
    archive_all(tmp_path / "data", tmp_path / "archive").close()
    folder = tmp_path / "vectors" / "date=2025-12-02" / "tenant=acme"
    folder.mkdir(parents=True)
    name = file_name("vectors", None, 0, 9)
    pandas.DataFrame({"offset": range(150)}).to_parquet(folder / name)
    command = ("archive", str(tmp_path / "archive"), "--vectors", str(tmp_path / "vectors"))
    result = CliRunner().invoke(make_app(), [*command, "--json"])
    told = json.loads(result.stdout)
    assert [(day["date"], day["events"], day["vectors"]) for day in told["days"]] == [
        ("2025-12-01", 200, 0),
        ("2025-12-02", 200, 150),
        ("2025-12-03", 100, 0),
    ]
    assert told["tenants"] == 4 and told["positions"] == {"0": archived_offset(tmp_path / "archive")}
    plain = CliRunner().invoke(make_app(), list(command))
    assert "150 feature vectors; 350 events have none" in plain.output and "2025-12-03" in plain.output

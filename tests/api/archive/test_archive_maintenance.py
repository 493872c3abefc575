"""Retention and merging beside archiving, and how the archive fares as it is told."""

from __future__ import annotations

import json
from datetime import UTC, timedelta
from pathlib import Path

import msgspec
import pytest

from trustwatch.api import clock
from trustwatch.api.archive import worker
from trustwatch.api.archive.slice import ArchiveStatus, ArchiveWorkerProcess
from trustwatch.api.archive.worker import ArchiveMaintenance, EventArchiver
from trustwatch.api.service.backends import ServiceRoles, check_service_roles
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings
from trustwatch.ingest.archive.archive_files import data_files, read_lock
from trustwatch.ingest.archive.archive_reader import raw_lines
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.source import Record, RecordKind

TODAY = clock.utc_now().replace(hour=12)


def archived(offset: int, days_ago: int) -> EventToArchive:
    at = (TODAY - timedelta(days=days_ago)).astimezone(UTC)
    raw = json.dumps(
        {
            "id": f"e-{offset}",
            "time": at.isoformat(),
            "type": "api.call",
            "action": "a",
            "outcome": "success",
            "agent": {"id": "one"},
        }
    ).encode()
    return EventToArchive(offset, int(at.timestamp() * 1000), decode_event(raw), raw)


def worked(directory: Path, **settings: float) -> ArchiveMaintenance:
    upkeep = ArchiveMaintenance(directory, "events", ArchiveSettings(directory=directory, **settings))  # type: ignore[arg-type]
    assert not upkeep.step()  # not at the start of a service, which has enough to do
    upkeep._due_at = float("-inf")
    while upkeep.step():
        pass
    return upkeep


def test_old_dates_go_past_ones_are_merged_and_today_is_left(tmp_path: Path) -> None:
    archive = EventArchive(tmp_path)
    archive.start()
    for base in range(0, 40, 4):
        archive.write(base, base + 4, [archived(base + ago, (0, 2, 3, 11)[ago]) for ago in range(4)])
    archive.close()
    upkeep = worked(tmp_path, retention_days=10)
    assert upkeep.merged == 20
    days = [(TODAY - timedelta(days=ago)).date() for ago in (0, 2, 3)]
    files = {day: [file for file in data_files(tmp_path) if file.day == day] for day in days}
    assert [len(found) for found in files.values()] == [10, 1, 1]
    assert sum(map(len, files.values())) == len(data_files(tmp_path))
    assert len(list(raw_lines(tmp_path))) == 30
    assert worked(tmp_path, retention_days=10).merged == 0


def test_a_date_is_left_alone_until_its_late_events_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = EventArchive(tmp_path)
    archive.start()
    for base in range(4):
        archive.write(base, base + 1, [archived(base, 1)])
    archive.close()
    monkeypatch.setattr(worker, "MERGE_AFTER", timedelta(hours=48))
    assert worked(tmp_path).merged == 0
    monkeypatch.setattr(worker, "MERGE_AFTER", timedelta(0))
    assert worked(tmp_path).merged == 4


def test_reports_and_what_is_known_of_them() -> None:
    """A process that ends is not ready; one that does nothing else says so by it."""
    status = ArchiveStatus(alone=True)
    assert status.is_ready()
    process = ArchiveWorkerProcess("events", None, status)
    assert not status.is_ready()
    process._handle_frame(msgspec.msgpack.encode(5.5))
    assert status.is_ready() and status.lags_s == {"events": 5.5}
    process._on_exit()
    assert not status.is_ready()


def test_the_role_needs_a_place(tmp_path: Path) -> None:
    role = ServiceRoles(api=False, workers=False)
    with pytest.raises(ConfigError, match="--archiver-only is for the distributed form"):
        check_service_roles(role, Settings(archive=ArchiveSettings(directory=tmp_path)))


class Clock:
    """Seconds that go on by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = clock.monotonic()
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)


def small(directory: Path) -> ArchiveMaintenance:
    """Upkeep of an archive of four files that are due to be one."""
    archive = EventArchive(directory)
    archive.start()
    for base in range(4):
        archive.write(base, base + 1, [archived(base, 3)])
    archive.close()
    return ArchiveMaintenance(directory, "events", ArchiveSettings(directory=directory))


def test_nobody_waits_for_who_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time, upkeep = Clock(monkeypatch), small(tmp_path)
    time.now += worker.FIRST_RETENTION_S
    with read_lock(tmp_path):
        assert not upkeep.step()
    assert not upkeep.step()
    time.now += worker.RETRY_S
    assert upkeep.step() and upkeep.step() and not upkeep.step()
    assert upkeep.merged == 4


def test_what_goes_wrong_ends_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses, a position that is none: tried again a minute later, and told once."""
    time, upkeep = Clock(monkeypatch), small(tmp_path)
    told: list[str] = []
    monkeypatch.setattr(
        worker, "_log", type("Log", (), {"error": lambda _, text, **more: told.append(more["error"])})()
    )

    def tried() -> None:
        time.now += worker.RETENTION_EVERY_S
        while upkeep.step():
            pass

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        tried()
        tried()
    assert told == ["[Errno 28] No space left on device"] and not upkeep.merged
    position = (tmp_path / "_position.json").read_bytes()
    (tmp_path / "_position.json").write_bytes(b"{}")
    tried()
    assert len(told) == 2 and "does not say" in told[1]
    (tmp_path / "_position.json").write_bytes(position)
    assert not upkeep.step()
    time.now += worker.RETRY_S
    assert upkeep.step() and upkeep.step()
    assert upkeep.merged == 4


def test_a_log_that_is_never_quiet_holds_up_no_upkeep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "archive")
    with EventLog(tmp_path / "log") as log:
        log.append([Record(RecordKind.TICK, 0, clock.now_ms(), bytes(8))] * 4)
        log.sync()
        settings = Settings(data_dir=tmp_path, archive=ArchiveSettings(directory=tmp_path / "archive"))
        time, archiver = Clock(monkeypatch), EventArchiver(settings)
        archiver.start()

        def busy(seconds: float) -> int:
            time.now += seconds
            log.append([Record(RecordKind.TICK, 0, clock.now_ms(), bytes(8))])
            log.sync()
            archiver.step()
            return archiver.maintenance.merged

        assert [
            busy(worker.FIRST_RETENTION_S + worker.OVERDUE_AFTER_S - 1),
            busy(1),
            busy(1),
        ] == [0, 0, 0]
        assert busy(worker.PIECE_EVERY_S) == 4
        archiver.close()


def test_a_spool_that_is_never_empty_holds_up_no_upkeep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time, steps = Clock(monkeypatch), 200
    done: list[float] = []
    monkeypatch.setattr("trustwatch.ingest.archive.event_archive.VectorArchive.archive_next_file", lambda _: True)
    monkeypatch.setattr(ArchiveMaintenance, "_merge_one", lambda _: bool(done.append(time.now)))

    class Busy:
        settings = Settings(data_dir=tmp_path, archive=ArchiveSettings(vectors=tmp_path / "vectors"))

        @property
        def should_stop(self) -> bool:
            nonlocal steps
            steps -= 1
            time.now += 1
            return not steps

        def send(self, _: bytes) -> None: ...

    begun = time.now
    worker.run_vector_archive(Busy())  # type: ignore[arg-type]
    late = worker.FIRST_RETENTION_S + worker.OVERDUE_AFTER_S + worker.PIECE_EVERY_S
    assert [at - begun for at in done] == [pytest.approx(late, abs=1.5)]

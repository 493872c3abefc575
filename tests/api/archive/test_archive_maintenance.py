"""Retention and merging beside archiving, and how the archive fares as it is told."""

from __future__ import annotations

import json
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from trustwatch.api import clock
from trustwatch.api.archive import archive_maintenance
from trustwatch.api.archive.archive_maintenance import ArchiveMaintenance
from trustwatch.api.archive.worker import EventArchiver
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
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


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = clock.monotonic()
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)


def small(directory: Path) -> ArchiveMaintenance:
    archive = EventArchive(directory)
    archive.start()
    for base in range(4):
        archive.write(base, base + 1, [archived(base, 3)])
    archive.close()
    return ArchiveMaintenance(directory, "events", ArchiveSettings(directory=directory))


def test_what_goes_wrong_ends_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time, upkeep = Clock(monkeypatch), small(tmp_path)
    told: list[str] = []
    monkeypatch.setattr(
        archive_maintenance, "_log", type("Log", (), {"error": lambda _, text, **more: told.append(more["error"])})()
    )

    def tried() -> None:
        time.now += archive_maintenance.RETENTION_EVERY_S
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
    time.now += archive_maintenance.RETRY_S
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
            busy(archive_maintenance.FIRST_RETENTION_S + archive_maintenance.OVERDUE_AFTER_S - 1),
            busy(1),
            busy(1),
        ] == [0, 0, 0]
        assert busy(archive_maintenance.PIECE_EVERY_S) == 4
        archiver.close()

"""An export while the archive goes on: every event of the agent once."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.privacy import agent_export
from trustwatch.api.privacy.agent_export import ExportSources, export_agent
from trustwatch.ingest.archive.archive_files import read_positions
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

AS = "https://as.example"
START_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z
EVENTS = 60
OF_BOT = [f"e-{number}" for number in range(0, EVENTS, 2)]


def event(number: int) -> bytes:
    agent = {"id": ("bot", "other")[number % 2], "issuer": AS}
    made = {"id": f"e-{number}", "time": f"2025-12-01T00:{number:02}:00Z", "type": "api.call", "action": "read"}
    return json.dumps({**made, "outcome": "success", "agent": agent, "tenant": "acme"}).encode()


EACH = [EventToArchive(n, START_MS + n, decode_event(event(n)), event(n)) for n in range(EVENTS)]


def logged(folder: Path) -> Path:
    with closing(EventLog(folder / "log")) as log:
        log.append([Record(RecordKind.EVENT, 0, START_MS + n, event(n)) for n in range(EVENTS)])
        log.sync()
    return folder / "log"


def archive_range(archive: EventArchive, first: int, end: int) -> None:
    archive.write(first, end, EACH[first:end])


def exported_ids(sources: ExportSources) -> list[str]:
    pieces = export_agent(sources, ErasureSubject("agent", "acme", AS, "bot", ""), None, START_MS, "auditor")
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        return [json.loads(line)["id"] for line in archive.read("events.jsonl").splitlines()]


@pytest.mark.parametrize("log_is_here", [True, False], ids=["log", "topic"])
def test_an_archive_that_goes_on_meanwhile_doubles_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_is_here: bool
) -> None:
    """What was archived after the export began comes from the log, and from there alone."""
    archive = EventArchive(tmp_path / "archive")
    archive.start()
    archive_range(archive, 0, 20)

    def read_then_archive(directory: Path, *arguments: Any) -> dict[int, int] | None:
        positions = read_positions(directory, *arguments)
        archive_range(archive, 20, 40)
        return positions

    monkeypatch.setattr(agent_export, "read_positions", read_then_archive)
    log = logged(tmp_path) if log_is_here else None
    with closing(open_store(sqlite_url(tmp_path / "store.db"))) as store:
        found = exported_ids(ExportSources(store, log, tmp_path / "archive", lambda row: row))
    archive.close()

    assert found == (OF_BOT if log_is_here else OF_BOT[:10])


def test_what_the_log_lets_go_of_meanwhile_comes_from_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that catches up, and a log that removes what it has taken over, while the export is made."""
    archive = EventArchive(tmp_path / "archive")
    archive.start()
    archive_range(archive, 0, 20)
    first_logged = iter([40, 40, 40])

    def read_then_archive(directory: Path, *arguments: Any) -> dict[int, int] | None:
        positions = read_positions(directory, *arguments)
        if positions == {0: 20}:
            archive_range(archive, 20, 40)
        return positions

    monkeypatch.setattr(agent_export, "read_positions", read_then_archive)
    monkeypatch.setattr(agent_export, "first_offset", lambda _: next(first_logged))
    with closing(open_store(sqlite_url(tmp_path / "store.db"))) as store:
        found = exported_ids(ExportSources(store, logged(tmp_path), tmp_path / "archive", lambda row: row))
    archive.close()

    assert found == OF_BOT

"""What a new version is trained on: every event once, while the archive goes on."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trustwatch.api import clock
from trustwatch.api.serve import teaching
from trustwatch.api.settings import Settings
from trustwatch.api.settings.archive import ArchiveSettings
from trustwatch.ingest.archive.writer import Archive, Archived
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.identity import raw_id_hash
from trustwatch.ingest.log import EventLog
from trustwatch.ingest.source import Kind, Record

EVENTS = 40


def event(number: int, start_ms: int) -> Archived:
    at = datetime.fromtimestamp(start_ms / 1000 + number, UTC)
    made = {
        "id": f"e-{number}", "time": at.isoformat(), "type": "api.call", "action": "read", "outcome": "success",
        "agent": {"id": "one"},
    }  # fmt: skip
    raw = json.dumps(made).encode()
    return Archived(number, start_ms, decode_event(raw), raw)


@pytest.mark.parametrize("when", ["after the position was read", "while rows are read"])
def test_what_is_archived_meanwhile_is_learned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Neither left out nor twice: it comes from the log."""
    start_ms = clock.now_ms() // 1000 * 1000 - 3_600_000
    events = [event(number, start_ms) for number in range(EVENTS)]
    with EventLog(tmp_path / "log") as log:
        log.append([Record(Kind.EVENT, raw_id_hash(one.raw), one.received_ms, one.raw) for one in events])
        log.sync()
    settings = Settings(data_dir=tmp_path, archive=ArchiveSettings(directory=tmp_path / "archive"))
    with closing(Archive(tmp_path / "archive")) as archive:
        archive.start()
        archive.write(0, 20, events[:20])
        grown = []

        def grow() -> None:
            if not grown:
                grown.append(archive.write(20, 30, events[20:30]))

        teacher = teaching.Teacher(settings, None, None, lambda: None)  # type: ignore[arg-type]
        assert teacher._archive
        of, name = (teaching, "read_positions") if when.startswith("after") else (teaching.History, "add")
        original: Any = getattr(of, name)
        calls = iter(range(1_000))

        def growing(*args: Any) -> Any:
            found = original(*args)
            if of is not teaching or next(calls):  # the first look only asks whether there is an archive
                grow()
            return found

        monkeypatch.setattr(of, name, growing)
        history = teacher._history(SimpleNamespace(salt=bytes(16)), EVENTS, clock.now_ms())  # type: ignore[arg-type]
    columns = history.columns()
    assert grown and columns is not None
    assert columns.time_ms.tolist() == [start_ms + 1000 * number for number in range(EVENTS)]

"""Where a preview's history comes from, and what its process makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.feedback import worker
from trustwatch.api.feedback.worker import open_preview_history
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.models.model_training import train_model
from trustwatch.scoring.learning.feedback_preview import MarkedDecision, PreviewJob
from trustwatch.scoring.records.agents import AgentName, AgentRow
from trustwatch.scoring.records.feedback import FeedbackRule

START_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z
MINUTE, DAY = 60_000, 86_400_000
AS = "https://as.example"


def event(number: int, agent: str = "bot") -> bytes:
    """One event a minute."""
    at = f"2025-12-{1 + number // 1440:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00Z"
    who = {"id": agent, "issuer": AS, "type": "Payer"}
    made = {
        "id": f"e-{number}",
        "time": at,
        "type": "tool.call",
        "tenant": "acme",
        "agent": who,
        "action": "read",
        "outcome": "success",
    }
    return json.dumps(made).encode()


def logged(folder: Path, numbers: range) -> None:
    """A log of events, a tick behind each hundredth."""
    log = EventLog(folder / "log")
    records = []
    for number in numbers:
        raw, at_ms = event(number), START_MS + number * MINUTE
        records.append(Record(RecordKind.EVENT, raw_id_hash(raw), at_ms, raw))
        if number % 100 == 99:
            records.append(Record(RecordKind.TICK, 0, at_ms, at_ms.to_bytes(8, "little")))
    log.append(records)
    log.sync()
    log.close()


def test_an_archive_comes_before_the_log_where_that_begins_too_late(tmp_path: Path) -> None:
    """Each event once, and time passes with them; an archive is left alone where the log goes far enough back."""
    settings = Settings(data_dir=tmp_path, archive=ArchiveSettings(directory=tmp_path / "archive"))
    logged(tmp_path, range(300))
    archive = EventArchive(tmp_path / "archive")
    archive.start()
    rows = []
    for number in range(200):
        raw = event(number)
        rows.append(EventToArchive(number, START_MS + number * MINUTE, decode_event(raw), raw))
    archive.write(0, 202, rows)  # two ticks among them
    archive.close()

    assert open_preview_history(settings, START_MS).source == "log"
    found = open_preview_history(settings, START_MS - 1)
    records = [record for part in found.parts for record in part.records]
    ids = [json.loads(record.payload)["id"] for record in records if record.kind == RecordKind.EVENT]
    assert found.source == "archive and log"
    assert ids == [f"e-{number}" for number in range(300)]
    assert sum(record.kind == RecordKind.TICK for record in records) == 201
    assert [record.received_ms for record in records] == sorted(record.received_ms for record in records)


def rule(kind: Any = "agent") -> FeedbackRule:
    """A rule for `bot`, or its peer group."""
    return FeedbackRule(
        "F1",
        kind,
        "",
        "acme",
        "Payer",
        ("target_surprise",),
        None,
        10**15,
        AS,
        "bot",
    )


def agent(name: str, agent_type: str = "Payer") -> AgentRow:
    """An agent as it is stored."""
    full = AgentName(IdentityHasher().agent_key("acme", AS, name), "acme", AS, name)
    return AgentRow(
        full, agent_type, 1, 0.0, 0.5, 0.5, 1, 1, 1, 0, 1, "", b"[]", "", features=b"", risk=b"", state_version="v"
    )


def test_a_preview_says_where_it_looked_and_when_there_was_nothing(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a model and a store of its own: first without any log, then with one."""
    salt, settings = b"salt", DetectorSettings(trees=5, folds=2)
    columns = ColumnEncoder(salt).encode([decode_event(event(number)) for number in range(400)])
    save_trained_model(tmp_path / "model", train_model(columns, salt, "m", settings), settings, 1, START_MS)
    service = Settings(data_dir=tmp_path, model_dir=tmp_path / "model")
    job = PreviewJob(rule(), MarkedDecision("D1", rule().key, "e-1", 0, 3), START_MS + 250 * MINUTE, START_MS + DAY)

    nothing = worker.run_preview(service, job)
    assert nothing["unseen"] == "nothing that these agents did is kept in log since the beginning of the window"
    logged(tmp_path, range(300))
    monkeypatch.setattr(worker, "_PROGRESS_INTERVAL_S", 0.0)
    found = worker.run_preview(service, job)

    assert (found["unseen"], found["window"]["events"], found["events_matched"]) == ("", 50, 50)  # type: ignore[index]
    assert json.loads(capsysbinary.readouterr().out.splitlines()[-1]) == {"progress": 1.0}

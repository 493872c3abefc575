"""Events of an agent that are no longer in the log: from the archive, without those being erased."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.agents import recent_events
from trustwatch.api.agents.recent_events import AgentEventHistory, DecisionMoment, EventLocations, load_event_history
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.erasures import Erasure

AS = "https://as.example"
NOW = datetime(2025, 11, 24, 16, tzinfo=UTC)
BOT = AgentName(IdentityHasher().agent_key("acme", AS, "bot"), "acme", AS, "bot")
TOPIC = "trustwatch.events"


def raw_of(number: int, at: datetime, agent: str = "bot", **more: Any) -> bytes:
    return json.dumps(
        {
            "id": f"e-{number}",
            "time": at.isoformat(),
            "type": "tool.call",
            "tenant": "acme",
            "action": f"step_{number}",
            "agent": {"id": agent, "issuer": AS},
            "outcome": "success",
            **more,
        }
    ).encode()


def archive_of(directory: Path, records: list[bytes], topic: str = "") -> None:
    archive = EventArchive(directory, topic)
    archive.start()
    events = [EventToArchive(at, 0, decode_event(raw), raw) for at, raw in enumerate(records)]
    archive.write(0, len(records), events)
    archive.close()


def log_of(directory: Path, records: list[bytes]) -> Path:
    log = EventLog(directory)
    log.append([Record(RecordKind.EVENT, at + 1, 0, raw, b"") for at, raw in enumerate(records)])
    log.sync()
    log.close()
    return directory


def actions(found: AgentEventHistory) -> list[str]:
    return [event.action for event in found.events]


def wish(kind: str, name: str, at_offset: int) -> Erasure:
    issuer = AS if kind == "agent" else ""
    return Erasure("01X", kind, "queued", "acme", issuer, name, "salt", "digest", "asked", "dpo", 0, at_offset)


def test_what_the_log_no_longer_has_comes_from_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [raw_of(at, NOW + timedelta(minutes=at)) for at in range(30)]
    log = log_of(tmp_path / "log", records)
    archive_of(tmp_path / "archive", records[:25])
    monkeypatch.setattr(recent_events, "MAX_RECORDS_READ", 10)
    found = load_event_history(EventLocations(log, tmp_path / "archive"), BOT, DecisionMoment(), ())

    assert actions(found) == [f"step_{at}" for at in reversed(range(30))]
    assert (found.match_count, found.logged, found.archived, found.whole) == (30, 10, 25, True)
    assert sum(found.hours) == sum(count for _, count in found.actions) + 18 == 30  # the twelve most frequent are told


@pytest.mark.parametrize("offset", [-1, 2])
def test_what_is_being_erased_is_not_shown(tmp_path: Path, offset: int) -> None:
    ann = {"principal": {"id": "ann@acme.example"}}
    records = [raw_of(at, NOW + timedelta(minutes=at), **ann) for at in range(4)]
    log = log_of(tmp_path / "log", records)
    archive_of(tmp_path / "archive", records)
    behind = ["step_3", "step_2"] if offset == 2 else []
    for places in (EventLocations(log, None), EventLocations(tmp_path / "none", tmp_path / "archive")):
        gone = load_event_history(places, BOT, DecisionMoment(), [wish("agent", "bot", offset)])
        renamed = load_event_history(places, BOT, DecisionMoment(), [wish("principal", "ann@acme.example", offset)])

        assert actions(gone) == behind
        assert len(renamed.events) == 4
        people = [event.principal.id for event in renamed.events if event.principal]
        assert [name == "ann@acme.example" for name in people] == [offset == 2, offset == 2, False, False]
    archive_of(tmp_path / "topic", records, TOPIC)
    assert not load_event_history(
        EventLocations(None, tmp_path / "topic", TOPIC), BOT, DecisionMoment(), [wish("agent", "bot", offset)]
    ).events

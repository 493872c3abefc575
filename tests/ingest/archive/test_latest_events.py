"""The newest archived events of an agent: which they are, and how much is looked through for them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trustwatch.ingest.archive.archive_reader import AgentEventQuery, LookupLimits, latest_events
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.errors import CorruptLog
from trustwatch.ingest.events import decode_event

NOON = datetime(2025, 12, 1, 12, tzinfo=UTC)
ASKED = AgentEventQuery("acme", "https://as", "bot")


def archived(
    offset: int, at: datetime, agent: str = "bot", tenant: str = "acme", issuer: str = "https://as"
) -> EventToArchive:
    raw = json.dumps(
        {
            "id": f"e-{offset}",
            "time": at.isoformat(),
            "type": "tool.call",
            "action": f"act-{offset % 2}",
            "tenant": tenant,
            "agent": {"id": agent, "issuer": issuer},
            "outcome": "success",
            "resource": {"id": f"file-{offset}"},
        }
    ).encode()
    return EventToArchive(offset, 0, decode_event(raw), raw)


def fill(directory: Path, ranges: list[list[EventToArchive]], topic: str = "", partition: int = 0) -> None:
    """One file per range and date, in the order of the log."""
    archive = EventArchive(directory, topic)
    archive.start()
    at = 0
    for events in ranges:
        archive.write(at, events[-1].offset + 1, events, partition)
        at = events[-1].offset + 1
    archive.close()


def hours(count: int) -> list[list[EventToArchive]]:
    """A file an hour, each with an event of the agent and one of everybody who is taken for it easily."""
    return [
        [
            archived(at * 4, NOON + timedelta(hours=at)),
            archived(at * 4 + 1, NOON + timedelta(hours=at), "bot-2"),
            archived(at * 4 + 2, NOON + timedelta(hours=at), tenant="globex"),
            archived(at * 4 + 3, NOON + timedelta(hours=at), issuer="https://other"),
        ]
        for at in range(count)
    ]


def test_newest_come_first_and_nobody_elses(tmp_path: Path) -> None:
    """Over two dates and many files; what was counted is of the agent alone."""
    fill(tmp_path, hours(20))
    found = latest_events(tmp_path, "", ASKED)

    assert found is not None and found.complete and not found.damaged_files
    assert [row.offset for row in found.rows] == [at * 4 for at in reversed(range(20))]
    assert {json.loads(row.raw)["id"] for row in found.rows} == {f"e-{at * 4}" for at in range(20)}
    assert (found.match_count, found.actions, found.resources["file-8"]) == (20, {"act-0": 20}, 1)
    assert found.hours[12:24] == [1] * 12 and found.hours[:8] == [1] * 8


def test_a_look_ends_at_its_bounds(tmp_path: Path) -> None:
    """By files, by rows, by what is found; and it says that there is more."""
    fill(tmp_path, hours(20))
    few = latest_events(tmp_path, "", ASKED, LookupLimits(files=3))
    rows = latest_events(tmp_path, "", ASKED, LookupLimits(rows=13))
    enough = latest_events(tmp_path, "", ASKED._replace(max_matches=2, limit=1))

    assert (
        few is not None
        and [row.offset for row in few.rows] == [76, 72, 68]
        and not few.complete
        and few.rows_examined == 9
    )
    assert rows is not None and rows.rows_examined == 15 and not rows.complete
    assert (
        enough is not None
        and enough.match_count == 2
        and [row.offset for row in enough.rows] == [76]
        and not enough.complete
    )


def test_a_topics_archive_is_looked_through_alike(tmp_path: Path) -> None:
    """And an archive of another log is refused: its offsets say nothing here."""
    fill(tmp_path, hours(3), "events", 2)
    found = latest_events(tmp_path, "events", ASKED)

    assert found is not None and [(row.partition, row.offset) for row in found.rows] == [(2, 8), (2, 4), (2, 0)]
    with pytest.raises(CorruptLog, match="not of an embedded log"):
        latest_events(tmp_path, "", ASKED)

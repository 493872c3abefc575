"""The story of a case: what its sentences say of events."""

from __future__ import annotations

import json
from typing import Any

from trustwatch.api.cases.timeline import CaseRecords, build_timeline
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.scoring.records.cases import CaseEntry

AT_MS = 1_764_460_800_000


def event(**more: Any) -> NativeEvent:
    """A call of an agent at `AT_MS`."""
    members = {"time": "2025-11-30T00:00:00Z", "agent": {"id": "bot"}, "type": "tool.call", "outcome": "success"}
    return decode_event(json.dumps({**members, "action": "post_form", **more}).encode())


def test_an_event_says_where_to_how_much_and_for_whom() -> None:
    """What tells an exfiltration from a habit, and a confused deputy from a thief; a name starts no line."""
    sent = event(
        resource={"id": "r", "target": "evil.example", "external": True},
        bytes_in=900_000,
        bytes_out=12,
        principal={"id": "ann"},
        delegation=["bot", "orchestrator", "rev\niewer"],
    )
    (item,) = build_timeline(CaseRecords(events=[sent]))
    assert item.text == (
        "post_form on evil.example outside (900,000 bytes in, 12 out) on behalf of ann "
        "by delegation of orchestrator, rev iewer"
    )
    (bare,) = build_timeline(CaseRecords(events=[event(outcome="denied", error="no", bytes_in=0)]))
    assert bare.text == "post_form (denied: no)"


def test_entries_that_are_not_read_are_counted_before_those_that_are() -> None:
    """A case of very many entries says that it is not whole."""
    entries = [CaseEntry("case-1", number, AT_MS, "ann", "noted", f"note {number}") for number in (41, 42)]
    items = build_timeline(CaseRecords(entries=entries))
    assert items[0].text == "40 earlier entries of the case are not told"
    assert len(items) == 3
    assert len(build_timeline(CaseRecords(entries=[CaseEntry("case-1", 1, AT_MS, "ann", "noted", "first")]))) == 1

"""The story of a case: what its sentences say of events."""

from __future__ import annotations

from trustwatch.api.cases.timeline import CaseRecords, build_timeline
from trustwatch.scoring.records.cases import CaseEntry

AT_MS = 1_764_460_800_000


def test_entries_that_are_not_read_are_counted_before_those_that_are() -> None:
    entries = [CaseEntry("case-1", number, AT_MS, "ann", "noted", f"note {number}") for number in (41, 42)]
    items = build_timeline(CaseRecords(entries=entries))
    assert items[0].text == "40 earlier entries of the case are not listed"
    assert len(items) == 3
    assert len(build_timeline(CaseRecords(entries=[CaseEntry("case-1", 1, AT_MS, "ann", "noted", "first")]))) == 1

"""Histories and deliveries come into the order of their times; what was out of it is counted."""

from __future__ import annotations

import json

from trustwatch.ingest.history.time_order import Disorder, in_time_order, record_time_order
from trustwatch.ingest.source import Record, RecordKind


def event(minute: int, number: int = 0) -> bytes:
    """One line."""
    return json.dumps({"time": f"2026-03-02T08:{minute:02}:00Z", "n": number}).encode()


def test_disorder_is_counted_from_the_latest_event_before() -> None:
    """A line without a time stands where the one before it does, and is not late."""
    disorder = Disorder()
    lines = [event(10), event(2), b"{broken", event(11), event(12)]
    assert [*in_time_order(lines, disorder=disorder)] == [event(2), b"{broken", event(10), event(11), event(12)]
    assert (disorder.lines, disorder.late) == (5, 2)
    assert disorder.describe() == "2 of 5 events are out of order, by up to 0:08:00"


def test_a_delivery_is_ordered_and_what_is_no_event_keeps_its_place() -> None:
    """Behind the record that it came behind; nothing is lost, and an ordered one is as it was."""
    late, early, letter = (
        Record(RecordKind.EVENT, 1, 0, event(5)),
        Record(RecordKind.EVENT, 2, 0, event(1)),
        Record(RecordKind.DEAD, 0, 0, event(0)),
    )
    assert record_time_order([late, letter, early]) == [early, late, letter]
    assert record_time_order([early, letter, late]) == [early, letter, late]


def test_runs_are_merged_before_there_are_too_many() -> None:
    lines = [event(minute, number) for number in range(4) for minute in range(59, 0, -1)]
    expected = sorted(lines, key=lambda line: json.loads(line)["time"])
    assert [*in_time_order(lines, run_bytes=1)] == expected

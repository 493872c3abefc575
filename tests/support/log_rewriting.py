"""A log in which a third of the records name a canary, and the rewriting of its segments without it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from trustwatch.ingest.log.event_log import EventLog, changed_records, closed_segments, count_erased
from trustwatch.ingest.record_erasure import erased_record
from trustwatch.ingest.source import Record, RecordKind


def record(number: int) -> Record:
    name = "canary" if number % 3 == 0 else "other"
    return Record(RecordKind.EVENT, number + 1, 1_000 + number, f"{name}-{number}".encode() * 5)


def without_canary(old: Record) -> Record:
    return erased_record(old) if b"canary" in old.payload else old


def filled(directory: Path, records: int = 60) -> EventLog:
    log = EventLog(directory, segment_bytes=1_000)
    for first in range(0, records, 5):
        log.append([record(number) for number in range(first, first + 5)])
        log.sync()
    return log


def rewrite(log: EventLog, end: int) -> tuple[int, int]:
    """Rewrite every closed segment; returns the numbers of records removed and changed."""
    total = Counter(removed=0, changed=0)
    for base in closed_segments(log.directory, end):
        changes = changed_records(log.directory, base, end, without_canary)
        if changes:
            assert log.replace_records(base, changes)
            removed, changed = count_erased(changes)
            total.update(removed=removed, changed=changed)
    log.clean()
    return total["removed"], total["changed"]

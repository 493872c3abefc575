"""A log in which a third of the records name a canary, and the rewriting of its segments without it."""

from __future__ import annotations

from pathlib import Path

from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.log_segments import RewriteCount, closed_segments, write_rewritten_segment
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


def rewrite(log: EventLog, end: int) -> RewriteCount:
    total = RewriteCount()
    for base in closed_segments(log.directory, end):
        made = write_rewritten_segment(log.directory, base, end, without_canary)
        if made is not None:
            assert log.replace_segment(base, made[0])
            total = total.plus(made[1])
    return total

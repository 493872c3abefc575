"""Records of the embedded log, and all that a log holds."""

from __future__ import annotations

from pathlib import Path

from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.source import Record, RecordKind


def make_record(number: int, size: int = 20) -> Record:
    return Record(RecordKind.EVENT, number + 1, 1_000 * number, f"{number}".encode().ljust(size, b"."))


def read_records(directory: Path, start: int = 0) -> list[Record]:
    with LogReader(directory) as reader:
        reader.seek(0, start)
        records: list[Record] = []
        while (batch := reader.poll(7, 0)) is not None:
            assert batch.base_offset == start + len(records)
            records += batch.records
        return records

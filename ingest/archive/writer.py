"""The writing side: ranges of the event log become files, each range once, whatever is killed.

`date=YYYY-MM-DD/tenant=NAME/events-FIRST-END.parquet` holds the events of one UTC date (of event time) and tenant from
the log's offsets FIRST up to END. A range is written file by file (to a `.tmp` name, fsync, rename) and then taken into
`_position.json` by one atomic rename. What a crash leaves behind that rename is removed at the next start, and its
range is written again.
"""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pyarrow.parquet as pq

from ..events import AuditEvent
from ..hashing import agent_key
from ..log.segments import sync_directory
from .position import POSITION, read_position
from .tables import table

NO_TENANT = "~"
"""Folder of events without a tenant. Not Hive's own null: pandas can not mix that with names."""
_LONGEST = 120
_FILE = re.compile(r"events-(\d{20})-(\d{20})\.parquet")


class Archived(NamedTuple):
    """One event. Times are UTC milliseconds."""

    offset: int
    received_ms: int
    event: AuditEvent
    raw: bytes


def offsets_of(path: Path) -> tuple[int, int] | None:
    """First offset and end of the range that a file is of; None for other files."""
    found = _FILE.fullmatch(path.name)
    return None if found is None else (int(found[1]), int(found[2]))


def partition_of(at_ms: int, tenant: str) -> str:
    """Folder of an event, relative to the archive.

    >>> partition_of(1_764_547_200_000, "acme/eu")
    'date=2025-12-01/tenant=acme%2Feu'
    """
    date = datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d")
    name = quote(tenant, safe="") or NO_TENANT
    if len(name) > _LONGEST:  # a file system's names end at 255 bytes; `tenant_name` in the file is whole
        name = f"{name[:_LONGEST]}~{agent_key(tenant, '', ''):016x}"
    return f"date={date}/tenant={name}"


class Archive:
    """One archive; exactly one process may write it.

    Args:
        directory: made where it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self) -> int | None:
        """Remove what a crash left half done. Returns the position, None before the first range."""
        self.directory.mkdir(parents=True, exist_ok=True)
        position = read_position(self.directory)
        for path in self.directory.rglob("*.tmp"):
            path.unlink()
        for path in self.directory.rglob("events-*.parquet"):
            found = offsets_of(path)
            if found is not None and found[0] >= (position or 0):
                path.unlink()
        return position

    def write(self, base: int, end: int, events: list[Archived]) -> None:
        """Write the range [base, end) of the log with its *events*, and move the position behind it."""
        parts: dict[str, list[Archived]] = {}
        for one in events:
            at_ms = int(one.event.time.timestamp() * 1000)
            parts.setdefault(partition_of(at_ms, one.event.tenant or ""), []).append(one)
        for folder, rows in sorted(parts.items()):
            self._write_file(self.directory / folder, f"events-{base:020d}-{end:020d}.parquet", rows)
        self._move_to(end)

    def _write_file(self, folder: Path, name: str, rows: list[Archived]) -> None:
        made = [path for path in (folder, folder.parent) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{name}.tmp"
        columns = table([(r.offset, r.received_ms, int(r.event.time.timestamp() * 1000), r.event, r.raw) for r in rows])
        with temporary.open("wb") as file:
            pq.write_table(columns, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / name)
        for path in (folder, *(one.parent for one in made)):
            sync_directory(path)

    def _move_to(self, offset: int) -> None:
        temporary = self.directory / f"{POSITION}.tmp"
        with temporary.open("w") as file:
            json.dump({"offset": offset}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.directory / POSITION)
        sync_directory(self.directory)

    def drop_before(self, oldest_ms: int) -> int:
        """Remove the dates that end before a time, UTC milliseconds; returns how many files went."""
        kept_from = datetime.fromtimestamp(oldest_ms // 1000, UTC).strftime("%Y-%m-%d")
        dropped = 0
        for day in self.directory.glob("date=*"):
            if day.name.removeprefix("date=") >= kept_from:
                continue
            for path in sorted(day.rglob("*"), reverse=True):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
                    dropped += 1
            day.rmdir()
        return dropped

"""What an archive holds, from names and the ends of files alone: no row is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError
from .files import ArchiveFileKind, data_files, read_lock
from .position import read_positions


class ArchiveDay(msgspec.Struct):
    """One UTC date. *vectors* counts rows beside *events*; what it lacks was scored and not kept."""

    date: str
    files: int = 0
    bytes: int = 0
    events: int = 0
    vectors: int = 0


class ArchiveContents(msgspec.Struct):
    """An archive of events, and that of its vectors where there is one.

    Attributes:
        positions: offset by partition up to which the log is archived.
        days: oldest first.
        tenants: folders of tenants.
    """

    positions: Mapping[str, int]
    days: list[ArchiveDay]
    tenants: int


def count_archive(events: Path, vectors: Path | None = None) -> ArchiveContents:
    """Count the rows of every file that counts.

    Raises:
        ConfigError: no archive, or a file of it is damaged.
    """
    positions = read_positions(events)
    if positions is None:
        raise ConfigError(f"{events}: no archive of ours")
    days: dict[str, ArchiveDay] = {}
    tenants = _count_files(events, "events", positions, days)
    if vectors is not None and vectors.is_dir():
        _count_files(vectors, "vectors", None, days)
    named = {str(partition): offset for partition, offset in sorted(positions.items())}
    return ArchiveContents(named, [days[day] for day in sorted(days)], len(tenants))


def _count_files(
    directory: Path, kind: ArchiveFileKind, positions: Mapping[int, int] | None, days: dict[str, ArchiveDay]
) -> set[str]:
    tenants = set()
    with read_lock(directory):
        for file in data_files(directory, kind):
            if positions is not None and file.first >= positions.get(file.partition, 0):
                continue
            try:
                rows = pq.read_metadata(file.path).num_rows
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"{file.path}: can not be read: {error}") from error
            day = days.setdefault(file.day.isoformat(), ArchiveDay(file.day.isoformat()))
            day.files += 1
            day.bytes += file.path.stat().st_size
            if kind == "events":
                day.events += rows
            else:
                day.vectors += rows
            tenants.add(file.tenant_folder)
    return tenants

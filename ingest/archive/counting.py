"""What an archive holds, from names and the ends of files alone: no row is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError
from .files import Kind, data_files, reading
from .position import read_positions


class Day(msgspec.Struct):
    """One UTC date. *vectors* counts rows beside *events*; what it lacks was scored and not kept."""

    date: str
    files: int = 0
    bytes: int = 0
    events: int = 0
    vectors: int = 0


class Held(msgspec.Struct):
    """An archive of events, and that of its vectors where there is one.

    Attributes:
        positions: offset by partition up to which the log is archived.
        days: oldest first.
        tenants: folders of tenants.
    """

    positions: Mapping[str, int]
    days: list[Day]
    tenants: int


def held(events: Path, vectors: Path | None = None) -> Held:
    """Count the rows of every file that counts.

    Raises:
        ConfigError: no archive, or a file of it is damaged.
    """
    positions = read_positions(events)
    if positions is None:
        raise ConfigError(f"{events}: no archive of ours")
    days: dict[str, Day] = {}
    tenants = _count(events, "events", positions, days)
    if vectors is not None and vectors.is_dir():
        _count(vectors, "vectors", None, days)
    named = {str(partition): offset for partition, offset in sorted(positions.items())}
    return Held(named, [days[day] for day in sorted(days)], len(tenants))


def _count(directory: Path, kind: Kind, positions: Mapping[int, int] | None, days: dict[str, Day]) -> set[str]:
    tenants = set()
    with reading(directory):
        for file in data_files(directory, kind):
            if positions is not None and file.first >= positions.get(file.partition, 0):
                continue
            try:
                rows = pq.read_metadata(file.path).num_rows
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"{file.path}: can not be read: {error}") from error
            day = days.setdefault(file.day.isoformat(), Day(file.day.isoformat()))
            day.files += 1
            day.bytes += file.path.stat().st_size
            if kind == "events":
                day.events += rows
            else:
                day.vectors += rows
            tenants.add(file.tenant_folder)
    return tenants

"""Reading of an archive: raw events in the order in which they were logged, of all or of one agent. Bounded memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import ConfigError
from ..record_erasure import ErasureSubject
from .archive_files import POSITION_FILE, ArchiveFileKind, DataFile, data_files, read_lock, read_positions

READ_BATCH_ROWS = 1_024
"""Raw events of a file that are held at once."""
_ONE_MS = timedelta(milliseconds=1)
_OffsetLine = tuple[int, int, int, bytes]  # received, partition, offset, raw


def raw_lines(
    directory: Path,
    since: datetime | None = None,
    until: datetime | None = None,
    up_to: Mapping[int, int] | None = None,
    arrived: datetime | None = None,
) -> Iterator[bytes]:
    """Archived events as they were logged, in the order of the log; ranges that are not committed are left out.

    Events of several partitions come in the order in which they arrived, those of one partition in the order of its
    log. Held in memory are some rows of each file whose range overlaps the others': a date's tenants. Raises
    ConfigError.
    """
    with read_lock(directory):
        partitions: dict[int, list[DataFile]] = {}
        for file in committed_files(directory, since, until):
            partitions.setdefault(file.partition, []).append(file)
        bounds = _TimeBounds(since, until, arrived)
        parts = [_partition_lines(files, bounds) for files in partitions.values()]
        for _, partition, offset, raw in parts[0] if len(parts) == 1 else heapq.merge(*parts):
            if up_to is not None and offset >= up_to.get(partition, 0):  # archived, or merged into a file, since then
                continue
            # One line each: JSON has line breaks between its parts alone, where a blank says the same.
            yield raw.replace(b"\r", b" ").replace(b"\n", b" ")


class _TimeBounds(NamedTuple):
    since: datetime | None
    until: datetime | None
    arrived: datetime | None

    def contains(self, received: datetime, at: datetime) -> bool:
        """Check a row's times against all bounds."""
        return (
            (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
            and (self.arrived is None or received >= self.arrived)
        )

    def row_groups(self, parquet: pq.ParquetFile) -> list[int]:
        """Parts of a file that may hold rows within; of the others, its end says when their last row arrived."""
        column = parquet.schema_arrow.get_field_index("received")
        groups = []
        for number in range(parquet.num_row_groups):
            statistics = parquet.metadata.row_group(number).column(column).statistics
            if (
                self.arrived is None
                or statistics is None
                or not statistics.has_min_max
                or statistics.max >= self.arrived
            ):
                groups.append(number)
        return groups


def _partition_lines(files: Sequence[DataFile], bounds: _TimeBounds) -> Iterator[_OffsetLine]:
    """Lines of one partition by offset; files are opened once their range begins."""
    group: list[DataFile] = []
    end = -1
    for file in files:
        if group and file.first >= end:
            yield from _merged_lines(group, bounds)
            group = []
        group.append(file)
        end = max(end, file.end)
    yield from _merged_lines(group, bounds)


def _merged_lines(files: Sequence[DataFile], bounds: _TimeBounds) -> Iterator[_OffsetLine]:
    return heapq.merge(*(_file_lines(file, bounds) for file in files), key=lambda line: line[2])


def _file_lines(file: DataFile, bounds: _TimeBounds) -> Iterator[_OffsetLine]:
    names = ["offset", "received", "time", "raw"]
    try:
        with pq.ParquetFile(file.path) as parquet:
            for batch in parquet.iter_batches(
                READ_BATCH_ROWS, bounds.row_groups(parquet), columns=names, use_threads=False
            ):
                for offset, received, at, raw in zip(*(batch[name].to_pylist() for name in names), strict=True):
                    if bounds.contains(received, at):
                        yield round(received.timestamp() * 1000), file.partition, offset, raw
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{file.path}: can not be read: {error}") from error


def committed_files(
    directory: Path, since: datetime | None, until: datetime | None, tenant: str | None = None
) -> list[DataFile]:
    """Files of events whose ranges count, of the dates of [since, until). Raises ConfigError: there is no archive."""
    positions = read_positions(directory)
    if positions is None:
        raise ConfigError(f"{directory}: no archive of ours; one has a `{POSITION_FILE}`")
    files = files_within(directory, "events", since, until, tenant)
    return [file for file in files if file.first < positions.get(file.partition, 0)]


def files_within(
    directory: Path, kind: ArchiveFileKind, since: datetime | None, until: datetime | None, tenant: str | None
) -> list[DataFile]:
    """Files of the dates of [since, until)."""
    first = None if since is None else since.astimezone(UTC).date()
    last = None if until is None else (until - _ONE_MS).astimezone(UTC).date()
    return data_files(directory, kind, first, last, tenant)


_AGENT_LINE_COLUMNS = ["offset", "tenant_name", "issuer", "agent_id", "raw"]


def agent_lines(
    directory: Path, subject: ErasureSubject, up_to: Mapping[int, int], since: Mapping[int, int] = MappingProxyType({})
) -> Iterator[bytes]:
    """Events of an agent as they were logged, one line each, by partition in the order of its files; a row group is in
    memory.

    Files are kept from being rewritten until the iterator ends: read on, and do not rest within. Raises ConfigError.
    """
    with read_lock(directory):
        for file in data_files(directory, "events", tenant=subject.tenant):
            start, end = since.get(file.partition, 0), up_to.get(file.partition, 0)
            if file.first >= end or file.end <= start:
                continue
            try:
                parquet = pq.ParquetFile(file.path)
                for group in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(group, columns=_AGENT_LINE_COLUMNS)
                    # A file that was merged since has other rows, too.
                    in_range = pc.and_(pc.less(rows["offset"], end), pc.greater_equal(rows["offset"], start))
                    yield from _agent_lines_of(rows.filter(in_range), subject)
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"{file.path}: can not be read: {error}") from error


def _agent_lines_of(table: pa.Table, subject: ErasureSubject) -> Iterator[bytes]:
    of = pc.and_(pc.equal(table["agent_id"], subject.name), pc.equal(table["tenant_name"], subject.tenant))
    mine = pc.and_(pc.fill_null(of, False), pc.equal(pc.fill_null(table["issuer"], ""), subject.issuer))
    events = table.filter(mine).sort_by("offset")
    for raw in events["raw"]:
        yield bytes(raw.as_py()).replace(b"\r", b" ").replace(b"\n", b" ")


# Summaries come from file names and Parquet footers alone: no row is read.


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
    """Count the rows of every file that counts. Raises ConfigError."""
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

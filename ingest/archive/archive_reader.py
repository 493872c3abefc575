"""Reading of an archive: raw events in the order in which they were logged, of all or of one agent. Bounded memory."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import structlog

from ..errors import ConfigError
from ..file_source import UnreadableFile
from ..record_erasure import ErasureSubject
from ..source import as_one_line
from .archive_files import POSITION_FILE, ArchiveFileKind, DataFile, data_files, read_lock, read_positions
from .event_archive import EVENT_SCHEMA, VECTOR_SCHEMA_HEAD, rows_of_agent

READ_BATCH_ROWS = 1_024
"""Raw events of a file that are held at once."""
_ONE_MS = timedelta(milliseconds=1)
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_OffsetLine = tuple[int, int, int, bytes]  # received, partition, offset, raw
_TimeBounds = tuple[datetime, datetime, datetime]
"""Event time from the first on and before the second, and arrival from the third on."""


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
        bounds = since or _EARLIEST, until or _LATEST, arrived or _EARLIEST
        parts = [_partition_lines(files, bounds) for files in partitions.values()]
        for _, partition, offset, raw in parts[0] if len(parts) == 1 else heapq.merge(*parts):
            if up_to is not None and offset >= up_to.get(partition, 0):  # archived, or merged into a file, since then
                continue
            yield as_one_line(raw)


def _partition_lines(files: Sequence[DataFile], bounds: _TimeBounds) -> Iterator[_OffsetLine]:
    """Yield the lines of one partition by offset; open files once their range begins."""
    groups: list[list[DataFile]] = []
    end = -1
    for file in files:
        if file.first >= end:
            groups.append([])
        groups[-1].append(file)
        end = max(end, file.end)
    for group in groups:
        yield from heapq.merge(*(_file_lines(file, bounds) for file in group), key=lambda line: line[2])


def _file_lines(file: DataFile, bounds: _TimeBounds) -> Iterator[_OffsetLine]:
    since, until, arrived = bounds
    names = ["offset", "received", "time", "raw"]
    with _readable(file), pq.ParquetFile(file.path) as parquet:
        column = parquet.schema_arrow.get_field_index("received")
        row_groups = []
        for number in range(parquet.num_row_groups):
            found = parquet.metadata.row_group(number).column(column).statistics
            if found is None or not found.has_min_max or found.max >= arrived:
                row_groups.append(number)
        for batch in parquet.iter_batches(READ_BATCH_ROWS, row_groups, columns=names, use_threads=False):
            for offset, received, at, raw in zip(*(batch[name].to_pylist() for name in names), strict=True):
                if since <= at < until and received >= arrived:
                    yield round(received.timestamp() * 1000), file.partition, offset, raw


@contextmanager
def _readable(file: DataFile) -> Iterator[None]:
    """Raise ConfigError, which names the file, for damage that Arrow finds."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{file.path}: cannot be read: {error}") from error


def committed_files(
    directory: Path, since: datetime | None, until: datetime | None, tenant: str | None = None
) -> list[DataFile]:
    """Event files whose ranges count, for dates in [since, until). Raises ConfigError if there is no archive."""
    positions = read_positions(directory)
    if positions is None:
        raise ConfigError(f"{directory}: is not an archive of Trustwatch, which has a `{POSITION_FILE}`")
    files = files_within(directory, "events", since, until, tenant)
    return [file for file in files if file.first < positions.get(file.partition, 0)]


def files_within(
    directory: Path, kind: ArchiveFileKind, since: datetime | None, until: datetime | None, tenant: str | None
) -> list[DataFile]:
    """Files of the dates of [since, until)."""
    first = None if since is None else since.astimezone(UTC).date()
    last = None if until is None else (until - _ONE_MS).astimezone(UTC).date()
    return data_files(directory, kind, first, last, tenant)


def archive_dataset(
    directory: Path,
    kind: ArchiveFileKind = "events",
    since: datetime | None = None,
    until: datetime | None = None,
    tenant: str | None = None,
) -> ds.Dataset:
    """An Arrow dataset of the events or vectors that count, of the dates of [since, until), of one tenant or all.

    Files may have different features: a missing one is null. Events of one file are in the order of the log. Hold
    `read_lock` while you read, or a file may be merged in the meantime. Raises ConfigError.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such folder; `archive` of the settings names those of events and vectors")
    files = (
        committed_files(directory, since, until, tenant)
        if kind == "events"
        else files_within(directory, kind, since, until, tenant)
    )
    schemas = [EVENT_SCHEMA if kind == "events" else VECTOR_SCHEMA_HEAD]
    for file in files:
        with _readable(file):
            schemas.append(pq.read_schema(file.path))
    return ds.dataset([str(file.path) for file in files], schema=pa.unify_schemas(schemas), format="parquet")


_AGENT_LINE_COLUMNS = ["offset", "tenant_name", "issuer", "agent_id", "raw"]


def agent_lines(
    directory: Path, subject: ErasureSubject, up_to: Mapping[int, int], since: Mapping[int, int] = MappingProxyType({})
) -> Iterator[bytes]:
    """Yield the events of an agent as they were logged, one line each, by partition in the order of its files.

    Memory holds one row group. Files cannot be rewritten until the iterator ends, so do not pause. Raises ConfigError.
    """
    with read_lock(directory):
        for file in data_files(directory, "events", tenant=subject.tenant):
            start, end = since.get(file.partition, 0), up_to.get(file.partition, 0)
            if file.first >= end or file.end <= start:
                continue
            with _readable(file), pq.ParquetFile(file.path) as parquet:
                for group in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(group, columns=_AGENT_LINE_COLUMNS)
                    # A file that was merged since has other rows, too.
                    in_range = pc.and_(pc.less(rows["offset"], end), pc.greater_equal(rows["offset"], start))
                    mine = pc.and_(in_range, rows_of_agent(rows, *subject.agent_identity))
                    for raw in rows.filter(mine).sort_by("offset")["raw"]:
                        yield as_one_line(raw.as_py())


# Summaries come from file names and Parquet footers alone: no row is read.


class ArchiveDay(msgspec.Struct):
    """One UTC date. *vectors* counts rows of vectors; what it lacks of *events* was scored and not kept."""

    date: str
    files: int = 0
    bytes: int = 0
    events: int = 0
    vectors: int = 0


class ArchiveContents(msgspec.Struct):
    """An archive of events, and that of its vectors if there is one."""

    positions: Mapping[str, int]  # offset by partition up to which the log is archived
    days: list[ArchiveDay]  # oldest first
    tenants: int  # folders of tenants


def count_archive(events: Path, vectors: Path | None = None) -> ArchiveContents:
    """Count the rows of every file that counts. Raises ConfigError."""
    positions = read_positions(events)
    if positions is None:
        raise ConfigError(f"{events}: is not an archive of Trustwatch")
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
            with _readable(file):
                rows = pq.read_metadata(file.path).num_rows
            day = days.setdefault(file.day.isoformat(), ArchiveDay(file.day.isoformat()))
            day.files += 1
            day.bytes += file.path.stat().st_size
            if kind == "events":
                day.events += rows
            else:
                day.vectors += rows
            tenants.add(file.tenant_folder)
    return tenants


# The newest archived events of one agent: a bounded search from the newest file back, which reports how far it got.

_MATCH_COLUMNS = ["offset", "time", "tenant_name", "issuer", "agent_id", "action", "resource_id"]
_log = structlog.get_logger(__name__)


class LookupLimits(NamedTuple):
    """Bounds of one look-up: files, rows looked at, and bytes of records unpacked for the events shown."""

    files: int = 300
    rows: int = 1_000_000
    raw_bytes: int = 256 * 2**20


DEFAULT_LOOKUP_LIMITS = LookupLimits()


class AgentEventQuery(NamedTuple):
    """Query for events of one agent."""

    tenant: str  # tenant, issuer, agent_id: of the agent; "" = none
    issuer: str
    agent_id: str
    since: datetime | None = None  # since, until: event time, from the first on and before the second; None = no bound
    until: datetime | None = None
    # offset by partition before which they lie; partitions that are not named have no bound
    before: Mapping[int, int] = MappingProxyType({})
    limit: int = 50  # events that are returned whole
    max_matches: int = 500  # events that are found until the look ends; counts are of those


class LoggedEvent(NamedTuple):
    """One event as it was logged. *time_ms* is its own, UTC."""

    time_ms: int
    partition: int
    offset: int
    raw: bytes


@dataclass
class LatestEvents:
    """Newest events of one agent, with counts over all of its rows that were looked at."""

    rows: list[LoggedEvent] = field(default_factory=list)  # newest first
    match_count: int = 0  # events of the agent among the rows looked at
    rows_examined: int = 0  # rows looked at
    # true if no older event of the requested dates is left and the archive reaches the requested end
    complete: bool = False
    damaged_files: int = 0  # files that cannot be read
    actions: Counter[str] = field(default_factory=Counter)  # actions, resources: number of events with each
    resources: Counter[str] = field(default_factory=Counter)
    hours: list[int] = field(default_factory=lambda: [0] * 24)  # number of events by hour of day, UTC
    raw_bytes: int = 0  # bytes of records that were unpacked


def latest_events(
    directory: Path, topic: str, query: AgentEventQuery, bounds: LookupLimits = DEFAULT_LOOKUP_LIMITS
) -> LatestEvents | None:
    """The newest archived events of an agent; None if nothing is archived yet. Blocks.

    Files go by date and then by place in the log, newest first: within a date, events that came late may stand
    before or after others. It does not wait for files that are being rewritten. Raises CorruptLog or BlockingIOError.
    """
    positions = read_positions(directory, topic)
    if positions is None:
        return None
    ends = {at: min(end, query.before.get(at, end)) for at, end in positions.items()}
    with read_lock(directory, wait=False):
        in_dates = files_within(directory, "events", query.since, query.until, query.tenant)
        files = [file for file in in_dates if file.first < ends.get(file.partition, 0)]
        files.sort(key=lambda file: (file.day, file.end, file.partition), reverse=True)
        found, seen = _scan_files(files, query, bounds)
    found.rows = sorted(found.rows, key=lambda row: (row.time_ms, row.offset), reverse=True)[: query.limit]
    behind = any(positions.get(partition, 0) < end for partition, end in query.before.items())
    found.complete = seen == len(files) and not behind
    return found


def _scan_files(files: Sequence[DataFile], query: AgentEventQuery, bounds: LookupLimits) -> tuple[LatestEvents, int]:
    """Scan files until a bound is reached; returns what was found, and the number of files."""
    found, seen = LatestEvents(), 0
    for seen, file in enumerate(files, 1):
        try:
            with pq.ParquetFile(file.path) as parquet:
                for group in reversed(range(parquet.num_row_groups)):
                    _scan_row_group(file.partition, parquet, group, query, found)
        except (OSError, pa.ArrowException) as error:
            found.damaged_files += 1
            _log.warning("a file of the archive cannot be read", path=str(file.path), error=str(error))
        if (
            seen >= bounds.files
            or found.rows_examined >= bounds.rows
            or found.match_count >= query.max_matches
            or found.raw_bytes >= bounds.raw_bytes
        ):
            break
    return found, seen


def _scan_row_group(
    partition: int, parquet: pq.ParquetFile, group: int, query: AgentEventQuery, found: LatestEvents
) -> None:
    head = parquet.read_row_group(group, columns=_MATCH_COLUMNS, use_threads=False)
    found.rows_examined += head.num_rows
    at = pc.indices_nonzero(_matching_rows(head, query, query.before.get(partition)))
    if not len(at):
        return
    matches = head.take(at)
    times = matches["time"].to_pylist()
    found.match_count += matches.num_rows
    found.actions.update(matches["action"].to_pylist())
    found.resources.update(filter(None, matches["resource_id"].to_pylist()))
    for time in times:
        found.hours[time.hour] += 1
    missing = max(0, query.limit - len(found.rows))
    if missing:
        table = parquet.read_row_group(group, columns=["raw"], use_threads=False)
        found.raw_bytes += table.nbytes
        raws = table["raw"].take(at).to_pylist()
        events = zip(times, matches["offset"].to_pylist(), raws, strict=True)
        found.rows += [
            LoggedEvent(round(time.timestamp() * 1000), partition, offset, raw) for time, offset, raw in events
        ][-missing:]


def _matching_rows(head: pa.Table, query: AgentEventQuery, before: int | None) -> Any:
    """Mask of the rows that are the agent's and fit the query."""
    own = rows_of_agent(head, query.tenant, query.issuer, query.agent_id)
    kind = head.schema.field("time").type
    if query.since is not None:
        own = pc.and_(own, pc.greater_equal(head["time"], pa.scalar(query.since, kind)))
    if query.until is not None:
        own = pc.and_(own, pc.less(head["time"], pa.scalar(query.until, kind)))
    return own if before is None else pc.and_(own, pc.less(head["offset"], before))


# Reads what others packed or wrote with Arrow's formats: rows of a Parquet file, and streams of zstd.

BATCH_ROWS = 1_000


def open_zstd(packed: BinaryIO) -> Any:
    """The unpacked stream; several frames are one. It raises OSError if it is damaged or cut off."""
    return pa.CompressedInputStream(pa.PythonFile(packed), "zstd")


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, in batches of few. Raises UnreadableFile."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFile(f"{path}: no Parquet that can be read: {str(error).splitlines()[0]}") from None

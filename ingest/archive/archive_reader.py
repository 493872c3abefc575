"""Reading of an archive: raw events in the order in which they were logged, of all or of one agent. Bounded memory."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from .archive_files import POSITION_FILE, ArchiveFileKind, DataFile, data_files, read_lock, read_positions
from .event_archive import EVENT_SCHEMA, VECTOR_SCHEMA_HEAD

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
            # One line each: JSON has line breaks only between its parts, and a space means the same there.
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
        try:
            schemas.append(pq.read_schema(file.path))
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{file.path}: cannot be read: {error}") from error
    return ds.dataset([str(file.path) for file in files], schema=pa.unify_schemas(schemas), format="parquet")


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
                raise ConfigError(f"{file.path}: cannot be read: {error}") from error


def _agent_lines_of(table: pa.Table, subject: ErasureSubject) -> Iterator[bytes]:
    of = pc.and_(pc.equal(table["agent_id"], subject.name), pc.equal(table["tenant_name"], subject.tenant))
    mine = pc.and_(pc.fill_null(of, False), pc.equal(pc.fill_null(table["issuer"], ""), subject.issuer))
    events = table.filter(mine).sort_by("offset")
    for raw in events["raw"]:
        yield bytes(raw.as_py()).replace(b"\r", b" ").replace(b"\n", b" ")


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
            try:
                rows = pq.read_metadata(file.path).num_rows
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"{file.path}: cannot be read: {error}") from error
            day = days.setdefault(file.day.isoformat(), ArchiveDay(file.day.isoformat()))
            day.files += 1
            day.bytes += file.path.stat().st_size
            if kind == "events":
                day.events += rows
            else:
                day.vectors += rows
            tenants.add(file.tenant_folder)
    return tenants


# The newest archived events of one agent: a bounded search back through the files that reports its extent.

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


class LatestEvents(NamedTuple):
    """Newest events of one agent, with counts over all of its rows that were looked at."""

    rows: list[LoggedEvent]  # newest first
    match_count: int  # events of the agent among the rows looked at
    rows_examined: int  # rows looked at
    # true if no older event of the requested dates is left and the archive reaches the requested end
    complete: bool
    damaged_files: int  # files that cannot be read
    actions: Counter[str]  # actions, resources: number of events with each
    resources: Counter[str]
    hours: list[int]  # number of events by hour of day, UTC


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
    with read_lock(directory, wait=False):
        in_dates = files_within(directory, "events", query.since, query.until, query.tenant)
        files = [file for file in in_dates if file.first < _query_end(query, positions, file.partition)]
        files.sort(key=lambda file: (file.day, file.end, file.partition), reverse=True)
        result = _AgentEventScan(query, bounds).scan(files)
    behind = any(positions.get(partition, 0) < end for partition, end in query.before.items())
    return result._replace(complete=result.complete and not behind)


def _query_end(query: AgentEventQuery, positions: dict[int, int], partition: int) -> int:
    archived = positions.get(partition, 0)
    return min(archived, query.before.get(partition, archived))


class _AgentEventScan:
    """One look-up in progress, with the work it has spent."""

    def __init__(self, asked: AgentEventQuery, bounds: LookupLimits) -> None:
        self._asked, self._bounds = asked, bounds
        self._rows: list[LoggedEvent] = []
        self._actions: Counter[str] = Counter()
        self._resources: Counter[str] = Counter()
        self._hours = [0] * 24
        self._matches = self._rows_read = self._raw_bytes = self._damaged = 0

    def scan(self, files: Sequence[DataFile]) -> LatestEvents:
        """Scan the files until a bound is reached."""
        seen = 0
        for seen, file in enumerate(files, 1):
            try:
                self._scan_file(file)
            except (OSError, pa.ArrowException) as error:
                self._damaged += 1
                _log.warning("a file of the archive cannot be read", path=str(file.path), error=str(error))
            if self._limit_reached(seen):
                break
        rows = sorted(self._rows, key=lambda row: (row.time_ms, row.offset), reverse=True)[: self._asked.limit]
        return LatestEvents(
            rows,
            self._matches,
            self._rows_read,
            seen == len(files),
            self._damaged,
            self._actions,
            self._resources,
            self._hours,
        )

    def _limit_reached(self, files: int) -> bool:
        return (
            files >= self._bounds.files
            or self._rows_read >= self._bounds.rows
            or self._matches >= self._asked.max_matches
            or self._raw_bytes >= self._bounds.raw_bytes
        )

    def _scan_file(self, file: DataFile) -> None:
        with pq.ParquetFile(file.path) as parquet:
            for group in reversed(range(parquet.num_row_groups)):
                self._scan_row_group(file, parquet, group)

    def _scan_row_group(self, file: DataFile, parquet: pq.ParquetFile, group: int) -> None:
        head = parquet.read_row_group(group, columns=_MATCH_COLUMNS, use_threads=False)
        self._rows_read += head.num_rows
        mine = _matching_rows(head, self._asked, self._asked.before.get(file.partition))
        at = pc.indices_nonzero(mine)
        if not len(at):
            return
        matches = head.take(at)
        self._count(matches)
        missing = self._asked.limit - len(self._rows) if self._asked.limit > len(self._rows) else 0
        if missing:
            raw = self._raw(parquet, group).take(at)
            self._rows += list(_logged_events(file.partition, matches, raw))[-missing:]

    def _raw(self, parquet: pq.ParquetFile, group: int) -> pa.ChunkedArray:
        table = parquet.read_row_group(group, columns=["raw"], use_threads=False)
        self._raw_bytes += table.nbytes
        return table["raw"]

    def _count(self, matches: pa.Table) -> None:
        self._matches += matches.num_rows
        self._actions.update(matches["action"].to_pylist())
        self._resources.update(resource for resource in matches["resource_id"].to_pylist() if resource)
        for at in matches["time"].to_pylist():
            self._hours[at.hour] += 1


def _matching_rows(head: pa.Table, query: AgentEventQuery, before: int | None) -> Any:
    """Mask of the rows that are the agent's and fit the query."""
    own = pc.and_(pc.equal(head["agent_id"], query.agent_id), pc.equal(head["tenant_name"], query.tenant))
    own = pc.and_(pc.fill_null(own, False), pc.equal(pc.fill_null(head["issuer"], ""), query.issuer))
    kind = head.schema.field("time").type
    bounds: tuple[tuple[str, Callable[..., Any], Any], ...] = (
        ("time", pc.greater_equal, None if query.since is None else pa.scalar(query.since, kind)),
        ("time", pc.less, None if query.until is None else pa.scalar(query.until, kind)),
        ("offset", pc.less, before),
    )
    for column, compare, bound in bounds:
        if bound is not None:
            own = pc.and_(own, compare(head[column], bound))
    return own


def _logged_events(partition: int, matches: pa.Table, raw: pa.ChunkedArray) -> Iterator[LoggedEvent]:
    for at, offset, record in zip(
        matches["time"].to_pylist(), matches["offset"].to_pylist(), raw.to_pylist(), strict=True
    ):
        yield LoggedEvent(round(at.timestamp() * 1000), partition, offset, record)


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

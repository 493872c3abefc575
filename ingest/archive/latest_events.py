"""The newest archived events of one agent: a bounded search back through the files that reports its extent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from .archive_files import DataFile, read_lock, read_positions
from .archive_reader import files_within

_MATCH_COLUMNS = ["offset", "time", "tenant_name", "issuer", "agent_id", "action", "resource_id"]
_log = structlog.get_logger(__name__)


class LookupLimits(NamedTuple):
    """Bounds of one look-up: files, rows looked at, and bytes of records unpacked for the events shown."""

    files: int = 300
    rows: int = 1_000_000
    raw_bytes: int = 256 * 2**20


DEFAULT_LOOKUP_LIMITS = LookupLimits()


class AgentEventQuery(NamedTuple):
    """Query for events of one agent.

    Attributes:
        tenant, issuer, agent_id: of the agent; "" = none.
        since, until: event time, from the first on and before the second; None = no bound.
        before: offset by partition before which they lie; partitions that are not named have no bound.
        limit: events that are returned whole.
        max_matches: events that are found until the look ends; counts are of those.
    """

    tenant: str
    issuer: str
    agent_id: str
    since: datetime | None = None
    until: datetime | None = None
    before: Mapping[int, int] = MappingProxyType({})
    limit: int = 50
    max_matches: int = 500


class LoggedEvent(NamedTuple):
    """One event as it was logged. *time_ms* is its own, UTC."""

    time_ms: int
    partition: int
    offset: int
    raw: bytes


class LatestEvents(NamedTuple):
    """Newest events of one agent, with counts over all of its rows that were looked at.

    Attributes:
        rows: newest first.
        match_count: events of the agent among the rows looked at.
        rows_examined: rows looked at.
        complete: true if no older event (of the dates asked for) is left, and the archive goes up to where it was asked
            to.
        damaged_files: files that can not be read.
        actions, resources: number of events with each.
        hours: number of events by hour of day, UTC.
    """

    rows: list[LoggedEvent]
    match_count: int
    rows_examined: int
    complete: bool
    damaged_files: int
    actions: Counter[str]
    resources: Counter[str]
    hours: list[int]


def latest_events(
    directory: Path, topic: str, query: AgentEventQuery, bounds: LookupLimits = DEFAULT_LOOKUP_LIMITS
) -> LatestEvents | None:
    """The newest archived events of an agent; None where nothing is archived yet. Blocks.

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
                _log.warning("a file of the archive can not be read", path=str(file.path), error=str(error))
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

"""Archived events of whichever agents that fit a question: a bounded look back that says how far it went."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from .archive_files import DataFile, read_lock, read_positions
from .archive_reader import files_within
from .latest_events import LoggedEvent, LookupLimits

ESCAPE = "\\u"
"""Escape by which JSON may write any character: a record that has it is decoded, whatever stands in it."""
SEARCH_LIMITS = LookupLimits(files=300, rows=500_000, raw_bytes=128 * 2**20)
_SELECTED_COLUMNS = ("offset", "time", "tenant_name")
_log = structlog.get_logger(__name__)


class ArchiveSearch(NamedTuple):
    """A question.

    Attributes:
        tenants: whose events; None = everybody's.
        equal: value that a text column must have, by its name.
        parts: of each, one text must stand in the record, in whatever case (of ASCII letters).
        since, until: event time, from the first on and before the second; None = no bound.
        before: offset by partition before which they lie; partitions that are not named have no bound.
        limit: events that are found until the look ends.
    """

    tenants: Collection[str] | None = None
    equal: Mapping[str, str] = MappingProxyType({})
    parts: tuple[tuple[str, ...], ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    before: Mapping[int, int] = MappingProxyType({})
    limit: int = 50


class FoundEvents(NamedTuple):
    """Events that fit, newest first.

    Attributes:
        rows_examined: rows that were looked at.
        complete: whether no older event (of the dates asked for) is left, and the archive goes up to where it was asked
            to.
        damaged_files: files that can not be read.
    """

    rows: list[LoggedEvent]
    rows_examined: int
    complete: bool
    damaged_files: int


def search_events(
    directory: Path,
    topic: str,
    search: ArchiveSearch,
    accepts: Callable[[LoggedEvent], bool],
    expired: Callable[[], bool],
    bounds: LookupLimits = SEARCH_LIMITS,
) -> FoundEvents | None:
    """The newest archived events that fit; None where nothing is archived yet. Blocks.

    Files go by date and then by place in the log, newest first. It does not wait for files that are being rewritten.

    Args:
        directory: of the archive.
        topic: whose records it holds; "" = the embedded log.
        search: what columns and bytes can tell.
        accepts: decides on a record that may fit.
        expired: tells when the look has to end.
        bounds: of the look-up.

    Raises:
        CorruptLog: the archive is one of another log, or does not say how far it goes.
        BlockingIOError: files are being rewritten (merged, erased) at this moment.
    """
    positions = read_positions(directory, topic)
    if positions is None:
        return None
    with read_lock(directory, wait=False):
        tenant = next(iter(search.tenants)) if search.tenants is not None and len(search.tenants) == 1 else None
        ends = {
            partition: min(archived, search.before.get(partition, archived))
            for partition, archived in positions.items()
        }
        in_dates = files_within(directory, "events", search.since, search.until, tenant)
        files = [file for file in in_dates if file.first < ends.get(file.partition, 0)]
        files.sort(key=lambda file: (file.day, file.end, file.partition), reverse=True)
        result = _EventSearch(search, ends, accepts, expired, bounds).run(files)
    behind = any(positions.get(partition, 0) < end for partition, end in search.before.items())
    return result._replace(complete=result.complete and not behind)


class _EventSearch:
    """One look in progress, with the work it has spent."""

    def __init__(
        self,
        asked: ArchiveSearch,
        ends: Mapping[int, int],
        accepts: Callable[[LoggedEvent], bool],
        expired: Callable[[], bool],
        bounds: LookupLimits,
    ) -> None:
        self._asked, self._ends, self._accepts, self._bounds = asked, ends, accepts, bounds
        self._expired = expired
        self._columns = [*_SELECTED_COLUMNS, *(name for name in asked.equal if name not in _SELECTED_COLUMNS)]
        self._rows: list[LoggedEvent] = []
        self._rows_read = self._raw_bytes = self._damaged = 0
        self._cut_short = False

    def run(self, files: list[DataFile]) -> FoundEvents:
        """Look through the files until a bound is reached."""
        for seen, file in enumerate(files):
            if seen >= self._bounds.files:
                self._cut_short = True
            if self._cut_short:
                break
            try:
                self._search_file(file)
            except (OSError, pa.ArrowException) as error:
                self._damaged += 1
                _log.warning("a file of the archive can not be read", path=str(file.path), error=str(error))
        rows = sorted(self._rows, key=lambda row: (row.time_ms, row.offset), reverse=True)
        return FoundEvents(rows, self._rows_read, not self._cut_short, self._damaged)

    def _search_file(self, file: DataFile) -> None:
        with pq.ParquetFile(file.path) as parquet:
            for group in reversed(range(parquet.num_row_groups)):
                self._cut_short = self._cut_short or self._bound_reached()
                if self._cut_short:
                    return
                self._search_row_group(file, parquet, group)

    def _bound_reached(self) -> bool:
        return self._rows_read >= self._bounds.rows or self._raw_bytes >= self._bounds.raw_bytes or self._expired()

    def _search_row_group(self, file: DataFile, parquet: pq.ParquetFile, group: int) -> None:
        head = parquet.read_row_group(group, columns=self._columns, use_threads=False)
        self._rows_read += head.num_rows
        may_fit = pc.indices_nonzero(_mask(head, self._asked, self._ends.get(file.partition, 0)))
        if not len(may_fit):
            return
        raw = parquet.read_row_group(group, columns=["raw"], use_threads=False)
        self._raw_bytes += raw.nbytes
        for event in _newest_first(file.partition, head.take(may_fit), raw["raw"].take(may_fit), self._asked.parts):
            accepted = self._accepts(event)
            if self._expired() or (accepted and len(self._rows) >= self._asked.limit):
                self._cut_short = True
                return
            if accepted:
                self._rows.append(event)


def _mask(head: pa.Table, search: ArchiveSearch, end: int) -> Any:
    """Mask of the rows that columns do not rule out."""
    kind = head.schema.field("time").type
    masks = [pc.less(head["offset"], end)]
    masks += [pc.fill_null(pc.equal(head[name], value), False) for name, value in search.equal.items()]
    if search.tenants is not None:
        masks.append(pc.is_in(head["tenant_name"], value_set=pa.array(sorted(search.tenants), pa.string())))
    if search.since is not None:
        masks.append(pc.greater_equal(head["time"], pa.scalar(search.since, kind)))
    if search.until is not None:
        masks.append(pc.less(head["time"], pa.scalar(search.until, kind)))
    return reduce(pc.and_, masks)


def _newest_first(
    partition: int, head: pa.Table, raw: pa.ChunkedArray, parts: tuple[tuple[str, ...], ...]
) -> Iterator[LoggedEvent]:
    """Records that have all of *parts*, or escapes that may hide them, from the last one on."""
    for either in parts:
        there = [pc.match_substring(raw, part, ignore_case=True) for part in either]
        fits = reduce(pc.or_, [*there, pc.match_substring(raw, ESCAPE)])
        head, raw = head.filter(fits), raw.filter(fits)
    rows = zip(head["time"].to_pylist(), head["offset"].to_pylist(), raw.to_pylist(), strict=True)
    for at, offset, record in reversed(list(rows)):
        yield LoggedEvent(round(at.timestamp() * 1000), partition, offset, record)

"""Rows of events and feature vectors for analysts, as Arrow: by time, tenant and agent. Bounded memory.

`read_events` and `read_vectors` give one table each (`.to_pandas()` makes a frame of it) and refuse more rows than were
allowed; `event_batches` and `vector_batches` give the same piece by piece, for any amount.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from ..errors import ConfigError
from .archive_files import DataFile, read_lock
from .archive_reader import committed_files, files_within
from .event_archive import EVENT_SCHEMA
from .vector_archive import VECTOR_SCHEMA_HEAD

BATCH_ROWS = 16_384
MAX_ROWS = 5_000_000


class TooManyRows(ConfigError):
    """More rows than the caller wanted to hold."""

    code = "too_many_rows"


class RowSelection(NamedTuple):
    """Conditions on rows to read; None = no condition.

    Attributes:
        since, until: event time with an offset, from the first on and before the second.
        tenants: names; "" is events without a tenant.
        agents: agent ids.
        columns: names of columns, in the order in which they are wanted.
    """

    since: datetime | None = None
    until: datetime | None = None
    tenants: Collection[str] | None = None
    agents: Collection[str] | None = None
    columns: Sequence[str] | None = None


ALL_ROWS = RowSelection()


def event_batches(directory: Path, selection: RowSelection = ALL_ROWS) -> Iterator[pa.RecordBatch]:
    """Archived events, at most `BATCH_ROWS` in a batch, file by file; docs/archive.md lists the columns.

    Raises ConfigError.
    """
    with read_lock(directory):
        yield from _scan_files(
            _files_of_tenants(selection, lambda of: committed_files(directory, selection.since, selection.until, of)),
            selection,
        )


def vector_batches(directory: Path, selection: RowSelection = ALL_ROWS) -> Iterator[pa.RecordBatch]:
    """Feature vectors, as `event_batches` gives events; *directory* is that of the vectors (`archive.vectors`)."""
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such folder; `archive.vectors` of the settings names that of the vectors")
    with read_lock(directory):
        yield from _scan_files(
            _files_of_tenants(
                selection, lambda of: files_within(directory, "vectors", selection.since, selection.until, of)
            ),
            selection,
        )


def read_events(directory: Path, selection: RowSelection = ALL_ROWS, most_rows: int = MAX_ROWS) -> pa.Table:
    """Archived events as one table, by file, in the order of the log within each. Raises TooMany or ConfigError."""
    return _collect_table(event_batches(directory, selection), EVENT_SCHEMA, selection, most_rows)


def read_vectors(directory: Path, selection: RowSelection = ALL_ROWS, most_rows: int = MAX_ROWS) -> pa.Table:
    """Feature vectors as one table; where files differ in their features, null where one has none. Raises as above."""
    return _collect_table(vector_batches(directory, selection), VECTOR_SCHEMA_HEAD, selection, most_rows)


def _collect_table(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, selection: RowSelection, most_rows: int
) -> pa.Table:
    kept, rows = [], 0
    for batch in batches:
        rows += batch.num_rows
        if rows > most_rows:
            raise TooManyRows(
                f"more than {most_rows:,} rows: ask for less time, fewer tenants, agents or columns, or allow more rows"
            )
        kept.append(pa.Table.from_batches([batch]))
    if not kept:
        names = [name for name in selection.columns or schema.names if name in schema.names]
        return schema.empty_table().select(names)
    return pa.concat_tables(kept, promote_options="default")


def _files_of_tenants(selection: RowSelection, find: Callable[[str | None], list[DataFile]]) -> list[DataFile]:
    if selection.tenants is None:
        return find(None)
    return [file for tenant in sorted(set(selection.tenants)) for file in find(tenant)]


def _scan_files(files: Sequence[DataFile], selection: RowSelection) -> Iterator[pa.RecordBatch]:
    for file in files:
        try:
            dataset = ds.dataset(str(file.path), format="parquet")
            names = dataset.schema.names
            if missing := set(selection.columns or ()) - set(names):
                raise ConfigError(f"{file.path}: no column {', '.join(sorted(missing))}; there are {', '.join(names)}")
            scanner = dataset.scanner(
                columns=None if selection.columns is None else list(selection.columns),
                filter=_row_filter(selection),
                batch_size=BATCH_ROWS,
                batch_readahead=1,
                fragment_readahead=0,
            )
            yield from (batch for batch in scanner.to_batches() if batch.num_rows)
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{file.path}: can not be read: {error}") from error


def _row_filter(selection: RowSelection) -> pc.Expression | None:
    parts = []
    if selection.since is not None:
        parts.append(pc.field("time") >= pa.scalar(selection.since, _ROW_TIME_TYPE))
    if selection.until is not None:
        parts.append(pc.field("time") < pa.scalar(selection.until, _ROW_TIME_TYPE))
    if selection.tenants is not None:
        parts.append(pc.field("tenant_name").isin(sorted(selection.tenants)))
    if selection.agents is not None:
        parts.append(pc.field("agent_id").isin(sorted(selection.agents)))
    condition = None
    for part in parts:
        condition = part if condition is None else condition & part
    return condition


_ROW_TIME_TYPE = EVENT_SCHEMA.field("time").type

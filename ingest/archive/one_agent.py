"""The archived events of one agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..erasing import ErasureSubject
from ..errors import ConfigError
from .files import data_files, read_lock
from .position import read_positions

_AGENT_LINE_COLUMNS = ["offset", "tenant_name", "issuer", "agent_id", "raw"]


def agent_lines(directory: Path, subject: ErasureSubject) -> Iterator[bytes]:
    """Events of an agent as they were logged, one line each, in the order of the log; a row group is in memory.

    Files are kept from being rewritten until the iterator ends: read on, and do not rest within.

    Raises:
        ConfigError: a file is damaged.
        CorruptLog: nothing says how far the archive goes.
    """
    positions = read_positions(directory) or {}
    with read_lock(directory):
        for file in data_files(directory, "events", tenant=subject.tenant):
            if file.first >= positions.get(file.partition, 0):
                continue
            try:
                parquet = pq.ParquetFile(file.path)
                for group in range(parquet.num_row_groups):
                    yield from _agent_lines_of(parquet.read_row_group(group, columns=_AGENT_LINE_COLUMNS), subject)
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"{file.path}: can not be read: {error}") from error


def _agent_lines_of(table: pa.Table, subject: ErasureSubject) -> Iterator[bytes]:
    of = pc.and_(pc.equal(table["agent_id"], subject.name), pc.equal(table["tenant_name"], subject.tenant))
    mine = pc.and_(pc.fill_null(of, False), pc.equal(pc.fill_null(table["issuer"], ""), subject.issuer))
    found = table.filter(mine).sort_by("offset")
    for raw in found["raw"]:
        yield bytes(raw.as_py()).replace(b"\r", b" ").replace(b"\n", b" ")

"""Small files of past dates become large ones, in place, while others read.

Adjacent files of one date, tenant and partition are written one after the other into a new file, row group by row
group, under the name of their common range; then they are removed. Between the two steps, some milliseconds, a tool
that lists the folder sees both; ours see that the small ones lie within the large one. A crash between them is made
good at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from ..errors import ConfigError
from .archive_files import (
    ArchiveFileKind,
    DataFile,
    data_files,
    parse_file_name,
    replace_file,
    rewrite_lock,
    superseded_files,
)

TARGET_BYTES = 32 << 20
"""Files of half this size or more are left as they are. Who erases holds a whole one in memory, ten times as large."""
MERGED_GROUP_ROWS = 32_768
_BATCH_ROWS = 4_096
_ALWAYS_MERGED_FILES = 16
"""Files that are merged however large the first of them is; fewer only where that does not rewrite much for little."""

_log = structlog.get_logger(__name__)


class _DamagedFile(Exception):
    """The file at `path` can not be read."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(str(error))
        self.path = path


def merge_small_files(
    directory: Path,
    kind: ArchiveFileKind,
    before: date,
    counts: Callable[[DataFile], bool] = lambda _: True,
    target_bytes: int = TARGET_BYTES,
    damaged: set[Path] | None = None,
) -> Iterator[int]:
    """Merge small files, one large file after the other; yields after each the number of small ones in it.

    A damaged file is left as it is, and never lies within the range of a merged one: that would hide it. Where one
    shows only while it is merged, 0 is yielded; the next call merges those beside it. Raises OSError or ConfigError.
    """
    damaged = set() if damaged is None else damaged
    with rewrite_lock(directory, wait=False) as ours:
        if not ours:
            return
        for path in superseded_files(directory, kind):
            replace_file(path, None)
        files = sorted(
            (file for file in data_files(directory, kind) if file.day < before and counts(file)),
            key=lambda file: (file.path.parent, file.partition, file.first),
        )
        for _, folder in groupby(files, lambda file: (file.path.parent, file.partition)):
            for run in _files_to_merge(list(folder), target_bytes, damaged):
                try:
                    _merge_files(run)
                except _DamagedFile as error:
                    _record_damage(error, damaged)
                    yield 0
                else:
                    yield len(run)


def _record_damage(error: _DamagedFile, damaged: set[Path]) -> None:
    damaged.add(error.path)
    _log.error(
        "a file of the archive is damaged and is not merged: restore it from a back-up, or move it away",
        path=str(error.path),
        error=str(error),
    )


def _files_to_merge(files: Sequence[DataFile], target_bytes: int, damaged: set[Path]) -> Iterator[list[DataFile]]:
    """Adjacent small files that are worth merging; of one folder and partition, by first offset."""
    run: list[DataFile] = []
    rows: list[int] = []
    bytes_, schema = 0, None
    for file in files if len(files) > 1 else ():
        size, (own, count) = file.path.stat().st_size, _schema_and_row_count(file.path, damaged)
        small = own is not None and size < target_bytes // 2
        if not small or bytes_ + size > target_bytes or own != schema:
            if _is_worthwhile(rows):
                yield run
            run, rows, bytes_, schema = [], [], 0, own
        if small:
            run.append(file)
            rows.append(count)
            bytes_ += size
    if _is_worthwhile(rows):
        yield run


def _schema_and_row_count(path: Path, damaged: set[Path]) -> tuple[Any, int]:
    """Schema and number of rows; no schema where the file is damaged."""
    if path in damaged:
        return None, 0
    try:
        about = pq.read_metadata(path)
        return about.schema.to_arrow_schema(), about.num_rows
    except (OSError, pa.ArrowException) as error:
        _record_damage(_DamagedFile(path, error), damaged)
        return None, 0


def _is_worthwhile(rows: Sequence[int]) -> bool:
    return len(rows) >= _ALWAYS_MERGED_FILES or (len(rows) > 1 and 2 * max(rows) <= sum(rows))


def _merge_files(run: Sequence[DataFile]) -> None:
    first, last = run[0], run[-1]
    name = first.path.name.replace(f"{first.end:020d}.parquet", f"{last.end:020d}.parquet")
    target = first.path.with_name(name)
    merged = parse_file_name(target)
    if merged is None or (merged.first, merged.end) != (first.first, last.end):
        raise ConfigError(
            f"{target}: no name for offsets {first.first} to {last.end}; the files of the run were renamed"
        )
    try:
        replace_file(target, lambda file: _write_merged(run, file))
    except pa.ArrowException as error:
        raise ConfigError(f"{target}: can not be merged from {len(run)} files: {error}") from error
    for superseded in run:
        replace_file(superseded.path, None)


def _write_merged(run: Sequence[DataFile], file: BinaryIO) -> None:
    schema = pq.read_schema(run[0].path)
    kept: list[pa.RecordBatch] = []
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for file_to_merge in run:
            for batch in _read_batches(file_to_merge.path):
                kept.append(batch)
                if sum(part.num_rows for part in kept) >= MERGED_GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(kept, schema))
                    kept = []
        if kept:
            writer.write_table(pa.Table.from_batches(kept, schema))


def _read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Rows of a file. Raises _DamagedFile for what goes wrong here, not where the rows are written."""
    try:
        with pq.ParquetFile(path) as parquet:
            yield from parquet.iter_batches(_BATCH_ROWS, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _DamagedFile(path, error) from error

"""Small files of past dates become large ones, in place, while others read.

Adjacent files of one date, tenant and partition are written one after the other into a new file, row group by row
group, under the name of their common range; then they are removed. Between the two steps, some milliseconds, a tool
that lists the folder sees both; ours see that the small ones lie within the large one. A crash between them is made
good at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from ..errors import ConfigError
from ..record_erasure import ErasureSubject, NameEraser
from .archive_files import (
    TEMPORARY_SUFFIX,
    ArchiveFileKind,
    DataFile,
    data_files,
    parse_file_name,
    replace_file,
    rewrite_lock,
    superseded_files,
    tenant_folder,
)
from .event_archive import rows_of_agent

TARGET_BYTES = 32 << 20
"""Files of half this size or more are left as they are. An erasure holds a whole file in memory, where it is ten times
as large."""
MERGED_GROUP_ROWS = 32_768
_BATCH_ROWS = 4_096
_ALWAYS_MERGED_FILES = 16
"""Number of files that are merged however large the first is; fewer are merged only if little is rewritten."""

_log = structlog.get_logger(__name__)


class _DamagedFile(Exception):
    """The file at `path` cannot be read."""

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

    A damaged file is left as it is, and never falls within the range of a merged one, which would hide it. If damage is
    found only during a merge, 0 is yielded; the next call merges those next to it. Raises OSError or ConfigError.
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
    """Schema and number of rows; no schema if the file is damaged."""
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
        raise ConfigError(f"{target}: cannot be merged from {len(run)} files: {error}") from error
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
    """Yields the rows of a file. Raises _DamagedFile for errors in reading, not for errors in writing the rows."""
    try:
        with pq.ParquetFile(path) as parquet:
            yield from parquet.iter_batches(_BATCH_ROWS, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _DamagedFile(path, error) from error


# Archived files without a subject that is erased: its rows go, and others' rows name a pseudonym.


class FileErasureCount(NamedTuple):
    """Rows removed and rows changed in files; after a dry run, those that would be."""

    removed: int = 0
    changed: int = 0
    files: int = 0


def erase_files(
    directory: Path, kind: ArchiveFileKind, subject: ErasureSubject, ends: Mapping[int, int], *, dry: bool = False
) -> FileErasureCount:
    """Remove *subject* from the files of its tenant, by partition up to the log's offset in *ends*.

    Also removes partial files of ranges before those offsets, which a crash left. Raises OSError or ConfigError.
    """
    if not directory.is_dir():
        return FileErasureCount()
    removed = changed = files = 0
    with rewrite_lock(directory):
        if not dry:
            for path in _files_of_tenant(directory, kind, subject.tenant, TEMPORARY_SUFFIX):
                of = parse_file_name(path.with_name(path.name.removesuffix(TEMPORARY_SUFFIX)))
                if of is not None and of.first < ends.get(of.partition, 0):  # a later one may be being written
                    path.unlink(missing_ok=True)
        for path in _files_of_tenant(directory, kind, subject.tenant):
            of = parse_file_name(path)
            count = _erase_file(path, subject, 0 if of is None else ends.get(of.partition, 0), dry)
            removed, changed = removed + count.removed, changed + count.changed
            files += count.removed + count.changed > 0
    return FileErasureCount(removed, changed, files)


def _files_of_tenant(directory: Path, kind: ArchiveFileKind, tenant: str, ending: str = "") -> list[Path]:
    """List the files of one tenant, also those that were merged into others and not yet removed."""
    folder = tenant_folder(tenant)  # not in a pattern: it may hold characters that have a meaning in one
    days = sorted(directory.glob("date=*"))
    return [path for day in days for path in sorted((day / folder).glob(f"{kind}-*.parquet{ending}"))]


def _erase_file(path: Path, subject: ErasureSubject, end: int, dry: bool) -> FileErasureCount:
    try:
        kept, count = _table_without(path, subject, end)
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read, so it may still name the subject to erase: {error}; "
            "restore it from a backup, or move it out of the archive"
        ) from error
    if count != FileErasureCount() and not dry:
        replace_file(path, (lambda file: pq.write_table(kept, file, compression="zstd")) if kept.num_rows else None)
    return count


def _table_without(path: Path, subject: ErasureSubject, end: int) -> tuple[Any, FileErasureCount]:
    """Rows of a file without the subject's own, names of others' rows erased; and the count of both."""
    with pq.ParquetFile(path) as file:
        table = file.read()
    early = pc.less(table["offset"], end)
    theirs = pc.and_(early, pc.fill_null(pc.equal(table["tenant_name"], subject.tenant), False))
    named = pc.fill_null(pc.equal(table["agent_id"], subject.name), False)
    own = pc.and_(early, rows_of_agent(table, *subject.agent_identity)) if subject.kind == "agent" else None
    kept = table if own is None else table.filter(pc.invert(own))
    removed = table.num_rows - kept.num_rows
    may_change = pc.and_(theirs, pc.invert(named))
    if own is not None:
        may_change = may_change.filter(pc.invert(own))
    kept, changed = _replace_name(kept, may_change, NameEraser(subject.name, subject.pseudonym))
    return kept, FileErasureCount(removed, changed)


def _replace_name(table: Any, rows: Any, names: NameEraser) -> tuple[Any, int]:
    """Table with the name replaced in some rows, and the number of rows that held it."""
    touched: set[int] = set()
    for at, field in enumerate(table.schema):
        if field.name in ("tenant_name", "issuer"):
            continue
        candidates = _candidate_rows(table[field.name], field.type, rows, names)
        if not candidates:
            continue
        values = table[field.name].to_pylist()
        new = {}
        for row in candidates:
            old = values[row]
            if isinstance(old, list):
                value: Any = [names.erase_in_text(text) for text in old]
            else:
                value = names.erase_in_json(old) if isinstance(old, bytes) else names.erase_in_text(old)
            if value != old:
                new[row] = value
        if new:
            touched.update(new)
            column = pa.array([new.get(row, value) for row, value in enumerate(values)], field.type)
            table = table.set_column(at, field, column)
    return table, len(touched)


def _candidate_rows(column: Any, kind: Any, rows: Any, names: NameEraser) -> list[int]:
    """Rows that may hold the name, by a quick check of the column."""
    if pa.types.is_string(kind):
        hit = pc.match_substring(column, names.name)
    elif pa.types.is_binary(kind):
        hit = pc.match_substring(column, b"\\")
        for needle in names.needles:
            hit = pc.or_(hit, pc.match_substring(column, needle))
    elif pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        hit = pc.greater(pc.list_value_length(column), 0)
    else:
        return []
    return [int(row) for row in pc.indices_nonzero(pc.and_(pc.fill_null(hit, False), rows)).to_pylist()]

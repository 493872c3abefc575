"""Archived files without a subject that is erased: its rows go, and others' rows name a pseudonym.

Works on whatever columns a file has. One file is in memory at a time; each is replaced whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import ConfigError
from ..record_erasure import ErasureSubject, NameEraser
from .archive_files import TEMPORARY_SUFFIX, ArchiveFileKind, parse_file_name, replace_file, rewrite_lock, tenant_folder


class FileErasureCount(NamedTuple):
    """Rows removed and rows changed in files; after a dry run, those that would be."""

    removed: int = 0
    changed: int = 0
    files: int = 0


def erase_files(
    directory: Path, kind: ArchiveFileKind, subject: ErasureSubject, ends: Mapping[int, int], *, dry: bool = False
) -> FileErasureCount:
    """Take *subject* out of the files of its tenant, by partition up to the log's offset in *ends*.

    What a crash left half written of ranges below them goes, too: whoever writes ranges is past that offset. Raises
    OSError or ConfigError.
    """
    if not directory.is_dir():
        return FileErasureCount()
    removed = changed = files = 0
    with rewrite_lock(directory):
        if not dry:
            _remove_partial_files(directory, kind, subject.tenant, ends)
        for path in _files_of_tenant(directory, kind, subject.tenant):
            count = _erase_file(path, subject, _archived_end(path, ends), dry)
            removed, changed = removed + count.removed, changed + count.changed
            files += count.removed + count.changed > 0
    return FileErasureCount(removed, changed, files)


def _files_of_tenant(directory: Path, kind: ArchiveFileKind, tenant: str, ending: str = "") -> list[Path]:
    """List the files of one tenant, also those that were merged into others and not yet removed."""
    folder = tenant_folder(tenant)  # not in a pattern: it may hold characters that have a meaning in one
    days = sorted(directory.glob("date=*"))
    return [path for day in days for path in sorted((day / folder).glob(f"{kind}-*.parquet{ending}"))]


def _remove_partial_files(directory: Path, kind: ArchiveFileKind, tenant: str, ends: Mapping[int, int]) -> None:
    for path in _files_of_tenant(directory, kind, tenant, TEMPORARY_SUFFIX):
        of = parse_file_name(path.with_name(path.name.removesuffix(TEMPORARY_SUFFIX)))
        if of is not None and of.first < ends.get(of.partition, 0):  # one behind it may be written at this moment
            path.unlink(missing_ok=True)


def _archived_end(path: Path, ends: Mapping[int, int]) -> int:
    of = parse_file_name(path)
    return 0 if of is None else ends.get(of.partition, 0)


def _erase_file(path: Path, subject: ErasureSubject, end: int, dry: bool) -> FileErasureCount:
    try:
        kept, count = _table_without(path, subject, end)
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: can not be read, so nobody knows whether it names whom is to be erased: {error}; "
            "restore it from a back-up, or move it out of the archive"
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
    issued = pc.equal(pc.fill_null(table["issuer"], ""), subject.issuer)
    own = pc.and_(theirs, pc.and_(named, issued)) if subject.kind == "agent" else None
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
        new = {row: _erase_in_cell(values[row], names) for row in candidates}
        new = {row: value for row, value in new.items() if value != values[row]}
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


def _erase_in_cell(value: Any, names: NameEraser) -> Any:
    if isinstance(value, bytes):
        return names.erase_in_json(value)
    return [names.erase_in_text(text) for text in value] if isinstance(value, list) else names.erase_in_text(value)

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

from ..erasing import NameEraser, Subject
from ..errors import ConfigError
from .files import TEMPORARY, Kind, parsed, replace, rewriting, tenant_folder


class Rewritten(NamedTuple):
    """What was, or would be, done."""

    removed: int = 0
    changed: int = 0
    files: int = 0


def erase_files(
    directory: Path, kind: Kind, subject: Subject, ends: Mapping[int, int], *, dry: bool = False
) -> Rewritten:
    """Take *subject* out of the files of its tenant, by partition up to the log's offset in *ends*.

    What a crash left half written of ranges below them goes, too: whoever writes ranges is past that offset.

    Args:
        directory: of the archive, or of the vectors; one that does not exist holds nothing.
        kind: of files.
        dry: only count.

    Raises:
        OSError: the disk refuses; what was replaced stays replaced, and the next call goes on.
        ConfigError: a file is damaged, so nobody knows whether the subject is in it; as above.
    """
    if not directory.is_dir():
        return Rewritten()
    removed = changed = files = 0
    with rewriting(directory):
        if not dry:
            _remove_left_over(directory, kind, subject.tenant, ends)
        for path in _files(directory, kind, subject.tenant):
            found = _erase(path, subject, _end_of(path, ends), dry)
            removed, changed = removed + found.removed, changed + found.changed
            files += found.removed + found.changed > 0
    return Rewritten(removed, changed, files)


def _files(directory: Path, kind: Kind, tenant: str, ending: str = "") -> list[Path]:
    """Those that were merged into others are among them."""
    folder = tenant_folder(tenant)  # not in a pattern: it may hold characters that have a meaning in one
    days = sorted(directory.glob("date=*"))
    return [path for day in days for path in sorted((day / folder).glob(f"{kind}-*.parquet{ending}"))]


def _remove_left_over(directory: Path, kind: Kind, tenant: str, ends: Mapping[int, int]) -> None:
    for path in _files(directory, kind, tenant, TEMPORARY):
        of = parsed(path.with_name(path.name.removesuffix(TEMPORARY)))
        if of is not None and of.first < ends.get(of.partition, 0):  # one behind it may be written at this moment
            path.unlink(missing_ok=True)


def _end_of(path: Path, ends: Mapping[int, int]) -> int:
    of = parsed(path)
    return 0 if of is None else ends.get(of.partition, 0)


def _erase(path: Path, subject: Subject, end: int, dry: bool) -> Rewritten:
    try:
        kept, found = _without(path, subject, end)
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: can not be read, so nobody knows whether it names whom is to be erased: {error}; "
            "restore it from a back-up, or move it out of the archive"
        ) from error
    if found != Rewritten() and not dry:
        replace(path, (lambda file: pq.write_table(kept, file, compression="zstd")) if kept.num_rows else None)
    return found


def _without(path: Path, subject: Subject, end: int) -> tuple[Any, Rewritten]:
    """What stays of a file, and what that changes."""
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
    kept, changed = _renamed(kept, may_change, NameEraser(subject.name, subject.pseudonym))
    return kept, Rewritten(removed, changed)


def _renamed(table: Any, rows: Any, names: NameEraser) -> tuple[Any, int]:
    """The table with the name replaced in some rows, and in how many it stood."""
    touched: set[int] = set()
    for at, field in enumerate(table.schema):
        if field.name in ("tenant_name", "issuer"):
            continue
        found = _candidates(table[field.name], field.type, rows, names)
        if not found:
            continue
        values = table[field.name].to_pylist()
        new = {row: _value(values[row], names) for row in found}
        new = {row: value for row, value in new.items() if value != values[row]}
        if new:
            touched.update(new)
            column = pa.array([new.get(row, value) for row, value in enumerate(values)], field.type)
            table = table.set_column(at, field, column)
    return table, len(touched)


def _candidates(column: Any, kind: Any, rows: Any, names: NameEraser) -> list[int]:
    """Rows where a closer look is worth while."""
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


def _value(value: Any, names: NameEraser) -> Any:
    if isinstance(value, bytes):
        return names.json(value)
    return [names.text(one) for one in value] if isinstance(value, list) else names.text(value)

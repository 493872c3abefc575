"""Files of an archive: how they are named, found, written and replaced. Needs no pyarrow.

A folder of events and one of feature vectors are laid out alike, `date=YYYY-MM-DD/tenant=NAME/KIND-FIRST-END.parquet`.
KIND is `events` or `vectors`, FIRST and END are offsets of the log. Archives of a topic name the partition, too:
`KIND-pNNNNN-FIRST-END.parquet`. A file whose range is inside that of another of its folder and partition was merged
into it and no longer counts (`data_files` leaves it out).

Code that rewrites or removes files of archived ranges (merging, retention, erasing) does so while it holds
`rewrite_lock`, which admits one process at a time, and calls `replace`: readers see the old file or the new one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple
from urllib.parse import quote

import structlog

from ..durable_files import lock_file, sync_directory, write_file_atomically
from ..errors import ConfigError, CorruptLog
from ..identities import unkeyed_agent_key
from ..timestamps import DAY_MS, format_day

ArchiveFileKind = Literal["events", "vectors"]
NO_TENANT = "~"
"""Folder of events without a tenant. Not Hive's own null: pandas cannot mix that with names."""
_MAX_TENANT_LENGTH = 120
_FILE_NAME = re.compile(r"(events|vectors)-(?:p(\d{5})-)?(\d{20})-(\d{20})\.parquet")
TEMPORARY_SUFFIX = ".tmp"
"""Suffix of a file that is being written; one left by a crash is removed at the next start, or written again."""
_REWRITE_LOCK, _WRITER_LOCK = "_rewriting.lock", "_writer.lock"
_log = structlog.get_logger(__name__)


class DataFile(NamedTuple):
    """One file. *partition* is 0 if the log has a single one. Holds the records at offsets *first* up to *end* of its
    date and tenant.
    """

    path: Path
    kind: str
    partition: int
    first: int
    end: int

    @property
    def day(self) -> date:
        """UTC date of the events in it."""
        return date.fromisoformat(self.path.parent.parent.name.removeprefix("date="))

    @property
    def tenant_folder(self) -> str:
        """Folder name of its tenant, see `tenant_folder`."""
        return self.path.parent.name


def file_name(kind: ArchiveFileKind, partition: int | None, first: int, end: int) -> str:
    """Name of the file of a range; *partition* is None for the embedded log.

    >>> file_name("events", 3, 0, 17)
    'events-p00003-00000000000000000000-00000000000000000017.parquet'
    """
    of = "" if partition is None else f"p{partition:05d}-"
    return f"{kind}-{of}{first:020d}-{end:020d}.parquet"


def parse_file_name(path: Path) -> DataFile | None:
    """Read kind, partition and offset range from a file name; None for a file that is not of the archive."""
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        return None
    return DataFile(path, match[1], int(match[2] or 0), int(match[3]), int(match[4]))


def tenant_folder(tenant: str) -> str:
    """Folder of a tenant.

    >>> tenant_folder("acme/eu"), tenant_folder("")
    ('tenant=acme%2Feu', 'tenant=~')
    """
    name = quote(tenant, safe="") or NO_TENANT
    if len(name) > _MAX_TENANT_LENGTH:  # a file system's names end at 255 bytes; `tenant_name` in the file is whole
        name = f"{name[:_MAX_TENANT_LENGTH]}~{unkeyed_agent_key(tenant, '', ''):016x}"
    return f"tenant={name}"


def event_folder(at_ms: int, tenant: str) -> str:
    """Folder of an event, relative to the archive.

    >>> event_folder(1_764_547_200_000, "acme/eu")
    'date=2025-12-01/tenant=acme%2Feu'
    """
    return f"date={utc_date(at_ms)}/{tenant_folder(tenant)}"


def utc_date(at_ms: int) -> str:
    """UTC date of a time, as in the names of folders."""
    return format_day(at_ms // DAY_MS)


def data_files(
    directory: Path,
    kind: ArchiveFileKind = "events",
    first_day: date | None = None,
    last_day: date | None = None,
    tenant: str | None = None,
) -> list[DataFile]:
    """Return the files that count, by partition and first offset, with those not committed (see `read_positions`)."""
    of = "tenant=*" if tenant is None else tenant_folder(tenant)
    by_folder: dict[tuple[Path, int], list[DataFile]] = {}
    for day in directory.glob("date=*"):
        named = day.name.removeprefix("date=")
        if (first_day and named < first_day.isoformat()) or (last_day and named > last_day.isoformat()):
            continue
        # Not a pattern: a tenant's folder may hold characters that have a meaning in one.
        for folder in day.glob(of) if tenant is None else [day / of]:
            for path in folder.glob(f"{kind}-*.parquet"):
                if (file := parse_file_name(path)) is not None:
                    by_folder.setdefault((folder, file.partition), []).append(file)
    counting = []
    for files in by_folder.values():
        end = -1
        for file in sorted(files, key=lambda file: (file.first, -file.end)):
            if file.end > end:  # else its range is inside that of another file
                end = file.end
                counting.append(file)
    return sorted(counting, key=lambda file: (file.partition, file.first, file.path))


def superseded_files(directory: Path, kind: ArchiveFileKind) -> list[Path]:
    """Return files that were merged into another but not removed, because of a crash in between."""
    counting = {file.path for file in data_files(directory, kind)}
    return [path for path in directory.glob(f"date=*/tenant=*/{kind}-*.parquet") if path not in counting]


def write_archive_file(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Make a file with its folders, or replace its content; a reader sees all of it or none."""
    write_file_atomically(path, content, temporary=path.with_name(path.name + TEMPORARY_SUFFIX))


def replace_file(path: Path, write: Callable[[BinaryIO], object] | None) -> None:
    """Replace the content of an existing file, or remove it if *write* is None. The caller holds `rewrite_lock`.

    A tool that has listed the folder and opens a removed file afterwards fails; one that has it open can read on.
    """
    if write is not None:
        write_archive_file(path, write)
        return
    path.unlink()
    sync_directory(path.parent)


@contextmanager
def rewrite_lock(directory: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the right to rewrite and remove files, in one process at a time; it ends with the process."""
    with (directory / _REWRITE_LOCK).open("a+b") as file:
        yield lock_file(file, wait=wait)


def writer_lock(directory: Path) -> BinaryIO:
    """Take the right to add ranges to an archive, until the returned file is closed or the process ends.

    Raises ConfigError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = (directory / _WRITER_LOCK).open("a+b")
    if not lock_file(file, wait=False):
        file.close()
        raise ConfigError(f"{directory}: another process writes this archive; only one may")
    return file


def drop_days_before(directory: Path, oldest_ms: int) -> int:
    """Remove the dates that end before a time, UTC milliseconds; returns how many files went. Within `rewrite_lock`.

    A date that cannot be removed, as when a late event of it is written meanwhile, is left to the next call.
    """
    kept_from, dropped = utc_date(oldest_ms), 0
    for day in directory.glob("date=*"):
        if day.name.removeprefix("date=") >= kept_from:
            continue
        try:
            for path in sorted(day.rglob("*"), reverse=True):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
                    dropped += 1
            day.rmdir()
        except OSError as error:  # the others go all the same
            _log.warning("an old date of the archive is not removed yet", path=str(day), error=str(error))
    return dropped


@contextmanager
def read_lock(directory: Path, *, make: bool = False, wait: bool = True) -> Iterator[None]:
    """Keep files from being rewritten or removed meanwhile, if this process may lock the folder.

    Several processes may read at once; merging continues later and erasing waits, so do not pause within.
    """
    try:
        file = (directory / _REWRITE_LOCK).open("a+b" if make else "rb")
    except OSError:  # none was ever rewritten, or the folder has another owner
        yield
        return
    with file:
        if not lock_file(file, shared=True, wait=wait):
            raise BlockingIOError(f"{directory}: files are being rewritten")
        yield


# The position file says which ranges of the log are archived; a range counts once it is listed there.


POSITION_FILE = "_position.json"


def read_position(directory: Path) -> int | None:
    """Offset up to which the embedded log is archived; None before the first range, and in the archive of a topic.

    Raises CorruptLog.
    """
    of, offsets = _read_position_file(directory) or ("", {})
    return None if of else offsets.get(0)


def read_positions(directory: Path, topic: str | None = None) -> dict[int, int] | None:
    """Offset by partition up to which the log is archived; None before the first range. Raises CorruptLog."""
    stored = _read_position_file(directory)
    if stored is None:
        return None
    of, offsets = stored
    if topic is not None and of != topic:
        raise CorruptLog(
            f"{directory / POSITION_FILE}: the archive is of {_log_name(of)}, not of {_log_name(topic)}; "
            "offsets of one say nothing of the other: name another folder, or move the archive away"
        )
    return offsets


def _read_position_file(directory: Path) -> tuple[str, dict[int, int]] | None:
    """Topic, "" for the embedded log, and offsets by partition."""
    path = directory / POSITION_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        of = str(content.get("topic", ""))
        return of, {int(name): int(at) for name, at in content["offsets"].items()} if of else {
            0: int(content["offset"])
        }
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorruptLog(
            f"{path}: does not say up to which offset the archive goes; restore it, or move the archive away to "
            "begin a new one"
        ) from None


def write_positions(directory: Path, topic: str, offsets: Mapping[int, int]) -> None:
    """Record the offsets up to which the log is archived, in one atomic step."""
    content: dict[str, Any] = {"topic": topic, "offsets": {str(at): offset for at, offset in sorted(offsets.items())}}
    if not topic:
        content = {"offset": offsets[0]}
    write_archive_file(directory / POSITION_FILE, json.dumps(content).encode())


def _log_name(topic: str) -> str:
    return f"the topic {topic}" if topic else "an embedded log"

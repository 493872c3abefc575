"""Backups of the embedded form: a tar of the database, the log, the models and the keys, taken while the service runs.

The database is copied first and the log after it, so that the database's position
never lies beyond the log's end: a service that starts on both applies the rest of the log, as after a crash. Models
come last, since a version in use is never removed. The tar gets its name once it is whole.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, NamedTuple

from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.durable_files import NEW_FILE_MODE, sync_file, write_file_atomically
from trustwatch.ingest.errors import ConfigError, ModelError
from trustwatch.ingest.identities import IDENTITY_KEY_FILE, PRIVACY_KEY_FILE
from trustwatch.ingest.log.log_database import copy_log, log_extent
from trustwatch.models.model_directory import copy_model
from trustwatch.models.model_directory import read_manifest as read_model_manifest
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.store.sql_store import open_reading_store, sqlite_url

from ..composition import open_model_registry, store_address
from ..http.auth.signing import LOCAL_JWKS_FILE, LOCAL_KEY_FILE
from ..settings.root import Settings
from ..shared_signals.transmitter_context import KEY_FOLDER

DATABASE_FILE: Final = "trustwatch.db"
DATA_FOLDER: Final = "data"
"""Folder of a backup that is laid out like `data_dir`."""
MODEL_FOLDER: Final = "model"
"""Folder of a backup that has the installed model."""
LOG_FOLDER: Final = "log"
MODELS_FOLDER: Final = "models"
DIGESTS_FILE: Final = "SHA256SUMS"
"""Last in a backup: the digest of every other file, as `sha256sum --check` reads it."""
KEY_FILES: Final = (IDENTITY_KEY_FILE, PRIVACY_KEY_FILE, LOCAL_KEY_FILE, LOCAL_JWKS_FILE)
"""Keys below `data_dir` without which the database, or what was signed, cannot be read; `KEY_FOLDER` besides."""


class BackupContents(NamedTuple):
    """What is in a backup.

    Attributes:
        offset: events before it are in the database.
        log_first_offset, log_end_offset: records of the log; *offset* is between them.
        model: version of the installed model.
        model_digest: names it exactly.
        keys: key files, by their names in `data_dir`.
        files, bytes: number and size of all files.
    """

    offset: int
    log_first_offset: int
    log_end_offset: int
    model: str
    model_digest: str
    keys: list[str]
    files: int
    bytes: int


def is_secret(name: str) -> bool:
    """Return whether a file of a backup is a secret key: its owner's alone, even if a group may read the rest."""
    folder, _, within = name.partition("/")
    if folder != DATA_FOLDER or within == LOCAL_JWKS_FILE:
        return False
    return within in KEY_FILES or within.startswith(f"{KEY_FOLDER}/")


def require_embedded(settings: Settings) -> None:
    """Raise ConfigError if log or database are not files below `data_dir`."""
    if settings.distributed or store_address(settings).file is None:
        raise ConfigError(
            "these settings keep events on brokers or state in PostgreSQL: back up the database with `pg_dump` "
            "(docs/operations.md, Back-up and restore)"
        )


def take_backup(settings: Settings, target: Path, *, keys: bool = True) -> BackupContents:
    """Back up database, log, models and keys into a new tar. A failure leaves no file of that name.

    Raises:
        ConfigError: not the embedded form, no store yet, or *target* exists.
        DamagedStore, CorruptLog, ModelError: the data are damaged, so a copy would not be a backup.
        Unavailable: locked, a full disk, or retention was faster.
    """
    require_embedded(settings)
    if target.exists():
        raise ConfigError(f"{target}: exists already: name a new file")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        staging = Path(folder) / "files"
        offset = _copy_everything(settings, staging, keys=keys)
        contents = describe_contents(staging, offset)
        write = partial(_write_tar, staging)
        write_file_atomically(target, write, temporary=Path(folder) / "tar", mode=0o600 if keys else NEW_FILE_MODE)
    return contents


def _copy_everything(settings: Settings, staging: Path, *, keys: bool) -> int:
    """Copy all that a backup has; returns the offset of the database."""
    data = staging / DATA_FOLDER
    data.mkdir(parents=True)
    database = data / DATABASE_FILE
    with closing(store_address(settings).open_reading()) as store:
        store.database.copy_to(database)
    with database.open("rb+") as file:
        sync_file(file)
    with closing(open_reading_store(sqlite_url(database))) as copy:
        offset = copy.partitions.position(ONLY_PARTITION).offset
    needed = DuplicateWindow().first_offset_to_rebuild(offset)
    copy_log(settings.data_dir / LOG_FOLDER, data / LOG_FOLDER, needed)
    _copy_models(settings, staging)
    if keys:
        for path in _key_files(settings.data_dir):
            write_file_atomically(data / path.relative_to(settings.data_dir), path.read_bytes(), mode=0o600)
    return offset


def _copy_models(settings: Settings, staging: Path) -> None:
    """Copy every sound version of the registry, and the installed model."""
    registry = open_model_registry(settings)
    copy_model(settings.model_dir, staging / MODEL_FOLDER)
    for model in registry.versions():
        folder = registry.directory_of(model.version)
        try:
            copy_model(folder, staging / DATA_FOLDER / MODELS_FOLDER / folder.name)
        except (OSError, ModelError):
            if folder.exists():  # else it was removed meanwhile: nothing judges by it
                raise


def _key_files(data_dir: Path) -> Iterator[Path]:
    folder = data_dir / KEY_FOLDER
    for path in (*(data_dir / name for name in KEY_FILES), *(folder.iterdir() if folder.is_dir() else ())):
        if path.is_file() and not path.name.startswith("."):
            yield path


def describe_contents(staging: Path, offset: int) -> BackupContents:
    """What is in the files of a backup, with *offset* of its database. Raises CorruptLog, ModelError, ConfigError."""
    data, paths = staging / DATA_FOLDER, [path for _, path in list_files(staging)]
    extent = log_extent(data / LOG_FOLDER)
    model, digest = read_model_manifest(staging / MODEL_FOLDER)
    keys = [path.relative_to(data).as_posix() for path in sorted(_key_files(data))]
    size = sum(path.stat().st_size for path in paths)
    return BackupContents(offset, *extent, model.model_version, digest, keys, len(paths), size)


def list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a folder, with its name in a backup."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def file_digest(path: Path) -> str:
    """SHA-256 of a file, made durable."""
    with path.open("rb") as file:
        sync_file(file)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_tar(staging: Path, file: BinaryIO) -> None:
    digests = ""
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, path in list_files(staging):
            if "\n" in name:
                raise ConfigError(f"{name!r} in data_dir: no file of a backup may have this name; rename it")
            digests += f"{file_digest(path)}  {name}\n"
            tar.add(path, name)
            path.unlink()  # so that a backup needs little more room than its size
        content = digests.encode()
        last = tarfile.TarInfo(DIGESTS_FILE)
        last.size = len(content)
        tar.addfile(last, io.BytesIO(content))

"""Backups of the embedded form: a tar of the database, the log, the models and the keys, taken while the service runs.

The database is copied first and the log after it, so that the database's position never lies beyond the log's end: a
service that starts on both applies the rest of the log, as after a crash. Models come last, since a version in use is
never removed. The tar gets its name once it is whole.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, NamedTuple

from trustwatch.ingest.archive.archive_files import data_files
from trustwatch.ingest.archive.archive_files import read_position as read_archive_position
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.durable_files import NEW_FILE_MODE, sync_directory, sync_file, write_file_atomically
from trustwatch.ingest.errors import ConfigError, CorruptLog, ModelError, TrustwatchError
from trustwatch.ingest.identities import IDENTITY_KEY_FILE, PRIVACY_KEY_FILE, open_identity_key
from trustwatch.ingest.log.log_database import copy_log, lock_log, log_extent
from trustwatch.ingest.log.segment_import import import_segments
from trustwatch.models.model_directory import copy_model, is_model
from trustwatch.models.model_directory import read_manifest as read_model_manifest
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.store.sql_store import open_reading_store, open_store, sqlite_url

from ..composition import (
    CHECKPOINTS_FOLDER,
    RESTORING_FOLDER,
    identity_key_path,
    open_model_registry,
    store_address,
)
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
_FIRST: Final = (DATABASE_FILE, LOG_FOLDER, MODELS_FOLDER)
"""Put in place in this order, and all else after them."""
_TAKE_ANOTHER: Final = "the backup is damaged: take another one"


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


def _is_secret(name: str) -> bool:
    """Return whether a file of a backup is a secret key, which only its owner may read."""
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
        contents = _describe_contents(staging, offset)
        write = partial(_write_tar, staging)
        write_file_atomically(target, write, temporary=Path(folder) / "tar", mode=0o600 if keys else NEW_FILE_MODE)
    return contents


def _copy_everything(settings: Settings, staging: Path, *, keys: bool) -> int:
    """Copy all that a backup has: database, log, the sound models, keys. Returns the offset of the database."""
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
    registry = open_model_registry(settings)
    copy_model(settings.model_dir, staging / MODEL_FOLDER)
    for model in registry.versions():
        folder = registry.directory_of(model.version)
        try:
            copy_model(folder, data / MODELS_FOLDER / folder.name)
        except (OSError, ModelError):
            if folder.exists():  # else it was removed meanwhile, and is not in use
                raise
    for path in _key_files(settings.data_dir) if keys else ():
        write_file_atomically(data / path.relative_to(settings.data_dir), path.read_bytes(), mode=0o600)
    return offset


def _key_files(data_dir: Path) -> Iterator[Path]:
    folder = data_dir / KEY_FOLDER
    for path in (*(data_dir / name for name in KEY_FILES), *(folder.iterdir() if folder.is_dir() else ())):
        if path.is_file() and not path.name.startswith("."):
            yield path


def _describe_contents(staging: Path, offset: int) -> BackupContents:
    """Describe the files of a backup, with *offset* of its database. Raises CorruptLog, ModelError, ConfigError."""
    data, paths = staging / DATA_FOLDER, [path for _, path in list_files(staging)]
    extent = log_extent(data / LOG_FOLDER)
    model, digest = read_model_manifest(staging / MODEL_FOLDER)
    keys = [path.relative_to(data).as_posix() for path in sorted(_key_files(data))]
    size = sum(path.stat().st_size for path in paths)
    return BackupContents(offset, *extent, model.model_version, digest, keys, len(paths), size)


def list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield every file below a folder, with its name in a backup."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, and make the file durable."""
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


# Restoring. Everything is checked before anything is in its place: every digest, of files that were extracted next to
# their place, and then what the service will open: database, identity key, position and log together. A restore that is
# killed leaves `.restoring` behind, next to which nothing is opened and no key is made (`require_whole_data`).


class BadBackup(TrustwatchError):
    """A file is not our backup, or it is damaged: nothing of it was restored. Take another backup."""

    code = "bad_backup"


class RestoredBackup(NamedTuple):
    """A restored backup. `missing_key` is the path to put the identity key at before a start; None if it exists."""

    contents: BackupContents
    missing_key: Path | None


def restore_backup(settings: Settings, source: Path) -> RestoredBackup:
    """Restore the backup at *source* into `data_dir`, and the installed model to `model_dir` if none is there.

    Raises:
        ConfigError: not the embedded form; `data_dir` is not empty, or an archive knows more than the backup; another
            model is installed; the identity key is another one; or a newer program wrote the database.
        LogInUse: a service runs on `data_dir`.
        BadBackup: *source* is not a backup, or it is damaged. Nothing was restored.
        OSError: the disk is full or refuses. What was moved into place by then, nothing opens.
    """
    require_embedded(settings)
    data_dir = settings.data_dir
    _require_empty(data_dir)
    staging = data_dir / RESTORING_FOLDER  # on the same disk; it has to stay until all files have left it
    data = staging / DATA_FOLDER
    staging.mkdir(mode=0o700, parents=True)
    sync_directory(data_dir)
    try:
        _extract(source, staging)
        contents, missing_key = _check_restored(settings, staging)
        _check_archives(settings, contents)
        _check_installed_model(settings, contents)
        if not settings.model_dir.resolve().is_relative_to(data_dir.resolve()):
            _install_model(staging / MODEL_FOLDER, settings.model_dir)
        _require_empty(data_dir, besides=RESTORING_FOLDER)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    names = [name for name in _FIRST if (data / name).exists()]
    names += sorted(path.name for path in data.iterdir() if path.name not in names)
    for name in names:
        (data / name).rename(data_dir / name)
        sync_directory(data_dir)
    _install_model(staging / MODEL_FOLDER, settings.model_dir)
    shutil.rmtree(staging)
    sync_directory(data_dir)
    return RestoredBackup(contents, missing_key)


def _require_empty(data_dir: Path, besides: str = "") -> None:
    if (data_dir / LOG_FOLDER).is_dir():
        lock_log(data_dir / LOG_FOLDER).close()  # refused while a service runs
    names = sorted(path.name for path in data_dir.iterdir() if path.name != besides) if data_dir.exists() else []
    if names:
        raise ConfigError(
            f"data_dir: {data_dir} is not empty ({', '.join(names[:5])}{', …' if len(names) > 5 else ''}): "
            "move what is there away, or restore with settings that name another folder; secrets and keys that the "
            "settings name belong outside of it"
        )


def _extract(source: Path, staging: Path) -> None:
    """Extract a tar, make its files durable, and compare their digests."""
    try:
        with tarfile.open(source, "r:") as tar:
            for member in tar:  # no `filter=`, which Python has from 3.11.4 on
                name, content = posixpath.normpath(member.name), tar.extractfile(member) if member.isreg() else None
                if content is None or member.issparse() or name.startswith(("/", "..")):
                    raise BadBackup(f"{member.name}: is not a regular file of a backup; {_TAKE_ANOTHER}")
                mode = 0o600 if _is_secret(name) else 0o666  # only its owner may read a secret key; less the umask
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                with open(staging / name, "xb", opener=partial(os.open, mode=mode)) as file:
                    shutil.copyfileobj(content, file)
        lines = (staging / DIGESTS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise BadBackup(f"{error.filename}: is missing: {source} is not a backup of ours, or not a whole one") from None
    except (tarfile.TarError, EOFError, ValueError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise BadBackup(f"{source}: {error}: this is not a backup of ours, or a damaged one") from None
    (staging / DIGESTS_FILE).unlink()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {name: file_digest(path) for name, path in list_files(staging)}
    if wrong := sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)):
        raise BadBackup(f"{wrong[0]}: its SHA-256 is not the one in the backup; {_TAKE_ANOTHER}")
    for folder in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
        sync_directory(folder)


def _check_restored(settings: Settings, staging: Path) -> tuple[BackupContents, Path | None]:
    """Open database, key, log and model as a service does; return the path at which the identity key is missing."""
    data = staging / DATA_FOLDER
    try:
        url, checkpoints = sqlite_url(data / DATABASE_FILE), data / CHECKPOINTS_FOLDER
        with closing(open_store(url, checkpoints=checkpoints)) as store:  # an older one is migrated
            offset = store.partitions.position(ONLY_PARTITION).offset
            needs_key = store.has_identity_key()
            key, backed_up = settings.identity.key_file or data / IDENTITY_KEY_FILE, data / IDENTITY_KEY_FILE
            if needs_key and not key.is_file() and backed_up.is_file():
                raise ConfigError(
                    f"identity.key_file: {key} is missing, and the backup holds `{IDENTITY_KEY_FILE}`: copy it to "
                    "there first, mode 0600"
                )
            has_key = key.is_file()
            if needs_key and has_key:
                store.read_with_identities(open_identity_key(key, create=False))
        shutil.rmtree(checkpoints, ignore_errors=True)
        import_segments(data / LOG_FOLDER)  # of an earlier version
        contents = _describe_contents(staging, offset)
    except (CorruptLog, ModelError) as error:
        raise BadBackup(f"the backup is damaged: {error}") from None
    if not contents.log_first_offset <= contents.offset <= contents.log_end_offset:
        raise BadBackup(
            f"the backup does not fit together: database at offset {contents.offset}, log from "
            f"{contents.log_first_offset} to {contents.log_end_offset}: take another one"
        )
    return contents, identity_key_path(settings) if needs_key and not has_key else None


def _check_archives(settings: Settings, contents: BackupContents) -> None:
    """Refuse archives that continue after the log: new offsets would count as archived."""
    events, vectors, ends = settings.archive.directory, settings.archive.vectors, []
    if events is not None and events.is_dir():
        ends.append(("directory", events, read_archive_position(events) or 0))
    if vectors is not None:
        ends.append(("vectors", vectors, max((file.end for file in data_files(vectors, "vectors")), default=0)))
    for what, folder, end in ends:
        if end > contents.log_end_offset:
            raise ConfigError(
                f"archive.{what}: {folder} goes up to offset {end}, the log of the backup to "
                f"{contents.log_end_offset}: what comes next would not be archived. Move the archive away, "
                "or name a new folder"
            )


def _check_installed_model(settings: Settings, contents: BackupContents) -> None:
    """Refuse another installed model, which would judge agents from the first event, and a folder without a model."""
    if settings.model_dir.resolve() == settings.data_dir.resolve():
        raise ConfigError(f"model_dir: {settings.model_dir} is data_dir as well: name another folder, or one below it")
    if not is_model(settings.model_dir):
        if settings.model_dir.exists() and any(settings.model_dir.iterdir()):
            raise ConfigError(f"model_dir: {settings.model_dir} holds files that are not a model: name another folder")
        return
    installed, digest = read_model_manifest(settings.model_dir)
    if digest != contents.model_digest:
        raise ConfigError(
            f"model_dir: {settings.model_dir} holds model {installed.model_version!r}, the backup is of "
            f"{contents.model!r} (digest {contents.model_digest[:12]}…): move it away, or name another folder"
        )


def _install_model(model: Path, model_dir: Path) -> None:
    """Copy the model to its place, unless it exists: installed by an operator, or below `data_dir` as a version."""
    if not is_model(model_dir):
        copy_model(model, model_dir)

"""Restoring a backup of the embedded form into an empty `data_dir`.

Everything is checked before anything is in its place: every digest, of files that were extracted next to their place,
and then what the service will open: database, identity key, position and log together. A restore that is
killed leaves `.restoring` behind, next to which nothing is opened and no key is made (`require_whole_data`).
"""

from __future__ import annotations

import json
import posixpath
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from trustwatch.ingest.archive.archive_files import data_files
from trustwatch.ingest.archive.archive_files import read_position as read_archive_position
from trustwatch.ingest.durable_files import sync_directory
from trustwatch.ingest.errors import ConfigError, CorruptLog, ModelError, TrustwatchError
from trustwatch.ingest.identities import IDENTITY_KEY_FILE, open_identity_key
from trustwatch.ingest.log.log_database import lock_log
from trustwatch.ingest.log.segment_import import import_segments
from trustwatch.models.model_directory import copy_model, is_model, manifest_digest
from trustwatch.models.model_directory import read_manifest as read_model_manifest
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ..composition import CHECKPOINTS_FOLDER, RESTORING_FOLDER, identity_key_path
from ..settings.root import Settings
from .backup import (
    DATA_FOLDER,
    DATABASE_FILE,
    DIGESTS_FILE,
    LOG_FOLDER,
    MODEL_FOLDER,
    MODELS_FOLDER,
    BackupContents,
    describe_contents,
    file_digest,
    is_secret,
    list_files,
    require_embedded,
)

_FIRST: Final = (DATABASE_FILE, LOG_FOLDER, MODELS_FOLDER)
"""Put in place in this order, and all else after them."""
_TAKE_ANOTHER: Final = "the backup is damaged: take another one"
MANIFEST_FILE: Final = "manifest.json"
"""Last in a backup of before the tar, which was a folder: digests of its files, and its own."""


class BadBackup(TrustwatchError):
    """A file or folder is not our backup, or it is damaged: nothing of it was restored. Take another backup."""

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
    _require_empty(settings.data_dir)
    with _staging_folder(settings.data_dir) as staging:
        data = staging / DATA_FOLDER
        _check_digests(staging, _copy_folder(source, staging) if source.is_dir() else _extract(source, staging))
        contents, missing_key = _check_restored(settings, staging)
        _check_archives(settings, contents)
        _check_installed_model(settings, contents)
        if not settings.model_dir.resolve().is_relative_to(settings.data_dir.resolve()):
            _install_model(staging / MODEL_FOLDER, settings.model_dir)
        _require_empty(settings.data_dir, besides=RESTORING_FOLDER)
    _put_in_place(data, settings.data_dir)
    _install_model(staging / MODEL_FOLDER, settings.model_dir)
    shutil.rmtree(staging)
    sync_directory(settings.data_dir)
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


@contextmanager
def _staging_folder(data_dir: Path) -> Iterator[Path]:
    """A folder on the disk of `data_dir`, removed if a check fails. It has to stay until all files have left it."""
    staging = data_dir / RESTORING_FOLDER
    staging.mkdir(mode=0o700, parents=True)
    sync_directory(data_dir)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _extract(source: Path, staging: Path) -> dict[str, str]:
    """Extract a tar; returns its digests by name."""
    try:
        with tarfile.open(source, "r:") as tar:
            tar.extractall(staging, filter=_take_member)  # noqa: S202 - which refuses all but plain files below it
        lines = (staging / DIGESTS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise BadBackup(f"{error.filename}: is missing: {source} is not a backup of ours, or not a whole one") from None
    except (tarfile.TarError, EOFError, ValueError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise BadBackup(f"{source}: {error}: this is not a backup of ours, or a damaged one") from None
    (staging / DIGESTS_FILE).unlink()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _take_member(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Refuse what is not a plain file, or leads elsewhere; a secret key is readable for its owner alone."""
    if not member.isreg() or member.issparse():
        raise BadBackup(f"{member.name}: is not a regular file; {_TAKE_ANOTHER}")
    mode = 0o600 if is_secret(posixpath.normpath(member.name)) else None  # None: according to the umask
    return tarfile.data_filter(member, folder).replace(mode=mode, deep=False)  # type: ignore[arg-type]


def _copy_folder(source: Path, staging: Path) -> dict[str, str]:
    """Copy a backup of before the tar; returns its digests by name."""
    path = source / MANIFEST_FILE
    if not path.is_file():
        raise BadBackup(f"{path}: is missing: {source} is not a backup of ours, or not a whole one")
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["digest"] != manifest_digest(manifest):
            raise BadBackup(f"{path}: its digest differs; {_TAKE_ANOTHER}")
        files = {str(name): (int(file["bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadBackup(f"{path}: {error!r}: this is not a backup of ours, or a damaged one") from None
    for name, (size, _) in files.items():
        original, copy = source / name, (staging / name).resolve()
        if not copy.is_relative_to(staging.resolve()) or not original.is_file() or original.stat().st_size != size:
            raise BadBackup(f"{original}: expected a file of {size} bytes; {_TAKE_ANOTHER}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, copy)
        if is_secret(name):
            copy.chmod(0o600)
    return {name: digest for name, (_, digest) in files.items()}


def _check_digests(staging: Path, expected: dict[str, str]) -> None:
    """Read every file back from the disk, and make all of them durable."""
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
            key = _key_file(settings, data) if needs_key else None
            if key is not None:
                store.read_with_identities(open_identity_key(key, create=False))
        shutil.rmtree(checkpoints, ignore_errors=True)
        import_segments(data / LOG_FOLDER)  # of an earlier version
        contents = describe_contents(staging, offset)
    except (CorruptLog, ModelError) as error:
        raise BadBackup(f"the backup is damaged: {error}") from None
    if not contents.log_first_offset <= contents.offset <= contents.log_end_offset:
        raise BadBackup(
            f"the backup does not fit together: database at offset {contents.offset}, log from "
            f"{contents.log_first_offset} to {contents.log_end_offset}: take another one"
        )
    return contents, identity_key_path(settings) if needs_key and key is None else None


def _key_file(settings: Settings, data: Path) -> Path | None:
    """The identity key that the service will use: at the place that settings name, else that of the backup."""
    named = settings.identity.key_file
    backed_up = data / IDENTITY_KEY_FILE
    if named is None:
        return backed_up if backed_up.is_file() else None
    if not named.is_file() and backed_up.is_file():
        raise ConfigError(
            f"identity.key_file: {named} is missing, and the backup holds `{IDENTITY_KEY_FILE}`: copy it to there "
            "first, mode 0600"
        )
    return named if named.is_file() else None


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
            raise ConfigError(f"model_dir: {settings.model_dir} holds files that are no model: name another folder")
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


def _put_in_place(data: Path, data_dir: Path) -> None:
    names = [name for name in _FIRST if (data / name).exists()]
    names += sorted(path.name for path in data.iterdir() if path.name not in names)
    for name in names:
        (data / name).rename(data_dir / name)
        sync_directory(data_dir)

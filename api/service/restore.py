"""Restoring a back-up of the embedded form into an empty `data_dir`.

Everything is looked at before anything is put in its place: the manifest, every digest while files are copied beside
their place, and then what the service will look at: database, checkpoints, identity key, position and log together. A
restore that is killed leaves `.restoring` behind, beside which nothing is opened and no key is made
(`require_whole_data`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from trustwatch.ingest.archive.archive_files import data_files
from trustwatch.ingest.archive.archive_files import read_position as read_archive_position
from trustwatch.ingest.durable_files import NEW_FILE_MODE, sync_directory, write_file_atomically
from trustwatch.ingest.errors import ConfigError, CorruptCheckpoint, CorruptLog, ModelError
from trustwatch.ingest.identities import IDENTITY_KEY_FILE, open_identity_key
from trustwatch.ingest.log.log_copy import log_extent
from trustwatch.ingest.log.log_segments import lock_log
from trustwatch.models.model_directory import copy_model, is_model
from trustwatch.models.model_directory import read_manifest as read_model_manifest
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ..composition import CHECKPOINTS_FOLDER, RESTORING_FOLDER, identity_key_path
from ..settings.root import Settings
from .backup import LOG_FOLDER, MODELS_FOLDER, is_secret, require_embedded
from .backup_checkpoints import DATABASE_FILE, check_backed_up, check_place_for_restore, install_checkpoints
from .backup_manifest import (
    DATA_FOLDER,
    MODEL_FOLDER,
    BackupFile,
    BackupManifest,
    BadBackup,
    describe_file,
    open_regular_file,
    read_manifest,
)

_BLOCK_BYTES: Final = 1 << 20
_FIRST: Final = (DATABASE_FILE, LOG_FOLDER, MODELS_FOLDER)
"""Put in place in this order, and all else behind them."""


class RestoredBackup(NamedTuple):
    """A restored back-up. `missing_key` is where the identity key has to be put before a start; None = it is there."""

    manifest: BackupManifest
    missing_key: Path | None


def restore_backup(settings: Settings, source: Path) -> RestoredBackup:
    """Restore the back-up at *source* into `data_dir`, and the installed model to `model_dir` if none is there.

    Raises:
        ConfigError: not the embedded form; `data_dir` or the place for checkpoints is not empty, or an archive knows
            more than the back-up; another model is installed; the identity key is another one; or a newer program wrote
            the database.
        LogInUse: a service runs on `data_dir`.
        BadBackup: *source* is no back-up, or it is damaged. Nothing was restored.
        Unavailable: the place for checkpoints does not answer. Nothing was restored.
        OSError: the disk is full or refuses. What was moved into place by then, nothing opens.
    """
    require_embedded(settings)
    manifest = read_manifest(source)
    _require_empty(settings.data_dir)
    _check_archives(settings, manifest)
    _check_installed_model(settings, manifest)
    checkpoints = f"{DATA_FOLDER}/{CHECKPOINTS_FOLDER}/"
    check_place_for_restore(settings, needed=any(name.startswith(checkpoints) for name in manifest.files))
    with _staging_folder(settings.data_dir) as staging:
        for name, file in manifest.files.items():
            _copy_checked(source, name, file, staging)
        missing_key = _check_restored(settings, staging, manifest)
        if not settings.model_dir.resolve().is_relative_to(settings.data_dir.resolve()):
            _install_model(staging / MODEL_FOLDER, settings.model_dir)
        _require_empty(settings.data_dir, besides=RESTORING_FOLDER)
        install_checkpoints(settings, staging / DATA_FOLDER)
    _put_in_place(staging / DATA_FOLDER, settings.data_dir)
    _install_model(staging / MODEL_FOLDER, settings.model_dir)
    shutil.rmtree(staging)
    sync_directory(settings.data_dir)
    return RestoredBackup(manifest, missing_key)


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


def _check_archives(settings: Settings, manifest: BackupManifest) -> None:
    """Refuse archives that go on behind the log: the offsets to come would pass for archived ones."""
    for what, folder, end in _archive_ends(settings):
        if end > manifest.log_end_offset:
            raise ConfigError(
                f"archive.{what}: {folder} goes up to offset {end}, the log of the back-up to "
                f"{manifest.log_end_offset}: what comes next would not be archived. Move the archive away, "
                "or name a new folder"
            )


def _archive_ends(settings: Settings) -> Iterator[tuple[str, Path, int]]:
    """Settings of the archives that are there, their folders, and the offsets behind what is in them."""
    events, vectors = settings.archive.directory, settings.archive.vectors
    if events is not None and events.is_dir():
        yield "directory", events, read_archive_position(events) or 0
    if vectors is not None:
        yield "vectors", vectors, max((file.end for file in data_files(vectors, "vectors")), default=0)


def _check_installed_model(settings: Settings, manifest: BackupManifest) -> None:
    """Refuse another model, by which agents would be judged from the first event on, and a place that is no model's."""
    if settings.model_dir.resolve() == settings.data_dir.resolve():
        raise ConfigError(f"model_dir: {settings.model_dir} is data_dir as well: name another folder, or one below it")
    if not is_model(settings.model_dir):
        if settings.model_dir.exists() and any(settings.model_dir.iterdir()):
            raise ConfigError(f"model_dir: {settings.model_dir} holds files that are no model: name another folder")
        return
    installed, digest = read_model_manifest(settings.model_dir)
    if digest != manifest.model_digest:
        raise ConfigError(
            f"model_dir: {settings.model_dir} holds model {installed.model_version!r}, the back-up is of "
            f"{manifest.model!r} (digest {manifest.model_digest[:12]}…): move it away, or name another folder"
        )


@contextmanager
def _staging_folder(data_dir: Path) -> Iterator[Path]:
    """A folder on the disk of `data_dir`, removed if a check fails. It has to stay until all files have left it."""
    staging = data_dir / RESTORING_FOLDER
    staging.mkdir(parents=True)
    sync_directory(data_dir)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _copy_checked(source: Path, name: str, expected: BackupFile, staging: Path) -> None:
    """Copy a file, and read the copy: what the disk gives back is what was backed up."""
    path, target = source / name, staging / name
    mode = 0o600 if is_secret(name) else NEW_FILE_MODE
    try:
        with open_regular_file(path) as original:
            write_file_atomically(target, partial(_copy_at_most, original, expected.bytes + 1), mode=mode)
    except FileNotFoundError:
        raise BadBackup(f"{path}: is missing; the back-up is damaged: take another one") from None
    copied = describe_file(target)
    if copied != expected:
        raise BadBackup(
            f"{path}: expected {expected.bytes} bytes with SHA-256 {expected.sha256[:12]}…, found {copied.bytes} with "
            f"{copied.sha256[:12]}…; the back-up is damaged: take another one"
        )


def _copy_at_most(original: BinaryIO, most: int, target: BinaryIO) -> None:
    while most > 0 and (block := original.read(min(most, _BLOCK_BYTES))):
        target.write(block)
        most -= len(block)


def _check_restored(settings: Settings, staging: Path, manifest: BackupManifest) -> Path | None:
    """Look at database, key, log and model as a service does; returns where the identity key has to be put."""
    data = staging / DATA_FOLDER
    try:
        extent = log_extent(data / LOG_FOLDER)
        read_model_manifest(staging / MODEL_FOLDER)
        with closing(open_store(sqlite_url(data / DATABASE_FILE))) as store:  # of an older program: brought up to date
            check_backed_up(data, store)
            offset = store.partitions.position(ONLY_PARTITION).offset
            needs_key = store.has_identity_key()
            key = _key_file(settings, data) if needs_key else None
            if key is not None:
                store.read_with_identities(open_identity_key(key, create=False))
    except (CorruptLog, CorruptCheckpoint, ModelError) as error:
        raise BadBackup(f"the back-up is damaged: {error}") from None
    if not extent.first_offset <= manifest.log_first_offset <= offset <= extent.end_offset == manifest.log_end_offset:
        raise BadBackup(
            f"the back-up does not fit together: database at offset {offset}, log from {extent.first_offset} to "
            f"{extent.end_offset}: take another one"
        )
    return identity_key_path(settings) if needs_key and key is None else None


def _key_file(settings: Settings, data: Path) -> Path | None:
    """The identity key that the service will use: at the place that settings name, else that of the back-up."""
    named = settings.identity.key_file
    backed_up = data / IDENTITY_KEY_FILE
    if named is None:
        return backed_up if backed_up.is_file() else None
    if not named.is_file() and backed_up.is_file():
        raise ConfigError(
            f"identity.key_file: {named} is missing, and the back-up holds `{IDENTITY_KEY_FILE}`: copy it to there "
            "first, mode 0600"
        )
    return named if named.is_file() else None


def _install_model(model: Path, model_dir: Path) -> None:
    """Copy the model to its place, unless it is there: by an operator, or below `data_dir` as a version."""
    if not is_model(model_dir):
        copy_model(model, model_dir)


def _put_in_place(data: Path, data_dir: Path) -> None:
    """Move everything from the staging folder to its place."""
    names = [name for name in _FIRST if (data / name).exists()]
    names += sorted(path.name for path in data.iterdir() if path.name not in names)
    for name in names:
        (data / name).rename(data_dir / name)
        sync_directory(data_dir)

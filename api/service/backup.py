"""A back-up of the embedded form, taken while the service runs.

The database is copied first, with the checkpoints that it names, and the log after it, so that the database's position
never lies beyond the log's end: a service that starts on both applies the rest of the log, as after a crash. Models
come last, since a version in use is never removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.durable_files import NEW_FILE_MODE, write_file_atomically
from trustwatch.ingest.errors import ConfigError, ModelError
from trustwatch.ingest.identities import IDENTITY_KEY_FILE
from trustwatch.ingest.log.log_copy import LogExtent, copy_log
from trustwatch.ingest.pseudonyms import PRIVACY_KEY_FILE
from trustwatch.models.model_directory import copy_model
from trustwatch.models.model_directory import read_manifest as read_model_manifest
from trustwatch.models.model_registry import RegisteredModel
from trustwatch.scoring.records.commits import ONLY_PARTITION, Position
from trustwatch.scoring.store.sql_store import open_reading_store, sqlite_url

from ..composition import checkpoint_place, open_model_registry, store_address
from ..http.auth.signing import LOCAL_JWKS_FILE, LOCAL_KEY_FILE
from ..settings.root import Settings
from ..shared_signals.transmitter_context import KEY_FOLDER
from .backup_checkpoints import DATABASE_FILE, copy_with_checkpoints
from .backup_manifest import (
    DATA_FOLDER,
    FORMAT_VERSION,
    KIND,
    MANIFEST_FILE,
    MODEL_FOLDER,
    UNFINISHED_FILE,
    BackupManifest,
    describe_files,
    write_manifest,
)

LOG_FOLDER: Final = "log"
MODELS_FOLDER: Final = "models"
KEY_FILES: Final = (IDENTITY_KEY_FILE, PRIVACY_KEY_FILE, LOCAL_KEY_FILE, LOCAL_JWKS_FILE)
"""Keys below `data_dir` without which the database, or what was signed, can not be read; `KEY_FOLDER` besides."""


class FinishedBackup(NamedTuple):
    """A back-up, and the digest of its manifest: kept elsewhere, it tells a changed back-up."""

    manifest: BackupManifest
    digest: str


def is_secret(name: str) -> bool:
    """Tell whether a file of a back-up is a secret key: its owner's alone, even where a group may read the rest."""
    folder, _, within = name.partition("/")
    if folder != DATA_FOLDER or within == LOCAL_JWKS_FILE:
        return False
    return within in KEY_FILES or within.startswith(f"{KEY_FOLDER}/")


def require_embedded(settings: Settings) -> None:
    """Raise ConfigError where log or database are not files below `data_dir`."""
    if settings.distributed or store_address(settings).file is None:
        place, besides = checkpoint_place(settings), ""
        if place is not None:
            besides = (
                f"; a dump does not hold the checkpoints at {place}, with the newest states of agents: stop the "
                "workers cleanly first, which leaves none"
            )
        raise ConfigError(
            "these settings keep events on brokers or state in PostgreSQL: back up the database with `pg_dump` "
            f"(docs/operations.md, Back-up and restore){besides}"
        )


def take_backup(settings: Settings, target: Path, now_s: Callable[[], float], *, keys: bool = True) -> FinishedBackup:
    """Back up database, log, models and keys into a new folder. A failure leaves nothing there.

    Args:
        settings: of the service; it may run.
        target: made; or an empty folder.
        now_s: seconds since 1970.
        keys: False leaves key files out, for those who keep them elsewhere.

    Raises:
        ConfigError: not the embedded form, no store yet, or *target* is in the way.
        DamagedStore, CorruptLog, ModelError: what is there is damaged; it would not be a back-up.
        Unavailable: locked, a full disk, or retention was faster.
    """
    require_embedded(settings)
    target = target.resolve()  # of a link its folder: after a failure that is removed
    _require_new(target)
    try:
        return _write_backup(settings, target, now_s, keys=keys)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _require_new(target: Path) -> None:
    """Raise ConfigError unless a back-up can be made at *target*; it says where an earlier one was interrupted."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if (target / UNFINISHED_FILE).is_file() and not (target / MANIFEST_FILE).exists():
        raise ConfigError(f"{target}: holds a back-up that was never finished: give another folder")
    raise ConfigError(f"{target}: is not empty: give a folder that is not there yet")


def _write_backup(settings: Settings, target: Path, now_s: Callable[[], float], *, keys: bool) -> FinishedBackup:
    data = target / DATA_FOLDER
    data.mkdir(parents=True)
    unfinished = target / UNFINISHED_FILE
    write_file_atomically(unfinished, b"")
    created = datetime.fromtimestamp(now_s(), UTC).isoformat(timespec="milliseconds")
    position = _copy_database(settings, data / DATABASE_FILE)
    extent = _copy_log(settings, data / LOG_FOLDER, position)
    installed = _copy_models(settings, target)
    copied_keys = sorted(_copy_keys(settings.data_dir, data)) if keys else []
    manifest = BackupManifest(
        kind=KIND,
        format_version=FORMAT_VERSION,
        trustwatch=version("trustwatch"),
        created=created,
        epoch=position.epoch,
        offset=position.offset,
        log_first_offset=extent.first_offset,
        log_end_offset=extent.end_offset,
        model=installed.version,
        model_digest=installed.digest,
        keys=copied_keys,
        left_out=list(_left_out(settings, keys=keys)),
        files=describe_files(target),
    )
    digest = write_manifest(target, manifest)
    unfinished.unlink()
    return FinishedBackup(manifest, digest)


def _copy_database(settings: Settings, target: Path) -> Position:
    copy_with_checkpoints(settings, target)
    with closing(open_reading_store(sqlite_url(target))) as copy:
        return copy.partitions.position(ONLY_PARTITION)


def _copy_log(settings: Settings, target: Path, position: Position) -> LogExtent:
    needed = DuplicateWindow().first_offset_to_rebuild(position.offset)
    return copy_log(settings.data_dir / LOG_FOLDER, target, needed)


def _copy_models(settings: Settings, target: Path) -> RegisteredModel:
    """Copy every sound version of the registry, and the installed model; returns that one, as it was copied."""
    registry = open_model_registry(settings)
    copy_model(settings.model_dir, target / MODEL_FOLDER)
    for model in registry.versions():
        folder = registry.directory_of(model.version)
        try:
            copy_model(folder, target / DATA_FOLDER / MODELS_FOLDER / folder.name)
        except (OSError, ModelError):
            if folder.exists():  # else it was removed meanwhile: nothing judges by it
                raise
    return RegisteredModel(*read_model_manifest(target / MODEL_FOLDER))  # an operator may replace the original


def _copy_keys(data_dir: Path, target: Path) -> Iterator[str]:
    """Copy the keys that are there; yields their names."""
    folder = data_dir / KEY_FOLDER
    for path in (*(data_dir / name for name in KEY_FILES), *(folder.iterdir() if folder.is_dir() else ())):
        if path.is_file() and not path.name.startswith("."):
            name = path.relative_to(data_dir)
            mode = 0o600 if is_secret(f"{DATA_FOLDER}/{name.as_posix()}") else NEW_FILE_MODE
            write_file_atomically(target / name, path.read_bytes(), mode=mode)
            yield name.as_posix()


def _left_out(settings: Settings, *, keys: bool) -> Iterator[str]:
    yield "settings and the files that they name"
    if not keys:
        yield f"key files: {', '.join(KEY_FILES)}, {KEY_FOLDER}"
    elsewhere = {
        "identity.key_file": settings.identity.key_file,
        "privacy.key_file": settings.privacy.key_file,
        "shared_signals.key_dir": settings.shared_signals.key_dir,
    }
    for member, path in elsewhere.items():
        if path is not None:
            yield f"{member}: {path}"
    for member, path in (("events", settings.archive.directory), ("vectors", settings.archive.vectors)):
        if path is not None:
            yield f"archive of {member}: {path}"
    yield "sessions of the console: people sign in again"

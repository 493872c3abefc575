"""Checkpoints in a back-up: files that the copy of the database names, copied while the service goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from trustwatch.ingest.durable_files import sync_file, write_file_atomically
from trustwatch.ingest.errors import ConfigError, CorruptCheckpoint, Unavailable
from trustwatch.ingest.objects.folder_objects import FolderObjects
from trustwatch.scoring.records.commits import Checkpoint
from trustwatch.scoring.store.checkpoint_files import CheckpointFiles
from trustwatch.scoring.store.sql_store import SqlStore, open_reading_store, sqlite_url

from ..composition import CHECKPOINTS_FOLDER, checkpoint_place, open_checkpoint_files, store_address
from ..settings.root import Settings
from .checkpoint_checks import open_named_checkpoints

DATABASE_FILE: Final = "trustwatch.db"
COPY_TRIES: Final = 5
"""Times that the database is copied: the service removes files of checkpoints when it has written rows, every few
minutes at most."""


def copy_with_checkpoints(settings: Settings, database: Path) -> None:
    """Copy the database to *database*, and beside it every checkpoint that the copy names.

    Raises:
        CorruptCheckpoint: a checkpoint in use is not there, or not what was written.
        ConfigError: the settings do not say where checkpoints are.
        Unavailable: the service ended checkpoints each time before they were copied, or a place does not answer.
    """
    for _ in range(COPY_TRIES):
        _remove_copy(database)
        with closing(store_address(settings).open_reading()) as store:
            store.database.copy_to(database)
            with closing(open_reading_store(sqlite_url(database))) as copy:
                checkpoints = copy.checkpoints.list_all()
            if _copy_checkpoints(settings, store, checkpoints, database.parent):
                break
    else:
        raise Unavailable(
            f"checkpoints were ended {COPY_TRIES} times while they were copied: take the back-up again, or to a disk "
            "that is quicker"
        )
    with database.open("rb+") as file:
        sync_file(file)


def _remove_copy(database: Path) -> None:
    """Remove what an earlier try wrote: its checkpoints hold states that nothing names any more."""
    for path in database.parent.glob(f"{database.name}*"):  # with the files that SQLite keeps beside it
        path.unlink()
    shutil.rmtree(database.parent / CHECKPOINTS_FOLDER, ignore_errors=True)


def _copy_checkpoints(settings: Settings, store: SqlStore, checkpoints: list[Checkpoint], data: Path) -> bool:
    """Copy files; False = one was ended meanwhile, so that a newer copy of the database is needed."""
    if not checkpoints:
        return True
    files = open_named_checkpoints(settings, checkpoints)
    for checkpoint in checkpoints:
        try:
            content = files.read_content(checkpoint)
        except CorruptCheckpoint:
            if checkpoint in store.checkpoints.list_all():
                raise
            return False
        write_file_atomically(data / CHECKPOINTS_FOLDER / checkpoint.name, content)
    return True


def check_place_for_restore(settings: Settings, *, needed: bool) -> None:
    """Refuse a place for checkpoints that has some already: they would pass for those of the restored service.

    Args:
        settings: of the service that is restored.
        needed: whether the back-up has checkpoints.

    Raises:
        ConfigError: it has, or the settings name no place and one is needed.
        Unavailable: it does not answer.
    """
    place = checkpoint_place(settings)
    if place is None and needed:
        raise ConfigError(
            "store.checkpoints: the back-up holds checkpoints, with the newest states of agents, and the settings name "
            "no place for them: name one; a service that is stopped cleanly leaves none"
        )
    if _path_in_data(settings) is not None:  # which has to be empty anyway
        return
    files = open_checkpoint_files(settings)
    if files is not None and (present := files.list_files()):
        raise ConfigError(
            f"store.checkpoints: {place} holds checkpoints of a service already ({next(iter(present))}): move them "
            "away, or name another place"
        )


def check_backed_up(data: Path, store: SqlStore) -> None:
    """Read every checkpoint that a restored database names. Raises CorruptCheckpoint."""
    for _ in _backed_up(data, store):
        pass


def install_checkpoints(settings: Settings, data: Path) -> None:
    """Put the checkpoints of a back-up, which are below *data*, where the settings say.

    What lies below `data_dir` is moved there with all else. A failure leaves nothing at another place.

    Raises:
        ConfigError, Unavailable: the place refuses, or does not answer.
    """
    source, inside = data / CHECKPOINTS_FOLDER, _path_in_data(settings)
    if not source.is_dir():
        return
    if inside is not None:
        (data / inside).parent.mkdir(parents=True, exist_ok=True)
        source.rename(data / inside)
        return
    files = open_checkpoint_files(settings)
    assert files is not None
    written: list[str] = []
    with closing(open_reading_store(sqlite_url(data / DATABASE_FILE))) as store:
        try:
            for checkpoint, content in _backed_up(data, store):
                written.append(checkpoint.name)
                files.write_content(checkpoint, content)
        except BaseException:
            with suppress(Unavailable):
                files.remove(written)
            raise
    shutil.rmtree(source)


def _backed_up(data: Path, store: SqlStore) -> Iterator[tuple[Checkpoint, bytes]]:
    checkpoints = store.checkpoints.list_all()
    if checkpoints:
        files = CheckpointFiles(FolderObjects(data / CHECKPOINTS_FOLDER))
        yield from ((checkpoint, files.read_content(checkpoint)) for checkpoint in checkpoints)


def _path_in_data(settings: Settings) -> Path | None:
    """Path of the place for checkpoints within `data_dir`; None = it is elsewhere, or there is none."""
    place = checkpoint_place(settings)
    if place is None or "://" in place:
        return None
    path, data = Path(place).absolute().resolve(), settings.data_dir.absolute().resolve()
    return path.relative_to(data) if path.is_relative_to(data) else None

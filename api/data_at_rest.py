"""Data at rest: new files are for their owner only, and files open to others are closed when the service starts.

State, events and models name persons and agents, and tokens and keys are stored next to them, so no other account of
the machine may read them. An environment variable lets the owner's group read, for every process and command.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from .file_access import CLOSED_BITS, FILE_ACCESS, closed_bits
from .settings.root import Settings

_OWN_NAMES: Final = (
    "trustwatch.db*",
    "log",
    "models",
    "model",
    "vectors-spool",
    "console-links",
)
"""Names in `data_dir` that belong to Trustwatch; keys are checked when they are read, and refused if open to others."""

_log = structlog.get_logger(__name__)


def close_existing_data(settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
    """Remove access of other users to data that an earlier version, a copy or a restore left open; log each change.

    If access cannot be changed (a folder of another user, a read-only volume), a warning is logged and the service
    starts, since the layout may be intended.
    """
    closed, archive = closed_bits(environ), settings.archive
    configured = (settings.data_dir, settings.model_dir, archive.directory, archive.vectors)
    folders = [folder.resolve() for folder in configured if folder is not None and folder.is_dir()]
    # `data_dir` may also be a folder of others.
    for path in (*folders, *(path for name in _OWN_NAMES for path in settings.data_dir.glob(name))):
        _close(path, closed)


def _close(path: Path, closed: int) -> None:
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) or not status.st_mode & closed:
            return
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode) and _is_shared(path, status):
            _log.warning(
                "other users may look into a folder that is not ours alone", path=str(path), mode=f"{mode:04o}"
            )
            return
        path.chmod(mode & ~closed)
    except FileNotFoundError:  # a log of SQLite, removed meanwhile
        return
    except OSError as error:
        advice = f"as its owner: chmod {'o=' if closed == CLOSED_BITS['group'] else 'go='} {path}"
        _log.warning("other users may read our data, and it cannot be closed", error=str(error), advice=advice)
        return
    advice = f"{FILE_ACCESS}=group lets the group read (docs/operations.md)"
    _log.warning("other users could read our data; closed", path=str(path), was=f"{mode:04o}", advice=advice)


def _is_shared(folder: Path, status: os.stat_result) -> bool:
    """Return whether a folder is shared: /tmp, /srv and the like, and any that holds something of another user."""
    if status.st_mode & stat.S_ISVTX or folder.parent == folder.parent.parent:
        return True
    with os.scandir(folder) as entries:
        return any(entry.stat(follow_symlinks=False).st_uid != status.st_uid for entry in entries)

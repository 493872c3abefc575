"""Objects as files of a folder, which only their owner reads."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from ..durable_files import sync_directory, write_file_atomically
from ..errors import ConfigError, ObjectMissing, Unavailable
from .object_names import check_object_name, check_prefix, is_object_name
from .store_trial import StoreRefused, try_store

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
LEFT_BEHIND_S: Final = 3600.0
"""Age from which a temporary file is one that a crash left: no write takes that long."""
PUT_TRIES: Final = 5
"""A folder that is empty goes with its last object; a writer that had just made sure of it makes it anew."""

_SCRATCH = re.compile(r"\.[0-9a-f]{32}\.tmp")


class FolderObjects:
    """Objects below a folder, an `ObjectStore`. Several processes may share it.

    On top of what every store asks for: no object is called as the folder of another one (`a` and `a/b`).
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder (mode 0700) where it does not exist.

        Raises:
            ConfigError: it can not be made, or is no folder.
        """
        self._root = folder.absolute()
        try:
            new = [path for path in (self._root, *self._root.parents) if not path.exists()]
            self._root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            for path in new:
                sync_directory(path.parent)
        except OSError as error:
            raise ConfigError(f"{self._root} can not hold objects: {error.strerror}; name a folder") from error

    def __repr__(self) -> str:
        return f"FolderObjects({str(self._root)!r})"

    def put(self, name: str, content: bytes) -> None:
        """Write a file in one step. Raises as `ObjectStore.put`."""
        path = self._path(name)
        self._require_root()
        for left in reversed(range(PUT_TRIES)):
            try:
                self._make_folders(path.parent)
                scratch = path.with_name(f".{uuid.uuid4().hex}.tmp")  # two containers may have one process id
                write_file_atomically(path, content, temporary=scratch, mode=FILE_MODE)
                self._sync_folders(path.parent)
            except FileNotFoundError as error:
                if not left:
                    raise self._unavailable(error) from error
            except OSError as error:
                raise self._unavailable(error) from error
            else:
                return

    def get(self, name: str) -> bytes:
        """Read a file. Raises as `ObjectStore.get`."""
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            self._require_root()
            raise ObjectMissing(f"{self._root}: there is no object {name}") from None
        except OSError as error:
            raise self._unavailable(error) from error

    def list_names(self, prefix: str) -> list[str]:
        """Names of the files. Raises as `ObjectStore.list_names`."""
        folder = self._root / check_prefix(prefix).rpartition("/")[0]
        self._require_root()
        names = (path.relative_to(self._root).as_posix() for path in self._files(folder))
        return sorted(name for name in names if name.startswith(prefix) and is_object_name(name))

    def delete(self, names: Collection[str]) -> None:
        """Remove files, and folders that are empty then. Raises as `ObjectStore.delete`."""
        paths = [self._path(name) for name in names]
        self._require_root()
        try:
            for path in paths:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    path.unlink()
            for folder in {path.parent for path in paths}:
                self._forget(folder)
        except OSError as error:
            raise self._unavailable(error) from error

    def count_unfinished(self, older_than_s: float) -> int:
        """Number of temporary files. Raises as `ObjectStore.count_unfinished`."""
        return sum(path.parent != self._root for path in self._unfinished(older_than_s))  # marks lie in the root

    def remove_unfinished(self, older_than_s: float) -> None:
        """Remove temporary files, and folders that are empty then. Raises as `ObjectStore.remove_unfinished`."""
        try:
            for path in self._unfinished(older_than_s):
                path.unlink(missing_ok=True)
                self._forget(path.parent)
        except OSError as error:
            raise self._unavailable(error) from error

    def check(self) -> None:
        """Try all of it, and remove what crashes of writers left. Raises ConfigError: it does not work."""
        try:
            self.remove_unfinished(LEFT_BEHIND_S)
            try_store(self, str(self._root))
        except Unavailable as error:
            raise ConfigError(f"{error}; see to the rights and the room of that folder, or name another one") from error

    def _path(self, name: str) -> Path:
        return self._root / check_object_name(name)

    def _make_folders(self, folder: Path) -> None:
        """Make *folder* and those above it, but never the root: where that is gone, a disk is."""
        for path in (*reversed(self._above(folder)), folder):
            if path != self._root:
                with contextlib.suppress(FileExistsError):
                    path.mkdir(mode=FOLDER_MODE)

    def _sync_folders(self, folder: Path) -> None:
        """Make the names of *folder* and of those above it durable, whoever made them."""
        for path in self._above(folder):
            sync_directory(path)

    def _above(self, folder: Path) -> list[Path]:
        """Folders above *folder*, up to the root, the nearest one first."""
        return [path for path in folder.parents if path.is_relative_to(self._root)]

    def _forget(self, folder: Path) -> None:
        """Make removed names durable, and remove folders that are empty."""
        for path in (folder, *self._above(folder)):
            if path != self._root:
                with contextlib.suppress(OSError):  # it holds something, or another process was first
                    path.rmdir()
                    continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                sync_directory(path)

    def _files(self, folder: Path) -> Iterator[Path]:
        """Files below *folder*. A folder that is removed meanwhile was empty."""
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._unavailable(error) from error
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(Path(entry.path))
            else:
                yield Path(entry.path)

    def _unfinished(self, older_than_s: float) -> list[Path]:
        """Temporary files of that age, by the clock of the file system that wrote them."""
        self._require_root()
        mark = self._root / f".{uuid.uuid4().hex}.tmp"
        found = []
        try:
            write_file_atomically(mark, b"", mode=FILE_MODE)
            latest = mark.stat().st_mtime - older_than_s
            mark.unlink()
            for path in self._files(self._root):
                with contextlib.suppress(FileNotFoundError):
                    if _SCRATCH.fullmatch(path.name) and path.stat().st_mtime <= latest:
                        found.append(path)
        except OSError as error:
            raise self._unavailable(error) from error
        return found

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise StoreRefused(f"{self._root}: the folder of objects is gone; is its disk mounted?")

    def _unavailable(self, error: OSError) -> StoreRefused:
        return StoreRefused(f"{error.filename or self._root}: {error.strerror}")

"""Files that a crash leaves whole: synced, put in place in one step, and locked against other processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO, Final

from .errors import ConfigError

NEW_FILE_MODE: Final = 0o666
"""Mode of a file that others may read if the umask permits."""


def sync_file(file: IO[bytes]) -> None:
    """Make what was written to an open file durable."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Make created, renamed and removed names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file_atomically(
    path: Path,
    content: bytes | Callable[[BinaryIO], object],
    *,
    temporary: Path | None = None,
    mode: int = NEW_FILE_MODE,
) -> None:
    """Make a file with its folders, or replace its content; a reader sees all of the new content or none."""
    temporary = temporary or _scratch_path(path)
    new_folders = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_new_file(temporary, content, mode)
        temporary.replace(path)
    except Exception:  # a caller that continues after it would leave the half file, which takes space on a full disk
        temporary.unlink(missing_ok=True)
        raise
    for folder in (path.parent, *(folder.parent for folder in new_folders)):
        sync_directory(folder)


def create_file_once(path: Path, content: bytes, *, mode: int = NEW_FILE_MODE) -> None:
    """Make a file with its folders, completely or not at all.

    An existing file stays, and of several threads or processes the first one wins, so read the file afterwards.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    scratch = _scratch_path(path)
    try:
        _write_new_file(scratch, content, mode)
        with contextlib.suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    sync_directory(path.parent)


def create_secret_file(path: Path, content: bytes) -> None:
    """Create a file as `create_file_once` does, readable by its owner alone (mode 0600)."""
    create_file_once(path, content, mode=0o600)


def read_key_file(path: Path, what: str, sizes: range, *, create: bool = True) -> bytes:
    """Read the key in a file (hexadecimal digits, mode 0600), created if missing; two processes get the same one.

    Error messages call it *what*; *sizes* are the numbers of bytes it may have. Raises ConfigError.
    """
    try:
        if create and not path.exists():
            create_secret_file(path, f"{secrets.token_hex(sizes.start)}\n".encode())
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read {what}; its mode must be 0600")
        key = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise ConfigError(f"{path}: {what} cannot be read or written: {error.strerror}") from None
    except ValueError:
        key = b""
    if len(key) not in sizes:
        raise ConfigError(f"{path}: no key; expected {2 * sizes.start} hexadecimal digits")
    return key


def lock_file(file: IO[bytes], *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file against other processes, until it is closed or this process ends."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _scratch_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")


def _write_new_file(path: Path, content: bytes | Callable[[BinaryIO], object], mode: int) -> None:
    path.unlink(missing_ok=True)  # of a process and thread with the same ids that died, or of the last try
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)
        sync_file(file)

"""A policy book that is read anew while the service runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from ...ingest.errors import ConfigError
from .book import PolicyBook

_log = structlog.get_logger(__name__)

FileStamp = tuple[int, int, int]


class LivePolicy:
    """The book in force. A file that turns wrong changes nothing: the last good book holds, and the error is counted.

    Args:
        book: in force from the start.
        path: file that is watched; None = the book never changes.
        load: reads the file; raises ConfigError that says what is wrong where.
    """

    def __init__(
        self, book: PolicyBook, path: Path | None = None, load: Callable[[], PolicyBook] | None = None
    ) -> None:
        self.book = book
        self.reloads = 0
        self.errors = 0
        self.error = ""
        """Why the file as it is now is not in force; "" = it is."""
        self._path = path
        self._load = load
        self._last_stamp = self._stamp()

    def refresh(self) -> bool:
        """Read the file if it changed; whether another book is in force. Blocks on the file system."""
        if self._path is None or self._load is None:
            return False
        mark = self._stamp()
        if mark == self._last_stamp:
            return False
        self._last_stamp = mark
        try:
            book = self._load()
        except Exception as error:  # whatever it is, the last good book holds
            self.errors += 1
            self.error = str(error) if isinstance(error, ConfigError) else f"{self._path}: {error!r}"
            _log.error("token policy was not reloaded; the last good one holds", error=self.error)
            return False
        self.reloads += 1
        self.error = ""
        _log.info("token policy reloaded", version=book.version, before=self.book.version)
        self.book = book
        return True

    def _stamp(self) -> FileStamp | None:
        """What changes with the file: also when it is replaced by one of the same age."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

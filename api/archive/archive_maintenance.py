"""Retention and merging of archive files, a step at a time, in the processes that write them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import structlog

from trustwatch.ingest.archive.archive_files import (
    ArchiveFileKind,
    DataFile,
    drop_days_before,
    read_positions,
    rewrite_lock,
)
from trustwatch.ingest.archive.file_merging import merge_small_files
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.timestamps import DAY_MS

from .. import clock
from ..settings.service_settings import ArchiveSettings

MERGE_AFTER = timedelta(hours=6)
"""Small files of a date are merged this long after its end, when most of its late events have arrived."""
RETENTION_EVERY_S = 3_600.0
FIRST_RETENTION_S = 30.0
RETRY_S = 60.0
"""Pause before another attempt if the folder is being read, or the disk refuses, s."""
OVERDUE_AFTER_S, PIECE_EVERY_S = 60.0, 5.0
"""If the log is never idle, upkeep begins this late, and does a piece of work this often."""
VECTOR_MERGE_DELAY_MS = 900_000
"""Vectors are merged this long after they were written, when another worker's spool has delivered the offsets between
two files. Late events of a past date might otherwise arrive after the files were merged."""

_log = structlog.get_logger(__name__)


class ArchiveMaintenance:
    """Keeps one archive small and its files large."""

    def __init__(self, directory: Path, kind: ArchiveFileKind, settings: ArchiveSettings) -> None:
        self._directory = directory
        self._kind = kind
        self._settings = settings
        self.merged = 0
        """Small files that went into larger ones."""
        self._due_at = clock.monotonic() + FIRST_RETENTION_S
        self._merging = False
        self._worked_at = float("-inf")
        self._damaged: set[Path] = set()
        self._last_error = ""

    @property
    def overdue(self) -> bool:
        """True if a step is to be done even though there is other work."""
        since = self._worked_at + PIECE_EVERY_S if self._merging else self._due_at + OVERDUE_AFTER_S
        return clock.monotonic() >= since

    def step(self) -> bool:
        """Do a piece of what is due, seconds at most; returns whether there is more to do at once.

        Archiving must continue if it fails: a failure is logged once, and tried again.
        """
        if not self._merging and clock.monotonic() < self._due_at:
            return False
        try:
            self._merging = self._merge_one() if self._merging else self._drop_old_days()
            if not self._merging:
                self._last_error = ""
        except (OSError, TrustwatchError) as error:
            self._merging = False
            self._due_at = clock.monotonic() + RETRY_S
            if str(error) != self._last_error:
                self._last_error = str(error)
                _log.error("upkeep of an archive has to wait", directory=str(self._directory), error=self._last_error)
        self._worked_at = clock.monotonic()
        return self._merging

    def _drop_old_days(self) -> bool:
        """Retention, unless a reader or an erasure holds the lock: waiting could take hours and block the stop."""
        with rewrite_lock(self._directory, wait=False) as ours:
            self._due_at = clock.monotonic() + (RETENTION_EVERY_S if ours else RETRY_S)
            if ours:
                drop_days_before(self._directory, clock.now_ms() - self._settings.retention_days * DAY_MS)
        return ours

    def _merge_one(self) -> bool:
        before = (clock.utc_now() - MERGE_AFTER).date()
        positions = (read_positions(self._directory) or {}) if self._kind == "events" else None

        def counts(file: DataFile) -> bool:
            if positions is None:
                return file.path.stat().st_mtime * 1000 < clock.now_ms() - VECTOR_MERGE_DELAY_MS
            return file.end <= positions.get(file.partition, 0)

        for files in merge_small_files(self._directory, self._kind, before, counts, damaged=self._damaged):
            self.merged += files
            return True
        return False

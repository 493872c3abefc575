"""What the archiving processes do beside writing: retention and merging, now and then, a step at a time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from ...ingest.archive.files import DataFile, Kind, drop_days_before, rewriting
from ...ingest.archive.merging import merge
from ...ingest.archive.position import read_positions
from .. import clock
from ..settings.archive import ArchiveSettings

EVERY_S = 3_600.0
FIRST_S = 30.0
DAY_MS = 86_400_000


class ArchiveUpkeep:
    """Keeps one archive small and its files large.

    Args:
        directory: of the archive, or of the vectors.
        kind: of its files.
        settings: of archives.
    """

    def __init__(self, directory: Path, kind: Kind, settings: ArchiveSettings) -> None:
        self.merged = 0
        """Small files that went into larger ones."""
        self._directory = directory
        self._kind = kind
        self._settings = settings
        self._next = clock.monotonic() + FIRST_S
        self._merging = False

    def step(self) -> bool:
        """Do a piece of what is due, seconds at most; returns whether there is more to do at once."""
        if self._merging:
            self._merging = self._merge_one()
        elif clock.monotonic() >= self._next:
            self._next = clock.monotonic() + EVERY_S
            with rewriting(self._directory):
                drop_days_before(self._directory, clock.now_ms() - self._settings.retention_days * DAY_MS)
            self._merging = True
        return self._merging

    def _merge_one(self) -> bool:
        before = (clock.utc_now() - timedelta(hours=self._settings.merge_after_h)).date()
        positions = (read_positions(self._directory) or {}) if self._kind == "events" else None

        def counts(file: DataFile) -> bool:
            return positions is None or file.end <= positions.get(file.partition, 0)

        for files in merge(self._directory, self._kind, before, counts):
            self.merged += files
            return True
        return False

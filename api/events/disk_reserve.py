"""Room on the disk that events may not take, so that orders of people go through when it is full."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..settings.root import Settings

DISK_RESERVE_MB = 512
"""Free room that is kept, MiB: for orders of people, and for the database to write what they order."""

MAX_SHARE = 0.1  # Share of the disk that the reserve takes at most, for disks of less than 5 GiB
LOOK_EVERY_S = 0.25


@dataclass(eq=False, repr=False)
class DiskReserve:
    """Tells when the free room on a disk has come down to the reserve."""

    folder: Path
    reserve_bytes: int
    monotonic: Callable[[], float]

    def __post_init__(self) -> None:
        self._looked_at: float | None = None
        self._is_reached = False

    def is_reached(self) -> bool:
        """True if only orders of people may be written. The disk is looked at a few times a second at most."""
        now = self.monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        return self._is_reached

    def _look(self) -> None:
        try:
            usage = shutil.disk_usage(self.folder)
        except OSError:  # the log itself says what is wrong with the disk
            self._is_reached = False
            return
        self._is_reached = usage.free < min(self.reserve_bytes, int(usage.total * MAX_SHARE))


def disk_reserve(settings: Settings, monotonic: Callable[[], float]) -> DiskReserve:
    """The reserve of a service: on the disk of its event log, where that is a local one."""
    reserve_mb = 0 if settings.distributed else DISK_RESERVE_MB
    return DiskReserve(settings.data_dir, reserve_mb * 1024 * 1024, monotonic)

"""Room on the disk that events may not take, so that orders of people go through when it is full."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ..settings.root import Settings

DISK_RESERVE_MB = 512
"""Free room that is kept, MiB: for orders of people, and for the database to write what they order."""

MAX_SHARE = 0.1
"""Share of the disk that the reserve takes at most, for disks of less than 5 GiB."""

LOOK_EVERY_S = 0.25


class DiskReserve:
    """Tells when the free room on a disk has come down to the reserve.

    Args:
        folder: on the disk that is meant.
        reserve_bytes: free bytes that are kept; 0 keeps none.
        monotonic: seconds on a clock that never goes back.
    """

    def __init__(self, folder: Path, reserve_bytes: int, monotonic: Callable[[], float]) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._monotonic = monotonic
        self._looked_at: float | None = None
        self._is_reached = False

    def is_reached(self) -> bool:
        """True if only orders of people may be written. The disk is looked at a few times a second at most."""
        now = self._monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        return self._is_reached

    def _look(self) -> None:
        try:
            usage = shutil.disk_usage(self._folder)
        except OSError:  # the log itself says what is wrong with the disk
            self._is_reached = False
            return
        self._is_reached = usage.free < min(self._reserve_bytes, int(usage.total * MAX_SHARE))


def disk_reserve(settings: Settings, monotonic: Callable[[], float]) -> DiskReserve:
    """The reserve of a service: on the disk of its event log, where that is a local one."""
    reserve_mb = 0 if settings.distributed else DISK_RESERVE_MB
    return DiskReserve(settings.data_dir, reserve_mb * 1024 * 1024, monotonic)

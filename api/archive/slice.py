"""The archive: what the slice adds to the application, the archiving processes, and what is known of them."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from trustwatch.ingest.archive.archive_files import read_position

from ..child_process import SupervisedProcess
from ..http.prometheus_metrics import MetricValues
from ..http.slice import ServiceRegistry, Slice


class ArchiveStatus:
    """State of the archiving processes of this service. For one event loop.

    Attributes:
        archive_only: whether this process does nothing but keep an archive.
        alive: by kind, events and vectors: whether it runs; a kind that is not kept here is missing.
        lags_s: by kind, age of the oldest record of the log that was not archived at the last report; 0 if none waited.
    """

    def __init__(self, *, alone: bool = False) -> None:
        self.archive_only = alone
        self.alive: dict[str, bool] = {}
        self.lags_s: dict[str, float] = {}

    def is_ready(self) -> bool:
        """True if every configured process is running."""
        return all(self.alive.values())


def archived_offset(directory: Path) -> int:
    """Return the offset of the log up to which events are in the archive; 0 before the first. Raises CorruptLog."""
    return read_position(directory) or 0


class ArchiveWorkerProcess(SupervisedProcess):
    """Keeps an archiving process running, and its status current."""

    def __init__(self, kind: str, settings_file: Path | None, status: ArchiveStatus) -> None:
        module = {"events": "trustwatch.api.archive.worker", "vectors": "trustwatch.api.archive.vector_worker"}[kind]
        super().__init__(module, settings_file, lambda _: None, lambda: status.alive.update({kind: False}))
        self._kind = kind
        self._status = status
        status.alive[kind] = False

    def _handle_frame(self, frame: bytes) -> None:
        self._status.lags_s[self._kind] = msgspec.msgpack.decode(frame, type=float)
        self._status.alive[self._kind] = True


def _metric_values(services: ServiceRegistry) -> MetricValues:
    archive = services.find(ArchiveStatus)
    if archive is None:
        return {}
    lag_s = archive.lags_s.get("events")
    if lag_s is None:
        return {"trustwatch_archive_lag_seconds": {}}
    return {"trustwatch_archive_lag_seconds": {(): lag_s if archive.alive["events"] else math.inf}}


SLICE = Slice("archive", metrics=_metric_values)

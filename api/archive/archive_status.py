"""Status of the archiving processes: their reports, and what is known of them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trustwatch.ingest.archive.archive_files import read_position

from ..child_process import SupervisedProcess


class ArchiveWorkerReport(msgspec.Struct, array_like=True):
    """One archiving process, of events or of vectors.

    Attributes:
        lag_s: age of the oldest record of the log that is not archived; 0 if none waits.
    """

    lag_s: float = 0.0


class ArchiveStatus:
    """State of the archiving processes of this service. For one event loop.

    Attributes:
        archive_only: whether this process does nothing but keep an archive.
        alive: by kind, events and vectors: whether it runs; a kind that is not kept here is missing.
        reports: the last one by kind.
    """

    def __init__(self, *, alone: bool = False) -> None:
        self.archive_only = alone
        self.alive: dict[str, bool] = {}
        self.reports: dict[str, ArchiveWorkerReport] = {}

    def expect(self, kind: str) -> None:
        """Expect a process of that kind to run here."""
        self.alive[kind] = False

    def note(self, kind: str, report: ArchiveWorkerReport) -> None:
        """Store one report."""
        self.alive[kind] = True
        self.reports[kind] = report

    def ended(self, kind: str) -> None:
        """The process has ended."""
        self.alive[kind] = False

    def is_ready(self) -> bool:
        """True if every process that is to run does."""
        return all(self.alive.values())


def archived_offset(directory: Path) -> int:
    """Offset of the log up to which events are in the archive; 0 before the first. Raises CorruptLog."""
    return read_position(directory) or 0


class ArchiveWorkerProcess(SupervisedProcess):
    """Keeps an archiving process running, and what it reports at hand."""

    def __init__(self, kind: str, settings_file: Path | None, status: ArchiveStatus) -> None:
        module = {"events": "trustwatch.api.archive.worker", "vectors": "trustwatch.api.archive.vector_worker"}[kind]
        super().__init__(module, settings_file, lambda _update: None, lambda: status.ended(kind))
        self._kind = kind
        self._status = status
        status.expect(kind)

    def _handle_frame(self, frame: bytes) -> None:
        self._status.note(self._kind, msgspec.msgpack.decode(frame, type=ArchiveWorkerReport))

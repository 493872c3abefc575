"""The answering side of the ingest process."""

from __future__ import annotations

from pathlib import Path

from ..edge.reports import IngestStatus, decode_ingest_report
from .updates import SupervisedProcess


class IngestWorkerProcess(SupervisedProcess):
    """Keeps the ingest process running, and what it reports at hand.

    Args:
        settings_file: passed on; None where there is none.
        status: receives what it reports.
    """

    def __init__(self, settings_file: Path | None, status: IngestStatus) -> None:
        super().__init__("ingest", settings_file, lambda _update: None, status.ended)
        self._status = status
        status.alive = False

    def _handle_frame(self, frame: bytes) -> None:
        self._status.note(decode_ingest_report(frame))

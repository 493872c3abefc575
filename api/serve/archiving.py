"""What the answering process knows of the archive: whether one can be written, how far it goes, and how it fares."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ...ingest.archive.position import read_position
from ...ingest.errors import ConfigError
from ..edge.archived import ArchiveStatus, decode_archive_report
from ..settings import Settings
from .updates import SupervisedProcess


def check_archive_available(settings: Settings) -> None:
    """Raises ConfigError where an archive is wanted and the extra is not installed."""
    wanted = settings.archive.directory or settings.archive.vectors
    if wanted is not None and find_spec("pyarrow") is None:
        raise ConfigError("an archive is set, and pyarrow is not installed: pip install 'trustwatch[archive]'")


def archived_offset(directory: Path) -> int:
    """Offset of the log up to which events are in the archive; 0 before the first. Raises CorruptLog."""
    return read_position(directory) or 0


class ArchiveWorkerProcess(SupervisedProcess):
    """Keeps an archiving process running, and what it reports at hand.

    Args:
        kind: `events` or `vectors`.
        settings_file: passed on; None where there is none.
        status: receives what it reports.
    """

    def __init__(self, kind: str, settings_file: Path | None, status: ArchiveStatus) -> None:
        module = {"events": "archiver", "vectors": "vectors"}[kind]
        super().__init__(module, settings_file, lambda _update: None, lambda: status.ended(kind))
        self._kind = kind
        self._status = status
        status.expect(kind)

    def _handle_frame(self, frame: bytes) -> None:
        self._status.note(self._kind, decode_archive_report(frame))

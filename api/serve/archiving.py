"""What the answering process knows of the archive: whether one can be written, and how far it goes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ...ingest.archive.position import read_position
from ...ingest.errors import ConfigError
from ..settings import Settings


def check_archive(settings: Settings) -> None:
    """Raises ConfigError where an archive is wanted and the extra is not installed."""
    if settings.archive.directory is not None and find_spec("pyarrow") is None:
        raise ConfigError("`archive.directory` is set, and pyarrow is not installed: pip install 'trustwatch[archive]'")


def archived_up_to(directory: Path) -> int:
    """Offset of the log up to which events are in the archive; 0 before the first. Raises CorruptLog."""
    return read_position(directory) or 0

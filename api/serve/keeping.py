"""The answering side of the keeper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .updates import SupervisedProcess


class ModelWorkerProcess(SupervisedProcess):
    """Keeps the keeper running, and hands on what it asks for.

    Args:
        settings_file: passed on; None where there is none.
        proved: called with a version that may be promoted.
    """

    def __init__(self, settings_file: Path | None, proved: Callable[[str], None]) -> None:
        super().__init__("keeper", settings_file, lambda _update: None)
        self._on_challenger_ready = proved

    def _handle_frame(self, frame: bytes) -> None:
        self._on_challenger_ready(frame.decode())

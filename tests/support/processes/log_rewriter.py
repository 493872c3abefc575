"""Rewrite the segments of a log, and die at a given fsync or rename; arguments: the log's folder, number of that step.

Where the work has fewer steps it ends with status 0.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trustwatch.ingest.log.event_log import EventLog

from ..log_rewriting import rewrite


class DeadlyStep:
    """Counts calls and kills the process before the one with a given number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call


def main(folder: Path, number: int) -> None:
    """Only what the rewriting does is counted, not what opening the log does."""
    log = EventLog(folder, segment_bytes=1_000)
    step = DeadlyStep(number)
    os.fsync, Path.replace = step.before(os.fsync), step.before(Path.replace)
    rewrite(log, log.roll())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

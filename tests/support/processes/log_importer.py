"""Open a log, and die before a given step of its import: `python -m ... FOLDER STEP`.

A step is a statement of SQLite, or a rename, a removal or an fsync of a file. Where there are fewer it ends with 0.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trustwatch.ingest.log import segment_import
from trustwatch.ingest.log.event_log import EventLog


class DeadlyStep:
    """Counts calls and kills the process before the one with a given number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def count(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.count()
            return real(*arguments, **named)

        return call


def main(folder: Path, number: int) -> None:
    step = DeadlyStep(number)
    segment_import.COMMIT_BYTES = 200
    connect = sqlite3.connect

    def counted(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.set_trace_callback(step.count)
        return connection

    sqlite3.connect = counted  # type: ignore[assignment]
    os.fsync = step.before(os.fsync)
    Path.rename, Path.unlink = step.before(Path.rename), step.before(Path.unlink)  # type: ignore[method-assign]
    EventLog(folder).close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""Rewrite the segments of a log, and die before a given statement; arguments: the log's folder, number of that step.

Where the work has fewer steps it ends with status 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trustwatch.ingest.log.event_log import EventLog

from ..log_rewriting import rewrite
from .log_importer import DeadlyStep


def main(folder: Path, number: int) -> None:
    """Only what the rewriting does is counted, not what opening the log does."""
    log = EventLog(folder, segment_bytes=1_000)
    log._database.connection.set_trace_callback(DeadlyStep(number).count)
    rewrite(log, log.roll())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

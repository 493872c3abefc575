"""The embedded event log: one directory, one partition, one writer, any number of readers (`docs/event-log.md`)."""

from .commit import Backpressure, CommitLog, GroupCommit
from .reader import LogReader
from .segments import LogInUse
from .writer import SEGMENT_BYTES, EventLog, LogFailed

__all__ = [
    "SEGMENT_BYTES",
    "Backpressure",
    "CommitLog",
    "EventLog",
    "GroupCommit",
    "LogFailed",
    "LogInUse",
    "LogReader",
]

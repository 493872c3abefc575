"""What the archiving processes say, and what is known of them where it is asked for."""

from __future__ import annotations

import msgspec


class ArchiveWorkerReport(msgspec.Struct, array_like=True):
    """One archiving process, of events or of vectors. Counts are since it started.

    Attributes:
        rows: events or vectors that are in files.
        files: files that were written.
        merged: small files that went into larger ones.
        behind: records of the log that are not archived; -1 = not known.
        lag_s: age of the oldest of them; 0 = none waits.
        waiting_bytes: of the spool, where it is one of vectors.
    """

    rows: int = 0
    files: int = 0
    merged: int = 0
    behind: int = 0
    lag_s: float = 0.0
    waiting_bytes: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ArchiveWorkerReport).decode


def encode_archive_report(report: ArchiveWorkerReport) -> bytes:
    """A report as the body of a frame."""
    return _encode(report)


def decode_archive_report(frame: bytes) -> ArchiveWorkerReport:
    """The report in the body of a frame."""
    return _decode(frame)


class ArchiveStatus:
    """What is known of the archiving processes of this service. For one event loop.

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
        """A process of the kind is to run here."""
        self.alive[kind] = False

    def note(self, kind: str, report: ArchiveWorkerReport) -> None:
        """Take over one report."""
        self.alive[kind] = True
        self.reports[kind] = report

    def ended(self, kind: str) -> None:
        """The process has ended."""
        self.alive[kind] = False

    def is_ready(self) -> bool:
        """Whether every process that is to run does."""
        return all(self.alive.values())

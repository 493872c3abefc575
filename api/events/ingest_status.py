"""Status of the ingest process: its reports, and what is known of its sources."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..child_process import SupervisedProcess


class ForeignTopicReport(msgspec.Struct, array_like=True):
    """One foreign topic. Counts are since the process started."""

    name: str
    accepted: int = 0  # events that are durable on our topic
    rejected: int = 0  # records that became dead letters
    skipped: int = 0  # records that are no audit events by their mapping
    limited_s: float = 0.0  # seconds for which its limit held it back
    lag: int = -1  # records that wait in topics; -1 = not known, or none of its partitions is read here
    reading: bool = False  # whether it is read


class SilenceReport(msgspec.Struct, array_like=True):
    """State of a source. `last_ms` is UTC milliseconds, 0 = nothing came since the start."""

    name: str
    silent: bool
    last_ms: int


class IngestReport(msgspec.Struct, array_like=True):
    """Everything that the ingest process says, a few times a second."""

    sources: list[ForeignTopicReport]
    silence: list[SilenceReport]


encode_ingest_report = msgspec.msgpack.Encoder().encode
decode_ingest_report = msgspec.msgpack.Decoder(IngestReport).decode


class IngestStatus:
    """State of the ingest process, from its own reports. For one event loop.

    Attributes:
        alive: whether it runs; None = none is to run here.
        report: the last one.
    """

    def __init__(self) -> None:
        self.alive: bool | None = None
        self.report = IngestReport([], [])

    def note(self, report: IngestReport) -> None:
        """Store one report."""
        self.alive = True
        self.report = report

    def ended(self) -> None:
        """The process has ended."""
        self.alive = False


class IngestWorkerProcess(SupervisedProcess):
    """Keeps the ingest process running, and what it reports at hand."""

    def __init__(self, settings_file: Path | None, status: IngestStatus) -> None:
        super().__init__("trustwatch.api.events.worker", settings_file, lambda _update: None, status.ended)
        self._status = status
        status.alive = False

    def _handle_frame(self, frame: bytes) -> None:
        self._status.note(decode_ingest_report(frame))

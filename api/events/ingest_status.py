"""Status of the ingest process and of its sources, from its reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.timestamps import MINUTE_MS
from trustwatch.scoring.delivery.notifiers.alert_events import SilentSource, build_silence_row
from trustwatch.scoring.records.commits import OutboxRow
from trustwatch.scoring.store.outbox_store import OutboxStore

from ..child_process import SupervisedProcess
from ..settings.access_settings import EventSourceSettings
from ..settings.root import Settings


class ForeignTopicReport(msgspec.Struct, array_like=True):
    """Status of one foreign topic. Counts start with the process."""

    name: str
    accepted: int = 0  # events that are durable on our topic
    rejected: int = 0  # records that became dead letters
    skipped: int = 0  # records that are not audit events by their mapping
    lag: int = -1  # records that wait in topics; -1 = not known, or none of its partitions is read here
    reading: bool = False  # whether it is read


class SilenceReport(msgspec.Struct, array_like=True):
    """State of a source. `last_ms` is UTC milliseconds, 0 if nothing arrived since the start."""

    name: str
    silent: bool
    last_ms: int


class IngestReport(msgspec.Struct, array_like=True):
    """Complete report of the ingest process, sent a few times a second."""

    sources: list[ForeignTopicReport]
    silence: list[SilenceReport]


encode_ingest_report = msgspec.msgpack.Encoder().encode
decode_ingest_report = msgspec.msgpack.Decoder(IngestReport).decode


@dataclass
class IngestStatus:
    """Latest reports of the ingest process. For one event loop."""

    alive: bool | None = None  # None = none is to run here
    report: IngestReport = field(default_factory=lambda: IngestReport([], []))  # the last one

    def note(self, report: IngestReport) -> None:
        self.alive, self.report = True, report

    def ended(self) -> None:
        """Record that the process has ended."""
        self.alive = False


class IngestWorkerProcess(SupervisedProcess):
    """Keeps the ingest process running, and holds its latest report."""

    def __init__(self, settings_file: Path | None, status: IngestStatus) -> None:
        super().__init__("trustwatch.api.events.worker", settings_file, lambda _update: None, status.ended)
        self._status = status
        status.alive = False

    def _handle_frame(self, frame: bytes) -> None:
        self._status.note(decode_ingest_report(frame))


# Sources that have fallen silent: an attacker who cuts off the audit trail must not look like a quiet day.

_log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _SourceSilence:
    silence_s: float
    quiet_since: float
    last_ms: int = 0
    silent: bool = False


class SilenceDetector:
    """Watches the sources that have a bound. After the start, each has that long to send something."""

    def __init__(self, sources: Iterable[EventSourceSettings], now: float) -> None:
        self._sources = {
            source.name: _SourceSilence(source.silence_s, now) for source in sources if source.silence_s is not None
        }

    def note_received(self, name: str, now: float, now_ms: int) -> None:
        """Record that the source sent something, valid or not."""
        source = self._sources.get(name)
        if source is None:
            return
        source.quiet_since, source.last_ms = now, now_ms
        if source.silent:
            source.silent = False
            _log.info("source is heard again", code="source_heard", source=name)

    def note_unreadable(self, name: str, now: float) -> None:
        """Record that the topic of the source cannot be read: its silence means nothing, and its time starts again."""
        source = self._sources.get(name)
        if source is not None and not source.silent:
            source.quiet_since = now

    def check(self, now: float) -> None:
        """Detect sources that have fallen silent, and log each once."""
        for name, source in self._sources.items():
            if not source.silent and now - source.quiet_since >= source.silence_s:
                source.silent = True
                _log.warning(
                    "source has fallen silent",
                    code="source_silent",
                    source=name,
                    silence_s=source.silence_s,
                    last_ms=source.last_ms or None,
                )

    def __iter__(self) -> Iterator[SilenceReport]:
        return (SilenceReport(name, source.silent, source.last_ms) for name, source in self._sources.items())


# Each process receives only a part: a caller may send to another replica, and another worker may read some partitions.
# So each process stores what it received, and a source is silent only if no process received anything.

STORE_EVERY_MS = 4_000
"""Shortest time between two writes of a source's last record: well below the shortest configurable silence, 10 s."""

RECHECK_EVERY_MS = MINUTE_MS
"""Interval after which a reported silence is checked again: another process may have received from it, and ended."""


SourceKey = tuple[str, str]  # Kind (`topic`, `caller`) and name of a source


def silence_watched_sources(settings: Settings) -> dict[SourceKey, EventSourceSettings]:
    """Return the sources whose silence raises an alert, which are those with a bound."""
    kinds: Mapping[str, Sequence[EventSourceSettings]] = {"topic": settings.brokers.topics, "caller": settings.callers}
    return {
        (kind, source.name): source
        for kind, sources in kinds.items()
        for source in sources
        if source.silence_s is not None
    }


@dataclass(eq=False, repr=False)
class SilenceAlerter:
    """Stores what this process received, and enqueues an alert for each silence."""

    store: OutboxStore
    sources: Mapping[SourceKey, EventSourceSettings]
    service: str
    now_ms: Callable[[], int]
    on_enqueued: Callable[[], None]  # called after something was enqueued
    _stored: dict[SourceKey, tuple[int, int]] = field(default_factory=dict, init=False)
    _recheck_at: dict[SourceKey, int] = field(default_factory=dict, init=False)
    _store_failing: bool = field(default=False, init=False)

    async def report_silence(self, kind: str, reports: Iterable[SilenceReport]) -> None:
        """Store the report on one kind of sources. If the store rejects it, the next call retries."""
        try:
            for report in reports:
                name, key = (kind, report.name), f"{kind}.{report.name}"
                if name not in self.sources:
                    continue
                stored_ms, store_at_ms = self._stored.get(name, (0, 0))
                if report.last_ms > stored_ms and self.now_ms() >= store_at_ms:
                    await asyncio.to_thread(self.store.record_last_heard, key, report.last_ms)
                    self._stored[name] = report.last_ms, self.now_ms() + STORE_EVERY_MS
                if not report.silent:
                    self._recheck_at.pop(name, None)
                elif self.now_ms() >= self._recheck_at.get(name, 0):
                    await self._enqueue_alert(name, key)
            self._store_failing = False
        except Unavailable as error:
            if not self._store_failing:
                _log.warning("silence of sources cannot be reported", error=str(error))
            self._store_failing = True

    async def _enqueue_alert(self, name: SourceKey, key: str) -> None:
        kind, source, now_ms = name[0], self.sources[name], self.now_ms()
        since_ms = now_ms - int(source.max_silence_s * 1000)

        def row(heard_ms: int) -> OutboxRow:
            silence = SilentSource(source.name, kind, source.max_silence_s, source.tenants, heard_ms, now_ms)
            return build_silence_row(silence, self.service)

        silent = await asyncio.to_thread(self.store.enqueue_silence, key, since_ms, row)
        self._recheck_at[name] = now_ms + (RECHECK_EVERY_MS if silent else STORE_EVERY_MS)
        if silent:
            self.on_enqueued()


# Checks which callers are silent while the application runs.

SILENCE_CHECK_INTERVAL_S = 1.0


@dataclass(eq=False, repr=False)
class CallerSilenceWatch:
    """Checks every second which callers are silent, and enqueues alerts."""

    detector: SilenceDetector
    alerter: SilenceAlerter | None  # gets the reports of each check; None = silence is in logs and metrics alone
    monotonic: Callable[[], float]
    _watching: asyncio.Task[None] | None = field(default=None, init=False)

    async def start(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SILENCE_CHECK_INTERVAL_S)
            self.detector.check(self.monotonic())
            if self.alerter is not None:
                await self.alerter.report_silence("caller", list(self.detector))

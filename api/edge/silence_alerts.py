"""Tells people of silent sources, once per silence, whichever processes notice it.

Each process hears only a part: a caller may be talking to another replica, partitions of a topic may be read by another
worker. So each notes in the store what it hears, and a silence is one only if nobody heard anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog

from ...ingest.errors import Unavailable
from ...scoring.notify import SilentSource, build_silence_row
from ...scoring.records import OutboxRow
from ...scoring.store import OutboxStore
from ..settings import CallerSettings, Settings
from ..settings.topics import ForeignTopicSettings
from .reports import SilenceReport

STORE_EVERY_MS = 4_000
"""What is heard is noted so often at most: well below the shortest silence that can be configured, 10 s."""

RECHECK_EVERY_MS = 60_000
"""A silence that is told is looked at again after so long: another process may have heard the source, and ended."""

_log = structlog.get_logger(__name__)


class SilenceThreshold(NamedTuple):
    """A source whose silence is told."""

    kind: str  # topic | caller
    silence_s: float
    tenants: tuple[str, ...]


SourceKey = tuple[str, str]
"""Kind and name of a source."""


def silence_thresholds(settings: Settings) -> dict[SourceKey, SilenceThreshold]:
    """Sources that have a bound, by kind and name."""
    found: dict[SourceKey, SilenceThreshold] = {}
    kinds: tuple[tuple[str, Sequence[ForeignTopicSettings | CallerSettings]], ...]
    kinds = ("topic", settings.kafka.topics), ("caller", settings.callers)
    for kind, sources in kinds:
        for one in sources:
            if one.silence_s is not None:
                found[kind, one.name] = SilenceThreshold(kind, one.silence_s, one.tenants)
    return found


class SilenceAlerter:
    """Notes what this process hears, and enqueues an alert for each silence.

    Args:
        store: shared by all processes.
        sources: see `watched`.
        service: URI of this service, for alerts.
        now_ms: UTC milliseconds.
        told: called after something was enqueued.
    """

    def __init__(
        self,
        store: OutboxStore,
        sources: Mapping[SourceKey, SilenceThreshold],
        service: str,
        now_ms: Callable[[], int],
        told: Callable[[], None],
    ) -> None:
        self._store = store
        self._sources = sources
        self._service = service
        self._now_ms = now_ms
        self._on_enqueued = told
        self._stored: dict[SourceKey, tuple[int, int]] = {}
        self._recheck_at: dict[SourceKey, int] = {}
        self._store_failing = False

    async def report_silence(self, kind: str, reports: Iterable[SilenceReport]) -> None:
        """Take over what the watch of one kind of sources says. What the store does not take is tried at the next."""
        try:
            for report in reports:
                if (kind, report.name) in self._sources:
                    await self._process_report((kind, report.name), report)
            self._store_failing = False
        except Unavailable as error:
            if not self._store_failing:
                _log.warning("silence of sources can not be told", error=str(error))
            self._store_failing = True

    async def _process_report(self, name: SourceKey, report: SilenceReport) -> None:
        key = ".".join(name)
        noted_ms, note_at_ms = self._stored.get(name, (0, 0))
        if report.last_ms > noted_ms and self._now_ms() >= note_at_ms:
            await asyncio.to_thread(self._store.note_heard, key, report.last_ms)
            self._stored[name] = report.last_ms, self._now_ms() + STORE_EVERY_MS
        if not report.silent:
            self._recheck_at.pop(name, None)
        elif self._now_ms() >= self._recheck_at.get(name, 0):
            await self._enqueue_alert(name, key)

    async def _enqueue_alert(self, name: SourceKey, key: str) -> None:
        source, now_ms = self._sources[name], self._now_ms()
        since_ms = now_ms - int(source.silence_s * 1000)

        def row(heard_ms: int) -> OutboxRow:
            silence = SilentSource(name[1], source.kind, source.silence_s, source.tenants, heard_ms, now_ms)
            return build_silence_row(silence, self._service)

        silent = await asyncio.to_thread(self._store.tell_silence, key, since_ms, row)
        self._recheck_at[name] = now_ms + (RECHECK_EVERY_MS if silent else STORE_EVERY_MS)
        if silent:
            self._on_enqueued()

"""Work that comes round again beside the answers: ticks, retention, foreign topics that fell silent."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.pipeline.pipeline_status import PipelineStatus

from .. import clock
from ..composition import retention_cutoffs
from ..events.caller_silence_watch import SILENCE_CHECK_INTERVAL_S
from ..events.ingest_status import IngestStatus
from ..events.source_silence import SilenceAlerter
from ..settings.root import Settings
from .backends import EventBackend

FIRST_RETENTION_S = 60.0
RETENTION_EVERY_S = 3600.0

_log = structlog.get_logger(__name__)


async def write_ticks(backend: EventBackend, interval_s: float, stop: asyncio.Event) -> None:
    """Record that time passes, so that risk decays and expires without events."""
    while not await _is_set_within(stop, interval_s):
        await backend.write_tick()


async def watch_topic_silence(ingest: IngestStatus, silence: SilenceAlerter, stop: asyncio.Event) -> None:
    """Have people alerted of foreign topics that fell silent, where this process reads any."""
    while not await _is_set_within(stop, SILENCE_CHECK_INTERVAL_S):
        if ingest.alive:
            await silence.report_silence("topic", ingest.report.silence)


async def apply_retention(
    settings: Settings, backend: EventBackend, status: PipelineStatus, stop: asyncio.Event
) -> None:
    """Remove what is older than it has to be kept, soon after the start and then every hour."""
    pause_s = FIRST_RETENTION_S
    while not await _is_set_within(stop, pause_s):
        pause_s = RETENTION_EVERY_S
        now = clock.now_ms()
        store = backend.store.retention
        try:
            await asyncio.to_thread(store.prepare_weeks, now)
            await asyncio.to_thread(store.purge, retention_cutoffs(settings, now))
            await backend.drop_applied_records(status)
        except (TrustwatchError, OSError) as error:
            _log.warning("upkeep has to wait", error=str(error))


async def _is_set_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait that long, or until *stop*; true if *stop* is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()

"""The ingest role: foreign topics in, our own topic out.

At least once: what a round has read is acknowledged on our topics before its offsets are committed. Whatever is read
again after a crash carries the same ids, and the pipeline drops what it has seen.

Fair: each topic has its own reader and takes turns with the others; a turn is bounded in time, records and bytes. A
topic over its own limit is not read for a while, and its backlog stays in Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from ...ingest.errors import Unavailable
from ...ingest.kafka.wire import headers_of
from ...ingest.source import Record, TopicWriter
from .reports import IngestReport
from .silence import SilenceWatch
from .sources import Refused, TopicSource

IDLE_S = 0.02
LOOK_EVERY_S = 5.0
FLUSH_S = 30.0
RETRY_S = 1.0
MOST_DEAD = 900 * 1024
"""Bytes of a refused record that its copy on the dead-letter topic holds: what a topic takes by default."""

_log = structlog.get_logger(__name__)


class Outputs(NamedTuple):
    """Names of the topics that are written."""

    events: str
    dead_letters: str


class TopicIngest:
    """Reads all foreign topics in turns.

    Args:
        sources: the topics.
        open_writer: makes the writer to our topics; called again after a failure.
        outputs: their names.
        monotonic: seconds on a clock that never goes back.
        now_ms: UTC milliseconds.
        sleep: waits; raises once the process was told to end.
    """

    def __init__(
        self,
        sources: Sequence[TopicSource],
        open_writer: Callable[[], TopicWriter],
        outputs: Outputs,
        monotonic: Callable[[], float],
        now_ms: Callable[[], int],
        sleep: Callable[[float], None],
    ) -> None:
        self._sources = list(sources)
        self._open_writer = open_writer
        self._writer: TopicWriter | None = None
        self._outputs = outputs
        self._monotonic = monotonic
        self._now_ms = now_ms
        self._sleep = sleep
        bounds = {
            source.settings.name: source.settings.silence_s
            for source in sources
            if source.settings.silence_s is not None
        }
        self._silence = SilenceWatch(bounds, monotonic())

    def round(self) -> bool:
        """One turn of each topic, made durable and committed. Whether anything was read."""
        read = False
        out: list[Record | Refused] = []
        for source in self._sources:
            out += source.turn()
            read = read or source.heard
            self._listen(source)
        if out:
            self._deliver(out)
        for source in self._sources:
            source.commit()
        self._silence.check(self._monotonic())
        return read

    def run(self, ending: Callable[[], bool], report: Callable[[IngestReport], None], every_s: float) -> None:
        """Work until *ending*; *report* what is done every so many seconds."""
        next_report = next_look = self._monotonic()
        while not ending():
            read = self.round()
            if self._monotonic() >= next_look:
                self.observe()
                next_look = self._monotonic() + LOOK_EVERY_S
            if self._monotonic() >= next_report:
                report(self.report())
                next_report = self._monotonic() + every_s
            if not read:
                self._sleep(IDLE_S)

    def observe(self) -> None:
        """Learn how much waits in each topic."""
        for source in self._sources:
            source.observe()

    def report(self) -> IngestReport:
        """What was done so far."""
        return IngestReport([source.report for source in self._sources], list(self._silence))

    def close(self) -> None:
        """Leave all groups."""
        for source in self._sources:
            source.close()
        self._close_writer()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _listen(self, source: TopicSource) -> None:
        name, report = source.settings.name, source.report
        if source.heard:
            self._silence.heard(name, self._monotonic(), self._now_ms())
        elif source.resting_s or not report.reading or report.lag < 0:
            self._silence.deaf(name, self._monotonic())

    def _deliver(self, out: Sequence[Record | Refused]) -> None:
        """Until everything is acknowledged; all of it is sent again after a failure, in the same order.

        By another writer then: what is still under way in an idempotent one may be in doubt for ever.
        """
        failed = False
        while True:
            try:
                self._writer = self._writer or self._open_writer()
                for one in out:
                    self._send(self._writer, one)
                self._writer.flush(FLUSH_S)
                return
            except Unavailable as error:
                if not failed:
                    _log.error("events wait for Kafka", records=len(out), error=str(error))
                failed = True
            self._close_writer()
            self._sleep(RETRY_S)

    def _send(self, writer: TopicWriter, one: Record | Refused) -> None:
        if isinstance(one, Refused):
            raw, headers = one.raw, one.headers
            if len(raw) > MOST_DEAD:
                headers, raw = [*headers, ("bytes", str(len(raw)).encode())], raw[:MOST_DEAD]
            writer.send(
                self._outputs.dead_letters, one.letter.key, raw, headers=headers, timestamp_ms=one.letter.received_ms
            )
        record = one.letter if isinstance(one, Refused) else one
        writer.send(
            self._outputs.events,
            record.key,
            record.payload,
            headers=headers_of(record),
            timestamp_ms=record.received_ms,
        )

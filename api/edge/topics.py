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
from ...ingest.kafka.wire import headers_for
from ...ingest.source import Record, TopicWriter
from .reports import IngestReport
from .silence import SilenceDetector
from .sources import ForeignTopicReader, RejectedTopicRecord

IDLE_S = 0.02
OBSERVE_LAG_EVERY_S = 5.0
FLUSH_TIMEOUT_S = 30.0
WRITE_RETRY_S = 1.0
MAX_DEAD_LETTER_VALUE_BYTES = 900 * 1024
"""Bytes of a refused record that its copy on the dead-letter topic holds: what a topic takes by default."""

_log = structlog.get_logger(__name__)


class IngestOutputTopics(NamedTuple):
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
        sources: Sequence[ForeignTopicReader],
        open_writer: Callable[[], TopicWriter],
        outputs: IngestOutputTopics,
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
        self._silence = SilenceDetector(bounds, monotonic())

    def run_round(self) -> bool:
        """One turn of each topic, made durable and committed. Whether anything was read."""
        read = False
        out: list[Record | RejectedTopicRecord] = []
        for source in self._sources:
            out += source.read_turn()
            read = read or source.received_records
            self._note_silence(source)
        if out:
            self._write_until_acknowledged(out)
        for source in self._sources:
            source.commit()
        self._silence.check(self._monotonic())
        return read

    def run(self, ending: Callable[[], bool], report: Callable[[IngestReport], None], every_s: float) -> None:
        """Work until *ending*; *report* what is done every so many seconds."""
        next_report = next_look = self._monotonic()
        while not ending():
            read = self.run_round()
            if self._monotonic() >= next_look:
                self.observe_lag()
                next_look = self._monotonic() + OBSERVE_LAG_EVERY_S
            if self._monotonic() >= next_report:
                report(self.report())
                next_report = self._monotonic() + every_s
            if not read:
                self._sleep(IDLE_S)

    def observe_lag(self) -> None:
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

    def _note_silence(self, source: ForeignTopicReader) -> None:
        name, report = source.settings.name, source.report
        if source.received_records:
            self._silence.note_received(name, self._monotonic(), self._now_ms())
        elif source.paused_s or not report.reading or report.lag < 0:
            self._silence.note_unreadable(name, self._monotonic())

    def _write_until_acknowledged(self, out: Sequence[Record | RejectedTopicRecord]) -> None:
        """Until everything is acknowledged; all of it is sent again after a failure, in the same order.

        By another writer then: what is still under way in an idempotent one may be in doubt for ever.
        """
        failed = False
        while True:
            try:
                self._writer = self._writer or self._open_writer()
                for one in out:
                    self._write_record(self._writer, one)
                self._writer.flush(FLUSH_TIMEOUT_S)
                return
            except Unavailable as error:
                if not failed:
                    _log.error("events wait for Kafka", records=len(out), error=str(error))
                failed = True
            self._close_writer()
            self._sleep(WRITE_RETRY_S)

    def _write_record(self, writer: TopicWriter, one: Record | RejectedTopicRecord) -> None:
        if isinstance(one, RejectedTopicRecord):
            raw, headers = one.raw, one.headers
            if len(raw) > MAX_DEAD_LETTER_VALUE_BYTES:
                headers, raw = [*headers, ("bytes", str(len(raw)).encode())], raw[:MAX_DEAD_LETTER_VALUE_BYTES]
            writer.send(
                self._outputs.dead_letters,
                one.dead_letter.key,
                raw,
                headers=headers,
                timestamp_ms=one.dead_letter.received_ms,
            )
        record = one.dead_letter if isinstance(one, RejectedTopicRecord) else one
        writer.send(
            self._outputs.events,
            record.key,
            record.payload,
            headers=headers_for(record),
            timestamp_ms=record.received_ms,
        )

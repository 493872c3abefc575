"""The ingest process: `python -m trustwatch.api.events.worker`, started by the service for foreign topics.

A separate process, so that parsing gateways' logs delays neither answers nor scoring.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog

from trustwatch.ingest.errors import (
    ConfigError,
    CorruptLog,
    MalformedEvent,
    SourceNotAllowed,
    Unavailable,
    retry_until_available,
)
from trustwatch.ingest.formats.format_registry import MEDIA_TYPE_FORMATS
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.history.time_order import record_time_order
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.source import Record, TopicWriter
from trustwatch.ingest.topics.protocols import FetchedRecords, TopicNames, TopicReader
from trustwatch.ingest.topics.record_codec import TopicRecord, header_texts, headers_for

from .. import clock
from ..brokers import open_reader, open_writer
from ..child_process import ChildRuntime, run_child
from ..composition import open_service_identities, principal_alias
from ..http.auth.callers import SourceBinding
from ..http.ledger import TokenBucket, party_of
from ..settings.access_settings import ForeignTopicSettings
from ..settings.root import Settings
from .admission import MAX_CLOCK_AHEAD_S, Admission, AgentRegistry, RefusedRecords
from .ingest_status import ForeignTopicReport, IngestReport, SilenceDetector, encode_ingest_report

# Foreign topics: read in turns, parsed, admitted, and counted.

POLL_RECORDS = 100  # Records of one poll
POLL_TIMEOUT_S = 0.005  # Wait for a topic without records. Not 0: kafka-python gets nowhere in joining its group then
MAX_TURN_S = 0.05
MAX_TURN_RECORDS = 1000
MAX_TURN_BYTES = 4 * 1024 * 1024
"""A topic's turn ends after this many bytes, so that no topic keeps the others waiting, regardless of its size and of
how slowly its records are refused."""

READ_RETRY_S = 1.0
MISCONFIGURED_RETRY_S = 30.0

_log = structlog.get_logger(__name__)


class RejectedTopicRecord(NamedTuple):
    """A refused record or events of it: dead letter, output for the dead-letter topic, number of events."""

    dead_letter: Record
    raw: bytes
    headers: list[tuple[str, bytes]]
    events: int


@dataclass(eq=False, repr=False)
class ForeignTopicReader:
    """Reads one foreign topic. All records that it returns must be durable before `commit`."""

    settings: ForeignTopicSettings
    open_reader: Callable[[], TopicReader]
    admission: Admission
    monotonic: Callable[[], float]
    now_ms: Callable[[], int]

    def __post_init__(self) -> None:
        self.report = ForeignTopicReport(self.settings.name)
        self.uncommitted = False
        self.received_records = False
        self._reader: TopicReader | None = None
        self._parse = self.settings.parser()
        self._binding = SourceBinding(self.settings)
        rate = self.settings.events_per_s
        self._bucket = None if rate is None else TokenBucket(rate, self.monotonic())
        self._poll_records = POLL_RECORDS if rate is None else max(1, min(POLL_RECORDS, int(rate)))
        self._paused_until = 0.0
        self._last_error = ""

    @property
    def paused_s(self) -> float:
        """Seconds until its next turn."""
        return max(0.0, self._paused_until - self.monotonic())

    def read_turn(self) -> list[Record | RejectedTopicRecord]:
        """Read until no records remain or the turn is over. Foreign records are delivered in time order."""
        self.received_records = False
        out: list[Record | RejectedTopicRecord] = []
        if self.paused_s:
            return out
        end, size, read = self.monotonic() + MAX_TURN_S, 0, 0
        while self.monotonic() < end and size < MAX_TURN_BYTES and read < MAX_TURN_RECORDS:
            if self._bucket is not None and (wait_s := self._bucket.wait_s(self.monotonic())) > 0:
                self._paused_until = self.monotonic() + wait_s
                break
            fetched = [(partition, record) for _, partition, records in self._poll() for record in records]
            if not fetched:
                break
            taken, polled = len(out), len(fetched)
            for partition, record in fetched:
                size += len(record.value or b"")
                out.extend(self._admit_record(partition, record))
            read += polled
            self.uncommitted = self.received_records = True
            if self._bucket is not None:
                held = sum(1 if isinstance(outcome, Record) else outcome.events for outcome in out[taken:])
                self._bucket.consume(max(held, polled))
        events = [outcome for outcome in out if isinstance(outcome, Record)]
        refused = [outcome for outcome in out if isinstance(outcome, RejectedTopicRecord)]
        self.report.accepted += len(events)
        self.report.rejected += sum(outcome.events for outcome in refused)
        return out if self.settings.format in MEDIA_TYPE_FORMATS else [*record_time_order(events), *refused]

    def _poll(self) -> list[FetchedRecords]:
        """Poll the topic. After a failure it is retried later, while the other topics continue."""
        try:
            if self._reader is None:
                self._reader = self.open_reader()
            fetched = self._reader.poll(POLL_TIMEOUT_S, self._poll_records)
        except (Unavailable, ConfigError, CorruptLog) as error:
            is_wrong = not isinstance(error, Unavailable)
            self._paused_until = self.monotonic() + (MISCONFIGURED_RETRY_S if is_wrong else READ_RETRY_S)
            self.report.reading, self.report.lag = False, -1
            if str(error) != self._last_error:  # logged once, not at every attempt
                self._last_error = str(error)
                _log.error("topic is not read", source=self.settings.name, topic=self.settings.topic, error=str(error))
            if is_wrong:
                self.close()
            return []
        self.report.reading, self._last_error = True, ""
        return fetched

    def commit(self) -> None:
        """Commit the offsets of durable records. If this fails, they are read again, as duplicates."""
        if not self.uncommitted or self._reader is None:
            return
        try:
            self._reader.commit()
            self.uncommitted = False
        except (Unavailable, ConfigError) as error:
            _log.warning("offsets are not committed", source=self.settings.name, error=str(error))

    def observe(self) -> None:
        """Measure the backlog."""
        try:
            lag = None if self._reader is None or not self.report.reading else self._reader.lag()
        except (Unavailable, ConfigError):
            lag = None
        self.report.lag = -1 if lag is None else lag

    def close(self) -> None:
        """Leave the consumer group."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _admit_record(self, partition: int, record: TopicRecord) -> Iterator[Record | RejectedTopicRecord]:
        """Return the admitted and refused events of a record. Never raises, so that no record blocks later ones."""
        now_ms = self.now_ms()
        if record.value is None:
            self.report.skipped += 1  # a tombstone
            return

        def letter_id(index: int) -> str:
            """Return an ID derived from positions, so that the same record always makes the same letters."""
            at_ms = record.timestamp_ms if 0 <= record.timestamp_ms <= now_ms + MAX_CLOCK_AHEAD_S * 1000 else 0
            return record_id(at_ms, "topic", self.settings.topic, partition, record.offset, index)

        refused = RefusedRecords(now_ms, party_of(self._binding), letter_id)
        try:
            raw_records, skipped = self._parse(record.value, header_texts(record))
        except Exception as error:
            refused.add(RawRecord(record.value), self._refusal(partition, record, error), 0)
            raw_records, skipped = [], 0
        self.report.skipped += skipped
        for index, raw_record in enumerate(raw_records):
            try:
                yield self.admission.admit(raw_record, self._binding, now_ms)
            except Exception as error:
                refused.add(raw_record, self._refusal(partition, record, error), index)
        for letter in refused.letters():
            facts = {
                "reason": letter.reason,
                "path": letter.path,
                "source": self.settings.name,
                "topic": self.settings.topic,
                "partition": partition,
                "offset": record.offset,
                "letter_id": letter.letter_id,
            }
            headers = [(key, str(value).encode()) for key, value in facts.items()]
            yield RejectedTopicRecord(letter.record, letter.raw, headers, letter.records)

    def _refusal(self, partition: int, record: TopicRecord, error: Exception) -> MalformedEvent | SourceNotAllowed:
        if isinstance(error, MalformedEvent | SourceNotAllowed):
            return error
        # A bug of this service. Its message may quote the record.
        _log.error(
            "record could not be read",
            source=self.settings.name,
            partition=partition,
            offset=record.offset,
            error=type(error).__name__,
        )
        return MalformedEvent(f"could not be read: {type(error).__name__}")


# At least once: records of a round are acknowledged on our topics before its offsets are committed. Records that are
# read again after a crash have the same IDs, and the pipeline drops duplicates.
#
# Fair: each topic has its own reader and takes turns with the others; a turn is bounded in time, records and bytes. A
# topic over its own limit is not read for a while, and its backlog stays in its topic.

IDLE_S = 0.02
OBSERVE_LAG_EVERY_S = 5.0
FLUSH_TIMEOUT_S = 30.0
WRITE_RETRY_S = 1.0
MAX_DEAD_LETTER_VALUE_BYTES = 900 * 1024
"""Maximum bytes of a record's copy on the dead-letter topic: the default limit of a topic."""


@dataclass(eq=False, repr=False)
class TopicIngest:
    """Reads all foreign topics in turns."""

    sources: Sequence[ForeignTopicReader]
    open_writer: Callable[[], TopicWriter]  # makes the writer to our topics; called again after a failure
    outputs: TopicNames
    monotonic: Callable[[], float]
    now_ms: Callable[[], int]
    sleep: Callable[[float], None]  # waits; raises once the process was asked to end

    def __post_init__(self) -> None:
        self._writer: TopicWriter | None = None
        self._silence = SilenceDetector([source.settings for source in self.sources], self.monotonic())

    def run_round(self) -> bool:
        """Read one turn of each topic, make it durable and commit it. Return whether anything was read."""
        read = False
        out: list[Record | RejectedTopicRecord] = []
        for source in self.sources:
            out += source.read_turn()
            read = read or source.received_records
            if source.received_records:
                self._silence.note_received(source.settings.name, self.monotonic(), self.now_ms())
            elif source.paused_s or not source.report.reading or source.report.lag < 0:
                self._silence.note_unreadable(source.settings.name, self.monotonic())
        if out:
            self._write_until_acknowledged(out)
        for source in self.sources:
            source.commit()
        self._silence.check(self.monotonic())
        return read

    def run(self, ending: Callable[[], bool], report: Callable[[IngestReport], None], every_s: float) -> None:
        """Run until *ending* is set. *report* receives the progress periodically."""
        next_report = next_look = self.monotonic()
        while not ending():
            read = self.run_round()
            if self.monotonic() >= next_look:
                for source in self.sources:
                    source.observe()
                next_look = self.monotonic() + OBSERVE_LAG_EVERY_S
            if self.monotonic() >= next_report:
                report(self.report())
                next_report = self.monotonic() + every_s
            if not read:
                self.sleep(IDLE_S)

    def report(self) -> IngestReport:
        """Return the progress for the service."""
        return IngestReport([source.report for source in self.sources], list(self._silence))

    def close(self) -> None:
        """Leave all consumer groups."""
        for source in self.sources:
            source.close()
        self._close_writer()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write_until_acknowledged(self, out: Sequence[Record | RejectedTopicRecord]) -> None:
        """Write until everything is acknowledged. After a failure all of it is sent again, in the same order.

        The retry uses another writer, because an idempotent one may never resolve its records in flight.
        """
        failed = False

        def write_all() -> None:
            self._writer = self._writer or self.open_writer()
            for record in out:
                self._write_record(self._writer, record)
            self._writer.flush(FLUSH_TIMEOUT_S)

        def start_over(error: Unavailable) -> None:
            nonlocal failed
            if not failed:
                _log.error("events wait for brokers", records=len(out), error=str(error))
            failed = True
            self._close_writer()
            self.sleep(WRITE_RETRY_S)

        retry_until_available(write_all, start_over)

    def _write_record(self, writer: TopicWriter, outcome: Record | RejectedTopicRecord) -> None:
        if isinstance(outcome, RejectedTopicRecord):
            raw, headers = outcome.raw, outcome.headers
            if len(raw) > MAX_DEAD_LETTER_VALUE_BYTES:
                headers, raw = [*headers, ("bytes", str(len(raw)).encode())], raw[:MAX_DEAD_LETTER_VALUE_BYTES]
            writer.send(
                self.outputs.dead_letters,
                outcome.dead_letter.key,
                raw,
                headers=headers,
                timestamp_ms=outcome.dead_letter.received_ms,
            )
        record = outcome.dead_letter if isinstance(outcome, RejectedTopicRecord) else outcome
        writer.send(
            self.outputs.events,
            record.key,
            record.payload,
            headers=headers_for(record),
            timestamp_ms=record.received_ms,
        )


REPORT_EVERY_S = 0.5


def run_ingest_worker(child: ChildRuntime) -> None:
    """Read foreign topics until a signal to end. Then everything read is durable and committed."""
    role = make_topic_ingest(child.settings, child)
    try:
        gc.freeze()
        role.run(lambda: child.should_stop, lambda report: child.send(encode_ingest_report(report)), REPORT_EVERY_S)
    finally:
        role.close()


def make_topic_ingest(settings: Settings, child: ChildRuntime) -> TopicIngest:
    """Create the readers of all foreign topics. Connections are opened later and retried."""
    brokers = settings.brokers
    admission = Admission(
        AgentRegistry(settings.registry),
        principal_alias(settings),
        open_service_identities(settings),
        settings.scope_actions,
    )
    sources = []
    for topic in brokers.topics:  # each has a separate group, so that their positions are independent
        group = f"{brokers.group_id}.ingest.{topic.name}"
        opener = partial(open_reader, brokers, [topic.topic], group, topic.start)
        sources.append(ForeignTopicReader(topic, opener, admission, clock.monotonic, clock.now_ms))
    return TopicIngest(
        sources, partial(open_writer, brokers), brokers.topic_names, clock.monotonic, clock.now_ms, child.sleep
    )


if __name__ == "__main__":
    raise SystemExit(run_child(run_ingest_worker))

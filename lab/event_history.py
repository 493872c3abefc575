"""Where events are read from: the embedded log, the archive, the events topic, or files. Bounded."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..api.composition import load_erased_filter
from ..api.settings.root import Settings
from ..ingest.archive.archive_files import read_position
from ..ingest.duplicate_window import DuplicateWindow
from ..ingest.errors import MalformedEvent
from ..ingest.events import NativeEvent
from ..ingest.file_source import FileSource
from ..ingest.formats.history_decoding import decode_history_event
from ..ingest.kafka import open_reader
from ..ingest.kafka.record_codec import SourcePartition, to_record
from ..ingest.log.log_reader import LogReader
from ..ingest.log.log_segments import segment_bases
from ..ingest.record_keys import raw_id_hash
from ..ingest.source import Record, RecordBatch, RecordKind
from .session import LabError, LabWarning

BATCH_RECORDS = 1000
HISTORY_SOURCES = ("auto", "log", "archive", "kafka")
HistorySource = str | Path | Sequence[str | Path]


class HistoryEvent(NamedTuple):
    """One event. *received_ms* is 0 where nobody noted it."""

    received_ms: int
    event: NativeEvent
    raw: bytes

    @property
    def time_ms(self) -> int:
        """Event time, UTC milliseconds."""
        return round(self.event.time.timestamp() * 1e6) // 1000


class EventFilter(NamedTuple):
    """Which events. Times are UTC milliseconds of event time, `until_ms` is not included; None = any."""

    agent: tuple[str | None, str | None, str] | None = None  # tenant, issuer, id
    since_ms: int | None = None
    until_ms: int | None = None
    tenants: Collection[str] | None = None
    version: str | None = None
    types: Collection[str] | None = None

    def matches(self, found: HistoryEvent) -> bool:
        """Whether an event is wanted."""
        event, at_ms = found.event, found.time_ms
        if (self.since_ms is not None and at_ms < self.since_ms) or (
            self.until_ms is not None and at_ms >= self.until_ms
        ):
            return False
        if self.tenants is not None and (event.tenant or "") not in self.tenants:
            return False
        if self.version is not None and event.agent.version != self.version:
            return False
        if self.types is not None and event.agent.type not in self.types:
            return False
        return self.agent is None or self._matches_agent(self.agent, event)

    @staticmethod
    def _matches_agent(agent: tuple[str | None, str | None, str], event: NativeEvent) -> bool:
        tenant, issuer, agent_id = agent
        if event.agent.id != agent_id or (tenant is not None and (event.tenant or "") != tenant):
            return False
        return issuer is None or (event.agent.issuer or "") == issuer


def parse_time_ms(at: Any) -> int | None:
    """UTC milliseconds of a datetime, a timestamp or a text as pandas reads it; without an offset it is UTC."""
    if at is None:
        return None
    stamp = pd.Timestamp(at)
    if stamp is pd.NaT:
        return None
    stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")
    return int(stamp.value // 1_000_000)  # `value` is nanoseconds, whatever the unit


class EventHistory:
    """The events that a service has, or files.

    Args:
        settings: say where log, archive and topics are.
        source: `auto`, `log`, `archive`, `kafka`, or files of JSON lines or folders of archives. `auto` is the events
            topic where brokers are configured, else the archive and what of the log is not in it yet.
    """

    def __init__(self, settings: Settings, source: HistorySource = "auto") -> None:
        self._settings = settings
        self._source = source

    def events(self, wanted: EventFilter) -> Iterator[HistoryEvent]:
        """Wanted events in the order in which they were logged, each once. Records that are no events are left out."""
        window, at = DuplicateWindow(), 0
        for records in _event_batches(self._records(wanted)):
            hashes = np.array([record.id_hash or raw_id_hash(record.payload) for record in records], np.uint64)
            seen = window.mark(hashes, np.arange(at, at + len(records), dtype=np.int64))
            at += len(records)
            for record, repeated in zip(records, seen.tolist(), strict=True):
                found = None if repeated else _decode_record(record)
                if found is not None and wanted.matches(found):
                    yield found

    def newest(
        self, wanted: EventFilter, limit: int, make: Callable[[HistoryEvent], tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """Rows that *make* makes of the last *limit* wanted events, in order of their first value, the event time.

        Says by a `LabWarning` if there were more. Events are let go at once: a row takes a fraction of their memory.
        """
        kept: deque[tuple[Any, ...]] = deque(maxlen=limit)
        number = 0
        for found in self.events(wanted):
            kept.append(make(found))
            number += 1
        if number > limit:
            warnings.warn(
                f"{number:,} events match, the last {limit:,} are here: narrow since, until or agent, or raise limit",
                LabWarning,
                stacklevel=4,
            )
        return sorted(kept, key=lambda row: int(row[0]))

    def _records(self, wanted: EventFilter) -> Iterator[Record]:
        if not isinstance(self._source, str) or self._source not in HISTORY_SOURCES:
            given = [self._source] if isinstance(self._source, str | Path) else self._source
            return _file_records([Path(path) for path in given], wanted)
        if self._source == "auto":
            return self._default_records(wanted)
        if self._source == "archive":
            return self._configured_archive_records(wanted)
        return self._log_records() if self._source == "log" else self._kafka_records()

    def _default_records(self, wanted: EventFilter) -> Iterator[Record]:
        if self._settings.kafka.bootstrap_servers:
            yield from self._kafka_records()
            return
        directory = self._settings.archive.directory
        archived = None if directory is None else read_position(directory)
        if archived is not None:
            yield from self._configured_archive_records(wanted)
        yield from self._log_records(archived or 0)

    def _log_records(self, start: int = 0) -> Iterator[Record]:
        directory = self._settings.data_dir / "log"
        bases = segment_bases(directory)
        if not bases:
            raise LabError(
                f'{directory}: no event log. Events of a file: source="events.jsonl"; of the archive: source="archive"'
            )
        with closing(LogReader(directory)) as reader:
            end = reader.end_offset(0)
            at = min(max(start, bases[0]), end)
            reader.seek(0, at)
            while at < end and (batch := reader.poll(min(BATCH_RECORDS, end - at), 0.0)) is not None:
                yield from batch.records
                at = batch.next_offset

    def _configured_archive_records(self, wanted: EventFilter) -> Iterator[Record]:
        directory = self._settings.archive.directory
        if directory is None:
            raise LabError(
                "no archive is configured: set `archive.directory` in the settings (docs/archive.md), or name a "
                'folder: source="/path/archive"'
            )
        return _archive_records(directory, wanted)

    def _kafka_records(self) -> Iterator[Record]:
        if not self._settings.kafka.bootstrap_servers:
            raise LabError("no brokers are configured: set `kafka.bootstrap_servers` in the settings")
        kafka = self._settings.kafka
        topic = kafka.names.events
        unread = load_erased_filter(self._settings, topic)
        with closing(open_reader(kafka, [topic])) as reader:
            partitions = len(reader.end_offsets())
            while not reader.at_end():
                for part in reader.poll(1.0, BATCH_RECORDS):
                    place = SourcePartition(topic, part.partition, partitions)
                    for raw in part.records:
                        yield unread.filter_record(part.partition, raw.offset, to_record(raw, place))


def _event_batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Events of *records* in lists."""
    batch: list[Record] = []
    for record in records:
        if record.kind == RecordKind.EVENT:
            batch.append(record)
            if len(batch) == BATCH_RECORDS:
                yield batch
                batch = []
    if batch:
        yield batch


def _decode_record(record: Record) -> HistoryEvent | None:
    try:
        return HistoryEvent(record.received_ms, decode_history_event(record.payload)[0], record.payload)
    except MalformedEvent:  # it is in the dead letters
        return None


def _archive_records(directory: Path, wanted: EventFilter) -> Iterator[Record]:
    try:
        from ..ingest.archive.archive_reader import raw_lines
    except ModuleNotFoundError:
        raise LabError(f"{directory}: archives need pyarrow: pip install 'trustwatch[archive]'") from None
    since, until = (
        None if at is None else datetime.fromtimestamp(at / 1000, UTC) for at in (wanted.since_ms, wanted.until_ms)
    )
    return (Record(RecordKind.EVENT, 0, 0, raw) for raw in raw_lines(directory, since, until))


def _file_records(paths: Sequence[Path], wanted: EventFilter) -> Iterator[Record]:
    for path in paths:
        if path.is_dir():
            yield from _archive_records(path, wanted)
            continue
        with closing(FileSource([path])) as files:
            while (batch := files.poll(BATCH_RECORDS, 0.0)) is not None:
                yield from batch.records


class RawEventSource:
    """Implements what a replay needs of a `Source` over raw events.

    Args:
        lines: raw events in order.
        told: called with each batch of lines before it is handed out.
    """

    def __init__(self, lines: Iterable[bytes], told: Callable[[list[bytes]], None] = lambda _: None) -> None:
        self._lines = iter(lines)
        self._on_batch = told
        self._base = 0

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:  # noqa: ARG002 (nothing waits)
        """The next records; None at the end."""
        lines = [line for _, line in zip(range(max_records), self._lines, strict=False)]
        if not lines:
            return None
        self._on_batch(lines)
        base, self._base = self._base, self._base + len(lines)
        return RecordBatch(0, base, [Record(RecordKind.EVENT, raw_id_hash(line), 0, line) for line in lines])

    def seek(self, partition: int, offset: int) -> None:
        """A replay begins at the beginning."""

    def end_offset(self, partition: int) -> int:  # noqa: ARG002 (there is one)
        """Records handed out so far."""
        return self._base

    def close(self) -> None:
        """Nothing is open."""

"""Events of a service, read from its embedded log, archive or events topic, or from files, and their filter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trustwatch.api.brokers import open_reader
from trustwatch.api.composition import load_erased_filter
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.archive.archive_files import read_position
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.extras import extra_missing, missing_packages
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.log_segments import segment_bases
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.topic_history import topic_parts

from .session import LabError, LabSession, warn_incomplete

BATCH_RECORDS = 1000
HISTORY_SOURCES = ("auto", "log", "archive", "kafka")
HistorySource = str | Path | Sequence[str | Path]

AgentReference = Any
"""An agent: its id, or a row of a frame that has `agent_id`, `tenant` and `issuer`."""

AgentIdentity = tuple[str | None, str | None, str]
"""Tenant, issuer and id of an agent; None = any."""


class HistoryEvent(NamedTuple):
    """One event. *received_ms* is 0 if it was not recorded."""

    received_ms: int
    event: NativeEvent
    raw: bytes

    @property
    def time_ms(self) -> int:
        """Event time, UTC milliseconds."""
        return round(self.event.time.timestamp() * 1e6) // 1000


class EventFilter(NamedTuple):
    """The events asked for. Times are UTC milliseconds of event time, `until_ms` is not included; None = any."""

    agent: AgentIdentity | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    tenants: Collection[str] | None = None
    version: str | None = None
    types: Collection[str] | None = None

    def matches(self, candidate: HistoryEvent) -> bool:
        """Tell whether an event is asked for."""
        event, at_ms = candidate.event, candidate.time_ms
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
        return self.matches_agent(event)

    def matches_agent(self, event: NativeEvent) -> bool:
        """Tell whether an event is of the agent asked for."""
        if self.agent is None:
            return True
        tenant, issuer, agent_id = self.agent
        if event.agent.id != agent_id or (tenant is not None and (event.tenant or "") != tenant):
            return False
        return issuer is None or (event.agent.issuer or "") == issuer


def build_event_filter(
    session: LabSession, agent: AgentReference, tenant: str | None, since: Any, until: Any
) -> EventFilter:
    """The events of an agent, or of a tenant, in a window; never of tenants that the session does not show."""
    tenants = session.tenants
    if agent is None and tenant is not None:
        tenants = frozenset({tenant}) if tenants is None else tenants & {tenant}
    identity = None if agent is None else agent_identity(agent, tenant)
    return EventFilter(identity, parse_time_ms(since), parse_time_ms(until), tenants)


def agent_identity(agent: AgentReference, tenant: str | None) -> AgentIdentity:
    """Tenant, issuer and id of an agent that is given as an id or a row."""
    if isinstance(agent, str):
        return tenant, None, agent
    try:
        return tenant or agent["tenant"], agent.get("issuer"), agent["agent_id"]
    except (KeyError, TypeError, AttributeError):
        raise LabError("no agent: pass its id, or a row of a frame that has `agent_id` and `tenant`") from None


def parse_time_ms(at: Any) -> int | None:
    """UTC milliseconds of a datetime, a timestamp or a text as pandas reads it; without an offset it is UTC."""
    if at is None:
        return None
    stamp = pd.Timestamp(at)
    if stamp is pd.NaT:
        return None
    stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")
    return int(stamp.value // 1_000_000)  # `value` is nanoseconds, whatever the unit


def timestamp_of(at_ms: int) -> pd.Timestamp:
    """A timestamp of UTC milliseconds."""
    return pd.Timestamp(at_ms, unit="ms", tz="UTC")


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

    def events(self, event_filter: EventFilter) -> Iterator[HistoryEvent]:
        """Events in the order in which they were logged, each once. Records that are no events are left out."""
        window, at = DuplicateWindow(), 0
        for records in _event_batches(self._records(event_filter)):
            hashes = np.array([record.id_hash or raw_id_hash(record.payload) for record in records], np.uint64)
            repeated = window.mark(hashes, np.arange(at, at + len(records), dtype=np.int64))
            at += len(records)
            for record, is_repeated in zip(records, repeated.tolist(), strict=True):
                event = None if is_repeated else _decode_record(record)
                if event is not None and event_filter.matches(event):
                    yield event

    def newest(
        self, event_filter: EventFilter, limit: int, make_row: Callable[[HistoryEvent], tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """Rows of the last *limit* events, in order of their first value, the event time.

        Says by a `LabWarning` if there were more. Events are let go at once: a row takes a fraction of their memory.
        """
        rows: deque[tuple[Any, ...]] = deque(maxlen=limit)
        matching = 0
        for event in self.events(event_filter):
            rows.append(make_row(event))
            matching += 1
        if matching > limit:
            warn_incomplete(
                f"{matching:,} events match, the last {limit:,} are here: narrow since, until or agent, or raise limit",
                calls=2,
            )
        return sorted(rows, key=lambda row: int(row[0]))

    def _records(self, event_filter: EventFilter) -> Iterator[Record]:
        if not isinstance(self._source, str) or self._source not in HISTORY_SOURCES:
            given = [self._source] if isinstance(self._source, str | Path) else self._source
            return _file_records([Path(path) for path in given], event_filter)
        if self._source == "auto":
            return self._default_records(event_filter)
        if self._source == "archive":
            return self._configured_archive_records(event_filter)
        return self._log_records() if self._source == "log" else self._topic_records()

    def _default_records(self, event_filter: EventFilter) -> Iterator[Record]:
        if self._settings.distributed:
            yield from self._topic_records()
            return
        directory = self._settings.archive.directory
        archived = None if directory is None else read_position(directory)
        if archived is not None:
            yield from self._configured_archive_records(event_filter)
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

    def _configured_archive_records(self, event_filter: EventFilter) -> Iterator[Record]:
        directory = self._settings.archive.directory
        if directory is None:
            raise LabError(
                "no archive is configured: set `archive.directory` in the settings (docs/archive.md), or name a "
                'folder: source="/path/archive"'
            )
        return _archive_records(directory, event_filter)

    def _topic_records(self) -> Iterator[Record]:
        if not self._settings.distributed:
            raise LabError("no brokers are configured: set `kafka.bootstrap_servers` in the settings")
        broker_settings = self._settings.brokers
        topic = broker_settings.names.events
        erased = load_erased_filter(self._settings, topic)
        with closing(open_reader(broker_settings, [topic])) as reader:
            for part in topic_parts(reader, topic, erased, poll_s=1.0, max_records=BATCH_RECORDS):
                if part is not None:
                    yield from part.records


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


def _archive_records(directory: Path, event_filter: EventFilter) -> Iterator[Record]:
    if missing := missing_packages("archive"):
        raise LabError(extra_missing("archive", f"{directory} is an archive", missing))
    from trustwatch.ingest.archive.archive_reader import raw_lines

    since, until = (
        None if at is None else datetime.fromtimestamp(at / 1000, UTC)
        for at in (event_filter.since_ms, event_filter.until_ms)
    )
    return (Record(RecordKind.EVENT, 0, 0, raw) for raw in raw_lines(directory, since, until))


def _file_records(paths: Sequence[Path], event_filter: EventFilter) -> Iterator[Record]:
    for path in paths:
        if path.is_dir():
            yield from _archive_records(path, event_filter)
            continue
        with closing(FileSource([path])) as files:
            while (batch := files.poll(BATCH_RECORDS, 0.0)) is not None:
                yield from batch.records

"""Where a preview's history comes from: the embedded log, with an archive before it, or the events topic."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from ...ingest.archive.position import read_position
from ...ingest.errors import CorruptLog, MalformedEvent
from ...ingest.events import decode_event
from ...ingest.identity import raw_id_hash
from ...ingest.kafka import open_reader
from ...ingest.kafka.wire import SourcePartition, to_record
from ...ingest.log import LogReader
from ...ingest.log.segments import segment_bases
from ...ingest.source import Record, RecordKind
from ...scoring.pipeline import ONLY_PARTITION
from ..privacy.reading import load_erased_filter
from ..serve.wiring import kafka_settings
from ..settings import Settings

RECORDS_PER_PART = 2_000
TICK_INTERVAL_MS = 60_000
WARM_UP_DAYS = 7
"""Of an archive so much is read before the window: levels are then what they had become."""
_POLL_S = 5.0


class HistoryPart(NamedTuple):
    """Consecutive records of one partition, and how much of the whole history lies behind them, 0 to 1."""

    partition: int
    records: list[Record]
    progress: float


class PreviewHistory(NamedTuple):
    """A history and its name: `log`, `archive and log`, or `kafka`."""

    source: str
    parts: Iterator[HistoryPart]


def open_preview_history(settings: Settings, from_ms: int) -> PreviewHistory:
    """All that is kept, from before *from_ms* where it can be: what comes before warms up. Raises TrustwatchError."""
    if settings.kafka.bootstrap_servers:
        return PreviewHistory("kafka", _topic_parts(settings))
    directory = settings.data_dir / "log"
    first = min(segment_bases(directory), default=0)
    archived = None if settings.archive.directory is None else read_position(settings.archive.directory)
    if archived is None or _oldest_arrival_ms(directory, first) <= from_ms:
        return PreviewHistory("log", _log_parts(directory, first))
    return PreviewHistory("archive and log", _archive_and_log_parts(settings, max(first, archived), from_ms))


def _oldest_arrival_ms(directory: Path, first: int) -> int:
    """Arrival of the oldest record of the log; 0 = it has none."""
    with LogReader(directory) as reader:
        if reader.end_offset(ONLY_PARTITION) <= first:
            return 0
        reader.seek(ONLY_PARTITION, first)
        batch = reader.poll(1, 0.0)
        return 0 if batch is None else batch.records[0].received_ms


def _log_parts(directory: Path, first: int, begun: float = 0.0) -> Iterator[HistoryPart]:
    """The log from *first* up to where it ends now."""
    with LogReader(directory) as reader:
        end = reader.end_offset(ONLY_PARTITION)
        if end > first:
            reader.seek(ONLY_PARTITION, first)
        at = first
        while at < end:
            batch = reader.poll(min(RECORDS_PER_PART, end - at), 0.0)
            if batch is None:
                raise CorruptLog(f"{directory}: ends at offset {at}, although {end} were there")
            at = batch.next_offset
            yield HistoryPart(ONLY_PARTITION, batch.records, begun + (1.0 - begun) * (at - first) / (end - first))


def _archive_and_log_parts(settings: Settings, behind: int, from_ms: int) -> Iterator[HistoryPart]:
    """The archive, then what of the log is not in it yet. An archive has events alone, so time passes with them."""
    from ...ingest.archive.reader import raw_lines  # needs the extra `archive`

    assert settings.archive.directory is not None
    records: list[Record] = []
    tick_at, count = 0, 0
    since = datetime.fromtimestamp(from_ms // 1000, UTC) - timedelta(days=WARM_UP_DAYS)
    for raw in raw_lines(settings.archive.directory, since, up_to={0: behind}):
        record = _archived_event(raw)
        if record is None:
            continue
        records.append(record)
        count += 1
        if record.received_ms >= tick_at:
            now_ms = record.received_ms
            records.append(Record(RecordKind.TICK, 0, now_ms, now_ms.to_bytes(8, "little")))
            tick_at = now_ms + TICK_INTERVAL_MS
        if len(records) >= RECORDS_PER_PART:
            yield HistoryPart(ONLY_PARTITION, records, 0.9 * count / max(behind, count))
            records = []
    if records:
        yield HistoryPart(ONLY_PARTITION, records, 0.9)
    yield from _log_parts(settings.data_dir / "log", behind, 0.9)


def _archived_event(raw: bytes) -> Record | None:
    """An archived event as a record that arrived when it happened."""
    try:
        at_ms = int(decode_event(raw).time.astimezone(UTC).timestamp() * 1000)
    except MalformedEvent:
        return None
    return Record(RecordKind.EVENT, raw_id_hash(raw), at_ms, raw)


def _topic_parts(settings: Settings) -> Iterator[HistoryPart]:
    """Every partition of the events topic, from its beginning up to where it ends now."""
    kafka = kafka_settings(settings)
    topic = kafka.topics.events
    unread, reader = load_erased_filter(settings, topic), open_reader(kafka, [topic])
    try:
        ends, firsts = reader.end_offsets(), reader.first_offsets()
        total = max(1, sum(end - firsts[place] for place, end in ends.items()))
        count = 0
        while not reader.at_end():
            for found in reader.poll(_POLL_S, RECORDS_PER_PART):
                place = SourcePartition(topic, found.partition, len(ends))
                limit = ends[topic, found.partition]
                records = [
                    unread.filter_record(found.partition, raw.offset, to_record(raw, place))
                    for raw in found.records
                    if raw.offset < limit
                ]
                count += len(records)
                if records:
                    yield HistoryPart(found.partition, records, min(1.0, count / total))
    finally:
        reader.close()

"""Events that a topic still keeps, as one history: each partition in its order, partitions merged by arrival time.

Partitions are read as brokers send them, into a temporary file each, and then merged: disk bounds it, not memory.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, NamedTuple

from ..identities import IdentityHasher
from ..record_erasure import ErasedFilter
from ..source import Record, RecordKind, as_one_line
from .protocols import MAX_POLL_RECORDS, TopicReader
from .record_codec import SourcePartition, TopicRecord, to_record

HISTORY_POLL_S = 0.5
TopicEventFilter = Callable[[int, int, Record], bool]
"""Partition, offset, event -> whether it is part of the history. Called in the order of each partition."""


class TopicPart(NamedTuple):
    """Records of one partition, in the order of their offsets; never empty."""

    partition: int
    offsets: list[int]
    records: list[Record]


def topic_parts(
    reader: TopicReader,
    topic: str,
    erased: ErasedFilter = ErasedFilter(),  # noqa: B008
    identities: IdentityHasher = IdentityHasher(),  # noqa: B008
    *,
    poll_s: float = HISTORY_POLL_S,
    max_records: int = MAX_POLL_RECORDS,
) -> Iterator[TopicPart | None]:
    """Yield all records from the position of *reader* up to the end that the topic had when the reader was opened.

    Yields None if no record waited, so that the caller can give up.
    """
    partitions = len(reader.end_offsets())
    while not reader.at_end():
        parts = reader.poll(poll_s, max_records)
        for part in parts:
            origin = SourcePartition(topic, part.partition, partitions, identities)
            offsets = [raw.offset for raw in part.records]
            records = [erased.filter_record(part.partition, raw.offset, to_record(raw, origin)) for raw in part.records]
            yield TopicPart(part.partition, offsets, records)
        if not parts:
            yield None


def topic_event_lines(
    reader: TopicReader,
    topic: str,
    is_wanted: TopicEventFilter,
    check: Callable[[], None] = lambda: None,
    erased: ErasedFilter = ErasedFilter(),  # noqa: B008
) -> Iterator[bytes]:
    """Yield events as they were logged, one line each, up to the end of the topic when *reader* was opened.

    Raises CorruptLog or Unavailable.
    """
    with ExitStack() as stack:
        parts: dict[int, IO[bytes]] = {}
        for part in topic_parts(reader, topic, erased):
            check()
            if part is None:
                continue
            if part.partition not in parts:
                parts[part.partition] = stack.enter_context(tempfile.TemporaryFile())
            for offset, record in zip(part.offsets, part.records, strict=True):
                if record.kind == RecordKind.EVENT and is_wanted(part.partition, offset, record):
                    parts[part.partition].write(b"%d %s\n" % (record.received_ms, as_one_line(record.payload)))
        for part_file in parts.values():
            part_file.seek(0)
        pairs = (map(lambda text: text.rstrip(b"\n").partition(b" "), part_file) for part_file in parts.values())
        for _, _, line in heapq.merge(*pairs, key=lambda received: int(received[0])):
            yield line


def written_records(reader: TopicReader, is_wanted: Callable[[int, TopicRecord], bool]) -> Iterator[TopicRecord]:
    """Yield records as programs wrote them, without tombstones, up to the end of the topic when *reader* was opened.

    Raises CorruptLog or Unavailable.
    """
    while not reader.at_end():
        for part in reader.poll(HISTORY_POLL_S):
            yield from (raw for raw in part.records if raw.value is not None and is_wanted(part.partition, raw))

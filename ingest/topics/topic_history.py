"""Events that a topic still keeps, as one history: each partition in its order, partitions merged by arrival time.

Partitions are read as brokers send them, into a temporary file each, and then merged: disk bounds it, not memory.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO

from ..record_erasure import ErasedFilter
from ..source import Record, RecordKind
from .protocols import TopicReader
from .record_codec import SourcePartition, to_record

HISTORY_POLL_S = 0.5
TopicEventFilter = Callable[[int, int, Record], bool]
"""Partition, offset, event -> whether it is part of the history. Asked in the order of each partition."""


def topic_event_lines(
    reader: TopicReader,
    topic: str,
    is_wanted: TopicEventFilter,
    check: Callable[[], None] = lambda: None,
    unread: ErasedFilter = ErasedFilter(),  # noqa: B008
) -> Iterator[bytes]:
    """Events as they were logged, one line each, up to the end of the topic at the time *reader* was opened.

    Args:
        reader: of *topic* alone, without a group; closed by whoever opened it.
        is_wanted: chooses among events; records of other kinds are none.
        check: called now and then; raises to give up.
        unread: erases subjects from the events.

    Raises:
        CorruptLog: a record is damaged.
        Unavailable: no broker answers.
    """
    with ExitStack() as stack:
        parts: dict[int, IO[bytes]] = {}
        partitions = len(reader.end_offsets())
        while not reader.at_end():
            check()
            for fetched in reader.poll(HISTORY_POLL_S):
                if fetched.partition not in parts:
                    parts[fetched.partition] = stack.enter_context(tempfile.TemporaryFile())
                origin = SourcePartition(topic, fetched.partition, partitions)
                for raw in fetched.records:
                    record = unread.filter_record(fetched.partition, raw.offset, to_record(raw, origin))
                    if record.kind == RecordKind.EVENT and is_wanted(fetched.partition, raw.offset, record):
                        parts[fetched.partition].write(b"%d %s\n" % (record.received_ms, as_one_line(record.payload)))
        for _, line in heapq.merge(
            *(_received_lines(part) for part in parts.values()), key=lambda received: received[0]
        ):
            yield line


def as_one_line(payload: bytes) -> bytes:
    """JSON has line breaks between its parts alone, where a blank says the same."""
    return payload.replace(b"\r", b" ").replace(b"\n", b" ")


def _received_lines(part: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    part.seek(0)
    for text in part:
        received, _, line = text.rstrip(b"\n").partition(b" ")
        yield int(received), line

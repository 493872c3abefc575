"""Records of each partition on their way: those that librdkafka has, and behind them those that wait for their turn.

Where five records of a partition are on their way, an idempotent producer of librdkafka sends the next ones only once
the broker has answered. Until then its thread asks without a pause whether it may: each producer takes a core,
just when the machine has none to spare. So it gets the records of one request at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_RECORDS = 10_000
"""librdkafka's own limit of a request."""

LINGER_S = 0.001
"""Time that librdkafka waits for more records of a request; a record waits so long twice on its way."""

_JOIN_S = 0.7 * LINGER_S
"""Time in which further records surely get into a request: what comes too late would have to wait in librdkafka."""

_RECORD_OVERHEAD_BYTES = 400


class PendingRecords:
    """Number of records that were sent within a time and have no outcome, and of those before them."""

    def __init__(self, before: PendingRecords | None = None) -> None:
        self.count = 0
        self._before = before

    def waiting(self) -> int:
        """Records of this time and of all before it."""
        before = 0 if self._before is None else self._before.waiting()
        if not before:
            self._before = None
        return self.count + before


class OutgoingRecord(NamedTuple):
    """A record as librdkafka takes it, and what it counts as.

    Attributes:
        size_bytes: upper bound of its bytes in a request, about what it takes in memory.
        sent_s: when it was sent, of the monotonic clock.
        pending: the records that it is counted with.
    """

    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int
    size_bytes: int
    sent_s: float
    pending: PendingRecords


def size_of_record(value: bytes | None, key: bytes | None, headers: Collection[tuple[str, bytes]]) -> int:
    """See `OutgoingRecord.size_bytes`."""
    size = len(value or b"") + len(key or b"") + _RECORD_OVERHEAD_BYTES
    for name, content in headers:
        size += len(name) + len(content)
    return size


class PartitionQueue:
    """Records of one partition without an outcome, in the order in which they were sent."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.waiting: deque[OutgoingRecord] = deque()
        self.handed_over = 0
        """Records that librdkafka has."""
        self._bytes = 0
        self._since_s = 0.0

    def takes(self, record: OutgoingRecord, now_s: float) -> bool:
        """Tell whether *record* gets into the request that librdkafka is about to send, or begins one."""
        return not self.handed_over or (
            self.is_joinable(now_s)
            and self.handed_over < MAX_BATCH_RECORDS
            and self._bytes + record.size_bytes <= MAX_BATCH_BYTES
        )

    def is_joinable(self, now_s: float) -> bool:
        """Tell whether the request that librdkafka gathers has not left yet."""
        return now_s - self._since_s < _JOIN_S

    def note_handed_over(self, record: OutgoingRecord, now_s: float) -> None:
        """Note that librdkafka has *record*."""
        if not self.handed_over:
            self._bytes, self._since_s = 0, now_s
        self.handed_over += 1
        self._bytes += record.size_bytes

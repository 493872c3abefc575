"""Sources: the interfaces through which the pipeline reads raw records, in the order of their offsets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class RecordKind(IntEnum):
    """Kind of a record. Everything that changes state is a record, so that a replay sees it at the same offset."""

    EVENT = 0
    """A native audit event as JSON."""
    TICK = 1
    """Time advances: 8 bytes, little-endian UTC milliseconds."""
    DEAD = 2
    """A refused input: JSON of `letter_id`, `received_ms`, `source`, `reason`, `path`, and `raw` (base64)."""
    CONTROL = 3
    """An operator's command as JSON, for example the release of a contained agent."""
    ERASED = 4
    """An erased record without content (`record_erasure.py`). Its event id still counts for duplicates."""
    FORGET = 5
    """The erased subject is forgotten from here on: JSON of `trustwatch.scoring.records.erasures.EraseCommand`."""


class Record(NamedTuple):
    """One raw record. `id_hash` identifies the event for the duplicate window; 0 = not an event.

    `key` names the agent that the record is about (see `record_keys.agent_partition_key`): it chooses the partition
    where there are several. Records that were read from a source do not carry it.
    """

    kind: int
    id_hash: int
    received_ms: int
    payload: bytes
    key: bytes = b""


def as_one_line(payload: bytes) -> bytes:
    """Replace line breaks by blanks; JSON has them only between its parts."""
    return payload.replace(b"\r", b" ").replace(b"\n", b" ")


class RecordBatch(NamedTuple):
    """Consecutive records of one partition; record *i* has offset `base_offset + i`.

    If a source skips offsets (transaction markers), it ends the batch before the gap.
    """

    partition: int
    base_offset: int
    records: list[Record]

    @property
    def next_offset(self) -> int:
        """Offset after the last record."""
        return self.base_offset + len(self.records)


class Source(Protocol):
    """Source of records, which are read once, from the beginning on."""

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """At most *max_records* records in order, or None after *timeout_s* seconds without any."""

    def close(self) -> None:
        """Release files and connections."""


class DurableSource(Source, Protocol):
    """A source that keeps the records it has returned, so that a restarted pipeline can look back.

    One contract suite (`tests/contract/`) holds for every implementation.
    """

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading at *offset*. Raises CorruptLog if that offset is no longer kept."""

    def end_offset(self, partition: int) -> int:
        """Offset that the next record to be written will get; what is behind it is the lag."""

    def read_id_hashes(self, partition: int, start_offset: int, end_offset: int) -> npt.NDArray[np.uint64]:
        """Id hashes of the records of a partition in [start_offset, end_offset), shape (n,); 0 if there is none.

        Raises CorruptLog if they are gone although nothing was allowed to remove them.
        """


class PartitionOffsets(NamedTuple):
    """Offsets of one partition."""

    first: int
    """Of the oldest record that is kept."""
    since: int
    """From which on all is read that arrived at a given time or later; older records may be among it."""
    end: int
    """That the next record to be written will get."""


class PartitionOwner(Protocol):
    """Worker on the partitions that a group assigns. Called from within `GroupSource.join`, `poll` and `close`."""

    def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Take partitions over. Returns the offset from which each is to be read.

        One that is left out waits: no record of it is returned until it is sought.
        """

    def revoked(self, partitions: Collection[int]) -> None:
        """Give partitions back in order: they are still ours until this returns, so work in hand is made durable."""

    def lost(self, partitions: Collection[int]) -> None:
        """Drop work on partitions that may belong to another worker already; their records are read again."""


class GroupSource(DurableSource, Protocol):
    """A source whose partitions are spread over the members of a group. Not thread-safe.

    Where to read on is the owner's to say. `read_id_hashes` gives 0 for records that retention removed.
    """

    failed_polls: int
    """Number of polls that the log did not answer."""

    def join(self, owner: PartitionOwner) -> None:
        """Become a member; partitions come now or while `poll` is called, and go while that is."""

    def owned(self) -> frozenset[int]:
        """Partitions that are ours now."""

    def pause(self, partition: int) -> None:
        """Return no more records of *partition* until it is assigned again, or sought."""

    def offsets(self, since_ms: int) -> Mapping[int, PartitionOffsets]:
        """Offsets of all partitions, of any worker, and before `join` too; `since` is for *since_ms*, UTC.

        Raises Unavailable.
        """

    def note_position(self, offsets: Mapping[int, int]) -> None:
        """Note positions by partition, for tools that show lag only; a failure is ignored."""


class TopicWriter(Protocol):
    """Writes to topics, idempotently and with the acknowledgement of all in-sync replicas."""

    replaced: int
    """Number of producers that were given up, since records failed or had no outcome, and opened again."""

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Collection[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """Queue one record; blocks while the queue is full. Without *partition*, `record_keys.partition_of` chooses.

        Raises Unavailable if there is no room in time, ValueError for a record larger than the topic takes.
        """

    def flush(self, timeout_s: float) -> None:
        """Wait until everything that was queued is acknowledged.

        Raises Unavailable otherwise; what then became of the records since the last good flush is unknown, and a caller
        may send them again: readers drop what they have seen. Each concurrent flush that began before a failure was
        raised raises it; one that begins later does not, though its records may be affected.
        """

    def bound_waits(self, within_s: float) -> None:
        """Let each `flush`, and `close`, wait *within_s* seconds at most: the process is to end.

        One that is under way waits so long from now on. After one that raised Unavailable none waits any more. Any
        thread and any signal handler may call this.
        """

    def partitions(self, topic: str) -> int:
        """Number of partitions of *topic*. Raises Unavailable, or ConfigError if the topic does not exist."""

    def close(self) -> None:
        """Release connections; what was not flushed may be lost."""

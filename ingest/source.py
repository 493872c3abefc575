"""The seam between the world and the pipeline: a source hands out raw records in the order of their offsets."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Kind(IntEnum):
    """What a record is. Everything that changes state is a record, so that a replay sees it at the same place."""

    EVENT = 0
    """A native audit event as JSON."""
    TICK = 1
    """Time advances: 8 bytes, little-endian UTC milliseconds."""
    DEAD = 2
    """A refused input: JSON of `letter_id`, `received_ms`, `source`, `reason`, `path`, and `raw` (base64)."""
    CONTROL = 3
    """An operator's command as JSON, for example the release of a contained agent."""


class Record(NamedTuple):
    """One raw record. `id_hash` identifies the event for the duplicate window; 0 = not an event."""

    kind: int
    id_hash: int
    received_ms: int
    payload: bytes


class RecordBatch(NamedTuple):
    """Consecutive records of one partition; record *i* has offset `base_offset + i`."""

    partition: int
    base_offset: int
    records: list[Record]

    @property
    def next_offset(self) -> int:
        """Offset after the last record."""
        return self.base_offset + len(self.records)


class Source(Protocol):
    """Hands out records. One contract suite (`tests/contract/`) holds for every implementation."""

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading at *offset*. Raises CorruptLog where that offset is no longer kept."""

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """At most *max_records* records in order, or None after *timeout_s* seconds without any."""

    def end_offset(self, partition: int) -> int:
        """Offset that the next record to be written will get; what is behind it is the lag."""

    def close(self) -> None:
        """Release files and connections."""


class DurableSource(Source, Protocol):
    """A source that keeps what it has handed out, so that a restarted pipeline can look back."""

    def read_id_hashes(self, start_offset: int, end_offset: int) -> npt.NDArray[np.uint64]:
        """Id hashes of the records in [start_offset, end_offset), shape (n,). Raises CorruptLog where they are gone."""

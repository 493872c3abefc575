"""The embedded log as a `GroupSource`, for whoever follows it beside the pipeline."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..source import PartitionOffsets, PartitionOwner, RecordBatch
from .log_reader import LogReader
from .segment_import import first_offset

_PARTITION = 0


class LogGroupSource:
    """Implements `GroupSource`: the log's one partition belongs to whoever joins, until `close`.

    Each process that reads a log is a group of its own, and nobody else has to be asked: `join` assigns at once.
    """

    failed_polls = 0

    def __init__(self, directory: Path) -> None:
        self._reader = LogReader(directory)
        self._owner: PartitionOwner | None = None
        self._owned: frozenset[int] = frozenset()
        self._unsought: int | None = None  # offset that the owner wants and that could not be sought
        self._paused = False

    def join(self, owner: PartitionOwner) -> None:
        """See `GroupSource.join`. Raises CorruptLog where the owner's offset is not kept, and whatever it raises."""
        offset = owner.assigned({_PARTITION}).get(_PARTITION)
        self._owner, self._owned, self._unsought = owner, frozenset({_PARTITION}), offset
        if offset is None:
            self.pause(_PARTITION)
        else:
            self.seek(_PARTITION, offset)

    def owned(self) -> frozenset[int]:
        """See `GroupSource.owned`."""
        return self._owned

    def seek(self, partition: int, offset: int) -> None:
        """Continue reading at *offset*, of the paused partition too.

        Raises:
            CorruptLog: that offset is no longer kept, or lies behind the end.
            ValueError: the partition is not ours, or the offset negative.
        """
        if partition not in self._owned:
            raise ValueError(f"{self._reader.directory}: no seek in partition {partition}, ours: {set(self._owned)}")
        self._reader.seek(partition, offset)
        self._unsought, self._paused = None, False

    def pause(self, partition: int) -> None:
        """See `GroupSource.pause`."""
        self._paused = self._paused or partition in self._owned

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """See `Source.poll`. Raises CorruptLog, again and again where the owner's offset is not kept."""
        if self._unsought is not None:
            self.seek(_PARTITION, self._unsought)
        if self._paused or not self._owned:
            time.sleep(timeout_s)
            return None
        return self._reader.poll(max_records, timeout_s)

    def end_offset(self, partition: int) -> int:
        """See `Source.end_offset`."""
        return self._reader.end_offset(partition)

    def offsets(self, since_ms: int) -> Mapping[int, PartitionOffsets]:  # noqa: ARG002 (older records pass quickly)
        """See `GroupSource.offsets`: arrival has no index here, so `since` is the oldest record."""
        first = first_offset(self._reader.directory)
        return {_PARTITION: PartitionOffsets(first, first, self._reader.end_offset(_PARTITION))}

    def read_id_hashes(self, partition: int, start_offset: int, end_offset: int) -> npt.NDArray[np.uint64]:
        """See `DurableSource.read_id_hashes`; 0 for records that retention removed. Raises CorruptLog."""
        first = min(max(start_offset, self.offsets(0)[_PARTITION].first), max(start_offset, end_offset))
        kept = self._reader.read_id_hashes(partition, first, end_offset)
        return np.concatenate([np.zeros(first - start_offset, np.uint64), kept])

    def note_position(self, offsets: Mapping[int, int]) -> None:
        """See `GroupSource.note_position`: no tool looks at groups of this log."""

    def close(self) -> None:
        """Hand the partition back (`revoked` is called), release files."""
        owner, owned = self._owner, self._owned
        self._owner, self._owned, self._unsought = None, frozenset(), None
        try:
            if owner is not None:
                owner.revoked(owned)
        finally:
            self._reader.close()

"""Buffer of fetched records, drained fairly between partitions."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from typing import NamedTuple

from ..errors import CorruptLog
from ..source import Record, RecordBatch


class RecordRun(NamedTuple):
    """Records with consecutive offsets; the first has *base_offset*. Never empty."""

    base_offset: int
    records: list[Record]


class FairBuffer:
    """Runs by partition. Partitions take turns, so that a full one does not starve the others."""

    def __init__(self) -> None:
        self._runs: OrderedDict[int, deque[RecordRun]] = OrderedDict()

    def add(self, partition: int, runs: Iterable[RecordRun]) -> None:
        """Append *runs* to those of the same partition; runs without a gap between them are joined."""
        waiting = self._runs.setdefault(partition, deque())
        for run in runs:
            if waiting and waiting[-1].base_offset + len(waiting[-1].records) == run.base_offset:
                waiting[-1].records.extend(run.records)
            else:
                waiting.append(run)
        if not waiting:
            del self._runs[partition]

    def take(self, max_records: int) -> RecordBatch | None:
        """The next batch, at most *max_records* long; None if the buffer is empty."""
        if not self._runs:
            return None
        partition, runs = next(iter(self._runs.items()))
        base, records = runs.popleft()
        if len(records) > max_records:
            runs.appendleft(RecordRun(base + max_records, records[max_records:]))
            records = records[:max_records]
        if runs:
            self._runs.move_to_end(partition)
        else:
            del self._runs[partition]
        return RecordBatch(partition, base, records)

    def first_offsets(self) -> dict[int, int]:
        """Offset of the next record of each partition that has some."""
        return {partition: runs[0].base_offset for partition, runs in self._runs.items()}

    def drop(self, partitions: Collection[int]) -> None:
        """Drop the records of *partitions* that were given away, or are read from another offset."""
        for partition in partitions:
            self._runs.pop(partition, None)


def offset_out_of_range(topic: str, partition: int, offset: int, start: int, end: int) -> CorruptLog:
    """Error for *offset* of a partition that keeps [start, end), with the likely cause."""
    where = f"{topic}[{partition}]: offset {offset}"
    if offset < start:
        return CorruptLog(
            f"{where} is no longer kept, the partition starts at {start}: retention removed {start - offset} records"
            " that were not applied yet; restore the topic, or move the stored position on and accept the loss"
        )
    return CorruptLog(
        f"{where} is behind the end of the partition, {end}: another cluster, a topic made anew, or acknowledged"
        " records lost by an unclean election"
    )

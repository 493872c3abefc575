"""A topic read as if it had been rewritten: records of who was erased are there until retention removes them, and are
handed out as erased ones meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .erasing import ErasureSubject, RecordEraser
from .names import MultiPatternSearch
from .source import Record, RecordBatch, RecordKind


class ErasedSubject(NamedTuple):
    """Somebody who was erased while their records are still in the topic.

    Attributes:
        subject: who.
        up_to: by partition, the offset of the order to forget: what lies before it is meant.
    """

    subject: ErasureSubject
    up_to: Mapping[int, int]


class ErasedFilter:
    """Takes everybody who was erased out of records that are read again: by a worker that begins anew or goes on from
    a back-up, an archive, a back-test, a preview, a notebook.

    Args:
        bygone: whom; the order of their erasures.
    """

    def __init__(self, bygone: Iterable[ErasedSubject] = ()) -> None:
        found = [one for one in bygone if one.up_to]
        self._erasers = [(one.up_to, RecordEraser(one.subject)) for one in found]
        self._name_search = MultiPatternSearch([erase.name_eraser.needles for _, erase in self._erasers])
        self._last_offsets: dict[int, int] = {}
        for one in found:
            for partition, offset in one.up_to.items():
                self._last_offsets[partition] = max(offset, self._last_offsets.get(partition, -1))

    def filter_record(self, partition: int, offset: int, record: Record) -> Record:
        """The record as it may be read; orders to forget stay, they are what a state begun anew has to meet."""
        if offset > self._last_offsets.get(partition, -1) or record.kind == RecordKind.FORGET:
            return record
        asked: Iterable[int] = range(len(self._erasers))
        if (
            record.kind == RecordKind.EVENT
        ):  # commands and refused inputs are few, and each eraser knows how to read them
            asked = self._name_search.candidates(record.payload)
        for up_to, erase in (self._erasers[number] for number in asked):
            if offset < up_to.get(partition, -1):
                record = erase(record)
        return record

    def filter_batch(self, batch: RecordBatch) -> RecordBatch:
        """A batch as it may be read; the same object where it is behind all of it."""
        if batch.base_offset > self._last_offsets.get(batch.partition, -1):
            return batch
        records = [
            self.filter_record(batch.partition, at, one) for at, one in enumerate(batch.records, batch.base_offset)
        ]
        return RecordBatch(batch.partition, batch.base_offset, records)

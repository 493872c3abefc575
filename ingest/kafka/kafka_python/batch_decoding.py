"""Reads whole record batches into columns where kafka-python decodes record by record in Python.

Its decoder costs 10 microseconds a record, more than the pipeline does. The seam is `Fetcher.PartitionRecords`, the
class that iterates over what one fetch brought of one partition: ours yields a `BatchColumns` for each batch. It is no
public interface, so it is used with the one version of kafka-python that it was tested with, and with any other the
stock decoder stays. Fetching, sessions, leader epochs, CRC, decompression and the bookkeeping of aborted transactions
are kafka-python's either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise, repeat
from typing import Any, NamedTuple

import kafka
import numpy as np
import numpy.typing as npt
import structlog
from kafka import KafkaConsumer, errors
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from ...source import Record
from .. import record_codec
from ..group_buffer import RecordRun
from . import record_kernel

PATCHED_VERSION = "3.0.12"
STOCK_POLL_RECORDS = 5_000
"""Records of one `poll` with the stock decoder."""

_log = structlog.get_logger(__name__)
_LOG_APPEND_TIME = 1


class BatchColumns(NamedTuple):
    """The records of one batch from some offset on; never empty. All arrays have one row per record."""

    data: bytes
    offsets: npt.NDArray[np.int64]
    times_ms: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]  # see kernel
    kinds: npt.NDArray[np.uint8]
    hashes: npt.NDArray[np.uint64]

    def record_runs(self, origin: record_codec.SourcePartition) -> list[RecordRun]:
        """Records of the batch, as `record_codec.to_record_runs` makes them from single ones."""
        rows, data = self.rows, self.data
        if (
            (rows[:, record_kernel.TAG] < 0).any()
            or (rows[:, record_kernel.VALUE_END] < 0).any()
            or self.times_ms.min() < 0
        ):
            return record_codec.to_record_runs(self.kafka_records(), origin)
        spans = zip(rows[:, record_kernel.VALUE].tolist(), rows[:, record_kernel.VALUE_END].tolist(), strict=True)
        payloads = [data[begin:end] for begin, end in spans]
        columns = zip(self.kinds.tolist(), self.hashes.tolist(), self.times_ms.tolist(), payloads, repeat(b""))
        records = list(map(Record._make, columns))
        first = int(self.offsets[0])
        cuts = (np.flatnonzero(np.diff(self.offsets) != 1) + 1).tolist()
        if not cuts:
            return [RecordRun(first, records)]
        bounds = [0, *cuts, len(records)]
        return [RecordRun(int(self.offsets[a]), records[a:b]) for a, b in pairwise(bounds)]

    def kafka_records(self) -> Iterator[record_codec.KafkaRecord]:
        """Records of the batch, one by one."""
        data = self.data
        for offset, time_ms, row in zip(self.offsets.tolist(), self.times_ms.tolist(), self.rows.tolist(), strict=True):
            key = data[row[record_kernel.KEY] : row[record_kernel.KEY_END]] if row[record_kernel.KEY_END] >= 0 else None
            value = (
                data[row[record_kernel.VALUE] : row[record_kernel.VALUE_END]]
                if row[record_kernel.VALUE_END] >= 0
                else None
            )
            headers = (
                _decode_headers(data, row[record_kernel.HEADERS], row[record_kernel.HEADER_COUNT])
                if row[record_kernel.HEADER_COUNT]
                else []
            )
            yield record_codec.KafkaRecord(offset, time_ms, key, value, headers)

    def copy_hashes(self, start: int, hashes: npt.NDArray[np.uint64]) -> None:
        """Put id hashes where they belong: hashes[offset - start]; what lies outside is left out."""
        at = self.offsets - start
        inside = (at >= 0) & (at < len(hashes))
        hashes[at[inside]] = self.hashes[inside]


class SingleRecords:
    """Records of one partition from the library's own decoder, with the methods of `BatchColumns`."""

    def __init__(self, records: list[Any]) -> None:
        self._records = records

    def record_runs(self, origin: record_codec.SourcePartition) -> list[RecordRun]:
        """See `BatchColumns.record_runs`."""
        return record_codec.to_record_runs(self.kafka_records(), origin)

    def kafka_records(self) -> Iterator[record_codec.KafkaRecord]:
        """See `BatchColumns.kafka_records`."""
        for record in self._records:
            yield record_codec.KafkaRecord(record.offset, record.timestamp, record.key, record.value, record.headers)

    def copy_hashes(self, start: int, hashes: npt.NDArray[np.uint64]) -> None:
        """See `BatchColumns.copy_hashes`."""
        for record in self._records:
            if 0 <= record.offset - start < len(hashes):
                hashes[record.offset - start] = record_codec.id_hash_in(record.headers)


def _decode_headers(data: bytes, at: int, count: int) -> list[tuple[str, bytes | None]]:
    """Decode headers that `record_kernel.decode_records` has checked already."""
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        length, at = _decode_varint(data, at)
        name = data[at : at + length].decode("utf-8", "replace")
        at += length
        length, at = _decode_varint(data, at)
        headers.append((name, data[at : at + length] if length >= 0 else None))
        at += max(length, 0)
    return headers


def _decode_varint(data: bytes, at: int) -> tuple[int, int]:
    raw = shift = 0
    while True:
        byte = data[at]
        at += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (raw >> 1) ^ -(raw & 1), at
        shift += 7


def decode_batch(batch: Any, from_offset: int) -> BatchColumns | None:
    """Columns of a kafka-python `DefaultRecordBatch` from an offset on; None where it holds nothing from there on.

    Raises:
        kafka.errors.CorruptRecordError: a length leads out of the batch, bytes are left, or offsets do not ascend.
    """
    batch._maybe_uncompress()
    data = bytes(memoryview(batch._buffer)[batch._pos :])
    count = batch.records_count
    if not 0 <= count <= len(data) // record_kernel.LEAST_RECORD_BYTES:
        raise errors.CorruptRecordError(f"batch at offset {batch.base_offset}: {count} records in {len(data)} bytes")
    rows = np.empty((count, record_kernel.RECORD_COLUMNS), np.int64)
    kinds, hashes = np.empty(count, np.uint8), np.empty(count, np.uint64)
    read = record_kernel.decode_records(np.frombuffer(data, np.uint8), rows, kinds, hashes)
    if read != len(data):
        where = f"record {-1 - read}" if read < 0 else f"byte {read} of {len(data)}"
        raise errors.CorruptRecordError(f"batch at offset {batch.base_offset} is broken at {where}")
    offsets = rows[:, record_kernel.OFFSET] + batch.base_offset
    if (np.diff(offsets) <= 0).any():
        raise errors.CorruptRecordError(f"batch at offset {batch.base_offset}: offsets do not ascend")
    if batch.timestamp_type == _LOG_APPEND_TIME:
        times = np.full(count, batch.max_timestamp, np.int64)
    else:
        times = rows[:, record_kernel.TIME] + batch.first_timestamp
    first = int(np.searchsorted(offsets, from_offset))  # a fetch brings the whole batch that holds its offset
    if first == count:
        return None
    return BatchColumns(data, offsets[first:], times[first:], rows[first:], kinds[first:], hashes[first:])


class BatchPartitionRecords(Fetcher.PartitionRecords):
    """Fetched records of one partition, batch by batch: `take` gives all of them as a list of `BatchColumns`."""

    def _maybe_skip_record(self, _: BatchColumns) -> bool:
        return False  # decode_batch leaves out what lies before the fetch position

    def take(self, _: int | None = None) -> list[Any]:
        """Take all batches of a fetch; the library's limit, which counts records, does not apply."""
        batches: list[Any] = super().take(None)
        return batches

    def _unpack_records(self, tp: Any, records: Any, *_: Any) -> Iterator[Any]:
        """Unpack like the library's method, but yield one batch where that yields one record."""
        while (batch := records.next_batch()) is not None:
            if self.check_crcs and not batch.validate_crc():
                raise errors.CorruptRecordError(f"{tp}: record batch at offset {batch.base_offset} fails its CRC")
            if batch.magic < 2:
                raise errors.CorruptRecordError(f"{tp}: offset {batch.base_offset} has a message format of before 0.11")
            self.leader_epoch = batch.leader_epoch
            if not self._is_invisible(batch):
                self.records_read += batch.records_count
                self.bytes_read += batch.size_in_bytes
                columns = decode_batch(batch, self.fetch_offset)
                if columns is not None:
                    yield columns
            self.next_fetch_offset = batch.next_offset
        self.drain()

    def _is_invisible(self, batch: Any) -> bool:
        """True for a batch that consumers never see: a transaction marker, or part of an aborted transaction."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


def enable_batch_decoding(consumer: KafkaConsumer) -> int:
    """Let *consumer* read whole batches, if its version is the known one.

    Returns:
        `max_records` for its `poll`: with whole batches one fetch of one partition counts as one record.
    """
    if kafka.__version__ != PATCHED_VERSION:
        _log.warning("kafka-python decodes record by record", version=kafka.__version__, known=PATCHED_VERSION)
        return STOCK_POLL_RECORDS
    consumer._fetcher.PartitionRecords = BatchPartitionRecords
    return 1


def warm_up() -> None:
    """Decode a batch, so that no compiling holds up a member of a group."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1024,
    )
    builder.append(0, 0, b"key", b"value", [(record_codec.RECORD_HEADER, bytes(9))])
    decode_batch(DefaultRecordBatch(builder.build()), 0)


def fetched_parts(fetched: list[Any]) -> Iterable[BatchColumns | SingleRecords]:
    """Result of `poll` for one partition in one form, whichever decoder made it."""
    return fetched if fetched and isinstance(fetched[0], BatchColumns) else [SingleRecords(fetched)]

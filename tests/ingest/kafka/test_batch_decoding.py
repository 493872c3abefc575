"""Whole batches decode to what kafka-python's own decoder gives, record for record."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import Any, NamedTuple

import kafka
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import errors
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.structs import TopicPartition
from trustwatch.ingest.kafka import record_codec
from trustwatch.ingest.kafka.group_buffer import RecordRun
from trustwatch.ingest.kafka.kafka_python import batch_decoding
from trustwatch.ingest.source import Record, RecordKind

PLACE = TopicPartition("events", 0)
WHERE = record_codec.SourcePartition("events", 0, 1)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
Item = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]


class Aborted(NamedTuple):
    producer_id: int
    first_offset: int


def batch(items: list[Item], base: int = 0, codec: int = 0, **producer: Any) -> bytes:
    """One record batch as a broker sends it; items are (offset, time, key, value, headers)."""
    options = {"is_transactional": 0, "producer_id": -1, "producer_epoch": -1, "base_sequence": -1, **producer}
    builder = DefaultRecordBatchBuilder(2, codec, batch_size=1 << 24, **options)
    for offset, time_ms, key, value, headers in items:
        assert builder.append(offset, time_ms, key, value, headers) is not None
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)  # not under the CRC: brokers write it
    return bytes(data)


def control(base: int, producer_id: int, commit: bool) -> bytes:
    """A transaction marker."""
    key = struct.pack(">hh", 0, int(commit))
    data = bytearray(
        batch(
            [(0, 5, key, b"\0" * 6, [])],
            base,
            is_transactional=1,
            producer_id=producer_id,
            producer_epoch=0,
            base_sequence=0,
        )
    )
    (attributes,) = struct.unpack_from(">h", data, 21)
    struct.pack_into(">h", data, 21, attributes | 0x20)
    struct.pack_into(">I", data, 17, kafka.record.util.calc_crc32c(memoryview(data)[21:]))
    return bytes(data)


def read(
    kind: type, data: bytes, offset: int = 0, aborted: tuple[Aborted, ...] = ()
) -> tuple[list[record_codec.KafkaRecord], Any]:
    part = kind(
        offset,
        PLACE,
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=list(aborted),
    )
    found: list[Any] = []
    while part and (more := part.take(None)):
        found += more
    return [raw for one in batch_decoding.fetched_parts(found) for raw in one.kafka_records()], part


def both(data: bytes, offset: int = 0, aborted: tuple[Aborted, ...] = ()) -> list[record_codec.KafkaRecord]:
    """Records by either way; they, and what the fetcher reads off afterwards, must be the same."""
    stock, stock_part = read(Fetcher.PartitionRecords, data, offset, aborted)
    ours, our_part = read(batch_decoding.BatchPartitionRecords, data, offset, aborted)
    assert ours == stock
    assert bool(our_part) == bool(stock_part) is False
    for name in ("next_fetch_offset", "leader_epoch", "aborted_producer_ids"):
        assert getattr(our_part, name) == getattr(stock_part, name), name
    return ours


def tagged(number: int, base: int = 0) -> Item:
    record = Record(RecordKind.EVENT, number * 0x9E3779B97F4A7C15 % 2**64, 0, b"")
    return (
        number - base,
        1_780_000_000_000 + number,
        b"key",
        b'{"id":"%d"}' % number,
        list(record_codec.headers_for(record)),
    )


def test_the_known_version_is_the_one_that_is_installed() -> None:
    """With another one the stock decoder is used, four times as slow: then this module is to be looked through."""
    assert kafka.__version__ == batch_decoding.PATCHED_VERSION


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("offset", [0, 1, 99, 100, 150, 299, 300])
def test_every_codec_and_a_seek_into_a_batch(codec: str, offset: int) -> None:
    """A fetch brings whole batches; what lies before its offset is left out."""
    if codec == "snappy":
        pytest.importorskip("snappy")
    data = b"".join(batch([tagged(i, b) for i in range(b, b + 100)], b, CODECS[codec]) for b in (0, 100, 200))
    assert [raw.offset for raw in both(data, offset)] == list(range(offset, 300))


HEADERS = st.lists(
    st.tuples(st.one_of(st.just("tw"), st.text(max_size=5)), st.one_of(st.none(), st.binary(max_size=12))), max_size=4
)
ITEMS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 2**41),
        st.none() | st.binary(max_size=300),
        st.none() | st.binary(max_size=300),
        HEADERS,
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(ITEMS, st.integers(0, 10**12), st.sampled_from([0, 1, 3, 4]), st.integers(0, 80))
def test_any_records(drawn: list[Item], base: int, codec: int, skip: int) -> None:
    """Null keys, values and headers, offsets that are missing (compaction), headers of all kinds."""
    at, items = 0, []
    for gap, *rest in drawn:
        at += gap
        items.append((at, *rest))
        at += 1
    data = batch(items, base, codec)
    raws = both(data, base + skip)
    found: list[Any] = batch_decoding.BatchPartitionRecords(base + skip, PLACE, MemoryRecords(data)).take()
    runs = [run for columns in found for run in columns.record_runs(WHERE)]
    assert runs == record_codec.to_record_runs(raws, WHERE)
    hashes = np.zeros(50, np.uint64)
    for columns in found:
        columns.copy_hashes(base, hashes)
    expected = {raw.offset - base: record_codec.id_hash_in(raw.headers) for raw in raws}
    assert hashes.tolist() == [expected.get(i, 0) for i in range(50)]


def test_records_of_ours_take_the_short_way() -> None:
    """Kind and id hash come out of the header, gaps cut runs."""
    items = [tagged(i) for i in (0, 1, 4)]
    (columns,) = batch_decoding.BatchPartitionRecords(0, PLACE, MemoryRecords(batch(items))).take()
    records = [Record(0, i * 0x9E3779B97F4A7C15 % 2**64, 1_780_000_000_000 + i, b'{"id":"%d"}' % i) for i in (0, 1, 4)]
    assert columns.record_runs(WHERE) == [RecordRun(0, records[:2]), RecordRun(4, records[2:])]


def test_aborted_transactions_and_markers_are_left_out() -> None:
    """In the order of the log: committed, aborted, interleaved with a producer without transactions."""
    own = {"is_transactional": 1, "producer_epoch": 0, "base_sequence": 0}
    data = (
        batch([tagged(0)], 0, producer_id=7, **own)
        + control(1, 7, True)
        + batch([tagged(0)], 2, producer_id=7, **own)
        + batch([tagged(0)], 3)
        + batch([tagged(0)], 4, producer_id=8, **own)
        + control(5, 7, False)
        + control(6, 8, True)
        + batch([tagged(0)], 7, producer_id=7, **own)
        + control(8, 7, True)
    )
    raws = both(data, aborted=(Aborted(7, 2),))
    assert [raw.offset for raw in raws] == [0, 3, 4, 7]
    assert both(data, 8, (Aborted(7, 2),)) == []


def test_damage_is_found_after_what_is_good() -> None:
    """The good batch is handed out; the next call raises."""
    good, bad = batch([tagged(0)]), bytearray(batch([tagged(0)], 1))
    bad[-3] ^= 1
    part = batch_decoding.BatchPartitionRecords(0, PLACE, MemoryRecords(good + bytes(bad)))
    assert len(part.take()) == 1
    assert part.next_fetch_offset == 1
    with pytest.raises(errors.CorruptRecordError, match="CRC"):
        part.take()


@settings(deadline=None)
@given(st.integers(61, 200), st.integers(0, 255))
def test_broken_lengths_never_lead_out_of_the_batch(at: int, value: int) -> None:
    """A batch whose CRC is not checked: refused, or what the stock decoder reads."""
    data = bytearray(batch([tagged(i) for i in range(3)]))
    data[min(at, len(data) - 1)] = value
    try:
        part = batch_decoding.BatchPartitionRecords(0, PLACE, MemoryRecords(bytes(data)), check_crcs=False)
        ours = [raw for columns in part.take() for raw in columns.kafka_records()]
    except errors.CorruptRecordError:
        ours = None
    stock: list[Any] = []
    part = Fetcher.PartitionRecords(0, PLACE, MemoryRecords(bytes(data)), check_crcs=False)
    try:
        while part:
            stock += part.take(None)
    except (errors.CorruptRecordError, UnicodeDecodeError):
        return
    raws = [record_codec.KafkaRecord(one.offset, one.timestamp, one.key, one.value, one.headers) for one in stock]
    assert ours in (None, raws)


WARM = """
import sys
from trustwatch.ingest.kafka import KafkaClientSettings, warm_up
from trustwatch.ingest.kafka.kafka_python import batch_decoding, record_kernel

warm_up(KafkaClientSettings(bootstrap_servers=("127.0.0.1:9",)))
compiled = set(record_kernel.decode_records.signatures)
batch_decoding.decode_batch(batch_decoding.DefaultRecordBatch(bytearray.fromhex(sys.argv[1])), 0)
assert compiled and compiled == set(record_kernel.decode_records.signatures), compiled
"""


def test_warming_up_compiles_what_reading_runs() -> None:
    """In a process of its own, as a worker's: what the first fetch brings is decoded without compiling anything."""
    subprocess.run([sys.executable, "-c", WARM, batch([(0, 5, b"k", b"v", [])]).hex()], check=True, timeout=120)

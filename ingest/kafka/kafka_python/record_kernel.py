"""Decodes the records of a Kafka batch (message format 2) into columns, in one pass of compiled code."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...compilation import allocation_free

Bytes: TypeAlias = npt.NDArray[np.uint8]
Hashes: TypeAlias = npt.NDArray[np.uint64]
RecordTable: TypeAlias = npt.NDArray[np.int64]
RecordRow: TypeAlias = npt.NDArray[np.int64]

OFFSET, TIME, KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADER_COUNT, TAG = range(9)
"""Columns: offset and time as differences to the batch's first; begin and end of key and value (end -1: null); where
the headers begin and how many there are; where the value of our header `tw` begins (-1: there is none)."""

RECORD_COLUMNS = 9
LEAST_RECORD_BYTES = 7
TAG_BYTES = 9
_T, _W = ord("t"), ord("w")


@allocation_free
def decode_varint(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """A zigzag varint of at most 10 bytes at data[at:end], and the place behind it.

    The place is -1 where it is broken, and where *at* is: so a walk over a record is checked once, at its end.
    """
    raw, shift = np.uint64(0), np.uint64(0)
    while 0 <= at < end and shift < np.uint64(70):
        byte = np.uint64(data[at])
        at += 1
        raw |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return int(np.int64(raw >> np.uint64(1)) ^ -np.int64(raw & np.uint64(1))), at
        shift += np.uint64(7)
    return 0, -1


@allocation_free
def length_prefixed_field(data: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """Begin and end of a field with its length in front, and the place behind it (-1 = broken); end -1 = null."""
    length, at = decode_varint(data, at, end)
    if at < 0 or length > end - at:
        return 0, -1, -1
    if length < 0:
        return at, -1, at
    return at, at + length, at + length


@allocation_free
def decode_records(data: Bytes, rows: RecordTable, kinds: Bytes, hashes: Hashes) -> int:
    """Fill one row per record.

    Args:
        data: the uncompressed records, one behind the other.
        rows: out, shape (records, RECORD_COLUMNS).
        kinds: out, shape (records,): the kind that our header carries, 0 without.
        hashes: out, shape (records,): the id hash that our header carries, 0 without.

    Returns:
        Bytes read; minus 1 minus the number of the record that is broken.
    """
    at = 0
    for row in range(len(rows)):
        begin, end, _ = length_prefixed_field(data, at, len(data))
        if end < 0:
            return -1 - row
        kinds[row], hashes[row] = 0, 0
        at = decode_record(data, begin, end, rows[row])
        if at != end:
            return -1 - row
        tag = rows[row, TAG]
        if tag >= 0:
            kinds[row], hashes[row] = data[tag], little_endian_word(data, tag + 1)
    return at


@allocation_free
def decode_record(data: Bytes, at: int, end: int, row: RecordRow) -> int:
    """Fill the row of the record data[at:end]; returns where it ends, -1 where it is broken."""
    _, at = decode_varint(data, at, end)  # attributes, unused
    row[TIME], at = decode_varint(data, at, end)
    row[OFFSET], at = decode_varint(data, at, end)
    row[KEY], row[KEY_END], at = length_prefixed_field(data, at, end)
    row[VALUE], row[VALUE_END], at = length_prefixed_field(data, at, end)
    count, at = decode_varint(data, at, end)
    row[HEADERS], row[HEADER_COUNT], row[TAG] = at, count, -1
    if count < 0:
        return -1
    for _header in range(count):
        name, stop, at = length_prefixed_field(data, at, end)
        value, value_stop, at = length_prefixed_field(data, at, end)
        if at < 0 or stop < 0:
            return -1
        ours = stop - name == 2 and data[name] == _T and data[name + 1] == _W and value_stop - value == TAG_BYTES
        if ours and row[TAG] < 0:
            row[TAG] = value
    return at


@allocation_free
def little_endian_word(data: Bytes, at: int) -> np.uint64:
    """Eight bytes, little-endian."""
    value = np.uint64(0)
    for k in range(8):
        value |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return value

"""The bytes of the event log: one frame per appended chunk, checked as a whole.

All numbers are little-endian::

    offset  size  what
    0       4     magic `f5 54 57 31`; 0xf5 never occurs in UTF-8, so no JSON payload can look like a frame
    4       4     CRC-32 of everything that follows, header and payload
    8       8     offset of the first record
    16      4     number of records, at least 1
    20      4     bytes of payload that follow the header
    24      ...   one 21-byte entry per record: u32 length, u8 kind, u64 id_hash, i64 received_ms
    ...     ...   the records' bytes, in the same order

The entries stand together in front of the bodies, so that readers unpack them in one call and rebuild the duplicate
window from the hashes without touching a body.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..source import Record

FRAME_MAGIC = b"\xf5TW1"
FRAME_HEADER = struct.Struct("<4sIQII")
RECORD_ENTRY = struct.Struct("<IBQq")
MAX_CHUNK_BYTES = 32 * 1024 * 1024
"""Largest payload of one chunk; a larger length is taken for damage, so a reader never allocates more than this."""

_CHECKED = struct.Struct("<QII")
_CHECKED_FROM = FRAME_HEADER.size - _CHECKED.size
_ENTRIES = np.dtype([("length", "<u4"), ("kind", "u1"), ("id_hash", "<u8"), ("received_ms", "<i8")])


class ChunkHeader(NamedTuple):
    """Header of one chunk. Sizes in bytes."""

    crc: int
    base_offset: int
    record_count: int
    payload_bytes: int

    @property
    def next_offset(self) -> int:
        """Offset after the chunk's last record."""
        return self.base_offset + self.record_count

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return FRAME_HEADER.size + self.payload_bytes


def payload_bytes(records: Sequence[Record]) -> int:
    """Payload size of a chunk of *records*, in bytes."""
    return RECORD_ENTRY.size * len(records) + sum(len(record.payload) for record in records)


def encode_chunk(base_offset: int, records: Sequence[Record]) -> bytes:
    """Frame of at least one record.

    Raises:
        ValueError: no records, or more than MAX_CHUNK_BYTES of payload.
    """
    pack = RECORD_ENTRY.pack
    entries = [pack(len(payload), kind, id_hash, received_ms) for kind, id_hash, received_ms, payload, _ in records]
    payload = b"".join([*entries, *(record.payload for record in records)])
    if not records or len(payload) > MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk holds 1 record or more and at most {MAX_CHUNK_BYTES} bytes, not {len(payload)}")
    checked = _CHECKED.pack(base_offset, len(records), len(payload))
    crc = zlib.crc32(payload, zlib.crc32(checked))
    return b"".join((FRAME_MAGIC, crc.to_bytes(4, "little"), checked, payload))


def read_header(buffer: Any, position: int, base_offset: int | None = None) -> ChunkHeader | None:
    """Header at *position*, or None where no possible header of a chunk (that starts at *base_offset*) is.

    The check sum is not verified: see `intact`.
    """
    if len(buffer) - position < FRAME_HEADER.size:
        return None
    magic, *numbers = FRAME_HEADER.unpack_from(buffer, position)
    header = ChunkHeader(*numbers)
    plausible = (
        magic == FRAME_MAGIC and RECORD_ENTRY.size * header.record_count <= header.payload_bytes <= MAX_CHUNK_BYTES
    )
    if not plausible or not header.record_count or (base_offset is not None and header.base_offset != base_offset):
        return None
    return header


def is_intact(buffer: Any, position: int, header: ChunkHeader) -> bool:
    """True if the frame lies wholly in *buffer* and its checksum fits."""
    end = position + header.size
    if end > len(buffer):
        return False
    with memoryview(buffer) as view, view[position + _CHECKED_FROM : end] as checked:
        return zlib.crc32(checked) == header.crc


def _entries(buffer: Any, position: int, header: ChunkHeader) -> npt.NDArray[Any]:
    return np.frombuffer(buffer, _ENTRIES, header.record_count, position + FRAME_HEADER.size)


def id_hashes(buffer: Any, position: int, header: ChunkHeader) -> npt.NDArray[np.uint64]:
    """Copy of the id hashes of an intact chunk, shape (record_count,)."""
    return _entries(buffer, position, header)["id_hash"].astype(np.uint64)


def newest_ms(buffer: Any, position: int, header: ChunkHeader) -> int:
    """Largest `received_ms` of an intact chunk."""
    return int(_entries(buffer, position, header)["received_ms"].max())


def decode_records(buffer: bytes, position: int, header: ChunkHeader) -> list[Record]:
    """Records of an intact chunk."""
    start = position + FRAME_HEADER.size
    body = start + RECORD_ENTRY.size * header.record_count
    records: list[Record] = []
    add = records.append
    for length, kind, id_hash, received_ms in RECORD_ENTRY.iter_unpack(buffer[start:body]):
        end = body + length
        add(Record(kind, id_hash, received_ms, buffer[body:end]))
        body = end
    return records


def walk_chunks(buffer: Any, base_offset: int) -> Iterator[tuple[int, ChunkHeader]]:
    """Position and header of each intact chunk from the start of a segment on; stops before the first bad one."""
    position = 0
    while (header := read_header(buffer, position, base_offset)) is not None and is_intact(buffer, position, header):
        yield position, header
        position += header.size
        base_offset = header.next_offset


def find_intact_after(buffer: Any, position: int, base_offset: int) -> int:
    """Position of the first intact chunk behind *position* with a later offset than *base_offset*, or -1."""
    while (position := buffer.find(FRAME_MAGIC, position + 1)) >= 0:
        header = read_header(buffer, position)
        if header is not None and header.base_offset > base_offset and is_intact(buffer, position, header):
            return position
    return -1

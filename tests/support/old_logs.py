"""Event logs as 0.1 and 0.2 wrote them: folders of segment files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from trustwatch.ingest.log.segment_import import FRAME_MAGIC, RECORD_ENTRY
from trustwatch.ingest.source import Record

SYNCED = struct.Struct("=8sQ")


def encode_chunk(base: int, records: Sequence[Record]) -> bytes:
    entries = [RECORD_ENTRY.pack(len(one.payload), one.kind, one.id_hash, one.received_ms) for one in records]
    payload = b"".join([*entries, *(one.payload for one in records)])
    checked = struct.pack("<QII", base, len(records), len(payload)) + payload
    return FRAME_MAGIC + zlib.crc32(checked).to_bytes(4, "little") + checked


def segment_path(directory: Path, base: int) -> Path:
    return directory / f"{base:020d}.log"


def write_old_log(directory: Path, chunks: Sequence[Sequence[Record]], per_segment: int = 3, first: int = 0) -> int:
    """Write an old log that begins at offset *first*; returns the offset after its end."""
    directory.mkdir(parents=True, exist_ok=True)
    offset = first
    path = segment_path(directory, first)
    path.touch()
    for number, chunk in enumerate(chunks):
        if number % per_segment == 0:
            path = segment_path(directory, offset)
        with path.open("ab") as file:
            file.write(encode_chunk(offset, chunk))
        offset += len(chunk)
    write_synced(directory, offset)
    return offset


def write_synced(directory: Path, offset: int) -> None:
    """Write the file that says up to where records were acknowledged."""
    (directory / "synced").write_bytes(SYNCED.pack(b"TWSYNC1\n", offset))

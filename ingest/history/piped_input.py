"""A pipe whose beginning is looked at before somebody reads it."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from .record_files import HEAD_BYTES


def peek_line(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """Read a stream up to the end of its first line or 64 KiB; returns that, and the whole stream from its start."""
    head = b""
    while b"\n" not in head.lstrip() and len(head) < HEAD_BYTES:
        block = _read_now(stream, HEAD_BYTES)
        if not block:
            break
        head += block
    return head, io.BufferedReader(_HeadAndRest(head, stream), HEAD_BYTES)


def _read_now(stream: BinaryIO, size: int) -> bytes:
    """Read what is there now, at most *size* bytes; empty at the end."""
    read = getattr(stream, "read1", stream.read)
    block: bytes = read(size)
    return block


class _HeadAndRest(io.RawIOBase):
    """Bytes that were read already, then the stream, which stays open."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        super().__init__()
        self._head = head
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._head[: len(buffer)] or _read_now(self._stream, len(buffer))
        self._head = self._head[len(block) :]
        buffer[: len(block)] = block
        return len(block)

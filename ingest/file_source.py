"""Events from files: JSON lines, plain or gzip, as a `Source` that ends."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .errors import ConfigError
from .record_keys import raw_id_hash
from .source import Record, RecordBatch, RecordKind

BLOCK_BYTES = 256 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line means that the file is not JSON lines, and would only fill the memory."""

_GZIP = b"\x1f\x8b"

ByteProgress = Callable[[int], None]


class UnreadableFile(ConfigError):
    """A file named by the operator does not exist, may not be read, or is damaged gzip."""

    code = "unreadable_file"


class FileSource:
    """Implements `Source` over JSON-lines files in the order given, or over one binary stream such as standard input.

    Each line that is not blank is one EVENT record; offsets count them over all files. gzip is recognized by its first
    bytes, not by the name; a byte order mark is skipped. A stream is read as it comes: `poll` waits for its first line
    whatever the time-out says.
    """

    def __init__(self, inputs: Sequence[Path] | BinaryIO, progress: ByteProgress | None = None) -> None:
        self._progress = progress
        self._inputs = inputs
        self._blocks = self._read_blocks()
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._offset = 0
        self._failure: UnreadableFile | None = None

    @property
    def total_bytes(self) -> int:
        """Size of all files on disk; 0 for a stream."""
        try:
            return sum(path.stat().st_size for path in self._inputs) if isinstance(self._inputs, Sequence) else 0
        except OSError as error:
            raise UnreadableFile(f"{error.filename}: {error.strerror}") from error

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:  # noqa: ARG002 (files never wait)
        """Return the next records: of files *max_records* if there are as many, of a stream those that have arrived.

        Raises UnreadableFile.
        """
        base, lines = self.take_lines(max_records)
        if not lines:
            return None
        return RecordBatch(0, base, [Record(RecordKind.EVENT, raw_id_hash(line), 0, line) for line in lines])

    def take_lines(self, max_lines: int) -> tuple[int, list[bytes]]:
        """Return the offset of the next line and the next lines, for readers that make records of them.

        Raises UnreadableFile.
        """
        is_stream = not isinstance(self._inputs, Sequence)
        while len(self._lines) < max_lines and not (is_stream and self._lines) and self._fill():
            pass
        lines = [self._lines.popleft() for _ in range(min(max_lines, len(self._lines)))]
        base = self._offset
        self._offset += len(lines)
        return base, lines

    def close(self) -> None:
        """Close the files that this object opened."""
        self._blocks.close()
        self._lines.clear()

    def _fill(self) -> bool:
        """Split one more block into lines; return False at the end of the input."""
        if self._failure is not None:
            raise self._failure
        try:
            block = next(self._blocks, None)
            if block is None:
                return False
            *lines, self._rest = (self._rest + block).split(b"\n")
            if len(self._rest) > MAX_LINE_BYTES:
                raise UnreadableFile(f"a line has more than {MAX_LINE_BYTES} bytes: this is not JSON lines")
        except UnreadableFile as error:
            self._failure = error  # the generator has ended, which must not look like the end of the input
            raise
        self._lines.extend(line for line in map(bytes.strip, lines) if line)
        return True

    def _read_blocks(self) -> Generator[bytes, None, None]:
        if not isinstance(self._inputs, Sequence):
            yield from self._blocks_of(self._inputs, 0)
            return
        done = 0
        for path in self._inputs:
            try:
                with path.open("rb") as file:
                    yield from self._blocks_of(file, done)
                    done += file.tell()
            except (OSError, EOFError, zlib.error) as error:
                raise UnreadableFile(f"{path}: {getattr(error, 'strerror', None) or error}") from error

    def _blocks_of(self, file: BinaryIO, done: int) -> Iterator[bytes]:
        """Yield the unpacked blocks of one input and a final line end; report progress."""
        count = done

        def read(size: int) -> bytes:
            nonlocal count
            data = read_now(file, size)
            count += len(data)
            return data

        buffered = buffered_stream(read)
        try:
            packed = buffered.peek(2)[:2] == _GZIP
            plain = gzip.GzipFile(fileobj=buffered) if packed else buffered
            first = True
            while block := plain.read1(BLOCK_BYTES):
                if self._progress is not None:
                    self._progress(count)
                yield block.removeprefix(codecs.BOM_UTF8) if first else block
                first = False
            yield b"\n"
        finally:
            buffered.detach()


def read_now(stream: Any, size: int) -> bytes:
    """Read the available bytes, at most *size*; empty at the end."""
    data: bytes = getattr(stream, "read1", stream.read)(size)
    return data


class _ReadFunction(io.RawIOBase):
    """A raw stream of the bytes that a function returns."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        super().__init__()
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def buffered_stream(read: Callable[[int], bytes]) -> io.BufferedReader:
    """Return a stream of the bytes that *read* returns, which gets the largest size and returns b"" at the end."""
    return io.BufferedReader(_ReadFunction(read), BLOCK_BYTES)

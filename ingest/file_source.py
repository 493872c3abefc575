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

from .errors import ConfigError, CorruptLog
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

    def __init__(
        self, inputs: Sequence[Path] | BinaryIO, received_ms: int = 0, progress: ByteProgress | None = None
    ) -> None:
        self.received_ms = received_ms
        self._progress = progress
        self._inputs = inputs
        self._stream = not isinstance(inputs, Sequence)
        self._blocks = self._read_blocks()
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._offset = 0
        self._end: int | None = None
        self._failure: UnreadableFile | None = None
        self.exhausted = False
        """True once the last line was handed out; None from `poll` then means the end, not a pause."""

    @property
    def total_bytes(self) -> int:
        """Size of all files on disk; 0 for a stream."""
        try:
            return sum(path.stat().st_size for path in self._paths())
        except OSError as error:
            raise UnreadableFile(f"{error.filename}: {error.strerror}") from error

    def _paths(self) -> Sequence[Path]:
        return self._inputs if isinstance(self._inputs, Sequence) else ()

    def seek(self, partition: int, offset: int) -> None:
        """Continue at *offset*; going back reads files again from their start. Raises CorruptLog."""
        _require_partition_zero(partition)
        if offset < self._offset:
            if self._stream:
                raise CorruptLog(f"a stream cannot go back from record {self._offset} to {offset}")
            self._restart()
        while self._offset < offset:
            if not self._fill():
                raise CorruptLog(f"offset {offset} is behind the end of the input, {self._offset}")
            for _ in range(min(len(self._lines), offset - self._offset)):
                self._lines.popleft()
                self._offset += 1

    def _restart(self) -> None:
        self._blocks.close()
        self._blocks = self._read_blocks()
        self._lines.clear()
        self._rest, self._offset, self.exhausted, self._failure = b"", 0, False, None

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:  # noqa: ARG002 (files never wait)
        """The next records; of files always *max_records* while there are as many, of a stream what has come.

        Raises UnreadableFile.
        """
        base, lines = self.take_lines(max_records)
        if not lines:
            return None
        return RecordBatch(
            0, base, [Record(RecordKind.EVENT, raw_id_hash(line), self.received_ms, line) for line in lines]
        )

    def take_lines(self, max_lines: int) -> tuple[int, list[bytes]]:
        """Poll for a reader that makes the records itself: the offset of the first line, and the lines.

        Raises UnreadableFile.
        """
        while len(self._lines) < max_lines and not (self._stream and self._lines) and self._fill_more():
            pass
        lines = [self._lines.popleft() for _ in range(min(max_lines, len(self._lines)))]
        self.exhausted = not lines
        base = self._offset
        self._offset += len(lines)
        return base, lines

    def end_offset(self, partition: int) -> int:
        """Number of records in all files (reads them once to count); of a stream, records returned so far."""
        _require_partition_zero(partition)
        if self._stream:
            return self._offset
        if self._end is None:
            counter = FileSource(self._paths())
            while counter._fill():
                counter._offset += len(counter._lines)
                counter._lines.clear()
            self._end = counter._offset
        return self._end

    def close(self) -> None:
        """Close the files that this object opened."""
        self._blocks.close()
        self._lines.clear()

    def _fill(self) -> bool:
        """Have at least one line ready; False at the end of the input."""
        while not self._lines:
            if not self._fill_more():
                return False
        return True

    def _fill_more(self) -> bool:
        """Take one more block apart into lines; False at the end of the input."""
        if self._failure is not None:
            raise self._failure
        try:
            block = next(self._blocks, None)
        except UnreadableFile as error:
            self._failure = error  # the generator is spent; its end must not look like the end of the input
            raise
        if block is None:
            return False
        *lines, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self._failure = UnreadableFile(f"a line has more than {MAX_LINE_BYTES} bytes: this is not JSON lines")
            raise self._failure
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
        """Blocks of one input, unpacked, with a line end behind the last; reports progress."""
        reader = _CountingReader(file, done)
        buffered = io.BufferedReader(reader, BLOCK_BYTES)
        try:
            packed = buffered.peek(2)[:2] == _GZIP
            plain = gzip.GzipFile(fileobj=buffered) if packed else buffered
            first = True
            while block := plain.read1(BLOCK_BYTES):
                if self._progress is not None:
                    self._progress(reader.count)
                yield block.removeprefix(codecs.BOM_UTF8) if first else block
                first = False
            yield b"\n"
        finally:
            buffered.detach()


class _CountingReader(io.RawIOBase):
    """Reads the available bytes, and counts them. Does not own the stream below."""

    def __init__(self, stream: BinaryIO, count: int) -> None:
        super().__init__()
        self._stream = stream
        self.count = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read1 = getattr(self._stream, "read1", self._stream.read)
        data = read1(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


def _require_partition_zero(partition: int) -> None:
    if partition != 0:
        raise ValueError(f"files have partition 0 only, not {partition}")

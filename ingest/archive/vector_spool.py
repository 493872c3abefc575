"""Spool of scored batches for the vector archive: raw frames in files that another process turns into Parquet.

A frame is what one batch of events was scored to, as columns. Writing one is a copy into the page cache: no fsync, no
compression, no word decoded. What a kill leaves half written at the end of a file is dropped by the reader, and so is
what a power loss leaves damaged (checksums).

A spool is a folder of one writer. It is bounded: frames that find no room are dropped and counted.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

OPEN_SUFFIX, CLOSED_SUFFIX = ".open", ".frames"
_FRAME_STRUCT = struct.Struct("<4sIQI")  # magic, bytes of the description, bytes of the columns, checksum of both
_FRAME_MAGIC = b"TWV1"
_MAX_FRAME_BYTES = 1 << 32


class VectorFrame(NamedTuple):
    """Events of one partition that were scored together, n of them."""

    partition: int  # of the log
    model_version: str  # of the model that scored them
    features: Sequence[str]  # names of the columns of *vectors*
    offsets: npt.NDArray[np.int64]  # int64 (n,), places in the log
    vectors: npt.NDArray[np.float32]  # float32 (n, F)
    anomaly: npt.NDArray[np.float64]  # anomaly, p_values, risk: float64 (n,)
    p_values: npt.NDArray[np.float64]
    risk: npt.NDArray[np.float64]
    levels: npt.NDArray[np.int8]  # int8 (n,), of the agent after the event
    payloads: Sequence[bytes]  # N events as they were logged, JSON


class _VectorFrameHeader(msgspec.Struct, array_like=True):
    partition: int
    model_version: str
    features: Sequence[str]
    rows: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_VectorFrameHeader).decode


def encode_frame(frame: VectorFrame) -> bytes:
    """A frame as bytes."""
    header = _encode(_VectorFrameHeader(frame.partition, frame.model_version, frame.features, len(frame.offsets)))
    lengths = np.fromiter(map(len, frame.payloads), np.int64, len(frame.payloads))
    numbers = (frame.offsets, lengths, frame.anomaly, frame.p_values, frame.risk, frame.vectors, frame.levels)
    body = b"".join([header, *(np.ascontiguousarray(column).tobytes() for column in numbers), *frame.payloads])
    return _FRAME_STRUCT.pack(_FRAME_MAGIC, len(header), len(body) - len(header), _checksum(body)) + body


def read_frames(path: Path) -> Iterator[VectorFrame]:
    """Yields the frames of one file, up to its end or the first damaged frame."""
    with path.open("rb") as file:
        while len(head := file.read(_FRAME_STRUCT.size)) == _FRAME_STRUCT.size:
            magic, header_size, size, checksum = _FRAME_STRUCT.unpack(head)
            if magic != _FRAME_MAGIC or header_size + size >= _MAX_FRAME_BYTES:
                return
            body = file.read(header_size + size)
            if len(body) != header_size + size or _checksum(body) != checksum:
                return
            yield _decode_frame(body, header_size)


def _decode_frame(body: bytes, at: int) -> VectorFrame:
    header = _decode(body[:at])
    rows, columns = header.rows, len(header.features)

    def take(kind: Any, count: int) -> npt.NDArray[Any]:
        nonlocal at
        values = np.frombuffer(body, kind, count, at)
        at += values.nbytes
        return values

    offsets, lengths = take(np.int64, rows), take(np.int64, rows)
    anomaly, p_values, risk = (take(np.float64, rows) for _ in range(3))
    vectors = take(np.float32, rows * columns).reshape(rows, columns)
    levels = take(np.int8, rows)
    ends = (at + np.cumsum(lengths.astype(np.int64))).tolist()
    payloads = [body[start:end] for start, end in zip([at, *ends[:-1]], ends, strict=True)] if rows else []
    return VectorFrame(
        header.partition,
        header.model_version,
        header.features,
        offsets,
        vectors,
        anomaly,
        p_values,
        risk,
        levels,
        payloads,
    )


def _checksum(body: bytes) -> int:
    from crc32c import crc32c  # part of the extra `archive`: the pipeline uses frames even if none are kept

    return crc32c(body)


class VectorSpoolWriter:
    """The writing side; one process has it."""

    def __init__(
        self,
        directory: Path,
        most_bytes: int,
        monotonic: Callable[[], float],
        roll_bytes: int = 64 << 20,
        roll_s: float = 60.0,
    ) -> None:
        self.directory = directory
        self.dropped_events = 0
        """Events whose frames found no room, or that the disk refused."""
        self._most = most_bytes
        self._monotonic = monotonic
        self._roll_bytes, self._roll_s = min(roll_bytes, max(most_bytes // 4, 1)), roll_s
        directory.mkdir(parents=True, exist_ok=True)
        self._file: int | None = None
        self._size = 0
        self._waiting = 0
        self._since = 0.0
        numbers = [int(path.stem) for path in directory.iterdir() if path.suffix in (OPEN_SUFFIX, CLOSED_SUFFIX)]
        self._number = max(numbers, default=0)
        for path in directory.glob(f"*{OPEN_SUFFIX}"):
            _hand_over(path)

    def append(self, parts: Sequence[bytes], events: int) -> None:
        """Write packed frames that hold so many events. Never raises for what the disk refuses: it is counted."""
        size = sum(map(len, parts))
        try:
            file = self._opened()
        except OSError:
            self.dropped_events += events
            return
        if self._waiting + self._size + size > self._most:
            self.dropped_events += events
            return
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(file, view) :]
        except OSError:
            os.ftruncate(file, self._size)  # half a frame would hide those behind it
            self.dropped_events += events
        else:
            self._size += size

    def _opened(self) -> int:
        if self._file is None:
            self._number += 1
            path = self.directory / f"{self._number:012d}{OPEN_SUFFIX}"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._size, self._since = 0, self._monotonic()
            self._waiting = waiting_spool_bytes(self.directory)
        return self._file

    def roll_if_due(self) -> None:
        """Close the file for the archiver if it is large or old enough."""
        if self._file is not None and (
            self._size >= self._roll_bytes or self._monotonic() - self._since >= self._roll_s
        ):
            self.roll()

    def roll(self) -> None:
        """Close the file for the archiver."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            _hand_over(self.directory / f"{self._number:012d}{OPEN_SUFFIX}")

    close = roll


def _hand_over(path: Path) -> None:
    try:
        if path.stat().st_size:
            path.rename(path.with_suffix(CLOSED_SUFFIX))
        else:
            path.unlink()
    except FileNotFoundError:  # a later writer has handed it on: we are the one that was given up
        return


def closed_spool_files(directory: Path) -> list[Path]:
    """Files that are closed for writing, oldest first."""
    return sorted(directory.glob(f"*{CLOSED_SUFFIX}"))


def waiting_spool_bytes(directory: Path) -> int:
    """Bytes of the closed files that are not archived yet."""
    total = 0
    for path in closed_spool_files(directory):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # done meanwhile
            continue
    return total

"""Events in the order of their times, however many there are: sorted runs on disk, merged.

Deliveries in batches shuffle events: files of a trail are sorted by region, buffers of a collector overlap. Order is
evidence, so histories are sorted before they are read.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import IO

import msgspec

from ..source import Record, RecordKind
from ..timestamps import EPOCH

RUN_BYTES = 64 * 1024 * 1024
"""Bytes of events that are sorted in memory at once."""

MAX_RUNS = 64
"""Runs, each an open file, that are merged into one before there are more."""

TimeReader = Callable[[bytes], int | None]
"""Gives the microseconds since 1970 of a line; None if it names no time."""


class _Time(msgspec.Struct):
    time: datetime


_decode_time = msgspec.json.Decoder(_Time).decode


def native_microseconds(line: bytes) -> int | None:
    """Time of a native event; one without an offset counts as UTC, since its reader refuses it in any case."""
    try:
        at = _decode_time(line).time
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return ((at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)


class Disorder:
    """Counts events that follow later ones."""

    def __init__(self, read_time: TimeReader = native_microseconds) -> None:
        self._read_time = read_time
        self._latest: int | None = None
        self._before = 0
        self.lines = 0
        self.late = 0
        self.longest_us = 0
        """Longest delay of one of them, microseconds."""

    def place(self, line: bytes) -> int:
        """Time of one more line, in microseconds since 1970."""
        at = self._read_time(line)
        self._before = self._before if at is None else at
        self.lines += 1
        latest = self._before if self._latest is None else self._latest
        if self._before < latest:
            self.late += 1
            self.longest_us = max(self.longest_us, latest - self._before)
        self._latest = max(latest, self._before)
        return self._before

    def describe(self) -> str:
        """The count as text."""
        longest = timedelta(seconds=-(-self.longest_us // 1_000_000))
        return f"{self.late:,} of {self.lines:,} events are out of order, by up to {longest}"


def in_time_order(
    events: Iterable[bytes], run_bytes: int = RUN_BYTES, disorder: Disorder | None = None
) -> Iterator[bytes]:
    """Yield events, one a line, by time; those of one time in the order in which they came."""
    with ExitStack() as stack:
        runs: list[IO[bytes]] = []
        waiting: list[tuple[int, bytes]] = []
        size = 0
        disorder = disorder or Disorder()
        for event in events:
            waiting.append((disorder.place(event), event))
            size += len(event)
            if size >= run_bytes:
                runs.append(_write_run(stack, sorted(waiting, key=_time_of)))
                waiting, size = [], 0
            if len(runs) == MAX_RUNS:
                merged = _write_run(stack, heapq.merge(*map(_read_run, runs), key=_time_of))
                for run in runs:
                    run.close()
                runs = [merged]
        waiting.sort(key=_time_of)
        for _, event in heapq.merge(*map(_read_run, runs), waiting, key=_time_of):
            yield event


def _time_of(timed: tuple[int, bytes]) -> int:
    return timed[0]


def record_time_order(records: Sequence[Record]) -> list[Record]:
    """Sort the records of one delivery by the times of their events; those of one time stay in their order.

    A record that is not an event stays behind the record that it followed.
    """
    disorder = Disorder()
    times = [disorder.place(record.payload if record.kind == RecordKind.EVENT else b"") for record in records]
    if not disorder.late:
        return list(records)
    return [records[at] for at in sorted(range(len(records)), key=times.__getitem__)]


def _write_run(stack: ExitStack, events: Iterable[tuple[int, bytes]]) -> IO[bytes]:
    run = stack.enter_context(tempfile.TemporaryFile(prefix="trustwatch-history-"))  # noqa: SIM115 (the stack closes it)
    run.writelines(b"%d %s\n" % timed for timed in events)
    run.seek(0)
    return run


def _read_run(run: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    for line in run:
        at, _, event = line.rstrip(b"\n").partition(b" ")
        yield int(at), event

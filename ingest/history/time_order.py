"""Events in the order of their times, however many there are: sorted runs on disk, merged."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import IO

import msgspec

RUN_BYTES = 64 * 1024 * 1024
"""Bytes of events that are sorted in memory at once."""


class _Time(msgspec.Struct):
    time: datetime


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_decode_time = msgspec.json.Decoder(_Time).decode


def in_time_order(events: Iterable[bytes], run_bytes: int = RUN_BYTES) -> Iterator[bytes]:
    """Native events, one a line, by time; those of one time in the order in which they came."""
    with ExitStack() as stack:
        runs: list[IO[bytes]] = []
        waiting: list[tuple[int, bytes]] = []
        size = 0
        for event in events:
            waiting.append((_microseconds(event), event))
            size += len(event)
            if size >= run_bytes:
                runs.append(_write_run(stack, waiting))
                waiting, size = [], 0
        waiting.sort(key=lambda timed: timed[0])
        for _, event in heapq.merge(*map(_read_run, runs), waiting, key=lambda timed: timed[0]):
            yield event


def _microseconds(event: bytes) -> int:
    return (_decode_time(event).time - _EPOCH) // timedelta(microseconds=1)


def _write_run(stack: ExitStack, events: list[tuple[int, bytes]]) -> IO[bytes]:
    run = stack.enter_context(tempfile.TemporaryFile(prefix="trustwatch-history-"))  # noqa: SIM115 (the stack closes it)
    events.sort(key=lambda timed: timed[0])
    run.writelines(b"%d %s\n" % timed for timed in events)
    run.seek(0)
    return run


def _read_run(run: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    for line in run:
        at, _, event = line.rstrip(b"\n").partition(b" ")
        yield int(at), event

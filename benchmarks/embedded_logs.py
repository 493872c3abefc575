"""Appends to the embedded event log, while another process reads: records per second, latency.

Every turn writes the same records into an empty folder: first some that are not measured, so that SQLite's WAL has its
size and is written over, then the calls of a cell.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import random
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from trustwatch.ingest.durable_files import sync_directory
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.source import Record, RecordKind

from .events import raw_events

POLL_RECORDS = 2048
NOW_MS = 1_780_000_000_000
READER_TIMEOUT_S = 60.0


class Cell(NamedTuple):
    """Callers that append at the same time, records of each call, and calls of all of them together."""

    callers: int
    records: int
    calls: int


CELLS = (Cell(1, 1, 5_000), Cell(16, 1, 40_000), Cell(1, 100, 3_000), Cell(16, 100, 4_800))


class Turn(NamedTuple):
    """What one turn measured.

    Attributes:
        per_s: records per second.
        p50_ms: of an append, until it is durable.
        p99_ms: the same.
        write_us: processor time of the writing process per record.
        written: bytes that the writing process gave the disk, per record.
        kept: bytes of the closed log, per record.
        follow_us: processor time of the reading process per record while it followed.
        read_per_s: records per second that it reads from the beginning, when nobody writes.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    write_us: float
    written: float
    kept: float
    follow_us: float
    read_per_s: float


def make_records(count: int) -> list[Record]:
    """Events of the simulator with random ids."""
    numbers = random.Random(1)
    return [
        Record(RecordKind.EVENT, numbers.getrandbits(64), NOW_MS + number, raw)
        for number, raw in enumerate(raw_events(count, 10_000, 2000.0))
    ]


def measure_logs(folder: Path, records: list[Record], cells: Sequence[Cell], rounds: int, warm: int) -> dict[str, Any]:
    """Medians of turns by cell; *warm* records go before each turn."""
    gc.collect()
    gc.freeze()
    turns: dict[Cell, list[Turn]] = {cell: [] for cell in cells}
    for _ in range(rounds):
        for cell in cells:
            turns[cell].append(take_turn(folder / "turn", records, cell, warm))
    return {
        f"{cell.callers} x {cell.records}": Turn(*map(statistics.median, zip(*taken, strict=True)))._asdict()
        for cell, taken in turns.items()
    }


def take_turn(folder: Path, records: list[Record], cell: Cell, warm: int) -> Turn:
    """Write one log beside a reader, which then reads it again; nothing is left of it."""
    log = EventLog(folder)
    measured = cell.calls * cell.records
    total = warm + measured
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=follow, args=(folder, warm, total, there))
    process.start()
    there.close()
    try:
        received(here)
        seconds, latencies, cpu, written = asyncio.run(append(log, records, cell, warm, lambda: received(here)))
        follow_s, read_s = received(here)
    finally:
        here.close()
        process.join()
        log.close()
    p50, p99 = (1e3 * sorted(latencies)[len(latencies) * share // 100] for share in (50, 99))
    rates = measured / seconds, p50, p99, 1e6 * cpu / measured, written / measured
    return Turn(*rates, removed(folder) / total, 1e6 * follow_s / measured, total / read_s)


def removed(folder: Path) -> int:
    """Bytes on disk of a folder that is gone afterwards; its removal is on disk before the next turn begins."""
    size = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    shutil.rmtree(folder)
    sync_directory(folder.parent)
    return size


async def append(
    log: Any, records: list[Record], cell: Cell, warm: int, wait_for_reader: Callable[[], object]
) -> tuple[float, list[float], float, int]:
    """Seconds of all calls and of each, and this process's processor seconds and bytes written to disk."""
    commit = GroupCommit(log)
    for start in range(0, warm, 1000):
        await commit.commit([records[number % len(records)] for number in range(start, min(warm, start + 1000))])
    wait_for_reader()
    latencies: list[float] = []
    starts = range(0, len(records) - cell.records + 1, cell.records)
    calls = iter([records[at : at + cell.records] for at in islice(cycle(starts), cell.calls)])

    async def call_on() -> None:
        for call in calls:  # one iterator for all callers
            start = time.perf_counter()
            await commit.commit(call)
            latencies.append(time.perf_counter() - start)

    begun, busy, before = time.perf_counter(), time.process_time(), bytes_written()
    await asyncio.gather(*(call_on() for _ in range(cell.callers)))
    seconds, cpu, written = time.perf_counter() - begun, time.process_time() - busy, bytes_written() - before
    await commit.close()
    return seconds, latencies, cpu, written


def bytes_written() -> int:
    """Bytes that this process has caused to be written to disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split(": ")[1]) for line in lines if line.startswith("write_bytes"))


def follow(folder: Path, warm: int, total: int, to: Connection) -> None:
    """Process that reads while the other writes, and then everything once more; says how long both took it."""
    with LogReader(folder) as reader:
        to.send("open")
        read_until(reader, 0, warm)
        to.send("warm")
        cpu = time.process_time()
        read_until(reader, warm, total)
        cpu = time.process_time() - cpu
        reader.seek(0, 0)
        start = time.perf_counter()
        read_until(reader, 0, total)
        to.send((cpu, time.perf_counter() - start))


def read_until(reader: Any, offset: int, end: int) -> None:
    """Read on from *offset* until record *end* comes next; every record has to come, once and in order."""
    deadline = time.monotonic() + READER_TIMEOUT_S
    while offset < end:
        batch = reader.poll(POLL_RECORDS, 1.0)
        if batch is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"no record {offset} within {READER_TIMEOUT_S:g} s")
            continue
        if batch.base_offset != offset or not batch.records:
            raise SystemExit(f"{len(batch.records)} records at {batch.base_offset} instead of {offset}")
        offset = batch.next_offset
        deadline = time.monotonic() + READER_TIMEOUT_S


def file_system(folder: Path) -> str:
    """Kind of the file system that holds *folder*."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(inside, key=lambda mount: len(mount[1]))[2]


def received(connection: Connection) -> Any:
    """What the reader says."""
    if not connection.poll(READER_TIMEOUT_S * 2):
        raise SystemExit("the reader does not answer")
    return connection.recv()

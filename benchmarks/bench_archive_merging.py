"""Merges small archive files with our merging and with `pyarrow.dataset`: CPU, memory, order of the rows.

Each way works on a copy of the same files in a process of its own: memory is the highest resident set of that process
above what it had before it began, with everything imported. Linux tells it (`VmHWM`). `ru_maxrss` would be wrong: a
process begins with that of the one that started it, which has made the files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from trustwatch.ingest.archive.archive_files import event_folder, file_name
from trustwatch.ingest.archive.event_archive import EventToArchive, event_table
from trustwatch.ingest.archive.file_merging import MERGED_GROUP_ROWS, merge_small_files
from trustwatch.ingest.events import decode_event

from .events import timed_events
from .harness import finish, machine, options, table

FILES, ROUNDS = 16, 3
START_MS, BEFORE = 1_764_547_200_000, date(2026, 1, 1)
GROUPS = {"min_rows_per_group": MERGED_GROUP_ROWS, "max_rows_per_group": MERGED_GROUP_ROWS}
FRUGAL = {"batch_size": 4_096, "batch_readahead": 0, "fragment_readahead": 0, "use_threads": False}


class Merged(NamedTuple):
    """What one process took: seconds of CPU, MB above its start, whether offsets ascend, rows."""

    cpu_s: float
    memory_mb: float
    in_order: bool
    rows: int


def write_input(directory: Path, rows_per_file: int) -> int:
    """Small files of one date and tenant, as the archive names them; returns their bytes."""
    folder = directory / event_folder(START_MS, "acme")
    folder.mkdir(parents=True)
    events = timed_events(500, 4_000.0, full=True)
    for first in range(0, FILES * rows_per_file, rows_per_file):
        end = first + rows_per_file
        rows = []
        for offset, (raw, at_ms) in zip(range(first, end), events, strict=False):
            rows.append(EventToArchive(offset, at_ms, decode_event(raw), raw))
        if len(rows) < rows_per_file:
            raise RuntimeError(f"the simulation ended at {first + len(rows)} events")
        pq.write_table(event_table(rows), folder / file_name("events", None, first, end), compression="zstd")
    return sum(path.stat().st_size for path in folder.iterdir())


def merge_ours(directory: Path, _: Sequence[Path]) -> None:
    """`merge_small_files`, to one file."""
    for _merged in merge_small_files(directory, "events", BEFORE, target_bytes=1 << 30):
        pass


def merge_by_default(directory: Path, files: Sequence[Path]) -> None:
    """`write_dataset` as it comes."""
    _write(ds.dataset(files, format="parquet"), directory)


def merge_in_order(directory: Path, files: Sequence[Path]) -> None:
    """Rows in order, and row groups as large as ours."""
    _write(ds.dataset(files, format="parquet"), directory, preserve_order=True, **GROUPS)


def merge_frugally(directory: Path, files: Sequence[Path]) -> None:
    """One thread, nothing read ahead, through a small buffer."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    scan = ds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
    dataset = ds.dataset(files, format=ds.ParquetFileFormat(default_fragment_scan_options=scan))
    _write(dataset.scanner(**FRUGAL), directory, preserve_order=True, use_threads=False, **GROUPS)


def _write(data: Any, directory: Path, **more: Any) -> None:
    compressed = ds.ParquetFileFormat().make_write_options(compression="zstd")
    ds.write_dataset(data, directory / "merged", format="parquet", file_options=compressed, **more)


WAYS: dict[str, Callable[[Path, Sequence[Path]], None]] = {
    "ours": merge_ours,
    "`write_dataset`": merge_by_default,
    "the same, in order": merge_in_order,
    "the same, one thread, nothing read ahead": merge_frugally,
}


def measure_here(way: str, directory: Path) -> Merged:
    """Merge in this process."""
    files = sorted(directory.rglob("*.parquet"))
    Path("/proc/self/clear_refs").write_text("5")  # the highest is that of now
    resident, began = _highest_resident_mb(), time.process_time()
    WAYS[way](directory, files)
    cpu, memory = time.process_time() - began, _highest_resident_mb() - resident
    merged = directory / "merged"
    results = sorted((merged if merged.is_dir() else directory).rglob("*.parquet"))
    offsets = [offset for path in results for offset in pq.ParquetFile(path).read(["offset"])["offset"].to_pylist()]
    return Merged(cpu, memory, offsets == sorted(offsets), len(offsets))


def _highest_resident_mb() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def measure(way: str, files: Path) -> Merged:
    """Merge a copy of *files* in a process of its own."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(files, copy, dirs_exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.bench_archive_merging", "--way", way, copy]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Merged(*json.loads(done.stdout))


def main() -> None:
    """Print a table of the ways."""
    parser = options(__doc__ or "")
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure_here(given.way[0], Path(given.way[1]))))
        return
    rows_per_file, rounds = (1_000, 1) if given.quick else (20_000, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        size = write_input(Path(folder), rows_per_file)
        turns: dict[str, list[Merged]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, taken in turns.items():
                taken.append(measure(way, Path(folder)))
    if any(merged.rows != FILES * rows_per_file for taken in turns.values() for merged in taken):
        raise SystemExit("rows are missing")
    figures = {way: _summary(taken) for way, taken in turns.items()}
    title = f"{FILES} files of {rows_per_file:,} rows, {size / 2**20:.0f} MB, to one file"
    rows = [(way, *summary.values()) for way, summary in figures.items()]
    table(title, ("way", "CPU s", "memory MB", "rows in order"), rows)
    finish(machine("pyarrow"), figures, given.json)


def _summary(taken: Sequence[Merged]) -> dict[str, Any]:
    return {
        "cpu_s": statistics.median(merged.cpu_s for merged in taken),
        "memory_mb": statistics.median(merged.memory_mb for merged in taken),
        "in_order": "yes" if all(merged.in_order for merged in taken) else "no",
    }


if __name__ == "__main__":
    main()

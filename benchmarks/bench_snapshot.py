"""Writes the state of many agents to disk and reads it back: seconds, with checksums and fsync."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from trustwatch.ingest.features.layout import BYTES_PER_AGENT, ROW
from trustwatch.ingest.features.snapshot import load_snapshot, save_snapshot

from benchmarks.harness import arguments, finish, machine, table


def state(agents: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and rows of *agents*, filled with noise, which no file system can compress away."""
    rng = np.random.default_rng(1)
    rows = np.empty(agents, ROW)
    view = rows.view(np.uint8).reshape(agents, -1)
    for start in range(0, agents, 1 << 16):
        view[start : start + (1 << 16)] = rng.integers(0, 256, view[start : start + (1 << 16)].shape, np.uint8)
    return rng.integers(1, 1 << 63, agents, np.uint64), rows


def measure(agents: int, rounds: int) -> dict[str, float]:
    """Median seconds to write and to read; what is read is compared once."""
    keys, rows = state(agents)
    wrote, read = [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for turn in range(rounds):
            path = Path(folder) / f"snapshot-{turn}"
            start = time.perf_counter()
            save_snapshot(path, keys, rows)
            middle = time.perf_counter()
            found = load_snapshot(path)
            read.append(time.perf_counter() - middle)
            wrote.append(middle - start)
            if turn == 0 and found.rows.view(np.uint8).data != rows.view(np.uint8).data:
                raise SystemExit("the snapshot read is not the one written")
            for file in path.iterdir():
                file.unlink()
    megabytes = agents * (BYTES_PER_AGENT + 8) / 1e6
    return {
        "agents": agents,
        "megabytes": megabytes,
        "write_s": float(np.median(wrote)),
        "read_s": float(np.median(read)),
    }


def main() -> int:
    """Print the table; returns the exit status."""
    options = arguments("snapshot benchmark")
    figures = measure(20_000, 2) if options.quick else measure(1_000_000, 3)
    table("Snapshot", ("agents", "MB", "write s", "read s"), [tuple(figures.values())])
    finish(machine("numpy"), {"snapshot": figures}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

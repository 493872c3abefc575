"""Back-test of a million simulated events against plain replay of the same file: whole commands, wall clock and CPU.

Both start as processes of their own, read the same JSON lines and the same model. `replay` writes a line per event; the
back-test counts, tries seven budgets and judges every request. Target: with one process per core (two on the machine of
docs/performance.md) it takes at most 0.6 of the time of plain replay. Exit status 1 if missed; `--quick` only
reports.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from .events import timed_events
from .harness import finish, machine, options, table

TARGET = 0.6
AGENTS, PER_AGENT_DAY = 3_000, 2000.0


def command(*arguments: object) -> dict[str, Any]:
    """Run a command of ours; its JSON, seconds of wall clock and of CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "trustwatch", *map(str, arguments), "--json"], check=True, capture_output=True
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "told": json.loads(done.stdout)}


def prepare(folder: Path, history: int, live: int) -> tuple[Path, Path]:
    """A model, and events that follow its history."""
    events = timed_events(AGENTS, PER_AGENT_DAY, True)
    past, day, model = folder / "past.jsonl", folder / "day.jsonl", folder / "model"
    for path, number in ((past, history), (day, live)):
        with path.open("wb") as file:
            file.writelines(raw + b"\n" for raw, _ in islice(events, number))
    command("train", past, "--model", model)
    return day, model


def main() -> int:
    """Print the table; returns the exit status."""
    parser = options("back-test benchmark")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    history, live, rounds = (20_000, 20_000, 1) if given.quick else (90_000, 1_000_000, 2)
    with tempfile.TemporaryDirectory(prefix="bench-backtest-") as name:
        folder = Path(name)
        day, model = prepare(folder, history, live)
        ways = {
            "replay": ("replay", day, "--model", model, "--out", folder / "scores.jsonl"),
            "backtest, 1 process": ("backtest", day, "--model", model, "--jobs", 1),
            f"backtest, {given.jobs} processes": ("backtest", day, "--model", model, "--jobs", given.jobs),
        }
        best: dict[str, dict[str, Any]] = {}
        for _ in range(rounds):  # in turns; the best of each, since other work only ever adds time
            for way, arguments in ways.items():
                took = command(*arguments)
                if way not in best or took["wall"] < best[way]["wall"]:
                    best[way] = took
    sides = [took["told"]["sides"] for way, took in best.items() if way != "replay"]
    assert all(side == sides[0] for side in sides), "one process and several disagree"
    plain = best["replay"]
    rows = [
        (way, took["wall"], live / took["wall"], took["cpu"], took["wall"] / plain["wall"], took["cpu"] / plain["cpu"])
        for way, took in best.items()
    ]
    heads = ("command", "seconds", "events/s", "CPU seconds", "time against replay", "CPU against replay")
    table(f"{live:,} events of {AGENTS:,} agents, {os.getloadavg()[0]:.1f} load", heads, rows)
    finish(
        machine("numpy", "numba", "msgspec"),
        {way: {"wall": t["wall"], "cpu": t["cpu"]} for way, t in best.items()},
        given.json,
    )
    ratio = rows[-1][4]
    print(f"target: {TARGET:g} of the time of replay: {'missed' if ratio > TARGET else 'met'}")
    return 1 if ratio > TARGET and not given.quick else 0


if __name__ == "__main__":
    sys.exit(main())

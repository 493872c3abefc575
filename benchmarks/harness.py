"""Times alternatives fairly: interleaved in one run, so that a machine whose clock drifts slows all of them alike.

Benchmarks are run from the root of the repository: `python -m benchmarks.bench_scoring [--quick] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def arguments(description: str) -> argparse.Namespace:
    """The command line of a benchmark without options of its own."""
    return options(description).parse_args()


def options(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has: `quick` (bool) and `json` (Path or None)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return parser


def interleaved(
    alternatives: Mapping[str, Callable[[], object]], *, rounds: int, calls: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Median seconds per call of each alternative.

    Args:
        alternatives: name to a call without arguments; each is called once before, unmeasured.
        rounds: how often all of them take their turn.
        calls: calls per turn, by name (default 1): enough that a turn is long against the clock's resolution.
    """
    for call in alternatives.values():
        call()
    turns: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, call in alternatives.items():
            turns[name].append(_turn(call, (calls or {}).get(name, 1)))
    return {name: statistics.median(seconds) for name, seconds in turns.items()}


def _turn(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def machine(*packages: str) -> dict[str, str]:
    """Facts that a figure is worth nothing without: processor, cores, Python, versions of *packages*."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print a Markdown table, ready for docs/performance.md."""
    print(f"\n**{title}**\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(value) for value in row) + " |")
    sys.stdout.flush()


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def finish(facts: Mapping[str, str], figures: Mapping[str, Any], to: Path | None) -> None:
    """Print the machine's facts, and write everything as JSON if asked to."""
    print("\n" + " · ".join(f"{name} {value}" for name, value in facts.items()))
    if to is not None:
        to.write_text(json.dumps({"machine": dict(facts), "figures": dict(figures)}, indent=1) + "\n")

"""Features: the compiled kernel against the same features in plain dicts, at 1,000,000 agents, in time and memory.

Each side lives in a process of its own, so that its memory is its own, and the two take turns on the same events. Both
start from the same shared baselines, build every agent with two events, and are then timed on further events, each
measured and then learned. The sums of all features must agree. Targets: 15 times faster, at most half the memory.
Exit status 1 if one is missed; `--quick` only reports.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from trustwatch.ingest.columns import ColumnEncoder, EventColumns
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.features.baseline import empty_baseline, fit_baseline
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.layout import BYTES_PER_AGENT

from .harness import arguments, finish, machine, table
from .reference_features import ReferenceFeatures, fit

SPEED, MEMORY = 15.0, 0.5
BATCH, HISTORY, BUILD = 1000, 20_000, 2
_START = datetime(2026, 3, 2, 9, tzinfo=UTC)
_ROLES = [f"Role{i}" for i in range(20)]
_ACTIONS = [f"action_{i}" for i in range(60)]
_RESOURCES = [f"acct-{i}" for i in range(5000)]
_PRINCIPALS = [f"user-{i}@acme.example" for i in range(500)]
_KEYS = [f"thumbprint-{i}" for i in range(500)]
_NETWORKS = [f"10.{i}.1.7" for i in range(50)]
_SCOPES = [[f"scope:{i}"] for i in range(20)]


def event(agent: int, at: int, rng: random.Random) -> dict[str, Any]:
    """An event of an agent as `json.loads` would give it; *at* counts events. Names are shared, as with interning."""
    role = agent % len(_ROLES)
    target = _RESOURCES[(agent * 7 + rng.randrange(5)) % len(_RESOURCES)]
    return {
        "time": (_START + timedelta(milliseconds=10 * at)).isoformat(),
        "type": "tool.call",
        "tenant": "acme",
        "task": "task-1",
        "agent": {"id": f"agent-{agent}", "issuer": "https://as.example", "type": _ROLES[role], "version": "1.0"},
        "principal": {"id": _PRINCIPALS[agent % len(_PRINCIPALS)]},
        "delegation": ["orchestrator"],
        "action": _ACTIONS[3 * role + rng.randrange(3)],
        "effect": "read",
        "outcome": "success",
        "resource": {"type": "account", "id": target, "audience": "https://api.example", "provenance": "granted"},
        "scopes": {"requested": _SCOPES[role], "granted": _SCOPES[role]},
        "client": {"ip": _NETWORKS[agent % len(_NETWORKS)]},
        "session": "conv-1",
        "credential": {"method": "private_key_jwt", "thumbprint": _KEYS[agent % len(_KEYS)], "token_lifetime_s": 300.0},
        "bytes_in": float(rng.randrange(1000)),
        "bytes_out": float(rng.randrange(5000)),
        "duration_ms": float(rng.randrange(200)),
    }


def history() -> list[dict[str, Any]]:
    """What the shared baselines are fitted on: other agents of the same roles."""
    rng = random.Random(1)
    return [event(rng.randrange(500) + 10_000_000, i, rng) for i in range(HISTORY)]


def stream(agents: int) -> Iterator[dict[str, Any]]:
    """Every agent twice, in an order without locality, then agents at random without end."""
    rng = random.Random(2)
    order = list(range(agents))
    at = HISTORY
    for _ in range(BUILD):
        rng.shuffle(order)
        for agent in order:
            yield event(agent, at, rng)
            at += 1
    while True:
        yield event(rng.randrange(agents), at, rng)
        at += 1


def batches(events: Iterator[dict[str, Any]], count: int, size: int = BATCH) -> Iterator[list[dict[str, Any]]]:
    """The next *count* events in batches."""
    for start in range(0, count, size):
        yield [next(events) for _ in range(min(size, count - start))]


def make_compiled_side() -> Callable[[list[list[dict[str, Any]]]], Callable[[], float]]:
    """The compiled side: takes batches of events, and returns the call to be timed."""
    encoder = ColumnEncoder(b"benchmark")

    def encode(events: list[dict[str, Any]]) -> EventColumns:
        return encoder.encode([msgspec.convert(event, NativeEvent) for event in events])

    past = encode(history())
    _, found = FeatureBuilder(empty_baseline(), 1000).observe_and_learn(past)
    builder = FeatureBuilder(fit_baseline(past, found, np.ones(len(past), np.bool_)), AGENTS)
    builder.observe_and_learn(past.take(np.arange(10)))

    def prepare(work: list[list[dict[str, Any]]]) -> Callable[[], float]:
        encoded = [encode(events) for events in work]
        return lambda: sum(float(builder.observe_and_learn(columns)[0].sum()) for columns in encoded)

    return prepare


def make_reference_side() -> Callable[[list[list[dict[str, Any]]]], Callable[[], float]]:
    """The plain side."""
    features = ReferenceFeatures(fit(history()))
    return lambda work: lambda: sum(sum(features.update(event).values()) for events in work for event in events)


AGENTS = int(os.environ.get("BENCH_AGENTS", "1000000"))
"""Set by the parent for its two sides."""


def resident() -> int:
    """Bytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run_side(name: str) -> None:
    """One side: builds its agents, says how large they are, then times as many events as each line of stdin says."""
    gc.disable()
    prepare = {"ours": make_compiled_side, "plain": make_reference_side}[name]()
    events = stream(AGENTS)
    gc.collect()
    before, total = resident(), 0.0
    for events_of_batch in batches(events, BUILD * AGENTS):
        total += prepare([events_of_batch])()
    gc.collect()
    print(json.dumps({"bytes": (resident() - before) / AGENTS, "sum": total}), flush=True)
    for line in sys.stdin:
        count = int(line)
        call = prepare(list(batches(events, count)))
        start = time.perf_counter()
        total = call()
        print(json.dumps({"us": (time.perf_counter() - start) / count * 1e6, "sum": total}), flush=True)


class MeasuredProcess:
    """A side in its own process."""

    def __init__(self, name: str, agents: int) -> None:
        command = [sys.executable, "-c", f"from benchmarks.bench_features import run_side; run_side({name!r})"]
        environment = {**os.environ, "BENCH_AGENTS": str(agents)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def read_line(self) -> dict[str, float]:
        """The next line it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side has died with status {self._process.wait()}")
        return dict(json.loads(line))

    def measure(self, count: int) -> dict[str, float]:
        """Let it work on *count* further events."""
        assert self._process.stdin is not None
        print(count, file=self._process.stdin, flush=True)
        return self.read_line()

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def compare(agents: int, rounds: int, count: int) -> dict[str, Any]:
    """Median microseconds per event and bytes per agent of both."""
    sides = {name: MeasuredProcess(name, agents) for name in ("ours", "plain")}
    built = {name: one.read_line() for name, one in sides.items()}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, one in sides.items():
            turns[name].append(one.measure(count))
    for one in sides.values():
        one.close()
    for a, b in zip([built["ours"], *turns["ours"]], [built["plain"], *turns["plain"]], strict=True):
        if abs(a["sum"] - b["sum"]) > 1e-4 * abs(b["sum"]):
            raise SystemExit(f"the features differ: {a['sum']} and {b['sum']}")
    us = {name: median(turn["us"] for turn in done) for name, done in turns.items()}
    return {
        "agents": agents,
        "ours_us": us["ours"],
        "plain_us": us["plain"],
        "speed_ratio": us["plain"] / us["ours"],
        "state_bytes": BYTES_PER_AGENT,
        "ours_bytes": built["ours"]["bytes"],
        "plain_bytes": built["plain"]["bytes"],
        "memory_share": built["ours"]["bytes"] / built["plain"]["bytes"],
    }


def main() -> int:
    """Print the table; returns the exit status."""
    options = arguments("feature benchmark")
    sizes = [(2_000, 3, 2_000)] if options.quick else [(10_000, 7, 10_000), (1_000_000, 9, 10_000)]
    figures = [compare(*size) for size in sizes]
    columns = (
        "agents",
        "ours us/event",
        "plain us/event",
        "ratio",
        "state bytes",
        "ours B/agent",
        "plain B/agent",
        "share",
    )
    table("Features: measure and learn", columns, [tuple(figure.values()) for figure in figures])
    finish(machine("numpy", "numba"), {"features": figures}, options.json)
    last = figures[-1]
    missed = last["speed_ratio"] < SPEED or last["memory_share"] > MEMORY
    print(f"targets: ratio at least {SPEED:g}, memory share at most {MEMORY:g}: {'missed' if missed else 'met'}")
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())

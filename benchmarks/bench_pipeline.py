"""Pipeline: from raw JSON bytes to updated risk on one core, against `json.loads` and plain dicts without any scoring.

Both sides know the same history and take turns on the same events of 10,000 simulated agents. Ours is the processor
that `serve` runs, without store and network; the identity of an event (for duplicates) is computed at the edge when it
is logged, and is shown apart. What keeping feature vectors for the archive costs is measured by a second processor that
leaves them in its spool, in turns with the first. The share of each stage is measured in turns of its own, as the
clocks cost time as well.
Targets: 60,000 events per second, 8 times the plain pipeline. Exit status 1 if one is missed; `--quick` only reports.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from trustwatch.ingest.archive.vector_spool import VectorSpoolWriter, closed_spool_files
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine import risk
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.learning.walkforward import train_walk_forward
from trustwatch.scoring.pipeline.processor import Processor, VectorCollector
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook

from .events import raw_events
from .harness import arguments, finish, machine, table
from .reference_features import ReferenceFeatures, fit

SPEED, RATIO = 60_000.0, 8.0
AGENTS, BATCH, SALT = 10_000, 1000, b"benchmark"
WORKLOADS = (
    ("busy", "Raw JSON to updated risk: 10,000 agents, 2,000 events per agent and day", 2000.0, False),
    ("full", "The same with every member of the simulator's events", 2000.0, True),
    (
        "quiet",
        "100 events per agent and day: a batch is a minute and a half, in which few agents do much",
        100.0,
        False,
    ),
)
"""Name, title, events per agent and day, and whether events keep all members. The first one is held to the targets."""


class StageClock:
    """Seconds by stage, each without the stages inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[tuple[str, float]] = []

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """*call*, with its time counted."""

        def run(*args: Any, **options: Any) -> Any:
            now = time.perf_counter()
            if self._running:
                outer, since = self._running[-1]
                self.seconds[outer] += now - since
            self._running.append((stage, now))
            try:
                return call(*args, **options)
            finally:
                now = time.perf_counter()
                _, since = self._running.pop()
                self.seconds[stage] += now - since
                if self._running:
                    self._running[-1] = (self._running[-1][0], now)

        return run


class TimedDetector:
    """A detector whose scoring is timed."""

    def __init__(self, detector: Any, clock: StageClock) -> None:
        self._detector = detector
        self.assess = clock.timed("score: forest, tails, p-value", detector.assess)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)


def processor(model: TrainedModel, clock: StageClock | None = None) -> Processor:
    """The pipeline's processor, with a clock around its stages if one is given."""
    if clock is not None:
        timed: Any = TimedDetector(model.detector, clock)
        model = dataclasses.replace(model, detector=timed)
    decode = clock.timed("decode what is unusual or new", decode_event) if clock else decode_event
    engine = Engine(model, EngineSettings(capacity=2 * AGENTS), None)
    policy = LivePolicy(PolicyBook())
    made = Processor(engine, ColumnEncoder(SALT), DuplicateWindow(), policy, decode, EdgeCollector())
    if clock is not None:
        builder: Any = made.engine.builder
        stages: list[tuple[Any, str, str]] = [
            (made.duplicate_window, "mark", "duplicate window"),
            (made._encoder, "encode", "scan to columns"),
            (builder, "admit", "agents to slots"),
            (builder, "observe", "observe (features)"),
            (builder, "learn", "learn"),
            (made.engine.signal_rules, "write_evidence", "hard signals"),
            (made.decision_maker, "decide_scored", "decide, explain"),
            (made.edge_collector, "collect", "who with whom"),
        ]
        for owner, name, stage in stages:
            setattr(owner, name, clock.timed(stage, getattr(owner, name)))
        made.apply = clock.timed("loop around them", made.apply)  # type: ignore[method-assign]
    return made


def as_batches(raws: Sequence[bytes], offset: int) -> list[RecordBatch]:
    """Records as a source hands them out."""
    return [
        RecordBatch(
            0,
            offset + start,
            [Record(RecordKind.EVENT, raw_id_hash(raw), 0, raw) for raw in raws[start : start + BATCH]],
        )
        for start in range(0, len(raws), BATCH)
    ]


def seconds(call: Callable[..., object], *args: object) -> float:
    """Processor time of a call: on one core that is its time, without what other programs take of a shared machine."""
    start = time.process_time()
    call(*args)
    return time.process_time() - start


def apply_all(ours: Processor, work: list[RecordBatch], decisions: list[int]) -> None:
    """Our side of a turn. Results are dropped at once, as the live pipeline does: kept ones would cost fresh memory."""
    for batch in work:
        decisions.append(len(ours.apply(batch).decisions))


def spool_all(ours: Processor, spool: VectorSpoolWriter, work: list[RecordBatch], commit: int = 10) -> None:
    """The same with vectors: after every *commit* batches what was packed is handed on, as after a commit."""
    assert ours.vector_collector is not None
    for number, batch in enumerate(work, 1):
        ours.apply(batch)
        if number % commit == 0 or number == len(work):
            spool.append(*ours.vector_collector.drain())
            spool.roll_if_due()


def discard_spooled(spool: VectorSpoolWriter) -> None:
    """Make room, as the archive does."""
    spool.roll()
    for path in closed_spool_files(spool.directory):
        path.unlink()


def update_all(plain: ReferenceFeatures, payloads: list[bytes]) -> None:
    """The plain side of a turn."""
    for raw in payloads:
        plain.update(json.loads(raw))


def measure(
    history: int, live: int, turns: int, per_agent_day: float, full: bool, spool: VectorSpoolWriter
) -> dict[str, Any]:
    """Events per second of both, and microseconds by stage."""
    raws = raw_events(history + live, AGENTS, per_agent_day, full)
    encoder = ColumnEncoder(SALT)
    model = train_walk_forward(encoder.encode([decode_event(raw) for raw in raws[:history]]), SALT, "benchmark").model
    plain = ReferenceFeatures(fit(json.loads(raw) for raw in raws[:history]))
    ours, clock = processor(model), StageClock()
    staged = processor(model, clock)
    keeping = processor(model)
    keeping.vector_collector = VectorCollector()
    batches = as_batches(raws[history:], 0)
    per_turn = len(batches) // (turns + 1)
    gc.collect()
    gc.freeze()
    rates: dict[str, list[float]] = {"ours": [], "plain": [], "identity": [], "keeping": []}
    update, decisions = risk.update, 0
    for turn in range(turns + 1):
        work = batches[turn * per_turn : (turn + 1) * per_turn]
        payloads = [record.payload for batch in work for record in batch.records]
        decided: list[int] = []
        spent = {
            "ours": seconds(apply_all, ours, work, decided),
            "keeping": seconds(spool_all, keeping, spool, work),
            "plain": seconds(update_all, plain, payloads),
            "identity": seconds(list, map(raw_id_hash, payloads)),
        }
        discard_spooled(spool)
        risk.update = clock.timed("risk", update)
        for batch in work:
            staged.apply(batch)
        risk.update = update
        if turn == 0:  # the first turn warms up
            clock.seconds.clear()
            continue
        decisions += sum(decided)
        for name, value in spent.items():
            rates[name].append(len(payloads) / value)
    events = turns * per_turn * BATCH
    stages = {name: value / events * 1e6 for name, value in sorted(clock.seconds.items(), key=lambda one: -one[1])}
    rate = {name: median(values) for name, values in rates.items()}
    return {
        "bytes": mean(map(len, raws)),
        "ours": rate["ours"],
        "plain": rate["plain"],
        "ratio": rate["ours"] / rate["plain"],
        "identity_us": 1e6 / rate["identity"],
        "decisions_per_1000": 1000 * decisions / events,
        "vectors_ratio": median(a / b for a, b in zip(rates["keeping"], rates["ours"], strict=True)),
        "vectors_us": 1e6 * (1 / rate["keeping"] - 1 / rate["ours"]),
        "stages_us": stages,
    }


def report(title: str, figures: dict[str, Any]) -> None:
    """Print the tables of one measurement."""
    columns = (
        "bytes/event",
        "ours events/s",
        "plain events/s",
        "ratio",
        "identity at the edge, us",
        "decisions per 1,000",
        "with vectors kept, ratio",
        "vectors, us/event",
    )
    table(title, columns, [tuple(figures.values())[:8]])
    stages = figures["stages_us"]
    total = sum(stages.values())
    rows = [(stage, us, f"{us / total:.0%}") for stage, us in stages.items()]
    table("Where the time goes", ("stage", "us/event", "share"), [*rows, ("all stages", total, "100%")])


def main() -> int:
    """Print the tables; returns the exit status."""
    options = arguments("pipeline benchmark")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # Thirty events of history per agent: known agents, as after some time of service, not ten thousand cold starts.
    sizes = (20_000, 12_000, 2) if options.quick else (300_000, 100_000, 9)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        spool = VectorSpoolWriter(Path(folder), 4 << 30, time.monotonic)
        for name, title, per_agent_day, full in WORKLOADS[:1] if options.quick else WORKLOADS:
            figures[name] = measure(*sizes, per_agent_day, full, spool)
            report(title, figures[name])
    finish(machine("numpy", "numba", "msgspec"), figures, options.json)
    missed = figures["busy"]["ours"] < SPEED or figures["busy"]["ratio"] < RATIO
    print(f"targets: {SPEED:,.0f} events/s, ratio {RATIO:g}: {'missed' if missed else 'met'}")
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())

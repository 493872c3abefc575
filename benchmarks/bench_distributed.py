"""The distributed form, on a real broker and a real database: from topic to stored risk, to answers, and on to others.

* throughput: a topic full of events of 10,000 agents is drained by one worker with each Kafka client, then by 2 and 4;
  everything is scored, stored and published. Rates are those of the time in which all workers had work.
* visibility: from an event that is handed to the producer to the answer of an API replica that takes it into account,
  at half of that rate, beside what the same clients need from produce to consume (`benchmarks/visibility.py`).
* take-over: a fresh worker goes on where another one ended, with 100,000 agents.

Broker, database, workers, replica and load share this machine's cores: CPU per event is the fair figure, not the rate.
Targets: 45,000 events per second of one core with kafka-python, 100,000 with confluent; visible within three times the
p99 from produce to consume. Exit status 1 if one is missed; `--quick` only reports.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from scripts.service_stack import ServiceUnavailable
from trustwatch.ingest.source import Record

from .distributed_services import (
    PARTITIONS,
    BackingServices,
    DistributedDeployment,
    MeasuredWorker,
    interpolate_sample,
    now_ms,
    record_of,
    start_services,
    train,
)
from .events import timed_events
from .harness import arguments, finish, machine, table
from .visibility import Visibility, measure_visibility

CORE_TARGETS, RATIO = {"kafka-python": 45_000.0, "confluent": 100_000.0}, 3.0
AGENTS, PER_AGENT_DAY = 10_000, 2000.0
STAGES = ("poll", "apply", "rows", "commit", "publish")
MORE_CLIENT = "confluent"


class Sizes(NamedTuple):
    """How much is measured; *rate* of events beside probes, 0 is half of what one worker drained."""

    history: int
    events: int
    rounds: int
    most_workers: int
    rate: float
    seconds: float
    probed: int  # clients whose visibility is measured
    taken_over: int


WHOLE = Sizes(200_000, 400_000, 3, 4, 0.0, 12.0, 2, 100_000)
QUICK = Sizes(10_000, 60_000, 1, 1, 1_000.0, 2.0, 1, 2_000)


def drain(folder: Path, found: BackingServices, name: str, client: str, workers: int, events: int) -> dict[str, float]:
    """What *workers* new workers need for everything in the topic: per event and as shares of their time."""
    site = DistributedDeployment(folder, found, name, "events", client)
    started = [site.worker() for _ in range(workers)]
    try:
        begun_s = max(
            one.wait_for(
                lambda said: said.partitions >= PARTITIONS // workers and said.counts.get("events", 0) > 0
            ).at_s
            for one in started
        )
        site.wait_stored(events, started)
        ended_s = min(max(said.at_s for said in one.samples if said.behind > 0) for one in started)
    finally:
        for one in started:
            one.stop()
        site.close()
    return per_event(started, begun_s, ended_s)


def per_event(workers: list[MeasuredWorker], begun_s: float, ended_s: float) -> dict[str, float]:
    """Figures of a span of time in which all *workers* had work."""
    total: dict[str, float] = defaultdict(float)
    for one in workers:
        before, after = interpolate_sample(one.samples, begun_s), interpolate_sample(one.samples, ended_s)
        for name, value in after.items():
            total[name] += value - before.get(name, 0.0)
    seconds, count = ended_s - begun_s, total["events"]
    if seconds <= 0.0 or count <= 0:  # a few events on a quick machine: done before the second report of a worker
        seconds = count = math.nan
    spent = len(workers) * seconds
    shares = {stage: total[f"{stage} s"] / spent for stage in STAGES}
    return {
        "per_s": count / seconds,
        "cpu_us": total["cpu"] / count * 1e6,
        "per_core_s": count / (total["cpu"] or math.nan),
        "broker_us": total["broker"] / len(workers) / count * 1e6,
        "database_us": total["database"] / len(workers) / count * 1e6,
        "rows_per_event": (total["published"] + total["unchanged"]) / count,
        "published_per_event": total["published"] / count,
        **shares,
        "rest": 1.0 - sum(shares.values()),
    }


def throughput(folder: Path, found: BackingServices, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Medians by client and number of workers; clients take turns."""
    turns: dict[tuple[str, int], list[dict[str, float]]] = {}
    plan = [*((client, 1) for client in CORE_TARGETS), *((MORE_CLIENT, n) for n in (2, 4) if n <= sizes.most_workers)]
    for turn, (client, workers) in itertools.product(range(sizes.rounds), plan):
        drained = drain(folder, found, f"d{turn}-{workers}-{client}", client, workers, sizes.events)
        turns.setdefault((client, workers), []).append(drained)
    return {
        f"{client}, {workers}": {name: statistics.median(one[name] for one in given) for name in given[0]}
        for (client, workers), given in turns.items()
    }


def of_agents(agents: int, turns: range) -> Iterator[Record]:
    """One event of each of so many agents in every turn."""
    for turn, number in itertools.product(turns, range(agents)):
        raw = (
            b'{"id":"%d-%d","time":"2026-03-02T08:%02d:00Z","tenant":"acme-corp","type":"tool.call","action":"read",'
            b'"outcome":"success","agent":{"id":"spiffe://acme.example/agent/%08d","issuer":"https://as.example",'
            b'"type":"payer"},"resource":{"type":"invoice","id":"inv-%d"}}'
        ) % (turn, number, turn, number, number % 977)
        yield record_of(raw, now_ms())


def take_over(folder: Path, found: BackingServices, agents: int, turns: int) -> dict[str, float]:
    """Seconds until a fresh process owns all that another one has stored, and until it has each agent in memory."""
    site = DistributedDeployment(folder, found, "take-over", "moving")
    filled = site.write_events(of_agents(agents, range(turns)))
    first = site.worker()
    site.wait_stored(filled, [first])
    first.stop()
    filled += site.write_events(of_agents(agents, range(turns, turns + 1)))
    fresh = site.worker()
    owns = fresh.wait_for(lambda said: said.partitions == PARTITIONS)
    site.wait_stored(filled, [fresh])
    loaded_s = time.monotonic() - owns.at_s
    fresh.stop()
    site.close()
    return {
        "agents": agents,
        "records": filled,
        "owned_s": owns.at_s - fresh.started,
        "of_it_take_over_s": owns.seconds["take_over"],
        "all_loaded_s": loaded_s,
        "loading_per_s": agents / loaded_s,
    }


def main() -> int:
    """Measure and print; returns the exit status."""
    options = arguments(__doc__ or "")
    sizes = QUICK if options.quick else WHOLE
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        try:
            found = stack.enter_context(start_services(folder))
        except ServiceUnavailable as reason:
            print(f"NOT MEASURED: the distributed form needs Kafka and PostgreSQL: {reason}", file=sys.stderr)
            return 0
        return run(folder, found, sizes, options.json, check=not options.quick)


def run(folder: Path, found: BackingServices, sizes: Sizes, to: Path | None, *, check: bool) -> int:
    """Everything on running services."""
    stream = timed_events(AGENTS, PER_AGENT_DAY)
    history = [raw for raw, _ in itertools.islice(stream, sizes.history)]
    train(folder, history)
    site = DistributedDeployment(folder, found, "fill", "events", "confluent")
    site.write_events(record_of(raw, now_ms()) for raw, _ in itertools.islice(stream, sizes.events))
    site.close()
    drained = throughput(folder, found, sizes)
    report_throughput(drained)
    seen = {}
    for client in list(CORE_TARGETS)[: sizes.probed]:
        rate = sizes.rate or drained[f"{client}, 1"]["per_s"] / 2
        site = DistributedDeployment(folder, found, f"visible-{client}", f"live-{client}", client, tick_s=5.0)
        seen[client] = measure_visibility(site, history[:50_000], rate, sizes.rounds, sizes.seconds)
        site.close()
    report_visibility(seen)
    moved = take_over(folder, found, sizes.taken_over, 5)
    table("Take-over", tuple(moved), [tuple(moved.values())])
    figures = {"throughput": drained, "take_over": moved, "visibility": {k: v._asdict() for k, v in seen.items()}}
    finish(machine("kafka-python", "confluent-kafka", "psycopg", "numba"), figures, to)
    missed = [client for client, wanted in CORE_TARGETS.items() if drained[f"{client}, 1"]["per_core_s"] < wanted]
    missed += [f"{client}, visible" for client, one in seen.items() if one.visible[1] > RATIO * one.alone[1]]
    print("targets missed by " + ", ".join(missed) if missed else "targets met")
    return int(check and bool(missed))


def report_throughput(drained: dict[str, dict[str, float]]) -> None:
    """Print the tables of what was drained."""
    columns = (
        "client, workers",
        "events/s",
        "worker CPU, us/event",
        "events/s of one core",
        "broker CPU, us/event",
        "database CPU, us/event",
        "agents stored per event",
        "risk records per event",
    )
    table(
        "From topic to stored and published risk",
        columns,
        [(name, *list(one.values())[:7]) for name, one in drained.items()],
    )
    rows = [(name, *(f"{one[stage]:.0%}" for stage in (*STAGES, "rest"))) for name, one in drained.items()]
    table("Where a worker's time goes", ("client, workers", *STAGES, "rest"), rows)


def report_visibility(seen: dict[str, Visibility]) -> None:
    """Print what was seen when."""
    columns = (
        "client",
        "events/s beside",
        "bare alone p50, p99 ms",
        "bare beside p50, p99 ms",
        "visible p50, p99 ms",
        "of bare alone p50, p99",
        "of bare beside p50, p99",
    )

    def pair(values: tuple[float, float]) -> str:
        return f"{values[0]:.3g}, {values[1]:.3g}"

    rows = []
    for client, one in seen.items():
        multiples = [pair((one.visible[0] / bare[0], one.visible[1] / bare[1])) for bare in (one.alone, one.beside)]
        rows.append((client, one.rate, pair(one.alone), pair(one.beside), pair(one.visible), *multiples))
    table("From produce to the answer of a replica", columns, rows)


if __name__ == "__main__":
    sys.exit(main())

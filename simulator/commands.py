"""`trustwatch simulate`, events of a simulated enterprise to a file or at a steady rate to Kafka; `trustwatch demo`."""

from __future__ import annotations

import gzip
import math
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import msgspec
import typer

from trustwatch.api import clock
from trustwatch.api.brokers import BrokerSettings, open_writer
from trustwatch.api.cli.terminal import JsonOption, SettingsFileOption, print_message, print_summary
from trustwatch.api.settings.loading import load_process_settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.record_keys import agent_partition_key, unkeyed_event_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog

from .attack_scenarios import SCENARIOS
from .event_stream import simulate
from .labelled_events import SimulatedEvent, write_jsonl
from .population import Attack, SimulationSettings

SEND_SLICE_S = 0.05
MAX_EVENTS_PER_APPEND = 5_000


def send_at_rate(events: Iterable[SimulatedEvent], kafka: BrokerSettings, rate: float) -> tuple[int, float]:
    """Write *events* to the events topic as the ingest role would.

    Raises:
        LogFailed: the brokers did not acknowledge.
    """
    writer = open_writer(kafka)
    log = TopicCommitLog(writer, kafka.topic_names.events)
    started, sent = clock.monotonic(), 0
    waiting = iter(events)
    try:
        while True:
            due = MAX_EVENTS_PER_APPEND if not rate else int((clock.monotonic() - started + SEND_SLICE_S) * rate) - sent
            part = list(islice(waiting, min(due, MAX_EVENTS_PER_APPEND)))
            if part:
                log.append([_event_record(event.event) for event in part])
                log.sync()
                sent += len(part)
            elif due > 0:
                return sent, clock.monotonic() - started
            if rate:
                clock.sleep(max(0.0, started + sent / rate - clock.monotonic()))
    finally:
        log.close()
        writer.close()


def _event_record(raw: bytes) -> Record:
    event = decode_event(raw)
    tenant, agent = event.tenant or "", event.agent
    id_hash = unkeyed_event_id_hash(event.tenant, event.source or "simulate", event.id, raw)
    return Record(
        RecordKind.EVENT, id_hash, clock.now_ms(), raw, agent_partition_key(tenant, agent.issuer or "", agent.id)
    )


DEFAULT_START = datetime(2026, 1, 5, tzinfo=UTC)


def require_finite(value: float | None) -> float | None:
    """Check that a time on the command line is finite, because Python also parses `nan` and `inf` as numbers."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, is {value}")
    return value


def simulate_command(
    out: Annotated[
        Path | None, typer.Option(help="file that events go to, one a line; compressed if it ends in .gz; - is stdout")
    ] = None,
    kafka: Annotated[str, typer.Option(help="brokers, HOST:PORT,…: events go to the events topic instead")] = "",
    rate: Annotated[
        float,
        typer.Option(help="with --kafka: events per second; 0 is as fast as it takes them", callback=require_finite),
    ] = 0.0,
    count: Annotated[int | None, typer.Option(help="end after so many events", min=0)] = None,
    settings: SettingsFileOption = None,
    labels: Annotated[Path | None, typer.Option(help="file for the labels of events")] = None,
    seed: Annotated[int, typer.Option(help="same seed, same bytes")] = 1,
    agents: Annotated[int, typer.Option(help="agents of the enterprise")] = 100,
    hours: Annotated[
        float, typer.Option(help="duration in simulated hours", max=87_840, callback=require_finite)
    ] = 168.0,
    start: Annotated[
        datetime | None, typer.Option(help="begin, UTC; default: 2026-01-05, with --kafka --hours before now")
    ] = None,
    events_per_day: Annotated[float, typer.Option(help="mean events of an agent a day")] = 400.0,
    attack: Annotated[
        list[str] | None, typer.Option(help=f"lay an attack over it: {', '.join(SCENARIOS)}; again for more")
    ] = None,
    attacks_per_day: Annotated[float, typer.Option(help="further attacks drawn at this rate")] = 0.0,
    json: JsonOption = False,
) -> None:
    """Make the events of a seeded enterprise of agents, with labelled attacks."""
    if (out is None) == (not kafka):
        raise typer.BadParameter("name one place for the events: --out FILE or --kafka BROKERS")
    if out is not None and out == labels:
        raise typer.BadParameter("events and labels need a file each", param_hint="--labels")
    # Events that are sent faster than they happened are in the past: future times would be set to now.
    first = DEFAULT_START if out is not None else clock.utc_now() - timedelta(hours=hours)
    began = first if start is None else start.replace(tzinfo=UTC)
    try:
        events = simulate(
            SimulationSettings(
                start=began,
                duration=timedelta(hours=hours),
                seed=seed,
                agents=agents,
                attacks=tuple(Attack(name) for name in attack or ()),
                attacks_per_day=attacks_per_day,
                events_per_agent_day=events_per_day,
            )
        )
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    events = islice(events, count)
    if out is None:
        configured = load_process_settings(settings).kafka
        brokers = msgspec.structs.replace(configured, bootstrap_servers=tuple(kafka.split(",")))
        sent, seconds = send_at_rate(events, brokers, rate)
        summary = {"events": sent, "seconds": round(seconds, 3), "per_second": round(sent / max(seconds, 1e-9))}
        print_summary(summary, json, "sent {events} events in {seconds} s, {per_second} per second")
        return
    with ExitStack() as stack:
        target = sys.stdout.buffer if str(out) == "-" else _open_output(out, stack)
        written = write_jsonl(events, target, None if labels is None else _open_output(labels, stack))
    print_summary({"events": written, "out": str(out)}, json and str(out) != "-", "wrote {events} events to {out}")


def _open_output(path: Path, stack: ExitStack) -> BinaryIO:
    """Open a file to write. A `.gz` file is compressed without a timestamp, so that equal events give equal bytes."""
    file = stack.enter_context(path.open("wb"))
    if path.suffix != ".gz":
        return file
    packed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0)
    return cast(BinaryIO, stack.enter_context(packed))


def demo_command(
    directory: Annotated[Path, typer.Option(help="folder of the demo's data; emptied first")] = Path("var/demo"),
    exit: Annotated[bool, typer.Option("--exit", help="end when the day is over")] = False,  # noqa: A002
    seconds: Annotated[float, typer.Option(help="real time that the simulated day takes", min=10)] = 60.0,
    seed: Annotated[int, typer.Option(help="another seed, another enterprise")] = 7,
) -> None:
    """Train on four simulated weeks, serve, play a day with two attacks, and say what happens."""
    from .demo import Demo  # takes scikit-learn, which no other command waits for

    raise typer.Exit(Demo(directory, seconds, seed, stay=not exit, say=print_message).run())

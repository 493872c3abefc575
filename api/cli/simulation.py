"""`simulate`: the events of a simulated enterprise, to a file or to Kafka."""

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

from ...ingest.errors import ConfigError
from .. import clock
from ..serve.wiring import kafka_settings
from ..settings import load_process_settings
from ..simulator import SCENARIOS, Attack, SimulatedEvent, SimulationSettings, retime, simulate, write_jsonl
from .console import print_summary
from .load import send_at_rate
from .offline import JsonOption, SettingsFileOption

DEFAULT_START = datetime(2026, 1, 5, tzinfo=UTC)


def require_finite(value: float | None) -> float | None:
    """A number of the command line that time is reckoned with: `nan` and `inf` are numbers for Python, too."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, is {value}")
    return value


def require_positive(value: float | None) -> float | None:
    """As `require_finite`, and more than zero."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"must be a finite number above 0, is {value}")
    return value


def simulate_command(
    out: Annotated[
        Path | None, typer.Option(help="file that events go to, one a line; packed where it ends in .gz; - is stdout")
    ] = None,
    kafka: Annotated[
        str, typer.Option(help="brokers, HOST:PORT,…: events go to the events topic instead, as of now")
    ] = "",
    rate: Annotated[
        float,
        typer.Option(help="with --kafka: events per second; 0 is as fast as it takes them", callback=require_finite),
    ] = 0.0,
    count: Annotated[int | None, typer.Option(help="end after so many events", min=0)] = None,
    settings: SettingsFileOption = None,
    labels: Annotated[Path | None, typer.Option(help="where the labels of events go")] = None,
    seed: Annotated[int, typer.Option(help="same seed, same bytes")] = 1,
    agents: Annotated[int, typer.Option(help="agents of the enterprise")] = 100,
    hours: Annotated[
        float, typer.Option(help="duration in simulated hours", max=87_840, callback=require_finite)
    ] = 168.0,
    start: Annotated[datetime | None, typer.Option(help="begin, UTC; default: 2026-01-05, with --kafka now")] = None,
    events_per_day: Annotated[float, typer.Option(help="mean events of an agent a day")] = 400.0,
    attack: Annotated[
        list[str] | None, typer.Option(help=f"lay an attack over it: {', '.join(SCENARIOS)}; again for more")
    ] = None,
    attacks_per_day: Annotated[float, typer.Option(help="further attacks drawn at this rate")] = 0.0,
    compress: Annotated[
        float | None,
        typer.Option(
            help="make time run this many times faster; default: 1, with --rate as that needs",
            callback=require_positive,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make the events of a seeded enterprise of agents, with labelled attacks."""
    if (out is None) == (not kafka):
        raise typer.BadParameter("name one place for the events: --out FILE or --kafka BROKERS")
    if out is not None and out == labels:
        raise typer.BadParameter("events and labels need a file each", param_hint="--labels")
    first = DEFAULT_START if out is not None else clock.utc_now()
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
    factor = compress or (rate * 86_400 / (agents * events_per_day) if kafka and rate else 1.0)
    if factor != 1.0:
        events = retime(events, factor=factor, start=began)
    events = islice(events, count)
    if out is None:
        _send_to_kafka(events, kafka, rate, settings, json)
        return
    written = _write_files(events, out, labels)
    print_summary({"events": written, "out": str(out)}, json and str(out) != "-", "wrote {events} events to {out}")


def _write_files(events: Iterable[SimulatedEvent], out: Path, labels: Path | None) -> int:
    """Events and labels to their files; how many events that were."""
    with ExitStack() as stack:
        target = sys.stdout.buffer if str(out) == "-" else _open_output(out, stack)
        return write_jsonl(events, target, None if labels is None else _open_output(labels, stack))


def _open_output(path: Path, stack: ExitStack) -> BinaryIO:
    """A file to write to; what is called `.gz` is packed, without a time, so that equal events are equal bytes."""
    file = stack.enter_context(path.open("wb"))
    if path.suffix != ".gz":
        return file
    packed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0)
    return cast(BinaryIO, stack.enter_context(packed))


def _send_to_kafka(
    events: Iterable[SimulatedEvent], brokers: str, rate: float, settings: Path | None, as_json: bool
) -> None:
    """Send events to Kafka and say how fast that was."""
    configured = load_process_settings(settings)
    kafka = msgspec.structs.replace(kafka_settings(configured), bootstrap_servers=tuple(brokers.split(",")))
    sent, seconds = send_at_rate(events, kafka, rate)
    summary = {"events": sent, "seconds": round(seconds, 3), "per_second": round(sent / max(seconds, 1e-9))}
    print_summary(summary, as_json, "sent {events} events in {seconds} s, {per_second} per second")

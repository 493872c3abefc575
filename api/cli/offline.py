"""Commands that need no service: `train` and `replay`."""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from ...ingest.columns import ColumnEncoder
from ...ingest.errors import MalformedEvent
from ...ingest.events import NativeEvent
from ...ingest.files import FileSource
from ...ingest.formats.lenient import decode_history_event
from ...models.artifact import is_model
from ...models.detector import FAMILIAR_EVENTS, DetectorSettings
from ...models.learning import session_ids
from ...models.persist import load_trained_model, save_trained_model
from ...scoring.promise import check_budget
from ...scoring.rehearsal import train_walk_forward, walk_forward_events
from ...scoring.replay import HistoryReplay, ReplayedEvent
from .. import clock
from ..serve.wiring import engine_settings
from ..settings import load_process_settings
from .console import byte_progress, fail, print_message, print_summary, stage_progress
from .histories import TimeWindow
from .within import (
    TIME_FORMATS,
    BeforeOption,
    HistoriesArgument,
    WarmUpOption,
    WindowedSource,
    as_utc,
    open_histories,
    time_window,
)

MAX_SHOWN_PROBLEMS = 5

JsonOption = Annotated[bool, typer.Option("--json", help="print the summary as JSON on stdout")]
SettingsFileOption = Annotated[Path | None, typer.Option("--settings", help="settings file (budgets, domains)")]


def input_files(paths: list[Path]) -> list[Path] | BinaryIO:
    """Files as given, or standard input."""
    if [str(path) for path in paths] == ["-"]:
        return sys.stdin.buffer
    return paths


class EventHistoryReader:
    """Reads a history into decoded events, counting what is no event."""

    def __init__(self) -> None:
        self.malformed = 0
        self.mended = 0

    def read(self, inputs: list[Path] | BinaryIO, window: TimeWindow) -> list[NativeEvent]:
        """All events of the window, in order."""
        events: list[NativeEvent] = []
        with byte_progress("reading", FileSource(inputs).total_bytes) as progress:
            source = WindowedSource(FileSource(inputs, progress=progress), window)
            while (batch := source.poll(5000, 0.0)) is not None:
                for position, record in enumerate(batch.records):
                    self._add(events, batch.base_offset + position, record.payload)
        return events

    def _add(self, events: list[NativeEvent], offset: int, payload: bytes) -> None:
        try:
            event, mended = decode_history_event(payload)
        except MalformedEvent as error:
            self.malformed += 1
            report_malformed(self.malformed, offset, error.path, error.reason)
        else:
            events.append(event)
            self.mended += mended


def report_malformed(count: int, offset: int, path: str, reason: str) -> None:
    """Tell of the first few records that are no events."""
    if count <= MAX_SHOWN_PROBLEMS:
        print_message(f"record {offset + 1}: {reason} - at `{path}`")
    if count == MAX_SHOWN_PROBLEMS:
        print_message("further records that are no events are counted only")


def train_command(
    events: HistoriesArgument,
    model: Annotated[Path, typer.Option(help="directory of the model; an older model there is replaced")],
    since: Annotated[
        datetime | None, typer.Option("--from", formats=TIME_FORMATS, help="learn from events from then on")
    ] = None,
    before: BeforeOption = None,
    settings: SettingsFileOption = None,
    seed: Annotated[int, typer.Option(help="seed of forest and folds")] = 0,
    salt: Annotated[
        str | None, typer.Option(help="hex key of name hashes; default: that of the model there, or new")
    ] = None,
    version: Annotated[str | None, typer.Option(help="name of the model; default: date and time")] = None,
    json: JsonOption = False,
) -> None:
    """Learn a model from normal history."""
    started = clock.monotonic()
    configured = load_process_settings(settings)
    key = _choose_salt(salt, model)
    history, window = EventHistoryReader(), time_window(as_utc(since), as_utc(before), None if since is None else 0.0)
    with open_histories(events, configured, window) as inputs:
        read = history.read(inputs, window)
    if not read:
        raise fail(f"no events in {', '.join(events)}{_window_text(window)}: nothing to learn from")
    columns = ColumnEncoder(key, configured.domains()).encode(read)
    detector = DetectorSettings(seed=seed)
    name = version or clock.utc_now().strftime("%Y-%m-%d.%H%M%S")
    with stage_progress() as progress:
        trained, judged, p_values = train_walk_forward(columns, key, name, detector, progress)
    sessions = len(set(session_ids(columns).tolist()))
    engine = engine_settings(configured)
    promise = check_budget(trained, judged, p_values, engine.budget, engine.risk)
    save_trained_model(model, trained, detector, sessions, clock.now_ms())
    rehearsed = walk_forward_events(trained)
    summary = {
        "model": str(model),
        "version": name,
        "events": len(read),
        "sessions": sessions,
        "agents": len(trained.seeds.keys),
        "peer_groups": len(trained.groups) - 1,
        "rehearsed_events": rehearsed,
        "malformed": history.malformed,
        "mended": history.mended,
        "seconds": round(clock.monotonic() - started, 2),
        "promise": {**promise._asdict(), "levels": [level._asdict() for level in promise.levels]},
    }
    print_summary(
        summary, json, "learned {events} events of {agents} agents in {peer_groups} peer groups: {model} ({version})"
    )
    if not json:
        for line in (_calibration_text(rehearsed), *promise.describe()):
            print_message(line)


def _calibration_text(events: int) -> str:
    if events:
        return (
            f"rehearsed: agents with {FAMILIAR_EVENTS} events here are judged by {events} events of such, "
            "newcomers by others"
        )
    return (
        f"not rehearsed, too little of the history's end is of agents with {FAMILIAR_EVENTS} events before it: "
        "all agents are judged as newcomers, and less is noticed; a longer history mends it"
    )


def _choose_salt(given: str | None, model: Path) -> bytes:
    """Retraining keeps the salt, so that what the service has learned of its agents stays readable."""
    if given is not None:
        try:
            key = bytes.fromhex(given)
        except ValueError:
            raise typer.BadParameter("must be hexadecimal", param_hint="--salt") from None
        if not 1 <= len(key) <= 64:
            raise typer.BadParameter("must have 1 to 64 bytes", param_hint="--salt")
        return key
    return load_trained_model(model).salt if is_model(model) else secrets.token_bytes(16)


def replay_command(
    events: HistoriesArgument,
    model: Annotated[Path, typer.Option(help="directory of a trained model")],
    out: Annotated[Path, typer.Option(help="where scores go, one JSON object a line; - is stdout")],
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=TIME_FORMATS, help="write scores from then on; what comes before warms up"),
    ] = None,
    before: BeforeOption = None,
    warm_up: WarmUpOption = None,
    learn: Annotated[
        bool, typer.Option("--learn/--no-learn", help="go on learning each agent's own history, as live")
    ] = True,
    settings: SettingsFileOption = None,
    agents: Annotated[int, typer.Option(help="agents held in memory at once", min=1)] = 50_000,
    json: JsonOption = False,
) -> None:
    """Run history through the identical live path and write what it would have said."""
    started = clock.monotonic()
    configured = load_process_settings(settings)
    replayed = HistoryReplay(
        load_trained_model(model), engine_settings(configured, learn=learn, capacity=agents), configured.domains()
    )
    first, window = as_utc(since), time_window(as_utc(since), as_utc(before), warm_up)
    counts: Counter[str] = Counter()
    problems = 0

    def malformed(offset: int, path: str, reason: str) -> None:
        nonlocal problems
        problems += 1
        report_malformed(problems, offset, path, reason)

    encoder = msgspec.json.Encoder()
    with ExitStack() as stack:
        inputs = stack.enter_context(open_histories(events, configured, window))
        progress = stack.enter_context(byte_progress("replaying", FileSource(inputs).total_bytes))
        target = sys.stdout.buffer if str(out) == "-" else stack.enter_context(_open_output(out, inputs))
        source = WindowedSource(FileSource(inputs, progress=progress), window)
        for line in replayed.replayed_events(source, malformed):
            if first is not None and datetime.fromisoformat(line.time) < first:
                continue
            target.write(encoder.encode(_output_line(line)) + b"\n")
            counts[line.risk_level] += 1
    summary = replayed.summary()._asdict()
    summary["decisions"] = len(summary["decisions"])
    summary |= {
        "levels": dict(counts),
        "written": sum(counts.values()),
        "learn": learn,
        "seconds": round(clock.monotonic() - started, 2),
    }
    print_summary(
        summary,
        json and str(out) != "-",
        "replayed {events} events in {seconds} s: {decisions} changes of level, {levels}",
    )
    if summary["malformed"] and not summary["events"]:
        raise fail("no record of it is an audit event: JSON lines of native events are expected")


def _open_output(out: Path, inputs: list[Path] | BinaryIO) -> BinaryIO:
    """The file that results go to, opened only after the histories were found; never one of them."""
    if isinstance(inputs, list) and out.exists() and any(out.samefile(path) for path in inputs):
        raise typer.BadParameter("is one of the histories, and would be overwritten", param_hint="--out")
    return out.open("wb")


def _window_text(window: TimeWindow) -> str:
    """In words."""
    bounds = (("from", window.after), ("up to", window.before))
    return "".join(f" {word} {at.isoformat()}" for word, at in bounds if at is not None)


def _output_line(event: ReplayedEvent) -> dict[str, Any]:
    return {**event._asdict(), "time": event.time.replace("+00:00", "Z")}

"""The example that notebooks begin with: a simulated week, a model of it, and a day with two attacks.

Its data is that of a service: the day goes through a log, pipeline, store and archive, without HTTP and faster than
it happened. Every preparation gives the same data: Tuesday, 13 January 2026.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trustwatch.api import clock
from trustwatch.api.composition import engine_settings, live_policy, open_service_store
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.extras import missing_packages
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.log_reader import LogGroupSource, LogReader
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import HOUR_MS
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.engine.engine import Engine
from trustwatch.scoring.pipeline.pipeline import Pipeline
from trustwatch.scoring.pipeline.pipeline_context import PipelineContext
from trustwatch.scoring.pipeline.processor import Processor, StageMetrics
from trustwatch.scoring.pipeline.settings import PipelineSettings, PipelineTuning
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.simulator.demo import (
    AGENTS,
    clear_made_directory,
    local_settings,
    simulate_history_and_day,
    train_on_simulation,
)
from trustwatch.simulator.labelled_events import SimulatedEvent, encode_label

from .session import SETTINGS_FILE_NAMES, LabError, open_read_only_store

EXAMPLE_START = datetime(2026, 1, 6, tzinfo=UTC)
DEFAULT_SEED = 7
MARKER_FILE = "example.json"
EXAMPLE_FORMAT = 1
"""Increased when older examples become unusable."""
HISTORY = timedelta(days=7)
"""History of the enterprise and attacks of `trustwatch demo`, but shorter."""
COMMAND = "make notebooks"
_TICK_SECTION = "pipeline: {tick_interval_s: 3600}"
_ARCHIVE_SECTION = "archive: {directory: archive}"
WriteMessage = Callable[[str], None]


def prepare_example(directory: Path, say: WriteMessage = lambda _: None, seed: int = DEFAULT_SEED) -> Path:
    """Prepare the example in *directory*. It is created once, and again if its formats are outdated.

    Raises:
        ConfigError: *directory* holds something else.
    """
    directory = directory.absolute()
    settings = directory / SETTINGS_FILE_NAMES[0]
    if _is_current(directory, settings, seed):
        return settings
    if not clear_made_directory(directory, lambda path: (path / MARKER_FILE).is_file()):
        raise LabError(f"{directory} holds something other than an example; give another directory")
    began = clock.monotonic()
    _build_example(directory, settings, seed, say)
    say(f"The example is in {directory} ({clock.monotonic() - began:.0f} s).")
    return settings


def _build_example(directory: Path, settings: Path, seed: int, say: WriteMessage) -> None:
    (directory / "data").mkdir(parents=True)
    (directory / MARKER_FILE).write_text("{}")
    archived = not missing_packages("archive")
    settings.write_text(local_settings(COMMAND, _TICK_SECTION, *((_ARCHIVE_SECTION,) if archived else ())))
    configured = load_settings(settings, {})
    say(f"Simulating a week and a day of {AGENTS} agents in two tenants ...")
    week, day = simulate_history_and_day(EXAMPLE_START, HISTORY, seed)
    with (directory / "data" / "labels.jsonl").open("wb") as labels:
        labels.writelines(encode_label(event.label) + b"\n" for event in day)
    say(f"Learning what is normal from {len(week):,} events ...")
    train_on_simulation(configured, week, "example-1", seed, int((EXAMPLE_START + HISTORY).timestamp() * 1000))
    say(f"Playing the day: {len(day):,} events through log, pipeline and store ...")
    _append_to_log(configured, week, day)
    _process_day(configured, len(week))
    if archived:
        _archive_log(configured)
    (directory / MARKER_FILE).write_text(json.dumps({"format": EXAMPLE_FORMAT, "seed": seed, "archive": archived}))


def _is_current(directory: Path, settings: Path, seed: int) -> bool:
    try:
        mark = json.loads((directory / MARKER_FILE).read_bytes())
        if mark.get("format") != EXAMPLE_FORMAT or mark.get("seed") != seed:
            return False
        configured = load_settings(settings, {})
        load_trained_model(configured.model_dir)
        open_read_only_store(configured).close()
    except (OSError, ValueError, TrustwatchError):  # not there, or a model or a store of another version
        return False
    return bool(mark.get("archive")) == (not missing_packages("archive"))


def _append_to_log(settings: Settings, week: Sequence[SimulatedEvent], day: Sequence[SimulatedEvent]) -> None:
    """Append records in the order of arrival: each event at its own time, and during the day a tick after each hour."""

    def record(event: SimulatedEvent) -> Record:
        return Record(RecordKind.EVENT, raw_id_hash(event.event), event.at_ms, event.event)

    first = int((EXAMPLE_START + HISTORY).timestamp() * 1000)
    with closing(EventLog(settings.data_dir / "log")) as log:
        for start in range(0, len(week), 5_000):
            log.append([record(event) for event in week[start : start + 5_000]])
        at = 0
        for end_ms in range(first + HOUR_MS, first + 25 * HOUR_MS, HOUR_MS):
            begin = at
            while at < len(day) and day[at].at_ms < end_ms:
                at += 1
            tick = Record(RecordKind.TICK, 0, end_ms, end_ms.to_bytes(8, "little"))
            log.append([*map(record, day[begin:at]), tick])
        log.sync()


def _process_day(settings: Settings, begin: int) -> None:
    model, policy = load_trained_model(settings.model_dir), live_policy(settings)
    with closing(open_service_store(settings)) as store, closing(LogGroupSource(settings.data_dir / "log")) as source:
        store.partitions.set_position(ONLY_PARTITION, begin)
        processor = Processor(
            Engine(model, engine_settings(settings, capacity=10_000), store.agents, identities=store.identities),
            ColumnEncoder(model.salt, settings.domains(), store.identities),
            DuplicateWindow(),
            policy,
            edges=EdgeCollector(),
        )
        context = PipelineContext(
            source,
            store,
            policy,
            PipelineSettings(),
            clock.monotonic,
            clock.sleep,
            lambda _: None,
            StageMetrics(clock.monotonic),
            tuning=PipelineTuning(poll_s=0.0),
        )
        with closing(Pipeline(source, context, lambda _: processor, shared=False)) as work:
            work.start()
            while work.step():
                pass
            work.finish()


def _archive_log(settings: Settings) -> None:
    from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive

    directory = settings.archive.directory
    assert directory is not None
    with closing(EventArchive(directory)) as archive, closing(LogReader(settings.data_dir / "log")) as source:
        archive.start()
        end = source.end_offset(ONLY_PARTITION)
        source.seek(ONLY_PARTITION, 0)
        at = 0
        while at < end and (batch := source.poll(min(20_000, end - at), 0.0)) is not None:
            events = [
                EventToArchive(
                    batch.base_offset + row, record.received_ms, decode_event(record.payload), record.payload
                )
                for row, record in enumerate(batch.records)
                if record.kind == RecordKind.EVENT
            ]
            archive.write(batch.base_offset, batch.next_offset, events)
            at = batch.next_offset

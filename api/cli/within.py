"""What commands that read a history take on the command line, and which of its events they mean."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer

from ...ingest.errors import MalformedEvent
from ...ingest.formats.lenient import decode_history_event
from ...ingest.source import RecordBatch, Source
from ..settings import Settings
from .histories import TimeWindow, history_files

TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]

HistoriesArgument = Annotated[
    list[str],
    typer.Argument(
        help="JSONL files of native events, plain or gzip; folders of an archive or an event log; "
        "kafka://HOST:PORT/TOPIC, or kafka: for that of the settings; oldest first; - is stdin"
    ),
]
BeforeOption = Annotated[
    datetime | None, typer.Option("--to", formats=TIME_FORMATS, help="leave out events from then on")
]
WarmUpOption = Annotated[
    float | None,
    typer.Option("--warm-up", help="days before --from whose events are read; default: all that there are", min=0),
]


def as_utc(at: datetime | None) -> datetime | None:
    """Times without an offset are UTC."""
    return at if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC)


def time_window(since: datetime | None, before: datetime | None, warm_up: float | None) -> TimeWindow:
    """Event times that are read, where what is before *since* warms up. Raises BadParameter."""
    if since is not None and before is not None and since >= before:
        raise typer.BadParameter("must be before --to", param_hint="--from")
    if warm_up is None:
        return TimeWindow(None, before)
    if since is None:
        raise typer.BadParameter("counts back from --from, which is missing", param_hint="--warm-up")
    return TimeWindow(since - timedelta(days=warm_up), before)


@contextmanager
def open_histories(named: list[str], settings: Settings, window: TimeWindow) -> Iterator[list[Path] | BinaryIO]:
    """Files of the histories, see `history_files`; standard input as it comes. Raises ConfigError, Unavailable."""
    if named == ["-"]:
        yield sys.stdin.buffer
        return
    with history_files(named, settings, window) as paths:
        yield paths


class _TimeMember(msgspec.Struct):
    time: datetime


_time_decoder = msgspec.json.Decoder(_TimeMember)


class WindowedSource:
    """Implements `Source`: the records of another one that happened within a window. Offsets stay those of the other.

    Args:
        source: read to its end.
        window: event times that are wanted. What is no event is handed out: whoever reads says so.
    """

    def __init__(self, source: Source, window: TimeWindow) -> None:
        self._source = source
        self._window = window
        self._waiting: list[RecordBatch] = []

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """The next records that are wanted; None at the end."""
        if self._window == TimeWindow():
            return self._source.poll(max_records, timeout_s)
        while not self._waiting:
            batch = self._source.poll(max_records, timeout_s)
            if batch is None:
                return None
            self._waiting = list(self._batches_in_window(batch))
        return self._waiting.pop(0)

    def _batches_in_window(self, batch: RecordBatch) -> Iterator[RecordBatch]:
        first, records = 0, batch.records
        for at, record in enumerate(records):
            if not self._is_in_window(record.payload):
                if at > first:
                    yield RecordBatch(batch.partition, batch.base_offset + first, records[first:at])
                first = at + 1
        if first < len(records):
            yield RecordBatch(batch.partition, batch.base_offset + first, records[first:])

    def _is_in_window(self, payload: bytes) -> bool:
        after, before = self._window
        at = _event_time(payload)
        return at is None or ((after is None or at >= after) and (before is None or at < before))

    def seek(self, partition: int, offset: int) -> None:
        """As the other."""
        self._waiting = []
        self._source.seek(partition, offset)

    def end_offset(self, partition: int) -> int:
        """As the other."""
        return self._source.end_offset(partition)

    def close(self) -> None:
        """As the other."""
        self._source.close()


def _event_time(payload: bytes) -> datetime | None:
    """When an event happened; None: it is none."""
    try:
        at = _time_decoder.decode(payload).time
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            at = decode_history_event(payload)[0].time  # other ways to write a time are mended there
        except MalformedEvent:
            return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)

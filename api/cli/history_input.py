"""Histories from wherever they are: files, standard input, archives, the embedded log, Kafka.

A history may be read by several processes, each all of it. What is no file becomes a temporary one: disk bounds it, not
memory.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
import typer

from ...ingest.archive.archive_files import POSITION_FILE
from ...ingest.errors import ConfigError, MalformedEvent
from ...ingest.events import NativeEvent
from ...ingest.extras import require_extra
from ...ingest.file_source import FileSource
from ...ingest.formats.history_decoding import decode_history_event
from ...ingest.log.log_reader import LogReader
from ...ingest.log.log_segments import segment_bases
from ...ingest.source import Record, RecordBatch, RecordKind, Source
from ...ingest.topics.protocols import TopicReader
from ...ingest.topics.topic_history import as_one_line, topic_event_lines
from ..brokers import BrokerSettings, open_reader
from ..composition import load_erased_filter
from ..settings.root import Settings
from .terminal import byte_progress, print_message

KAFKA_PREFIX = "kafka:"
_POLL_RECORDS = 5_000
_CLOCK_TOLERANCE = timedelta(hours=1)
"""Tolerated lead of a sender's clock: an event may carry a time that much later than its arrival."""


class TimeWindow(NamedTuple):
    """Event times that are wanted, from the first on and before the second; None = no bound."""

    after: datetime | None = None
    before: datetime | None = None

    def may_contain(self, received_ms: int) -> bool:
        """True if what arrived then may have happened within the window, given that senders' clocks may run ahead."""
        return self.after is None or received_ms >= (self.after - _CLOCK_TOLERANCE).timestamp() * 1000


@contextmanager
def history_files(named: list[str], settings: Settings, window: TimeWindow = TimeWindow()) -> Iterator[list[Path]]:  # noqa: B008
    """Files that hold the histories, oldest first; temporary ones are removed at the end.

    Args:
        named: as on the command line: files, `-` alone, folders of an archive or of an event log, `kafka:…`.
        settings: of the service: brokers, names of topics, security.
        window: a bound for what need not be read. What lies outside may be in the files all the same.

    Raises:
        ConfigError: there is no such history, or pyarrow is missing.
        Unavailable: no broker answers.
    """
    with ExitStack() as stack:
        yield [_history_file(name, settings, window, stack, alone=len(named) == 1) for name in named]


def _history_file(named: str, settings: Settings, window: TimeWindow, stack: ExitStack, *, alone: bool) -> Path:
    path = Path(named)
    piped = alone and named == "-"
    if not (piped or named.startswith(KAFKA_PREFIX) or path.is_dir()):
        return path
    kept = tempfile.NamedTemporaryFile(prefix="trustwatch-history-")  # noqa: SIM115 (the stack closes it)
    stack.enter_context(kept)
    if piped:
        shutil.copyfileobj(sys.stdin.buffer, kept)
    else:
        lines = _topic_lines(named, settings, window) if named.startswith(KAFKA_PREFIX) else _folder_lines(path, window)
        kept.writelines(line + b"\n" for line in lines)
    kept.flush()
    return Path(kept.name)


def _folder_lines(path: Path, window: TimeWindow) -> Iterable[bytes]:
    if (path / POSITION_FILE).exists():
        return _archive_lines(path, window)
    for log in (path, path / "log"):
        if segment_bases(log):
            return _log_lines(log, window)
    raise ConfigError(
        f"{path}: neither an archive (it has a `{POSITION_FILE}`) nor an event log (`log` in the service's data_dir)"
    )


def _archive_lines(path: Path, window: TimeWindow) -> Iterable[bytes]:
    """Events of an archive; the library that reads it is an extra."""
    require_extra("archive", f"{path} is an archive")
    from ...ingest.archive.archive_reader import raw_lines

    return raw_lines(path, window.after, window.before)


def _log_lines(path: Path, window: TimeWindow) -> Iterator[bytes]:
    """Events of an event log, from its oldest segment up to what is durable now; the service may go on writing."""
    with LogReader(path) as reader:
        reader.seek(0, min(segment_bases(path)))
        end = reader.end_offset(0)
        while (batch := reader.poll(_POLL_RECORDS, 0.0)) is not None:
            durable = batch.records[: end - batch.base_offset]
            yield from (as_one_line(record.payload) for record in durable if _may_be_in_window(record, window))
            if batch.next_offset >= end:
                return


def _may_be_in_window(record: Record, window: TimeWindow) -> bool:
    return record.kind == RecordKind.EVENT and window.may_contain(record.received_ms)


class TopicRange(NamedTuple):
    """Range of a topic to read: offsets by partition, whose end is open where it is None; None = all there is."""

    broker_settings: BrokerSettings
    name: str
    offsets: dict[int, tuple[int, int | None]] | None

    def contains(self, partition: int, offset: int) -> bool:
        """True if a record is in the range."""
        if self.offsets is None:
            return True
        first, end = self.offsets.get(partition, (0, 0))
        return offset >= first and (end is None or offset < end)


def parse_topic_url(named: str, settings: Settings) -> TopicRange:
    """Parse `kafka:[//BROKERS][/TOPIC][?offsets=PARTITION:FIRST-END,…]`; settings fill in what it leaves out.

    Raises ConfigError.
    """
    parts = urlsplit(named)
    broker_settings = settings.brokers
    if parts.netloc:
        broker_settings = msgspec.structs.replace(broker_settings, bootstrap_servers=tuple(parts.netloc.split(",")))
    if not broker_settings.bootstrap_servers:
        raise ConfigError(f"{named}: names no brokers, and neither do the settings: kafka://HOST:PORT/TOPIC")
    query = parse_qs(parts.query, keep_blank_values=True)
    if parts.scheme != "kafka" or set(query) - {"offsets"}:
        raise ConfigError(f"{named}: must be kafka://HOST:PORT,…/TOPIC?offsets=PARTITION:FIRST-END,…")
    offsets = _parse_offsets(named, query["offsets"][0]) if "offsets" in query else None
    return TopicRange(broker_settings, parts.path.strip("/") or broker_settings.names.events, offsets)


def _parse_offsets(named: str, text: str) -> dict[int, tuple[int, int | None]]:
    ranges: dict[int, tuple[int, int | None]] = {}
    try:
        for part in text.split(","):
            partition, _, both = part.partition(":")
            first, dash, end = both.partition("-")
            if not dash:
                raise ValueError(part)
            ranges[int(partition)] = int(first), int(end) if end else None
    except ValueError:
        raise ConfigError(f"{named}: offsets must be PARTITION:FIRST-END,… such as 0:100-200,1:50-") from None
    return ranges


def _topic_lines(named: str, settings: Settings, window: TimeWindow) -> Iterator[bytes]:
    """Events of a topic, see `topic_event_lines`."""
    topic = parse_topic_url(named, settings)
    reader = open_reader(topic.broker_settings, (topic.name,))
    lines = 0
    try:
        partitions = _seek_topic(named, topic, reader)
        for line in topic_event_lines(
            reader,
            topic.name,
            lambda at, offset, record: topic.contains(at, offset) and window.may_contain(record.received_ms),
            erased=load_erased_filter(settings, topic.name),
        ):
            lines += 1
            yield line
    finally:
        reader.close()
    print_message(f"read {lines} events of {topic.name}, {partitions} partitions")


def _seek_topic(named: str, topic: TopicRange, reader: TopicReader) -> int:
    """Go to where the history begins; returns how many partitions there are. Raises ConfigError: not these."""
    ends = reader.end_offsets()
    missing = [at for at in topic.offsets or {} if (topic.name, at) not in ends]
    if missing:
        raise ConfigError(f"{named}: {topic.name} has the partitions 0 to {len(ends) - 1}, no partition {missing[0]}")
    if topic.offsets is not None:
        for (name, at), kept in reader.first_offsets().items():
            end = ends[name, at]
            first = topic.offsets.get(at, (end, None))[0]
            if first < kept:
                print_message(f"{name}[{at}]: offsets before {kept} are no longer kept")
            reader.seek(name, at, min(max(first, kept), end))
    return len(ends)


# Options of the commands that read a history.

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
        """Pass on to the wrapped reader."""
        self._waiting = []
        self._source.seek(partition, offset)

    def end_offset(self, partition: int) -> int:
        """Pass on to the wrapped reader."""
        return self._source.end_offset(partition)

    def close(self) -> None:
        """Pass on to the wrapped reader."""
        self._source.close()


def _event_time(payload: bytes) -> datetime | None:
    """Time at which an event happened; None: the payload is no event."""
    try:
        at = _time_decoder.decode(payload).time
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            at = decode_history_event(payload)[0].time  # other ways to write a time are mended there
        except MalformedEvent:
            return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


MAX_SHOWN_PROBLEMS = 5


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

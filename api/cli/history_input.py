"""Histories from all sources: files of any format, standard input, archives, the embedded log, Kafka.

Several processes may read a history, each all of it. Other inputs become a temporary file, which only disk bounds.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from trustwatch.ingest.archive.archive_files import POSITION_FILE
from trustwatch.ingest.errors import ConfigError, MalformedEvent
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.extras import require_extra
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.history_decoding import RecordOwner, decode_history_event
from trustwatch.ingest.history.conversion import (
    FormatChoice,
    FormattedFile,
    HistoryConverter,
    read_mapping,
    total_bytes,
)
from trustwatch.ingest.history.record_files import peek_line
from trustwatch.ingest.history.time_order import Disorder, in_time_order
from trustwatch.ingest.log.log_reader import read_log
from trustwatch.ingest.log.segment_import import is_log
from trustwatch.ingest.source import Record, RecordBatch, RecordKind, Source, as_one_line

from ..brokers import TOPIC_PREFIX
from ..settings.access_settings import only_name
from ..settings.root import Settings
from .terminal import byte_progress, print_message
from .topic_input import TimeWindow, parse_topic_url, records_of_others, topic_lines

STDIN_NAME = "standard input"
_POLL_RECORDS = 5_000


@contextmanager
def history_files(
    named: list[str],
    settings: Settings,
    window: TimeWindow = TimeWindow(),  # noqa: B008
    converter: HistoryConverter | None = None,
    stdin: BinaryIO | None = None,
) -> Iterator[list[Path]]:
    """Yield files of native events that hold the histories, oldest first; temporary ones are removed at the end.

    Raises:
        ConfigError: the history does not exist, its records have an unknown format, or an extra is missing.
        Unavailable: no broker answers.
    """
    with ExitStack() as stack:
        files = _HistoryFiles(
            settings, window, converter or history_converter(None, None), stack, stdin or sys.stdin.buffer
        )
        for name in named:
            files.add(name, alone=len(named) == 1)
        files.order_files()
        yield files.paths


def history_converter(record_format: str | None, mapping: Path | None) -> HistoryConverter:
    """Return a converter by the options `--format` and `--mapping`; its messages go to stderr. Raises ConfigError."""
    spec = None if mapping is None else read_mapping(mapping)
    return HistoryConverter(FormatChoice(record_format, spec, mapping), print_message)


@dataclass(eq=False)
class _HistoryFiles:
    """Makes files of native events from the histories that the operator names.

    Adjacent files are one history in the order of time: exports are cut by region and day, not by time. Files of native
    event lines in order stay as they are. What the service kept itself (an archive, an event log, a topic) is read in
    its order, in which it was judged.
    """

    settings: Settings
    window: TimeWindow
    converter: HistoryConverter
    stack: ExitStack
    stdin: BinaryIO

    paths: list[Path] = field(default_factory=list)
    _unordered: list[Path | FormattedFile] = field(default_factory=list)
    _waiting: list[FormattedFile] = field(default_factory=list)

    def add(self, named: str, *, alone: bool) -> None:
        """Add one history."""
        if named.startswith(TOPIC_PREFIX) and (found := self._records_of_others(named)) is not None:
            self._waiting.append(found)
            return
        lines = self._own_lines(named)
        if lines is None:
            from_stdin = alone and named == "-"
            path = copied_to_file(self.stdin, self.stack) if from_stdin else Path(named)
            files = self.converter.find(path, STDIN_NAME) if from_stdin else self.converter.find(path)
            if len(files) == 1 and files[0].is_native_lines:
                self._convert_waiting()
                self._unordered.append(files[0])
            else:
                self._waiting += files
        elif not self.converter.choice.is_open:
            raise ConfigError(
                f"{named}: holds native events; --format and --mapping are for files and topics of other formats"
            )
        else:
            self.order_files()
            self.paths.append(self._write(lines))

    def _records_of_others(self, named: str) -> FormattedFile | None:
        """Return the records that other programs wrote to a topic; None if its events are ours."""
        topic = parse_topic_url(named, self.settings)
        if topic.name == self.settings.brokers.topic_names.events:
            return None
        choice = self.converter.choice
        configured = next((one for one in self.settings.kafka.topics if one.topic == topic.name), None)
        if choice.is_open and configured is not None:
            print_message(f"{topic.name}: format {configured.format}, as `kafka.topics` of the settings says")
            owner = RecordOwner(only_name(configured.tenants), only_name(configured.issuers))
            choice = FormatChoice(configured.format, configured.own_mapping(), owner=owner)
        records = records_of_others(named, topic, self.window, choice, _temporary_file(self.stack))
        return None if records is None else self.converter.choose(records, choice)

    def _own_lines(self, named: str) -> Iterable[bytes] | None:
        """Return the events of an archive, an event log or a topic; None for another input.

        A log is read from its oldest record up to what is durable now; the service may continue to write.
        """
        path, window = Path(named), self.window
        if named.startswith(TOPIC_PREFIX):
            return topic_lines(named, self.settings, window)
        if (path / POSITION_FILE).exists():
            require_extra("archive", f"{path} is an archive")
            from trustwatch.ingest.archive.archive_reader import raw_lines  # needs the extra

            return raw_lines(path, window.after, window.before)
        log = next((log for log in (path, path / "log") if path.is_dir() and is_log(log)), None)
        if log is None:
            return None
        records = (record for record in read_log(log) if record.kind == RecordKind.EVENT)
        return (as_one_line(record.payload) for record in records if window.may_contain(record.received_ms))

    def _convert_waiting(self) -> None:
        files, self._waiting = self._waiting, []
        if files:
            self.converter.tell_formats(files)
            with byte_progress("converting", total_bytes(files)) as progress:
                self._unordered.append(self._write(self._in_order(self.converter.convert(files, progress))))

    def order_files(self) -> None:
        """Sort adjacent files by time, if they are not in order."""
        self._convert_waiting()
        files, self._unordered = self._unordered, []
        paths = [file if isinstance(file, Path) else file.file.path for file in files]
        if is_disordered(FileSource(paths)):
            lines = (  # invalid lines are reported here, since sorted events have no place in a file
                file_lines(FileSource([file])) if isinstance(file, Path) else self.converter.native_lines(file)
                for file in files
            )
            paths = [self._write(self._in_order(itertools.chain.from_iterable(lines)))]
        self.paths += paths

    def _in_order(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        disorder = Disorder()
        yield from in_time_order(lines, disorder=disorder)
        if disorder.late:
            self.converter.tell(f"{disorder.describe()}; they are read in the order of time")

    def _write(self, lines: Iterable[bytes]) -> Path:
        kept = _temporary_file(self.stack)
        kept.writelines(line + b"\n" for line in lines)
        kept.flush()
        return Path(kept.name)


def file_lines(source: FileSource) -> Iterator[bytes]:
    """Yield the lines of files that are not blank. Raises UnreadableFile."""
    while lines := source.take_lines(_POLL_RECORDS)[1]:
        yield from lines


def is_disordered(source: FileSource) -> bool:
    """Return whether a native event follows a later one. Raises UnreadableFile."""
    disorder = Disorder()
    return any(disorder.place(line) and disorder.late for line in file_lines(source))


def _temporary_file(stack: ExitStack) -> Any:
    return stack.enter_context(tempfile.NamedTemporaryFile(prefix="trustwatch-history-"))


def copied_to_file(stream: BinaryIO, stack: ExitStack) -> Path:
    """Copy a stream to a temporary file, which *stack* removes."""
    kept = _temporary_file(stack)
    shutil.copyfileobj(stream, kept)
    kept.flush()
    return Path(kept.name)


# Options of the commands that read a history.

TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]

HistoriesArgument = Annotated[
    list[str],
    typer.Argument(
        help="files or folders of events, in any format; folders of an archive or an event log; "
        "kafka://HOST:PORT/TOPIC, or kafka: for that of the settings; oldest first; - is stdin"
    ),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="format of the records (aws-cloudtrail, envoy, …); default: detected")
]
MappingOption = Annotated[
    Path | None,
    typer.Option(
        "--mapping", help="YAML file with a mapping of your own, or changes to that of the format", dir_okay=False
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
    """Return a time with its offset; one without an offset is UTC."""
    return at if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC)


def time_window(since: datetime | None, before: datetime | None, warm_up: float | None) -> TimeWindow:
    """Return the event times to read; those before *since* warm up. Raises BadParameter."""
    if since is not None and before is not None and since >= before:
        raise typer.BadParameter("must be before --to", param_hint="--from")
    if warm_up is None:
        return TimeWindow(None, before)
    if since is None:
        raise typer.BadParameter("counts back from --from, which is missing", param_hint="--warm-up")
    return TimeWindow(since - timedelta(days=warm_up), before)


@contextmanager
def open_histories(
    named: list[str], settings: Settings, window: TimeWindow, converter: HistoryConverter
) -> Iterator[list[Path] | BinaryIO]:
    """Yield files of the histories (see `history_files`), or standard input if it has native events.

    Raises ConfigError, Unavailable.
    """
    pipe: BinaryIO | None = None
    if named == ["-"]:
        head, pipe = peek_line(sys.stdin.buffer)
        if converter.is_native(head):
            yield pipe
            return
    with history_files(named, settings, window, converter, pipe) as paths:
        yield paths


def open_output(out: Path, inputs: list[Path] | BinaryIO, converter: HistoryConverter) -> BinaryIO:
    """Open the file for the results, after the histories were found. Raises BadParameter if it is one of them."""
    read = [*(inputs if isinstance(inputs, list) else ()), *converter.paths]
    if out.exists() and any(out.samefile(path) for path in read):
        raise typer.BadParameter("is one of the histories, and would be overwritten", param_hint="--out")
    return out.open("wb")


class _TimeMember(msgspec.Struct):
    time: datetime


_time_decoder = msgspec.json.Decoder(_TimeMember)


@dataclass(eq=False)
class WindowedSource:
    """A `Source` of the records of another one that happened within a window. Offsets stay those of the other."""

    _source: Source
    _window: TimeWindow
    _waiting: list[RecordBatch] = field(default_factory=list)

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """Return the next records of the window; None at the end."""
        if self._window == TimeWindow():
            return self._source.poll(max_records, timeout_s)
        while not self._waiting:
            batch = self._source.poll(max_records, timeout_s)
            if batch is None:
                return None
            offset = batch.base_offset
            for is_inside, group in itertools.groupby(batch.records, self._is_in_window):
                records = list(group)
                if is_inside:
                    self._waiting.append(RecordBatch(batch.partition, offset, records))
                offset += len(records)
        return self._waiting.pop(0)

    def _is_in_window(self, record: Record) -> bool:
        after, before = self._window
        at = _event_time(record.payload)
        return at is None or ((after is None or at >= after) and (before is None or at < before))

    def close(self) -> None:
        self._source.close()


def _event_time(payload: bytes) -> datetime | None:
    """Return the time at which an event happened; None if the payload is not an event."""
    try:
        at = _time_decoder.decode(payload).time
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            at = decode_history_event(payload)[0].time  # it repairs other ways to write a time
        except MalformedEvent:
            return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


MAX_SHOWN_PROBLEMS = 5


@dataclass(eq=False)
class EventHistoryReader:
    """Reads a history into decoded events, and counts invalid records."""

    malformed: int = 0
    mended: int = 0

    def read(self, inputs: list[Path] | BinaryIO, window: TimeWindow) -> list[NativeEvent]:
        """Return all events of the window, in order."""
        events: list[NativeEvent] = []
        with byte_progress("reading", FileSource(inputs).total_bytes) as progress:
            source = WindowedSource(FileSource(inputs, progress=progress), window)
            while (batch := source.poll(5000, 0.0)) is not None:
                for offset, record in enumerate(batch.records, batch.base_offset):
                    try:
                        event, mended = decode_history_event(record.payload)
                    except MalformedEvent as error:
                        self.malformed += 1
                        report_malformed(self.malformed, offset, error.path, error.reason)
                    else:
                        events.append(event)
                        self.mended += mended
        return events


def report_malformed(count: int, offset: int, path: str, reason: str) -> None:
    """Report the first few invalid records."""
    if count <= MAX_SHOWN_PROBLEMS:
        print_message(f"record {offset + 1}: {reason} - at `{path}`")
    if count == MAX_SHOWN_PROBLEMS:
        print_message("further records that are not events are only counted")

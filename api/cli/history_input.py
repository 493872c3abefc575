"""Histories from wherever they are: files, standard input, archives, the embedded log, Kafka.

A history may be read by several processes, each all of it. What is no file becomes a temporary one: disk bounds it, not
memory.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
import typer

from ...ingest.archive.archive_files import POSITION_FILE
from ...ingest.columns import ColumnEncoder
from ...ingest.errors import ConfigError, MalformedEvent
from ...ingest.events import NativeEvent
from ...ingest.file_source import FileSource
from ...ingest.formats.history_decoding import decode_history_event
from ...ingest.kafka import open_reader
from ...ingest.kafka.protocols import TopicReader
from ...ingest.kafka.settings import KafkaClientSettings
from ...ingest.kafka.topic_history import as_one_line, topic_event_lines
from ...ingest.log.log_reader import LogReader
from ...ingest.log.log_segments import segment_bases
from ...ingest.source import Record, RecordBatch, RecordKind, Source
from ...models.detector import FAMILIAR_EVENTS, DetectorSettings
from ...models.model_directory import is_model
from ...models.model_persistence import load_trained_model, save_trained_model
from ...models.model_training import session_ids
from ...scoring.learning.budget_check import check_budget
from ...scoring.learning.walkforward import train_walk_forward, walk_forward_events
from ...scoring.pipeline.replay import HistoryReplay, ReplayedEvent
from .. import clock
from ..composition import engine_settings, kafka_settings, load_erased_filter
from ..settings.loading import load_process_settings
from ..settings.root import Settings
from .terminal import byte_progress, fail, print_message, print_summary, stage_progress

KAFKA_PREFIX = "kafka:"
_POLL_RECORDS = 5_000
_CLOCK_TOLERANCE = timedelta(hours=1)
"""How far a sender's clock may run ahead: what arrived so long before a time did not happen after it."""


class TimeWindow(NamedTuple):
    """Event times that are wanted, from the first on and before the second; None = no bound."""

    after: datetime | None = None
    before: datetime | None = None

    def may_contain(self, received_ms: int) -> bool:
        """Whether what arrived then may have happened within. Senders' clocks run an hour ahead at most."""
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
        yield [_history_file(one, settings, window, stack, alone=len(named) == 1) for one in named]


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
    try:
        from ...ingest.archive.archive_reader import raw_lines
    except ModuleNotFoundError:
        raise ConfigError(f"{path} is an archive; it needs pyarrow: pip install 'trustwatch[archive]'") from None
    return raw_lines(path, window.after, window.before)


def _log_lines(path: Path, window: TimeWindow) -> Iterator[bytes]:
    """Events of an event log, from its oldest segment up to what is durable now; the service may go on writing."""
    with LogReader(path) as reader:
        reader.seek(0, min(segment_bases(path)))
        end = reader.end_offset(0)
        while (batch := reader.poll(_POLL_RECORDS, 0.0)) is not None:
            wanted = batch.records[: end - batch.base_offset]
            yield from (as_one_line(record.payload) for record in wanted if _may_be_in_window(record, window))
            if batch.next_offset >= end:
                return


def _may_be_in_window(record: Record, window: TimeWindow) -> bool:
    return record.kind == RecordKind.EVENT and window.may_contain(record.received_ms)


class TopicRange(NamedTuple):
    """What of Kafka is read: offsets by partition, of which the end is open where it is None; None = all there is."""

    kafka: KafkaClientSettings
    name: str
    offsets: dict[int, tuple[int, int | None]] | None

    def contains(self, partition: int, offset: int) -> bool:
        """Whether a record is among what is read."""
        if self.offsets is None:
            return True
        first, end = self.offsets.get(partition, (0, 0))
        return offset >= first and (end is None or offset < end)


def parse_topic_url(named: str, settings: Settings) -> TopicRange:
    """What `kafka:[//BROKERS][/TOPIC][?offsets=PARTITION:FIRST-END,…]` means; settings say what it does not.

    Raises ConfigError.
    """
    parts = urlsplit(named)
    kafka = kafka_settings(settings)
    if parts.netloc:
        kafka = msgspec.structs.replace(kafka, bootstrap_servers=tuple(parts.netloc.split(",")))
    if not kafka.bootstrap_servers:
        raise ConfigError(f"{named}: names no brokers, and neither do the settings: kafka://HOST:PORT/TOPIC")
    query = parse_qs(parts.query, keep_blank_values=True)
    if parts.scheme != "kafka" or set(query) - {"offsets"}:
        raise ConfigError(f"{named}: must be kafka://HOST:PORT,…/TOPIC?offsets=PARTITION:FIRST-END,…")
    offsets = _parse_offsets(named, query["offsets"][0]) if "offsets" in query else None
    return TopicRange(kafka, parts.path.strip("/") or kafka.topics.events, offsets)


def _parse_offsets(named: str, text: str) -> dict[int, tuple[int, int | None]]:
    found: dict[int, tuple[int, int | None]] = {}
    try:
        for part in text.split(","):
            partition, _, both = part.partition(":")
            first, dash, end = both.partition("-")
            if not dash:
                raise ValueError(part)
            found[int(partition)] = int(first), int(end) if end else None
    except ValueError:
        raise ConfigError(f"{named}: offsets must be PARTITION:FIRST-END,… such as 0:100-200,1:50-") from None
    return found


def _topic_lines(named: str, settings: Settings, window: TimeWindow) -> Iterator[bytes]:
    """Events of a topic, see `topic_event_lines`."""
    topic = parse_topic_url(named, settings)
    reader = open_reader(topic.kafka, (topic.name,))
    lines = 0
    try:
        partitions = _seek_topic(named, topic, reader)
        for line in topic_event_lines(
            reader,
            topic.name,
            lambda at, offset, record: topic.contains(at, offset) and window.may_contain(record.received_ms),
            unread=load_erased_filter(settings, topic.name),
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


# What commands that read a history take on the command line, and which of its events they mean.


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


# Commands that need no service: `train` and `replay`.


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

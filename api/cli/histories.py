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
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from ...ingest.archive.position import POSITION
from ...ingest.errors import ConfigError
from ...ingest.kafka import KafkaSettings, TopicReader, open_reader
from ...ingest.kafka.history import one_line, topic_lines
from ...ingest.log import LogReader
from ...ingest.log.segments import segment_bases
from ...ingest.source import Kind, Record
from ..privacy.reading import unread_of
from ..serve.wiring import kafka_settings
from ..settings import Settings
from .console import say

KAFKA = "kafka:"
_POLL = 5_000
_SLACK = timedelta(hours=1)
"""How far a sender's clock may run ahead: what arrived so long before a time did not happen after it."""


class Window(NamedTuple):
    """Event times that are wanted, from the first on and before the second; None = no bound."""

    after: datetime | None = None
    before: datetime | None = None

    def may_hold(self, received_ms: int) -> bool:
        """Whether what arrived then may have happened within. Senders' clocks run an hour ahead at most."""
        return self.after is None or received_ms >= (self.after - _SLACK).timestamp() * 1000


@contextmanager
def files_of(named: list[str], settings: Settings, window: Window = Window()) -> Iterator[list[Path]]:  # noqa: B008
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
        yield [_file(one, settings, window, stack, alone=len(named) == 1) for one in named]


def _file(named: str, settings: Settings, window: Window, stack: ExitStack, *, alone: bool) -> Path:
    path = Path(named)
    piped = alone and named == "-"
    if not (piped or named.startswith(KAFKA) or path.is_dir()):
        return path
    kept = tempfile.NamedTemporaryFile(prefix="trustwatch-history-")  # noqa: SIM115 (the stack closes it)
    stack.enter_context(kept)
    if piped:
        shutil.copyfileobj(sys.stdin.buffer, kept)
    else:
        lines = _of_kafka(named, settings, window) if named.startswith(KAFKA) else _of_folder(path, window)
        kept.writelines(line + b"\n" for line in lines)
    kept.flush()
    return Path(kept.name)


def _of_folder(path: Path, window: Window) -> Iterable[bytes]:
    if (path / POSITION).exists():
        return _of_archive(path, window)
    for log in (path, path / "log"):
        if segment_bases(log):
            return _of_log(log, window)
    raise ConfigError(
        f"{path}: neither an archive (it has a `{POSITION}`) nor an event log (`log` in the service's data_dir)"
    )


def _of_archive(path: Path, window: Window) -> Iterable[bytes]:
    """Events of an archive; the library that reads it is an extra."""
    try:
        from ...ingest.archive.reader import raw_lines
    except ModuleNotFoundError:
        raise ConfigError(f"{path} is an archive; it needs pyarrow: pip install 'trustwatch[archive]'") from None
    return raw_lines(path, window.after, window.before)


def _of_log(path: Path, window: Window) -> Iterator[bytes]:
    """Events of an event log, from its oldest segment up to what is durable now; the service may go on writing."""
    with LogReader(path) as reader:
        reader.seek(0, min(segment_bases(path)))
        end = reader.end_offset(0)
        while (batch := reader.poll(_POLL, 0.0)) is not None:
            wanted = batch.records[: end - batch.base_offset]
            yield from (one_line(record.payload) for record in wanted if _is_wanted(record, window))
            if batch.next_offset >= end:
                return


def _is_wanted(record: Record, window: Window) -> bool:
    return record.kind == Kind.EVENT and window.may_hold(record.received_ms)


class Topic(NamedTuple):
    """What of Kafka is read: offsets by partition, of which the end is open where it is None; None = all there is."""

    kafka: KafkaSettings
    name: str
    offsets: dict[int, tuple[int, int | None]] | None

    def holds(self, partition: int, offset: int) -> bool:
        """Whether a record is among what is read."""
        if self.offsets is None:
            return True
        first, end = self.offsets.get(partition, (0, 0))
        return offset >= first and (end is None or offset < end)


def topic_of(named: str, settings: Settings) -> Topic:
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
    offsets = _offsets(named, query["offsets"][0]) if "offsets" in query else None
    return Topic(kafka, parts.path.strip("/") or kafka.topics.events, offsets)


def _offsets(named: str, text: str) -> dict[int, tuple[int, int | None]]:
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


def _of_kafka(named: str, settings: Settings, window: Window) -> Iterator[bytes]:
    """Events of a topic, see `topic_lines`."""
    topic = topic_of(named, settings)
    reader = open_reader(topic.kafka, (topic.name,))
    lines = 0
    try:
        partitions = _begin(named, topic, reader)
        for line in topic_lines(
            reader,
            topic.name,
            lambda at, offset, record: topic.holds(at, offset) and window.may_hold(record.received_ms),
            unread=unread_of(settings, topic.name),
        ):
            lines += 1
            yield line
    finally:
        reader.close()
    say(f"read {lines} events of {topic.name}, {partitions} partitions")


def _begin(named: str, topic: Topic, reader: TopicReader) -> int:
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
                say(f"{name}[{at}]: offsets before {kept} are no longer kept")
            reader.seek(name, at, min(max(first, kept), end))
    return len(ends)

"""Histories of topics: our own events, and records of other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.formats.cloudevents import structured_value
from trustwatch.ingest.history.conversion import DETECTION_RECORDS, FormatChoice
from trustwatch.ingest.history.record_files import RecordFile, write_value
from trustwatch.ingest.topics.protocols import TopicReader
from trustwatch.ingest.topics.record_codec import TopicRecord, header_texts, own_record
from trustwatch.ingest.topics.topic_history import topic_event_lines, written_records

from ..brokers import TOPIC_FORM, TOPIC_PREFIX, BrokerSettings, open_reader
from ..composition import load_erased_filter
from ..settings.root import Settings
from .terminal import print_message

_CLOCK_TOLERANCE = timedelta(hours=1)
"""Tolerated lead of a sender's clock: an event may carry a time that much later than its arrival."""


class TimeWindow(NamedTuple):
    """Event times from *after* on and before *before*; None = no bound."""

    after: datetime | None = None
    before: datetime | None = None

    def may_contain(self, received_ms: int) -> bool:
        """Return whether what arrived then may have happened in the window: senders' clocks may run ahead."""
        return self.after is None or received_ms >= (self.after - _CLOCK_TOLERANCE).timestamp() * 1000


class TopicRange(NamedTuple):
    """Range of a topic to read: offsets by partition, whose end may be None (open); None = everything."""

    broker_settings: BrokerSettings
    name: str
    offsets: dict[int, tuple[int, int | None]] | None

    def contains(self, partition: int, offset: int) -> bool:
        """Return whether a record is in the range."""
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
        raise ConfigError(f"{named}: names no brokers, and neither do the settings: {TOPIC_FORM}")
    query = parse_qs(parts.query, keep_blank_values=True)
    if f"{parts.scheme}:" != TOPIC_PREFIX or set(query) - {"offsets"}:
        raise ConfigError(f"{named}: must be {TOPIC_FORM}?offsets=PARTITION:FIRST-END,…")
    offsets = _parse_offsets(named, query["offsets"][0]) if "offsets" in query else None
    return TopicRange(broker_settings, parts.path.strip("/") or broker_settings.topic_names.events, offsets)


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


def topic_lines(named: str, settings: Settings, window: TimeWindow) -> Iterator[bytes]:
    """Yield the events of a topic, see `topic_event_lines`."""
    topic = parse_topic_url(named, settings)
    lines = 0
    with _topic_reader(named, topic) as reader:
        partitions = len(reader.end_offsets())
        for line in topic_event_lines(
            reader,
            topic.name,
            lambda at, offset, record: topic.contains(at, offset) and window.may_contain(record.received_ms),
            erased=load_erased_filter(settings, topic.name),
        ):
            lines += 1
            yield line
    print_message(f"read {lines:,} events of {topic.name}, {partitions} partitions")


def records_of_others(
    named: str, topic: TopicRange, window: TimeWindow, choice: FormatChoice, kept: BinaryIO
) -> RecordFile | None:
    """Save records that other programs wrote to *topic* in the temporary file *kept*.

    Returns None if Trustwatch wrote the topic, as most of the first records show: a copy of the events topic.

    Raises:
        ConfigError: the topic or partition does not exist.
        CorruptLog: a record is damaged.
        Unavailable: no broker answers.
    """

    def is_in_range(partition: int, raw: TopicRecord) -> bool:  # without a timestamp it may have happened at any time
        return topic.contains(partition, raw.offset) and (raw.timestamp_ms < 0 or window.may_contain(raw.timestamp_ms))

    with _topic_reader(named, topic) as reader:
        records = written_records(reader, is_in_range)
        head = list(islice(records, DETECTION_RECORDS))
        if choice.is_open and are_ours(head):
            return None
        if strange := sum(map(is_ours, head)):
            print_message(
                f"{topic.name}: {strange} of the first {len(head)} records look like ours; read like the others"
            )
        takes_headers = choice.is_open or choice.name == "cloudevents"
        for raw in chain(head, records):
            value = raw.value or b""
            write_value(kept, structured_value(value, header_texts(raw)) if takes_headers else value)
    kept.flush()
    return RecordFile(Path(kept.name), named, "none", "values")


def are_ours(head: Sequence[TopicRecord]) -> bool:
    """Return whether most records are as Trustwatch writes them: a few forged ones do not hide the others."""
    return 2 * sum(map(is_ours, head)) > len(head)


def is_ours(raw: TopicRecord) -> bool:
    """Return whether a record is as Trustwatch writes them."""
    return own_record(raw.timestamp_ms, raw.value, raw.headers) is not None


@contextmanager
def _topic_reader(named: str, topic: TopicRange) -> Iterator[TopicReader]:
    """Open a reader at the beginning of the history.

    Raises ConfigError (a partition does not exist), Unavailable.
    """
    with closing(open_reader(topic.broker_settings, (topic.name,))) as reader:
        ends = reader.end_offsets()
        missing = [at for at in topic.offsets or {} if (topic.name, at) not in ends]
        if missing:
            problem = f"{topic.name} has the partitions 0 to {len(ends) - 1}, no partition {missing[0]}"
            raise ConfigError(f"{named}: {problem}")
        if topic.offsets is not None:
            for (name, at), kept in reader.first_offsets().items():
                end = ends[name, at]
                first = topic.offsets.get(at, (end, None))[0]
                if first < kept:
                    print_message(f"{name}[{at}]: offsets before {kept} are no longer kept")
                reader.seek(name, at, min(max(first, kept), end))
        yield reader

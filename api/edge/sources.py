"""One foreign topic: read in turns, taken apart, judged, and counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import structlog

from ...ingest.errors import ConfigError, CorruptLog, MalformedEvent, SourceNotAllowed, Unavailable
from ...ingest.formats import Parcel
from ...ingest.identity import record_id
from ...ingest.kafka import Fetched, Raw, TopicReader
from ...ingest.source import Record
from ..callers import SourceBinding
from ..settings.topics import KafkaTopicSettings
from .admission import FUTURE_S, Admission
from .letters import refused_record
from .limits import Bucket
from .reports import SourceReport

CHUNK = 100
"""Records of one poll."""

POLL_S = 0.005
"""How long a topic without records is waited for. Not 0: kafka-python gets nowhere in joining its group then."""

TURN_S = 0.05
TURN_RECORDS = 1000
TURN_BYTES = 4 * 1024 * 1024
"""A topic's turn ends after this much, so that no topic can keep the others waiting, however much it holds and however
slowly its records are refused."""

RETRY_S = 1.0
MISCONFIGURED_RETRY_S = 30.0

_log = structlog.get_logger(__name__)


Place = tuple[int, int]
"""Partition of a record, and which of the events in it."""


class Refused(NamedTuple):
    """A record, or one event of it, that can not be taken: the dead letter, and what the dead-letter topic gets."""

    letter: Record
    raw: bytes
    headers: list[tuple[str, bytes]]


class TopicSource:
    """One source. Everything it hands out must be durable before `commit`.

    Args:
        settings: of the topic.
        open_reader: makes its reader; called again after a failure.
        admission: judges events.
        monotonic: seconds on a clock that never goes back.
        now_ms: UTC milliseconds.
    """

    def __init__(
        self,
        settings: KafkaTopicSettings,
        open_reader: Callable[[], TopicReader],
        admission: Admission,
        monotonic: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self.settings = settings
        self.report = SourceReport(settings.name)
        self.uncommitted = False
        self.heard = False
        self._open = open_reader
        self._reader: TopicReader | None = None
        self._admission = admission
        self._monotonic = monotonic
        self._now_ms = now_ms
        self._parse = settings.parser()
        self._binding = topic_binding(settings)
        rate = settings.events_per_s
        self._bucket = None if rate is None else Bucket(rate, monotonic())
        self._chunk = CHUNK if rate is None else max(1, min(CHUNK, int(rate)))
        self._rest_until = 0.0
        self._failing = ""

    @property
    def resting_s(self) -> float:
        """Seconds until its next turn."""
        return max(0.0, self._rest_until - self._monotonic())

    def turn(self) -> list[Record | Refused]:
        """Read on until nothing is there or the turn is over."""
        self.heard = False
        out: list[Record | Refused] = []
        if self.resting_s:
            return out
        end, size, read = self._monotonic() + TURN_S, 0, 0
        while self._monotonic() < end and size < TURN_BYTES and read < TURN_RECORDS and not self._held_back():
            fetched = self._poll()
            if not fetched:
                break
            taken, polled = len(out), 0
            for _, partition, records in fetched:
                polled += len(records)
                for record in records:
                    size += len(record.value or b"")
                    out.extend(self._judge(partition, record))
            read += polled
            self.uncommitted = self.heard = True
            if self._bucket is not None:
                self._bucket.take(max(len(out) - taken, polled))
        self._count(out)
        return out

    def _count(self, out: Collection[Record | Refused]) -> None:
        refused = sum(isinstance(one, Refused) for one in out)
        self.report.rejected += refused
        self.report.accepted += len(out) - refused

    def _held_back(self) -> bool:
        if self._bucket is None:
            return False
        wait_s = self._bucket.wait_s(self._monotonic())
        if wait_s > 0:
            self._rest_until = self._monotonic() + wait_s
            self.report.limited_s += wait_s
        return wait_s > 0

    def _poll(self) -> list[Fetched]:
        try:
            if self._reader is None:
                self._reader = self._open()
            fetched = self._reader.poll(POLL_S, self._chunk)
        except (Unavailable, ConfigError, CorruptLog) as error:
            self._fail(error)
            return []
        self.report.reading, self._failing = True, ""
        return fetched

    def _fail(self, error: Unavailable | ConfigError | CorruptLog) -> None:
        """Try again later; the other topics go on. Said once, not at every try."""
        wrong = not isinstance(error, Unavailable)
        self._rest_until = self._monotonic() + (MISCONFIGURED_RETRY_S if wrong else RETRY_S)
        self.report.reading, self.report.lag = False, -1
        if str(error) != self._failing:
            self._failing = str(error)
            _log.error("topic is not read", source=self.settings.name, topic=self.settings.topic, error=str(error))
        if wrong:
            self.close()

    def commit(self) -> None:
        """Everything handed out is durable. Where that can not be said now it is read again, and known again."""
        if not self.uncommitted or self._reader is None:
            return
        try:
            self._reader.commit()
            self.uncommitted = False
        except (Unavailable, ConfigError) as error:
            _log.warning("offsets are not committed", source=self.settings.name, error=str(error))

    def observe(self) -> None:
        """Learn how much waits."""
        try:
            lag = None if self._reader is None or not self.report.reading else self._reader.lag()
        except (Unavailable, ConfigError):
            lag = None
        self.report.lag = -1 if lag is None else lag

    def close(self) -> None:
        """Leave the group."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _judge(self, partition: int, record: Raw) -> Iterator[Record | Refused]:
        """Events of a record, and what of it is refused. Never raises: no record stops the ones behind it."""
        now_ms = self._now_ms()
        if record.value is None:
            self.report.skipped += 1  # a tombstone
            return
        try:
            parcels, skipped = self._parse(record.value, _headers(record))
        except Exception as error:
            yield self._refuse(record, (partition, 0), record.value, error, now_ms)
            return
        self.report.skipped += skipped
        for index, parcel in enumerate(parcels):
            yield self._admit(record, (partition, index), parcel, now_ms)

    def _admit(self, record: Raw, place: Place, parcel: Parcel, now_ms: int) -> Record | Refused:
        try:
            return self._admission.admit(parcel, self._binding, now_ms)
        except Exception as error:
            return self._refuse(record, place, parcel.raw, error, now_ms)

    def _refuse(self, record: Raw, place: Place, raw: bytes, error: Exception, now_ms: int) -> Refused:
        """The same record always makes the same letter: its id is that of its place, whenever it is read."""
        topic, name = self.settings.topic, self.settings.name
        partition, index = place
        if isinstance(error, MalformedEvent | SourceNotAllowed):
            reason, path = error.reason, error.path
        else:  # a fault of ours; its message may quote what was sent
            reason, path = f"could not be read: {type(error).__name__}", "$"
            _log.error(
                "record could not be read",
                source=name,
                partition=partition,
                offset=record.offset,
                error=type(error).__name__,
            )
        at_ms = record.timestamp_ms if 0 <= record.timestamp_ms <= now_ms + FUTURE_S * 1000 else 0
        letter_id = record_id(at_ms, "topic", topic, partition, record.offset, index)
        told = {
            "reason": reason,
            "path": path,
            "source": name,
            "topic": topic,
            "partition": partition,
            "offset": record.offset,
            "letter_id": letter_id,
        }
        headers = [(key, str(value).encode()) for key, value in told.items()]
        return Refused(refused_record(letter_id, now_ms, name, reason, path, raw), raw, headers)


def topic_binding(settings: KafkaTopicSettings) -> SourceBinding:
    """What the events of a foreign topic may claim."""
    return SourceBinding(
        settings.name,
        settings.tenants,
        settings.issuers,
        settings.sources,
        trusted=settings.trusted,
        events_per_s=settings.events_per_s,
    )


def _headers(record: Raw) -> dict[str, str]:
    """Headers with names in small letters; what is no UTF-8 can not be meant for us."""
    return {name.lower(): value.decode(errors="replace") for name, value in record.headers if value is not None}

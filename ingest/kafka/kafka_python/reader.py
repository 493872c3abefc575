"""`TopicReader` over kafka-python."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import structlog
from kafka import KafkaConsumer, TopicPartition, errors

from ...errors import CorruptLog, Unavailable
from ..protocols import MOST_RECORDS, Fetched, Start
from ..settings import KafkaSettings
from .options import opened, translated
from .reading import bounds, partition_count, raw_of, reading

_log = structlog.get_logger(__name__)
_CLOSE_MS = 5_000


class Reader:
    """See `TopicReader`.

    Args:
        topics: all of them exist.
        group_id: "" = every partition, from the beginning, without a group. The partitions are those of the start.
        start: where a new group begins.

    Raises:
        Unavailable: no broker answers.
        ConfigError: the broker refuses our login, or a topic does not exist.
    """

    def __init__(
        self, settings: KafkaSettings, topics: Collection[str], group_id: str = "", start: Start = "earliest"
    ) -> None:
        self.settings = settings
        self.lost_records = 0
        self.failed_polls = 0
        self._group = bool(group_id)
        self._start = start
        options = reading(settings)
        if group_id:
            options |= {
                "group_id": group_id, "session_timeout_ms": settings.session_timeout_ms,
                "heartbeat_interval_ms": min(3_000, settings.session_timeout_ms // 3),
                "max_poll_interval_ms": settings.max_poll_interval_ms,
            }  # fmt: skip
        self._consumer = opened(KafkaConsumer, **options)
        try:
            counts = {topic: partition_count(self._consumer, topic) for topic in topics}
        except BaseException:
            self._consumer.close(timeout_ms=_CLOSE_MS)
            raise
        if group_id:
            self._consumer.subscribe(list(topics))
        else:
            self._consumer.assign([TopicPartition(topic, n) for topic, count in counts.items() for n in range(count)])
            self._consumer.seek_to_beginning()

    def poll(self, timeout_s: float, max_records: int = MOST_RECORDS) -> list[Fetched]:
        """See `TopicReader.poll`.

        What retention removed before it was read is logged as an error, counted in `lost_records`, and passed over.
        """
        try:
            with translated("reading topics"):
                fetched = self._fetch(int(timeout_s * 1000), max_records)
        except Unavailable as error:
            self.failed_polls += 1
            _log.warning("Kafka does not answer", error=str(error))
            return []
        return [
            Fetched(place.topic, place.partition, [raw_of(record) for record in records])
            for place, records in fetched.items()
        ]

    def _fetch(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, list[object]]:
        try:
            found: Mapping[TopicPartition, list[object]] = self._consumer.poll(timeout_ms, max_records=max_records)
            return found
        except errors.NoOffsetForPartitionError:  # a new group
            missing = [place for place in self._consumer.assignment() if self._consumer.committed(place) is None]
            seek = self._consumer.seek_to_end if self._start == "latest" else self._consumer.seek_to_beginning
            seek(*missing)
        except errors.OffsetOutOfRangeError as error:
            for place, offset in dict(error.args[0]).items():
                self._pass_over(place, offset)
        except (errors.CorruptRecordError, errors.LogTruncationError) as error:
            raise CorruptLog(f"reading topics: {error}") from error
        return {}

    def _pass_over(self, place: TopicPartition, offset: int) -> None:
        start, end = bounds(self._consumer, place, self.settings.metadata_timeout_ms)
        lost = max(0, start - offset)
        self.lost_records += lost
        _log.error(
            "records are gone that were not read", topic=place.topic, partition=place.partition, offset=offset,
            start=start, end=end, lost=lost,
        )  # fmt: skip
        self._consumer.seek(place, start)

    def commit(self) -> None:
        """See `TopicReader.commit`."""
        with translated("committing offsets"):
            self._consumer.commit(timeout_ms=self.settings.metadata_timeout_ms)

    def end_offsets(self) -> dict[tuple[str, int], int]:
        """See `TopicReader.end_offsets`."""
        with translated("asking for offsets"):
            places = list(self._consumer.assignment())
            found = self._consumer.end_offsets(places, self.settings.metadata_timeout_ms) if places else {}
        return {(place.topic, place.partition): offset for place, offset in found.items()}

    def lag(self) -> int | None:
        """See `TopicReader.lag`."""
        ends = self.end_offsets()
        with translated("asking for positions"):
            positions = [
                (self._consumer.position(TopicPartition(*place), self.settings.metadata_timeout_ms), end)
                for place, end in ends.items()
            ]
        if any(position is None for position, _ in positions):
            raise Unavailable("asking for positions: no answer in time")
        return sum(max(0, end - position) for position, end in positions) if positions else None

    def at_end(self) -> bool:
        """See `TopicReader.at_end`."""
        return self.lag() == 0

    def close(self) -> None:
        """Leave the group, release connections."""
        self._consumer.close(timeout_ms=_CLOSE_MS)

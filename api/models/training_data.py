"""Training data of a new version: the archive where one is kept, and the log or the events topic behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from trustwatch.ingest.archive.archive_files import read_positions
from trustwatch.ingest.duplicate_window import PARTITION_WINDOW, DuplicateWindow
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.segment_import import first_offset
from trustwatch.ingest.source import PartitionOffsets, Record, RecordKind
from trustwatch.ingest.topics.protocols import partition_offsets
from trustwatch.ingest.topics.topic_history import topic_event_lines
from trustwatch.scoring.learning.training import TrainingHistory
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.records.models import ModelVersion

from ..brokers import open_reader
from ..composition import load_erased_filter
from ..settings.root import Settings

READ_RECORDS = 5_000


class ReadRanges(NamedTuple):
    """Ranges of the log that were read.

    Attributes:
        source: in words.
        ranges: by partition, from the first offset up to the second; the archive, where there is one, ends before.
    """

    source: str
    ranges: Mapping[int, tuple[int, int]]

    def as_dict(self) -> dict[str, Any]:
        """Value for the column `trained` of a version."""
        return {"source": self.source, "offsets": {str(at): list(both) for at, both in self.ranges.items()}}


def trained_end_offsets(version: ModelVersion) -> dict[int, int]:
    """Offset by partition behind what a version learned from; counting in shadow begins there."""
    ranges = version.trained.get("offsets")
    return {int(at): both[1] for at, both in ranges.items()} if ranges else {ONLY_PARTITION: version.counted_from}


def read_training_data(
    settings: Settings, history: TrainingHistory, since_ms: int, check: Callable[[], None]
) -> ReadRanges:
    """Add every event of the configured log that arrived since *since_ms*, each once; call *check* now and then.

    Raises CorruptLog, ConfigError, Unavailable, OSError.
    """
    if settings.distributed:
        return _read_topic_history(settings, history, since_ms, check)
    folder = settings.data_dir / "log"
    archived = _read_archive(settings, history, since_ms, "", check)
    with closing(LogReader(folder)) as reader:
        end = reader.end_offset(ONLY_PARTITION)
        first = max(first_offset(folder), archived.get(ONLY_PARTITION, 0))
        reader.seek(ONLY_PARTITION, first)
        _read_log(reader, history, (first, end), since_ms, check)
    return ReadRanges("archive and log" if archived else "log", {ONLY_PARTITION: (first, end)})


def _read_log(
    reader: LogReader, history: TrainingHistory, within: tuple[int, int], since_ms: int, check: Callable[[], None]
) -> None:
    window = DuplicateWindow()
    at, end = within
    while at < end and (batch := reader.poll(min(READ_RECORDS, end - at), 0.0)) is not None:
        check()
        offsets = np.arange(batch.base_offset, batch.next_offset, dtype=np.int64)
        seen = window.mark(np.array([record.id_hash for record in batch.records], np.uint64), offsets)
        for record, repeated in zip(batch.records, seen.tolist(), strict=True):
            if record.kind == RecordKind.EVENT and not repeated and record.received_ms >= since_ms:
                history.add(record.payload)
        at = batch.next_offset


def _read_topic_history(
    settings: Settings, history: TrainingHistory, since_ms: int, check: Callable[[], None]
) -> ReadRanges:
    """All partitions of the events topic, merged by arrival."""
    topic = settings.brokers.topic_names.events
    archived = _read_archive(settings, history, since_ms, topic, check)
    with closing(open_reader(settings.brokers, (topic,))) as reader:
        ranges = _unread_ranges(partition_offsets(reader, since_ms), archived)
        for partition, (first, _) in ranges.items():
            reader.seek(topic, partition, first)
        windows = {partition: DuplicateWindow(PARTITION_WINDOW) for partition in ranges}

        def is_learned(partition: int, offset: int, record: Record) -> bool:
            """True for events before the end at the beginning, each once."""
            if offset >= ranges.get(partition, (0, 0))[1] or record.received_ms < since_ms:
                return False
            hashed, at = np.array([record.id_hash], np.uint64), np.array([offset], np.int64)
            return not bool(windows[partition].mark(hashed, at)[0])

        for line in topic_event_lines(reader, topic, is_learned, check, load_erased_filter(settings, topic)):
            history.add(line)
    return ReadRanges("archive and topic" if archived else "topic", ranges)


def _unread_ranges(offsets: Mapping[int, PartitionOffsets], archived: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """Records that are kept, recent and not in the archive: by partition, from the first offset up to the second."""
    return {
        partition: (min(at.end, max(at.first, at.since, archived.get(partition, 0))), at.end)
        for partition, at in sorted(offsets.items())
    }


def _read_archive(
    settings: Settings, history: TrainingHistory, since_ms: int, topic: str, check: Callable[[], None]
) -> dict[int, int]:
    """Add what is archived of *topic* ("" = the embedded log); returns the offsets that it ends at, {} = no archive."""
    directory = settings.archive.directory
    # Reading takes minutes: what is archived meanwhile comes from the log, and from there alone.
    up_to = None if directory is None else read_positions(directory, topic)
    if directory is None or not up_to:
        return {}
    from trustwatch.ingest.archive.archive_reader import raw_lines

    arrived = datetime.fromtimestamp(since_ms / 1000, UTC)
    for number, line in enumerate(raw_lines(directory, up_to=up_to, arrived=arrived)):
        history.add(line)
        if number % READ_RECORDS == 0:
            check()
    return dict(up_to)

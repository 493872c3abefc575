"""Control records for all partitions of the log."""

from __future__ import annotations

from collections.abc import Callable

from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.record_keys import key_for_partition
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog


class ControlRecordWriter:
    """Writes control records to every partition of the log.

    Args:
        log: embedded, with one partition, or the topic's.
        now_ms: UTC milliseconds.
    """

    def __init__(self, log: GroupCommit, now_ms: Callable[[], int]) -> None:
        self._log = log
        self._now_ms = now_ms

    async def __call__(self, payload: bytes) -> None:
        """Make *payload* durable, once in each partition, all or none acknowledged. Raises LogFailed, Backpressure.

        Where it failed some may have it: a command that is given twice must do what it does once.
        """
        now_ms = self._now_ms()
        await self._log.commit([Record(RecordKind.CONTROL, 0, now_ms, payload, key) for key in self._partition_keys()])

    def _partition_keys(self) -> list[bytes]:
        """A key that leads to each partition."""
        log = self._log.log
        if not isinstance(log, TopicCommitLog):
            return [b""]
        partitions = log.writer.partitions(log.topic)
        return [key_for_partition(partition, partitions) for partition in range(partitions)]

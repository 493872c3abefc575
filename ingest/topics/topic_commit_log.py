"""The events topic as the log of `GroupCommit`: events from HTTP are written to brokers as they are to a disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import PurePosixPath

from ..errors import Unavailable
from ..log.event_log import LogFailed
from ..record_keys import partition_of
from ..source import Record, TopicWriter
from . import record_codec

DOOR_TIMEOUT_S = 4.0
"""Longest time that senders of events wait for brokers, before they get a 503."""

_SHORTEST_FLUSH_S = 0.5


class TopicCommitLog:
    """Implements `CommitLog`. A good `sync` means that all in-sync replicas have the records.

    The records of one body spread over partitions. If some fail, the whole call fails; the caller sends all of it
    again, and records that had arrived are dropped as duplicates.
    """

    def __init__(self, writer: TopicWriter, topic: str, timeout_s: float = 20.0) -> None:
        self.writer = writer
        self.topic = topic
        self.directory = PurePosixPath(f"topic:{topic}")
        self.timeout_s = timeout_s
        self.failed = False
        """True after a failed write: only a write that succeeds shows that brokers answer again."""
        self.next_offset = 0
        self._refusing = False
        self._deadline = 0.0

    @property
    def partitions(self) -> int:
        """Partitions of the topic. Raises Unavailable."""
        return self.writer.partitions(self.topic)

    def append(self, records: Sequence[Record]) -> int:
        """Queue records. Raises LogFailed or ValueError."""
        self._refuse()
        if not all(record.key for record in records):
            raise ValueError(f"{self.directory}: every record needs a key, it chooses the partition")
        first, self._deadline = self.next_offset, time.monotonic() + self.timeout_s
        try:
            count = self.writer.partitions(self.topic)
            for record in records:
                self.writer.send(
                    self.topic,
                    record.key,
                    record.payload,
                    partition=partition_of(record.key, count),
                    headers=record_codec.headers_for(record),
                    timestamp_ms=record.received_ms,
                )
        except Unavailable as error:
            raise self._fail(error) from error
        self.next_offset += len(records)
        return first

    def sync(self) -> None:
        """Wait until what was appended is acknowledged by all in-sync replicas. Raises LogFailed."""
        self._refuse()
        try:
            self.writer.flush(max(_SHORTEST_FLUSH_S, self._deadline - time.monotonic()))
        except Unavailable as error:
            raise self._fail(error) from error
        self.failed = False

    def _refuse(self) -> None:
        if self._refusing:
            raise LogFailed(f"{self.directory}: an earlier write failed; reopen first")

    def _fail(self, error: Unavailable) -> LogFailed:
        self.failed = self._refusing = True
        return LogFailed(f"{self.directory}: {error}")

    def reopen(self) -> None:
        """Accept records again: the client reconnects as soon as a broker answers."""
        self._refusing = False

    def close(self) -> None:
        """Refuse further records; the writer stays open."""
        self.failed = self._refusing = True

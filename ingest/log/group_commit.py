"""Group commit: many concurrent callers share one write and one fsync, which run on a separate thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any, NamedTuple, Protocol, TypeVar

from ..errors import Unavailable
from ..source import Record
from .event_log import LogFailed
from .log_database import MAX_APPEND_BYTES, record_bytes

QUEUE_BYTES = 64 * 1024 * 1024
ROUND_BYTES = 4 * 1024 * 1024

WorkResult = TypeVar("WorkResult")


class Backpressure(Unavailable):
    """More bytes wait for the disk than the queue may hold; nothing of this call was kept.

    Callers may try again after `retry_after_s` seconds.
    """

    code = "backpressure"

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class CommitLog(Protocol):
    """Log below `GroupCommit`: the `EventLog` on disk, or the events topic (`ingest/topics/topic_commit_log.py`)."""

    failed: bool
    """True after a failed write: everything is refused until `reopen`, or until the next write that succeeds."""

    @property
    def directory(self) -> PurePath:
        """Name of the log in messages."""

    @property
    def next_offset(self) -> int:
        """Offset that the next record will get."""

    def append(self, records: Sequence[Record]) -> int:
        """Write records; returns the number of the first, the others follow. Raises LogFailed, ValueError."""

    def sync(self) -> None:
        """Make durable what was appended. Raises LogFailed."""

    def reopen(self) -> None:
        """After a failure: find the end of the log, and accept records again. Raises LogFailed."""


class _PendingCommit(NamedTuple):
    records: Sequence[Record]
    size: int
    committed: asyncio.Future[int]


class GroupCommit:
    """Asynchronous appends to a `CommitLog`. All methods belong to one event loop.

    A round is one transaction with one fsync, and takes what was queued while the previous round was written. When one
    fails, it and everything queued behind it fails with `LogFailed`, and further calls are refused for *retry_after_s*;
    the next call then reopens the log (which reads its end again) before it writes.
    """

    def __init__(
        self,
        log: CommitLog,
        *,
        queue_bytes: int = QUEUE_BYTES,
        round_bytes: int = ROUND_BYTES,
        retry_after_s: float = 1.0,
    ) -> None:
        self.log = log
        self.queue_bytes = queue_bytes
        self.round_bytes = min(round_bytes, MAX_APPEND_BYTES)
        self.retry_after_s = retry_after_s
        self.waiting_bytes = 0
        self._queue: deque[_PendingCommit] = deque()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "event-log")
        self._refuse_until = 0.0
        self._closed = False

    async def commit(self, records: Sequence[Record]) -> int:
        """Make *records* durable, in order and with consecutive offsets. Raises Backpressure, LogFailed, ValueError."""
        size = record_bytes(records)
        if not records or size > MAX_APPEND_BYTES:
            raise ValueError(f"one commit holds 1 record or more and at most {MAX_APPEND_BYTES} bytes, not {size}")
        loop = asyncio.get_running_loop()
        if self._closed or loop.time() < self._refuse_until:
            raise LogFailed(f"{self.log.directory}: event log does not accept records now", self.retry_after_s)
        if self.waiting_bytes > 0 and self.waiting_bytes + size > self.queue_bytes:
            raise Backpressure(f"{self.waiting_bytes} bytes wait to be written", self.retry_after_s)
        done: asyncio.Future[int] = loop.create_future()
        self._queue.append(_PendingCommit(records, size, done))
        self.waiting_bytes += size
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._write_rounds())
        return await done

    async def _write_rounds(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            group = self._next_round()
            records = [record for waiting in group for record in waiting.records]
            try:
                first = await loop.run_in_executor(self._thread, self._write, records)
            except Unavailable as error:
                self._refuse_until = loop.time() + self.retry_after_s
                self._fail([*group, *self._queue], error)
                self._queue.clear()
            except Exception as error:  # a record that cannot be encoded, or damage found on reopening
                self._fail(group, error)
            else:
                for waiting in group:
                    self.waiting_bytes -= waiting.size
                    if not waiting.committed.done():
                        waiting.committed.set_result(first)
                    first += len(waiting.records)

    def _next_round(self) -> list[_PendingCommit]:
        """Take the queued appends, without those of callers that gave up."""
        group: list[_PendingCommit] = []
        size = 0
        while self._queue and (not group or size + self._queue[0].size <= self.round_bytes):
            waiting = self._queue.popleft()
            if waiting.committed.cancelled():
                self.waiting_bytes -= waiting.size
                continue
            group.append(waiting)
            size += waiting.size
        return group

    def _write(self, records: list[Record]) -> int:
        """Write and sync one round, on the thread; the only place that touches the disk."""
        if self.log.failed:
            self.log.reopen()
        first = self.log.append(records)
        self.log.sync()
        return first

    def _fail(self, group: list[_PendingCommit], error: Exception) -> None:
        for waiting in group:
            self.waiting_bytes -= waiting.size
            if not waiting.committed.done():
                waiting.committed.set_exception(error)

    async def run_between_rounds(self, work: Callable[[Any], WorkResult]) -> WorkResult:
        """Run *work* on the log between two rounds, for example `lambda log: log.drop_before(...)`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self.log)

    async def close(self) -> None:
        """Refuse new records, write what waits, stop the thread."""
        self._closed = True
        if self._task is not None:
            await self._task
        self._thread.shutdown()

"""Status of the pipeline, from its own reports."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from trustwatch.ingest.log.group_commit import CommitLog

from .ipc import NOT_MEASURED, LevelChange, PipelineUpdate

MAX_PROGRESS_MARKS = 4096
"""Reports that are remembered while the pipeline is behind."""

MAX_QUEUED_CHANGES = 1000
"""Most changes that wait for one slow watcher; after that its stream ends, and it has to subscribe again."""

LevelChangeQueue = asyncio.Queue[LevelChange | None]


@dataclass(eq=False)
class PipelineStatus:
    """Status of the pipeline, from its own reports. For one event loop.

    The reader of the update socket calls `apply_report` with every update, once it is applied to the view, and
    `mark_stopped` when the pipeline ends.
    """

    alive: bool = False  # whether its process runs
    starting: str | None = None  # why its first report takes long; None once it has reported, or if no reason is known
    waiting_for: str | None = None  # what a worker needs before it has work; None if it has all
    last_report_ms: int = 0  # time of the last report, UTC milliseconds on our clock; 0 = never
    fresh_ms: int = 0
    """Everything that was logged before is part of the answers; 0 = unknown. It falls behind if the pipeline is down or
    slow."""
    offset: int = 0  # next record whose state is not committed; answers may be ahead of it
    risk_offset: int = 0  # next record that is not part of the answers; 0 = unknown
    records_behind: int = 0  # records that waited to be applied when it reported
    work_counts: dict[str, int] = field(default_factory=dict)  # work since its start, by name
    stage_seconds: dict[str, float] = field(default_factory=dict)  # time since its start, by stage
    dropped_dead_letters: int = 0  # for lack of room
    level_change_counts: dict[int, int] = field(default_factory=dict)  # by the new level
    fresh_ms_by_partition: dict[int, int] | None = None  # `fresh_ms` by partition, if several workers report
    subscribers: set[LevelChangeQueue] = field(default_factory=set)
    _marks: deque[tuple[int, int]] = field(default_factory=deque)
    _closed: bool = False

    def apply_report(self, update: PipelineUpdate, now_ms: int) -> None:
        """Apply one report that arrived at *now_ms*."""
        measured = update.behind != NOT_MEASURED
        self.alive = True
        self.starting = None
        self.last_report_ms = now_ms
        self.offset, self.risk_offset = update.offset, update.risk_offset
        if measured:
            self.records_behind = update.behind
        if update.counts:
            self.work_counts, self.stage_seconds = update.counts, update.seconds
        self.dropped_dead_letters += update.dropped_dead_letters
        if update.fresh is not None:
            self.fresh_ms_by_partition, self.fresh_ms = update.fresh, min(update.fresh.values(), default=0)
        else:
            self._advance_freshness(now_ms, update.risk_offset, measured=measured)
        self.publish_changes(update.changes)

    def publish_changes(self, changes: Iterable[LevelChange]) -> None:
        """Count changes of level and send them to the watchers."""
        for change in changes:
            self._publish(change)

    def mark_stopped(self) -> None:
        """Note that the process that reports has ended."""
        self.alive = False

    def apply_worker_report(self, update: PipelineUpdate) -> None:
        """Apply the counts of a worker next to this process, if answers come from the risk topic."""
        self.work_counts, self.stage_seconds = update.counts, update.seconds
        self.dropped_dead_letters += update.dropped_dead_letters

    def fresh_ms_of(self, partition: int) -> int:
        return self.fresh_ms if self.fresh_ms_by_partition is None else self.fresh_ms_by_partition.get(partition, 0)

    def _advance_freshness(self, now_ms: int, risk_offset: int, *, measured: bool) -> None:
        """Advance `fresh_ms`: once answers pass the log's end at an earlier report, they have all until then.

        *measured*: whether this report states the end of the log.
        """
        if measured:
            self._marks.append((now_ms, max(self.offset, risk_offset) + self.records_behind))
        while self._marks and self._marks[0][1] <= risk_offset:
            self.fresh_ms = self._marks.popleft()[0]
        if len(self._marks) > MAX_PROGRESS_MARKS:  # coarser: freshness is then noticed later, never too early
            self._marks = deque(list(self._marks)[1::2])

    def _publish(self, change: LevelChange) -> None:
        self.level_change_counts[change.level] = self.level_change_counts.get(change.level, 0) + 1
        for queue in list(self.subscribers):
            if queue.full():
                self.subscribers.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(change)

    def subscribe(self) -> LevelChangeQueue:
        """Return a queue of changes from now on; None ends it. Return it with `unsubscribe`."""
        queue: LevelChangeQueue = asyncio.Queue(MAX_QUEUED_CHANGES)
        if self._closed:
            queue.put_nowait(None)
        else:
            self.subscribers.add(queue)
        return queue

    def unsubscribe(self, queue: LevelChangeQueue) -> None:
        self.subscribers.discard(queue)

    def close(self) -> None:
        """End every stream: a server that stops waits for its connections, and streams never end on their own."""
        self._closed = True
        for queue in self.subscribers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
        self.subscribers.clear()


def make_lag_counter(log: CommitLog, status: PipelineStatus) -> Callable[[], int]:
    """Return a live count of the waiting records of an embedded log, which bounds intake even without reports."""
    first = log.next_offset

    def pending_records() -> int:
        applied = max(status.offset, status.risk_offset) if status.last_report_ms else first
        return max(0, log.next_offset - applied)

    return pending_records

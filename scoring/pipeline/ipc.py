"""Messages from a pipeline process to the process that answers, and the status that this process derives from them.

The messages are risk and committed changes, in frames over a socket.

A frame is a 4-byte length and a msgpack `PipelineUpdate`. The pipeline blocks if the reader does not keep up, so no
buffer grows.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec

from trustwatch.ingest.described import AgentId, DecisionId, Level, RiskScore, TenantName, member
from trustwatch.ingest.log.group_commit import CommitLog

from ..records.agents import AgentName, AgentSummary
from ..records.decisions import Decision
from ..records.erasures import PartitionErasure
from .pipeline_context import CommittedChanges

T = TypeVar("T")
LENGTH_PREFIX = struct.Struct("<I")
MAX_FRAME_ITEMS = 100
"""Agents in one frame: bounds the time for which applying one delays answers (about 0.3 ms)."""


NOT_MEASURED = -1
"""`PipelineUpdate.behind` if the length of the log was not looked up."""


class LevelChange(msgspec.Struct, array_like=True):
    """A change of level, for watchers."""

    decision_id: DecisionId
    tenant: TenantName
    agent_id: AgentId
    previous_level: Level
    level: Level
    risk_score: RiskScore
    text: Annotated[str, member("the leading reason")]
    event_time_ms: Annotated[int, member("time of the event")]
    decided_ms: Annotated[int, member("when it was decided")]


class AgentErased(msgspec.Struct, array_like=True, frozen=True):
    """An erased agent: what commits up to an offset of its partition stated of it is to be forgotten."""

    tenant: str
    issuer: str
    agent_id: str
    partition: int
    offset: int

    def covers(self, name: AgentName, version: tuple[int, int] | None) -> bool:
        """Return whether knowledge of *name* as of *version* (None: of unknown age) has to be forgotten."""
        same = name.identity == (self.tenant, self.issuer, self.agent_id)
        return same and (version is None or version[1] <= self.offset)


class PipelineUpdate(msgspec.Struct, array_like=True):
    """Risk of agents that moved, and changes that became durable. An update without either only reports progress."""

    agents: Sequence[AgentSummary] = ()
    changes: Sequence[LevelChange] = ()
    offset: int = 0
    behind: int = 0
    """Records that wait behind both `offset` and `risk_offset`, as of this update; or `NOT_MEASURED`."""
    counts: dict[str, int] = {}
    seconds: dict[str, float] = {}
    dropped_dead_letters: int = 0
    partition: int = 0
    """Partition that the agents belong to."""
    versions: list[tuple[int, int]] | None = None
    """Epoch and offset of each agent; None if they come in order."""
    fresh: dict[int, int] | None = None
    """By partition, if there are several: all that arrived before that UTC millisecond is part of the answers."""
    forgotten: Sequence[AgentErased] = ()
    """Agents that were erased, before `agents` are applied."""
    risk_offset: int = 0
    """Offset before which all records are part of the agents that were sent, if one pipeline reports."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PipelineUpdate)


def decode_update(frame: bytes) -> PipelineUpdate:
    return _decoder.decode(frame)


class PipelineUpdateSender:
    """Writes updates to a connected socket. Each method raises OSError if nothing reads at the other end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._last = PipelineUpdate()

    def send_risk(
        self, risk_offset: int, agents: Sequence[AgentSummary], erasures: Sequence[PartitionErasure] = ()
    ) -> None:
        """Send erased agents, then those that moved, in frames of at most `MAX_FRAME_ITEMS`.

        The last frame carries *risk_offset*.
        """
        gone = [AgentErased(*met.subject.agent_identity, 0, met.offset) for met in erasures if met.owns_agent]
        if gone:
            self._send(behind=NOT_MEASURED, forgotten=gone)
        *before, last = chunked(agents) or [()]
        for part in before:
            self._send(behind=NOT_MEASURED, agents=part)
        self._last.risk_offset = risk_offset
        self._send(behind=NOT_MEASURED, agents=last)

    def send_commit(
        self, committed: CommittedChanges, behind: int, counts: dict[str, int], seconds: dict[str, float]
    ) -> None:
        """Send what a commit made durable, in frames of at most `MAX_FRAME_ITEMS` changes of level.

        The last frame carries the new offset.
        """
        *before, last = chunked([level_change_of(decision) for decision in committed.decisions]) or [()]
        for part in before:
            self._send(behind=NOT_MEASURED, changes=part)
        progress = self._last
        progress.offset, progress.behind = committed.position.offset, behind
        progress.counts, progress.seconds = counts, seconds
        self._send(changes=last, dropped_dead_letters=committed.dropped_dead_letters)

    def send_alive(
        self, offset: int, risk_offset: int, behind: int, counts: dict[str, int], seconds: dict[str, float]
    ) -> None:
        """Report that the pipeline runs: it has committed up to *offset*, and answers are up to *risk_offset*."""
        progress = self._last
        progress.offset, progress.risk_offset, progress.behind = offset, risk_offset, behind
        progress.counts, progress.seconds = counts, seconds
        self._send()

    def _send(self, **changes: Any) -> None:
        self.send(msgspec.structs.replace(self._last, **changes))

    def send(self, update: PipelineUpdate) -> None:
        body = _encoder.encode(update)
        self._connection.sendall(LENGTH_PREFIX.pack(len(body)) + body)


def chunked(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + MAX_FRAME_ITEMS] for start in range(0, len(items), MAX_FRAME_ITEMS)]


def level_change_of(decision: Decision) -> LevelChange:
    """The change of level in a decision, as watchers get it."""
    text = decision.reasons[0].text if decision.reasons else ""
    return LevelChange(
        decision.decision_id,
        decision.agent.tenant,
        decision.agent.agent_id,
        decision.previous_level,
        decision.level,
        decision.risk_score,
        text,
        decision.event_time_ms,
        decision.decided_ms,
    )


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
            self.level_change_counts[change.level] = self.level_change_counts.get(change.level, 0) + 1
            for queue in list(self.subscribers):
                if queue.full():
                    self.subscribers.discard(queue)
                    queue.get_nowait()
                    queue.put_nowait(None)
                else:
                    queue.put_nowait(change)

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

"""One partition's way from records to committed state: everything between a source that hands out batches and a store.

Memory never runs ahead of the store for readers: what the view, the outbox and the topics show has been committed. When
the store does not answer, the work in hand waits and nothing is lost (fails closed: no new answers, old ones turn
stale). When another worker owns the partition, `Fenced` ends this one's work on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import structlog

from ..ingest.errors import CorruptLog, Unavailable
from ..ingest.source import DurableSource, RecordBatch
from .actuators.desired import decided_action
from .notify.alert import alert_row
from .policy import LivePolicy, PolicyBook
from .processor import Processor
from .records import AgentRow, Commit, DeadLetter, Decision, OutboxRow, Position, RiskLevel
from .stages import Stages
from .store import Store

_log = structlog.get_logger(__name__)


SOONEST_S = 0.02
"""Commits that cost nearly nothing still leave this much time between them."""

COMPLAIN_EVERY_S = 30.0


class PipelineSettings(NamedTuple):
    """How the pipeline works. Times in seconds of the injected monotonic clock.

    When commits are made depends on time, what they make durable does not: state is a function of the records alone.
    """

    batch: int = 1000
    commit_interval_s: float = 1.0  # longest time between two commits
    commit_share: float = 0.25  # part of the time that commits before that may take; 0 waits for the interval
    most_dirty: int = 20_000  # agents and dead letters that may wait for a commit before it is made early
    retry_s: float = 0.5
    poll_s: float = 0.2
    service: str = "https://trustwatch.invalid"  # `source` of alerts


class Committed(NamedTuple):
    """What became durable, for the risk view: changed agents, decisions, and how far the partition is."""

    rows: Sequence[AgentRow]
    decisions: Sequence[Decision]
    position: Position
    dropped_dead_letters: int


class Publisher(Protocol):
    """Tells the world, by topics, what became durable. At least once: versions let readers drop what they have."""

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Send dead letters. Called before their commit: none is lost with a crash in between.

        Raises Unavailable: send all of them again; a reader knows them by their ids.
        """

    def committed(self, commit: Commit) -> None:
        """Send agents, decisions and alerts of *commit*. Raises Unavailable: send all of it again."""

    def recover(self, position: Position, published: int) -> None:
        """Send again what commits after the offset *published* wrote: whether it arrived is not known."""


class Surroundings(NamedTuple):
    """What every partition of a worker shares."""

    source: DurableSource
    store: Store
    policy: LivePolicy
    settings: PipelineSettings
    monotonic: Callable[[], float]  # seconds on a clock that never goes back
    sleep: Callable[[float], None]  # waits between tries while a service does not answer; may raise to end the wait
    on_commit: Callable[[Committed], None]  # called after each commit with what became durable
    stages: Stages
    publisher: Publisher | None = None
    partitions: Callable[[], int] = lambda: 1  # that share the time of this worker


class PartitionPipeline:
    """Applies the records of one partition and commits what they did.

    Args:
        partition: its number.
        processor: applies records; made for this partition alone.
        around: what it shares with others.
    """

    def __init__(self, partition: int, processor: Processor, around: Surroundings) -> None:
        self._processor = processor
        self._around = around
        self._decisions: list[Decision] = []
        self._dead: list[DeadLetter] = []
        self.position = Position(partition, 0, 0)
        self.committed_ms = 0
        """Arrival of the last record that was committed; 0 = none was."""
        self.idle = False
        """Whether nothing waited when it was last asked how much is behind."""
        self._received_ms = 0
        self._next = 0
        self._end = 0
        self._published = 0
        self._committed_at = around.monotonic()
        self._commit_took_s = 0.0
        self._busy = False
        self._complained_at = -COMPLAIN_EVERY_S
        processor.residence.wait = self._pause

    @property
    def partition(self) -> int:
        """Its number."""
        return self.position.partition

    def take_over(self) -> int:
        """Take the partition over and rebuild the duplicate window from the log; returns where to read on.

        Raises:
            CorruptLog: the stored position lies behind the end of the log: the log has lost acknowledged records.
        """
        partition = self.partition
        self.position = self._patiently(lambda: self._around.store.claim(partition))
        self._next = self.position.offset
        self._end = self._patiently(lambda: self._around.source.end_offset(partition))
        self._check_end(self._end)
        self._recover()
        window = self._processor.window
        first = window.first_offset_to_rebuild(self._next)
        hashes = self._patiently(lambda: self._around.source.read_id_hashes(partition, first, self._next))
        window.restore(first, hashes)
        return self._next

    def _check_end(self, end: int) -> None:
        if self._next > end:
            raise CorruptLog(
                f"state of partition {self.partition} was stored up to offset {self._next}, but the event log ends at "
                f"{end}: it has lost records or belongs to another store; restore both from the same back-up"
            )

    def _recover(self) -> None:
        publisher = self._around.publisher
        if publisher is None:
            return
        known = self._patiently(lambda: self._around.store.published(self.partition))
        self._patiently(lambda: publisher.recover(self.position, known))
        self._published = self.position.offset

    def apply(self, batch: RecordBatch) -> None:
        """Apply a batch of this partition."""
        with self._around.stages.timed("apply"):
            applied = self._processor.apply(batch)
        self._decisions.extend(applied.decisions)
        self._dead.extend(applied.dead)
        self._next = batch.next_offset
        self._received_ms = batch.records[-1].received_ms
        self._busy = self._busy or len(batch.records) >= self._around.settings.batch
        self._around.stages.count(applied)

    @property
    def unsaved(self) -> bool:
        """Whether something was applied that is not committed."""
        return self._next != self.position.offset

    @property
    def next_offset(self) -> int:
        """Offset of the next record to apply."""
        return self._next

    def commit_if_due(self) -> None:
        """Commit when much waits, or something urgent, or for long enough."""
        if self.unsaved and (self._much() or self._around.monotonic() - self._committed_at >= self._wait_s()):
            self.commit()

    def finish(self) -> None:
        """Commit what was applied."""
        if self.unsaved:
            self.commit()

    def _much(self) -> bool:
        """Whether as much waits as memory has room for."""
        dirty = self._processor.engine.dirty
        waiting = int(np.count_nonzero(dirty)) + len(self._processor.residence.gone) + len(self._dead)
        return waiting >= self._around.settings.most_dirty

    def _wait_s(self) -> float:
        """Least time between two commits: the quicker they are, the less, so that risk shows soon while there is room.

        A change of level is made durable at once, so that its alert leaves and its answer shows. There is less room
        while batches are full: more waits than is read at a time, and each commit would hold it up. Then changes of
        level wait as all do otherwise (a backlog has them in most batches), and the rest for the whole interval.
        """
        settings = self._around.settings
        most_s = affordable_s = settings.commit_interval_s
        if settings.commit_share > 0.0:
            took_s = self._commit_took_s * self._around.partitions()
            affordable_s = min(most_s, max(took_s / settings.commit_share, SOONEST_S))
        if self._decisions:
            return affordable_s if self._busy else 0.0
        return most_s if self._busy else affordable_s

    def commit(self) -> None:
        """Write everything since the last commit in one transaction, then tell of it."""
        stages, started = self._around.stages, self._around.monotonic()
        with stages.timed("rows"):
            rows = self._processor.residence.take_dirty()
        position = Position(self.partition, self.position.epoch, self._next)
        edges = self._processor.edges.take() if self._processor.edges is not None else ()
        outbox = [row for decision in self._decisions for row in self._leaving(decision)]
        commit = Commit(self.position, position, rows, self._decisions, outbox, self._dead, self._published, edges)
        self._bury(commit.dead_letters)
        with stages.timed("commit"):
            dropped = self._write(commit)
        self._processor.residence.settled()
        self.position = position
        self._committed_at = self._around.monotonic()
        self.committed_ms = self._received_ms
        self._decisions, self._dead, self._busy = [], [], False
        self._publish(commit)
        self._around.on_commit(Committed(rows, commit.decisions, position, dropped))
        self._commit_took_s = self._around.monotonic() - started

    def behind(self) -> int:
        """Records that are not committed, as far as is known; a source that does not answer hides them."""
        try:
            self._end = self._around.source.end_offset(self.partition)
            self.idle = self._end <= self.position.offset
        except Unavailable:
            self.idle = False
        return max(0, self._end - self.position.offset)

    def _bury(self, letters: Sequence[DeadLetter]) -> None:
        publisher = self._around.publisher
        if publisher is not None and letters:
            self._patiently(lambda: publisher.bury(letters))

    def _publish(self, commit: Commit) -> None:
        publisher = self._around.publisher
        if publisher is not None:
            with self._around.stages.timed("publish"):
                self._patiently(lambda: publisher.committed(commit))
        self._published = commit.position.offset

    def _write(self, commit: Commit) -> int:
        """Commit; where the outcome is unknown, look before trying again, so that nothing is applied twice."""
        store = self._around.store
        while True:
            try:
                return store.commit(commit).dropped_dead_letters
            except Unavailable as error:
                self._pause(error)
            if self._patiently(lambda: store.position(self.partition)) == commit.position:
                return 0

    def _patiently(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except Unavailable as error:
                self._pause(error)

    def _pause(self, error: Unavailable) -> None:
        now = self._around.monotonic()
        if now - self._complained_at >= COMPLAIN_EVERY_S:
            self._complained_at = now
            _log.warning(
                "a service does not answer; the pipeline waits", error=str(error), partition=self.partition,
                offset=self._next,
            )  # fmt: skip
        self._around.sleep(self._around.settings.retry_s)

    def _leaving(self, decision: Decision) -> list[OutboxRow]:
        """Actions before alerts: they are what stops an agent."""
        rows = (decided_action(decision, self._around.policy.book), self._alert(decision))
        return [row for row in rows if row is not None]

    def _alert(self, decision: Decision) -> OutboxRow | None:
        """Alerts tell of every change of level that people act on; cold starts are no news."""
        if max(decision.level, decision.previous_level) < RiskLevel.MEDIUM:
            return None
        return alert_row(decision, policy_dict(self._around.policy.book, decision), self._around.settings.service)


def policy_dict(book: PolicyBook, decision: Decision) -> dict[str, Any]:
    """Token policy that holds from a decision on, as plain data."""
    agent = decision.agent
    value = book.policy(agent.tenant, agent.issuer, agent.agent_id, decision.agent_type, decision.level)
    return {name: getattr(value, name) for name in value.__struct_fields__}

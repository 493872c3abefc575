"""The way of one partition from records to committed state, between a source that hands out batches and a store.

Memory never runs ahead of the store for readers: what the view, the outbox and the topics show has been committed. When
the store does not answer, the work in hand waits and nothing is lost (fails closed: no new answers, old ones turn
stale). When another worker owns the partition, `Fenced` ends this one's work on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import structlog
from msgspec.structs import replace

from ...ingest.errors import CorruptLog, Fenced, Unavailable
from ...ingest.record_erasure import ErasedFilter
from ...ingest.retry import Answer, retry_until_available
from ...ingest.source import DurableSource, RecordBatch
from ..delivery.actuators.desired_state import build_decision_action_row
from ..delivery.notifiers.alert_events import build_alert_row, build_identity_conflict_row
from ..policy.book import LivePolicy
from ..records.agents import AgentEdge, AgentRow, RiskLevel
from ..records.commits import Commit, OutboxRow, Position
from ..records.dead_letters import DeadLetter
from ..records.decisions import Decision
from ..records.models import ModelSwitch
from ..store.sql_store import CommitResult, SqlStore
from .processor import Processor, StageMetrics
from .settings import DEFAULT_TUNING, PipelineSettings, PipelineTuning

_log = structlog.get_logger(__name__)


MIN_COMMIT_INTERVAL_S = 0.02
"""Least time between commits, however little they cost."""

LOG_OUTAGE_EVERY_S = 30.0


class Publisher(Protocol):
    """Publishes by topics what became durable. At least once: versions let readers drop what they have."""

    def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Send dead letters. Called before their commit: none is lost with a crash in between.

        Raises Unavailable: send all of them again; a reader knows them by their ids.
        """

    def publish_commit(self, commit: Commit) -> None:
        """Send agents, decisions and alerts of *commit*, and do not wait. Raises Unavailable: send all of it again."""

    def wait_acknowledged(self) -> None:
        """Wait until everything that `publish_commit` sent has arrived.

        Raises Unavailable: some of it did not, and is sent again by the next call.
        """

    def republish(self, position: Position, published: int) -> None:
        """Send again what commits after the offset *published* wrote: whether it arrived is not known."""


class PipelineContext(NamedTuple):
    """Source, store, policy and settings that every partition of a worker shares."""

    source: DurableSource
    store: SqlStore
    policy: LivePolicy
    settings: PipelineSettings
    monotonic: Callable[[], float]  # seconds on a clock that never goes back
    sleep: Callable[[float], None]  # waits between tries while a service does not answer; may raise to end the wait
    on_commit: Callable[[CommittedChanges], None]  # called after each commit with what became durable
    stages: StageMetrics
    publisher: Publisher | None = None
    service: str = "https://trustwatch.invalid"  # `source` of alerts
    tuning: PipelineTuning = DEFAULT_TUNING


class PartitionPipeline:
    """Applies the records of one partition and commits what they did.

    Args:
        partition: its number.
        processor: applies records; made for this partition alone.
        context: what it shares with others.
    """

    def __init__(self, partition: int, processor: Processor, context: PipelineContext) -> None:
        self._processor = processor
        self._context = context
        self._decisions: list[Decision] = []
        self._dead_letters: list[DeadLetter] = []
        self._edges: list[AgentEdge] = []
        self._conflict_rows: dict[str, OutboxRow] = {}
        """Alerts of identity conflicts by key, so that each is written once."""
        self.position = Position(partition, 0, 0)
        self.committed_ms = 0
        """Arrival of the last record that was committed; 0 = none was."""
        self.idle = False
        """True if nothing waited when the source was last asked how much is behind."""
        self._received_ms = 0
        self._next = 0
        self._end = 0
        self._published = 0
        self._committed_at = context.monotonic()
        self._commit_took_s = 0.0
        self._backlogged = False
        self._outage_logged_at = -LOG_OUTAGE_EVERY_S
        self._erased_filter = ErasedFilter()
        processor.engine.agent_states.on_unavailable = self.wait_before_retry

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
        self.position = self.retry_until_available(lambda: self._context.store.partitions.claim(partition))
        self._next = self.position.offset
        self._end = self.retry_until_available(lambda: self._context.source.end_offset(partition))
        self._check_end(self._end)
        self._republish()
        self._erased_filter = ErasedFilter(self.retry_until_available(self._context.store.erasures.erased_in_topic))
        rules = self.retry_until_available(lambda: self._context.store.feedback.rules_of_partition(partition))
        self._processor.engine.feedback_rules.restore(rules)
        self._processor.model_switcher.resume(self.retry_until_available(self._newest_switch), self.position)
        window = self._processor.duplicate_window
        first = window.first_offset_to_rebuild(self._next)
        hashes = self.retry_until_available(lambda: self._context.source.read_id_hashes(partition, first, self._next))
        window.restore(first, hashes)
        if self._processor.model_switcher.pending_switches:
            # Which model judges from here on is settled now: a partition that is new goes by the others, and they may
            # have gone on to another model by the time it is taken over again. Who has lost it learns so later.
            commit_partitions([self], self._context)
        return self._next

    def _newest_switch(self) -> ModelSwitch | None:
        """The newest switch of this partition; of a new partition the newest switch of any."""
        store = self._context.store
        return store.models.current_switch(self.partition) or next(iter(store.models.list_switches(1)), None)

    def _check_end(self, end: int) -> None:
        if self._next > end:
            raise CorruptLog(
                f"state of partition {self.partition} was stored up to offset {self._next}, but the event log ends at "
                f"{end}: it has lost records or belongs to another store; restore both from the same back-up"
            )

    def _republish(self) -> None:
        publisher = self._context.publisher
        if publisher is None:
            return
        published = self.retry_until_available(lambda: self._context.store.partitions.published_offset(self.partition))
        self.retry_until_available(lambda: publisher.republish(self.position, published))
        self._published = self.position.offset

    def apply(self, batch: RecordBatch) -> None:
        """Apply a batch of this partition; who was erased is not read again, wherever the state begins anew."""
        batch = self._erased_filter.filter_batch(batch)
        feedback = self._processor.engine.feedback_rules
        matched = feedback.matched
        with self._context.stages.timed("apply"):
            applied = self._processor.apply(batch)
        self._context.stages.counts["feedback_matched"] += feedback.matched - matched
        self._decisions.extend(applied.decisions)
        self._dead_letters.extend(applied.dead_letters)
        for conflict in applied.identity_conflicts:
            row = build_identity_conflict_row(conflict, self._context.service)
            if row.key not in self._conflict_rows:
                _log.warning("another agent has this agent's key", tenant=conflict.tenant, agent_id=conflict.agent_id)
            self._conflict_rows[row.key] = row
        self._next = batch.next_offset
        self._received_ms = batch.records[-1].received_ms
        self._backlogged = self._backlogged or len(batch.records) >= self._context.settings.batch_size
        self._context.stages.count_batch(applied)

    @property
    def has_uncommitted(self) -> bool:
        """True if something was applied that is not committed."""
        return self._next != self.position.offset

    @property
    def next_offset(self) -> int:
        """Offset of the next record to apply."""
        return self._next

    @property
    def backlogged(self) -> bool:
        """True if a batch since the last commit was full: more waits than is read at a time."""
        return self._backlogged

    @property
    def commit_due(self) -> bool:
        """True if it is time to commit: much waits, or something urgent, or for long enough."""
        if not self.has_uncommitted:
            return False
        return self._buffer_full() or self._context.monotonic() - self._committed_at >= self._commit_interval_s()

    def finish(self) -> None:
        """Commit what was applied. Raises Fenced."""
        if self.has_uncommitted:
            self.commit()

    def commit(self) -> None:
        """Write everything since the last commit in one transaction, then publish it. Raises Fenced."""
        for error in commit_partitions([self], self._context).values():
            raise error

    def _buffer_full(self) -> bool:
        """Tell whether as much waits as memory has room for."""
        engine = self._processor.engine
        agents = int(np.count_nonzero(engine.dirty)) + len(engine.agent_states.evicted)
        waiting = agents + len(self._dead_letters)
        return waiting >= self._context.tuning.max_uncommitted

    def _commit_interval_s(self) -> float:
        """Least time between two commits: the quicker they are, the less, so that risk shows soon while there is room.

        A change of level is made durable at once, so that its alert leaves and its answer shows. There is less room
        while batches are full: more waits than is read at a time, and each commit would hold it up. Then changes of
        level wait as all do otherwise (a backlog has them in most batches), and the rest for the whole interval.
        """
        settings = self._context.settings
        most_s = affordable_s = settings.commit_interval_s
        if self._processor.model_switcher.pending_switches:
            return 0.0
        if settings.commit_share > 0.0:
            affordable_s = min(most_s, max(self._commit_took_s / settings.commit_share, MIN_COMMIT_INTERVAL_S))
        if self._decisions:
            return affordable_s if self._backlogged else 0.0
        return most_s if self._backlogged else affordable_s

    def build_commit(self) -> Commit:
        """Everything since the last commit."""
        rows = self._processor.engine.agent_states.changed_rows()
        position = Position(self.partition, self.position.epoch, self._next)
        if self._processor.edge_collector is not None:
            self._edges.extend(
                self._processor.edge_collector.drain()
            )  # kept: a commit that is given up is made whole by the next
        outbox = [row for decision in self._decisions for row in self._outbox_rows(decision)]
        outbox += self._conflict_rows.values()
        switches = [
            replace(switch, epoch=self.position.epoch) for switch in self._processor.model_switcher.pending_switches
        ]
        rules = self._processor.engine.feedback_rules.uncommitted(self.partition, self.position.epoch)
        return Commit(
            self.position,
            position,
            rows,
            self._decisions,
            outbox,
            self._dead_letters,
            self._published,
            self._edges,
            rules,
            switches,
            removed_agents=self._processor.engine.agent_states.removed_agents,
            erasures=self._processor.control_records.erasures[:] if self._context.publisher is not None else (),
        )

    def mark_committed(self, commit: Commit) -> None:
        """Note that *commit*, from `build_commit`, is in the store."""
        self._processor.engine.agent_states.mark_committed()
        self._processor.engine.feedback_rules.mark_committed(self.position.epoch)
        self._processor.model_switcher.pending_switches.clear()
        self._processor.control_records.erasures.clear()
        self.position = commit.position
        self._committed_at = self._context.monotonic()
        self.committed_ms = self._received_ms
        self._decisions, self._dead_letters, self._edges, self._backlogged = [], [], [], False
        self._conflict_rows.clear()

    def mark_published(self, took_s: float) -> None:
        """Note that all that is committed was published, *took_s* seconds after the commits of all partitions began."""
        self._published = self.position.offset
        self._commit_took_s = took_s

    def count_behind(self) -> int:
        """Records that are not committed, as far as is known; a source that does not answer hides them."""
        try:
            self._end = self._context.source.end_offset(self.partition)
            self.idle = self._end <= self.position.offset
        except Unavailable:
            self.idle = False
        return max(0, self._end - self.position.offset)

    def retry_until_available(self, call: Callable[[], Answer]) -> Answer:
        """Call *call* until it answers; while a service does not, the partition waits."""
        return retry_until_available(call, self.wait_before_retry)

    def wait_before_retry(self, error: Unavailable) -> None:
        """Wait before another try, and complain now and then."""
        now = self._context.monotonic()
        if now - self._outage_logged_at >= LOG_OUTAGE_EVERY_S:
            self._outage_logged_at = now
            _log.warning(
                "a service does not answer; the pipeline waits",
                error=str(error),
                partition=self.partition,
                offset=self._next,
            )
        self._context.sleep(self._context.tuning.retry_s)

    def _outbox_rows(self, decision: Decision) -> list[OutboxRow]:
        """Outbox rows of decisions, actions before alerts: they are what stops an agent."""
        rows = (build_decision_action_row(decision, self._context.policy.book), self._alert_row(decision))
        return [row for row in rows if row is not None]

    def _alert_row(self, decision: Decision) -> OutboxRow | None:
        """The alert of a change of level that people act on; None for cold starts, which are no news."""
        if max(decision.level, decision.previous_level) < RiskLevel.MEDIUM:
            return None
        return build_alert_row(decision, self._context.policy.book.policy_members(decision), self._context.service)


# A transaction costs much the same for one partition as for all, and so does a wait for brokers. Each partition keeps
# its own compare-and-set: one that the store refuses does not hold the others up.


class CommittedChanges(NamedTuple):
    """Changes that became durable, for the risk view: agents, decisions, and the position of the partition."""

    rows: Sequence[AgentRow]
    decisions: Sequence[Decision]
    position: Position
    dropped_dead_letters: int


def commit_partitions(pipelines: Sequence[PartitionPipeline], context: PipelineContext) -> dict[int, Fenced]:
    """Commit everything that *pipelines*, at least one, have applied; returns the partitions that the store refused.

    A refused one has lost its partition: nothing of it was written, and it is to be dropped.
    """
    stages, publisher, retrying_pipeline = context.stages, context.publisher, pipelines[0]
    started = context.monotonic()
    with stages.timed("rows"):
        commits = [pipeline.build_commit() for pipeline in pipelines]
    letters = [letter for commit in commits for letter in commit.dead_letters]
    if publisher is not None and letters:
        retrying_pipeline.retry_until_available(partial(publisher.write_dead_letters, letters))
    with stages.timed("commit"):
        results = write_commits(commits, retrying_pipeline, context)
    accepted = [
        (pipeline, commit, result.dropped_dead_letters)
        for pipeline, commit, result in zip(pipelines, commits, results, strict=True)
        if not isinstance(result, Fenced)
    ]
    for pipeline, commit, _ in accepted:
        pipeline.mark_committed(commit)
    with stages.timed("publish"):
        publish_commits([commit for _, commit, _ in accepted], retrying_pipeline, context)
    took_s = context.monotonic() - started
    for pipeline, commit, dropped in accepted:
        pipeline.mark_published(took_s)
        context.on_commit(CommittedChanges(commit.agents, commit.decisions, commit.position, dropped))
    return {
        pipeline.partition: result
        for pipeline, result in zip(pipelines, results, strict=True)
        if isinstance(result, Fenced)
    }


def publish_commits(commits: Sequence[Commit], retrying_pipeline: PartitionPipeline, context: PipelineContext) -> None:
    """Publish *commits* by topics, then wait until everything has arrived."""
    publisher = context.publisher
    if publisher is None:
        return
    for commit in commits:
        retrying_pipeline.retry_until_available(partial(publisher.publish_commit, commit))
    retrying_pipeline.retry_until_available(publisher.wait_acknowledged)


def write_commits(
    commits: Sequence[Commit], retrying_pipeline: PartitionPipeline, context: PipelineContext
) -> list[CommitResult | Fenced]:
    """Commit; where the outcome is unknown, look before trying again, so that nothing is applied twice."""
    outcomes: dict[int, CommitResult | Fenced] = {}
    unwritten = list(commits)
    while unwritten:
        try:
            for commit, result in zip(unwritten, context.store.commit_all(unwritten), strict=True):
                outcomes[commit.position.partition] = result
            break
        except Unavailable as error:
            retrying_pipeline.wait_before_retry(error)
        for commit in list(unwritten):
            position = commit.position
            if position == commit.expected:  # nothing moves on, so nothing shows; written twice it is the same
                continue
            if (
                retrying_pipeline.retry_until_available(partial(context.store.partitions.position, position.partition))
                == position
            ):
                outcomes[position.partition] = CommitResult(0)
                unwritten.remove(commit)
    return [outcomes[commit.position.partition] for commit in commits]

"""The way of one partition from records to answers and to committed state, between a source and a store.

The state of an agent is a function of the records of its partition, so its risk is published as soon as a batch is
applied, as of (epoch, offset) (`risk_publication.py`); commits follow beside it (`commit_thread.py`). What acts on the
outside waits for its commit: decisions are made durable at once, by themselves, while the agents' states, which cost
far more, wait for the next commit of states. Only that one moves the position on. Who takes over from there makes the
decisions of later records again, and the store skips those that it has.

When the store does not answer, answers go on until memory has no more room for what is not committed; then the work
waits, nothing is lost, and answers turn stale. When another worker owns the partition, `Fenced` ends this one's work
on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import structlog
from msgspec.structs import replace

from ...ingest.errors import CorruptLog, Fenced, Unavailable
from ...ingest.record_erasure import ErasedFilter
from ...ingest.retry import Answer, retry_until_available
from ...ingest.source import RecordBatch
from ...ingest.spans import SpanValue
from ..delivery.actuators.desired_state import build_decision_action_row
from ..delivery.notifiers.alert_events import build_alert_row, build_identity_conflict_row
from ..engine.agent_state_cache import AgentStateCache
from ..records.agents import AgentEdge, RiskLevel
from ..records.commits import Commit, EventIdRun, OutboxRow, Position
from ..records.dead_letters import DeadLetter
from ..records.decisions import Decision
from ..records.models import ModelSwitch
from ..store.sql_store import CommitResult, SqlStore
from .pipeline_context import CommittedChanges, PipelineContext
from .processor import AppliedBatch, Processor, VectorFrames
from .risk_publication import RiskPublication

_log = structlog.get_logger(__name__)


MIN_COMMIT_INTERVAL_S = 0.02
"""Least time between commits, however little they cost."""

MAX_DECISION_INTERVAL_S = 1.0
"""Longest time that decisions of a backlog wait for their commit."""

DECISION_SHARE = 0.25
"""Part of the pipeline's time that commits of decisions alone may take behind a backlog."""

EVENT_IDS_OF_A_RUN = 4_096
"""Event ids that wait until they are worth a row: so many records the next owner reads again at most."""

MAX_UNCOMMITTED_RECORDS = 200_000
"""Records beyond the last commit behind which no further batch is applied. When a worker dies, the risk of at most two
batches more is published."""

LOG_OUTAGE_EVERY_S = 30.0


class _BegunCommit(NamedTuple):
    """A commit that was begun and is not known to be in the store."""

    commit: Commit
    has_states: bool  # False = of decisions alone: the position stays where it is
    published: bool = False  # whether the risk in it was published before
    vectors: VectorFrames = VectorFrames((), 0)


class PartitionPipeline:
    """Applies the records of one partition, publishes the risk that follows, and prepares commits of what they did.

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
        """Committed position."""
        self.idle = False
        """True if nothing waited when the source was last asked how much is behind."""
        self._begun: _BegunCommit | None = None
        self._next = self._event_ids_from = 0
        self._end = 0
        self._published = self._noted_published = 0
        self._committed_at, self._commit_took_s = context.monotonic(), 0.0
        self._decided_at, self._decision_commit_took_s = self._committed_at, 0.0
        self._backlogged = False
        self._outage_logged_at = -LOG_OUTAGE_EVERY_S
        self._erased_filter = ErasedFilter()
        processor.engine.agent_states.on_unavailable = self.wait_before_retry
        self.risk = RiskPublication(processor, context, self.wait_before_retry)
        """Publishes the risk of the partition's agents."""

    @property
    def agent_states(self) -> AgentStateCache:
        """Its agents in memory."""
        return self._processor.engine.agent_states

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
        self._processor.engine.agent_states.owner = self.position
        self._next = self.position.offset
        self._end = self.retry_until_available(lambda: self._context.source.end_offset(partition))
        self._check_end(self._end)
        self._published = self._noted_published = self._republish()
        furthest = self._next + MAX_UNCOMMITTED_RECORDS + 2 * self._context.settings.batch_size
        self.risk.take_over(self.position, min(self._end, furthest), self._published)
        self._erased_filter = ErasedFilter(self.retry_until_available(self._context.store.erasures.erased_in_topic))
        rules = self.retry_until_available(lambda: self._context.store.feedback.rules_of_partition(partition))
        self._processor.engine.feedback_rules.restore(rules)
        self._processor.model_switcher.resume(self.retry_until_available(self._newest_switch), self.position)
        self._restore_duplicate_window()
        if self._processor.model_switcher.pending_switches:
            # Which model judges from here on is settled now: a partition that is new goes by the others, and they may
            # have gone on to another model by the time it is taken over again. Who has lost it learns so later.
            CommitRound([self], self._context).run()
        return self._next

    def _restore_duplicate_window(self) -> None:
        """Restore the window from the ids that commits stored, and where those do not reach back enough, the log."""
        partition, window, source = self.partition, self._processor.duplicate_window, self._context.source
        first = window.first_offset_to_rebuild(self._next)
        kept = self.retry_until_available(lambda: self._context.store.event_ids.load(partition, first, self._next))

        def read(start: int, end: int) -> npt.NDArray[np.uint64]:
            if start >= end:
                return np.empty(0, np.uint64)
            return self.retry_until_available(lambda: source.read_id_hashes(partition, start, end))

        before, after = read(first, kept.first_offset), read(kept.end_offset, self._next)
        window.restore(first, np.concatenate([before, np.frombuffer(kept.hashes, "<u8").astype(np.uint64), after]))
        # Where nothing was stored, all that was read is: the next owner need not read it again.
        unstored = after if kept.hashes else before
        window.record(unstored)
        self._event_ids_from = self._next - len(unstored)

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

    def _republish(self) -> int:
        """Publish decisions again that perhaps nobody did; returns the offset up to which all is known to be."""
        store, publisher = self._context.store, self._context.publisher
        published = self.retry_until_available(lambda: store.partitions.published_offset(self.partition))
        if publisher is not None:
            self.retry_until_available(lambda: publisher.republish(self.position, published))
        return published

    def apply(self, batch: RecordBatch) -> None:
        """Apply a batch of this partition; who was erased is not read again, wherever the state begins anew.

        Raises Fenced, and the partition is to be dropped: agents had to be read, and another worker writes them now.
        """
        batch = self._erased_filter.filter_batch(batch)
        feedback = self._processor.engine.feedback_rules
        matched = feedback.matched
        with self._context.spans.span("pipeline.batch") as span:
            with self._context.stages.timed("apply"):
                applied = self._processor.apply(batch)
            if span.recorded:
                span.note(_batch_attributes(batch, applied, self._context.stages.last))
        self._context.stages.counts["feedback_matched"] += feedback.matched - matched
        self._decisions.extend(applied.decisions)
        self._dead_letters.extend(applied.dead_letters)
        for conflict in applied.identity_conflicts:
            row = build_identity_conflict_row(conflict, self._context.service)
            if row.key not in self._conflict_rows:
                _log.warning("another agent has this agent's key", tenant=conflict.tenant, agent_id=conflict.agent_id)
            self._conflict_rows[row.key] = row
        self._next = batch.next_offset
        full = len(batch.records) >= self._context.settings.batch_size
        self._backlogged = self._backlogged or full
        self.risk.note_applied(
            self._next, batch.records[-1].received_ms, batch_full=full, level_changed=bool(applied.decisions)
        )
        self._context.stages.count_batch(applied)

    @property
    def has_uncommitted(self) -> bool:
        """True if something was applied that is not committed."""
        return self._next != self.position.offset

    @property
    def uncommitted_records(self) -> int:
        """Records that were applied and are not committed."""
        return self._next - self.position.offset

    @property
    def next_offset(self) -> int:
        """Offset of the next record to apply."""
        return self._next

    @property
    def backlogged(self) -> bool:
        """True if a batch since the last commit was full: more waits than is read at a time."""
        return self._backlogged

    @property
    def state_commit_due(self) -> bool:
        """True if it is time to commit states: much waits, or something urgent, or for long enough."""
        return self.has_uncommitted and (self.buffer_full or self._state_wait_s() <= 0.0)

    @property
    def decision_commit_due(self) -> bool:
        """True if it is time to make decisions durable."""
        return self._has_decisions and self._decision_wait_s() <= 0.0

    def commit_due_in_s(self) -> float:
        """Seconds until something of what was applied has to be committed; infinite if everything is."""
        states = self._state_wait_s() if self.has_uncommitted else math.inf
        return min(states, self._decision_wait_s()) if self._has_decisions else states

    @property
    def _has_decisions(self) -> bool:
        return bool(self._decisions or self._conflict_rows)

    def _state_wait_s(self) -> float:
        return self._committed_at + self._state_interval_s() - self._context.monotonic()

    def _decision_wait_s(self) -> float:
        return self._decided_at + self._decision_interval_s() - self._context.monotonic()

    def finish(self) -> None:
        """Commit what was applied, one that was given up before included. Raises Fenced."""
        while self.has_uncommitted:
            self.commit()
        if self.has_unnoted_publication:
            for error in CommitRound([self], self._context, with_states=False).run().values():
                raise error

    def commit(self) -> None:
        """Write everything since the last commit in one transaction, then publish it. Raises Fenced."""
        self.risk.publish_due(at_once=True)
        for error in CommitRound([self], self._context).run().values():
            raise error

    @property
    def has_unnoted_publication(self) -> bool:
        """True if the store does not know how much of it is published: the next owner would publish that again."""
        return self._context.on_risk is not None and self._noted_published < self._published

    @property
    def buffer_full(self) -> bool:
        """True if as much waits for a commit as memory has room for."""
        if self.uncommitted_records >= MAX_UNCOMMITTED_RECORDS:
            return True
        engine = self._processor.engine
        agents = int(np.count_nonzero(engine.dirty)) + len(engine.agent_states.evicted)
        waiting = agents + len(self._dead_letters)
        return waiting >= self._context.tuning.max_uncommitted

    def _state_interval_s(self) -> float:
        """Least time between two commits of states: the quicker they are, the less.

        An agent that changes often is written once for all of it, so the longer the time, the less is written. A switch
        of models is to be durable before decisions by the new one are, and an erasure has somebody who waits for it.
        There is less room while batches are full: more waits than is read at a time.
        """
        settings = self._context.settings
        if self._processor.model_switcher.pending_switches or self._processor.control_records.erasures:
            return 0.0
        if self._backlogged or settings.commit_share == 0.0:
            return settings.commit_interval_s
        return min(settings.commit_interval_s, max(self._commit_took_s / settings.commit_share, MIN_COMMIT_INTERVAL_S))

    def _decision_interval_s(self) -> float:
        """Least time between two commits of decisions: none, so that an alert leaves at once.

        A backlog has changes of level in most batches; then they wait as long as commits have room.
        """
        if not self._backlogged:
            return 0.0
        most_s = min(MAX_DECISION_INTERVAL_S, self._context.settings.commit_interval_s)
        return min(most_s, max(self._decision_commit_took_s / DECISION_SHARE, MIN_COMMIT_INTERVAL_S))

    def begin_commit(self, *, with_states: bool = True) -> Commit:
        """Begin to commit everything since the last commit; or that one again, if it was given up.

        What is applied from here on is for the commit after it.

        Args:
            with_states: False = decisions alone, and what goes with them; but a switch of models never waits for
                decisions that follow it.
        """
        if self._begun is None:
            with_states = with_states or bool(self._processor.model_switcher.pending_switches)
            self._begun = self._build_state_commit() if with_states else self._build_decision_commit()
        return self._begun.commit

    def _build_decision_commit(self) -> _BegunCommit:
        """A commit that leaves the position where it is; written twice it is the same."""
        decisions, outbox, edges = self._take_decisions()
        commit = Commit(self.position, self.position, [], decisions, outbox, [], self._published, edges)
        return _BegunCommit(commit, has_states=False)

    def _take_decisions(self) -> tuple[list[Decision], list[OutboxRow], list[AgentEdge]]:
        """Decisions since the last commit, with what acts on them and the edges that say whom it is for."""
        if self._processor.edge_collector is not None:
            self._edges.extend(self._processor.edge_collector.drain())
        outbox = [row for decision in self._decisions for row in self._outbox_rows(decision)]
        taken = self._decisions, [*outbox, *self._conflict_rows.values()], self._edges
        self._decisions, self._conflict_rows, self._edges = [], {}, []
        self._backlogged = False
        return taken

    def _build_state_commit(self) -> _BegunCommit:
        processor, epoch = self._processor, self.position.epoch
        removed, rows = processor.engine.agent_states.removed_agents, processor.engine.agent_states.begin_commit()
        switches = [replace(switch, epoch=epoch) for switch in processor.model_switcher.pending_switches]
        processor.model_switcher.pending_switches.clear()
        vectors = VectorFrames((), 0)
        if processor.vector_collector is not None:
            vectors = processor.vector_collector.drain()
        published = self.risk.begin_commit()
        event_ids, needed_from = self._take_event_ids()
        erasures = processor.control_records.erasures[:]
        processor.control_records.erasures.clear()
        decisions, outbox, edges = self._take_decisions()
        commit = Commit(
            self.position,
            Position(self.partition, epoch, self._next),
            rows,
            decisions,
            outbox,
            self._dead_letters,
            self._published,
            edges,
            processor.engine.feedback_rules.begin_commit(self.partition, epoch),
            switches,
            removed_agents=removed,
            erasures=erasures if self._context.publisher is not None else (),
            event_ids=event_ids,
            event_ids_needed_from=needed_from,
        )
        self._dead_letters = []
        return _BegunCommit(commit, True, published, vectors)

    def _take_event_ids(self) -> tuple[EventIdRun | None, int]:
        """Event ids that no commit has stored, once they are many, and where the window begins if that moved."""
        start, end, window = self._event_ids_from, self._next, self._processor.duplicate_window
        run = None
        if end - start >= EVENT_IDS_OF_A_RUN:
            run = EventIdRun(start, window.take_recorded(start, end).astype("<u8").tobytes())
            self._event_ids_from = end
        before, now = window.first_offset_to_rebuild(self.position.offset), window.first_offset_to_rebuild(end)
        return run, now if now > before else 0

    def mark_committed(self, result: CommitResult, took_s: float) -> CommittedChanges:
        """Note that the commit which was begun is in the store and published, *took_s* seconds after it was begun."""
        begun, now = self._begun, self._context.monotonic()
        assert begun is not None
        commit, self._begun, self._decided_at = begun.commit, None, now
        self._noted_published = commit.published
        if not begun.has_states:
            self._decision_commit_took_s = took_s
            return CommittedChanges(commit.decisions, commit.position, result.dropped_dead_letters)
        self._processor.engine.agent_states.mark_committed()
        self.position = commit.position
        self._committed_at, self._commit_took_s = now, took_s
        if begun.published:
            self._published = commit.position.offset
        return CommittedChanges(commit.decisions, commit.position, result.dropped_dead_letters, begun.vectors)

    def count_behind(self) -> int:
        """Records that wait to be applied, as far as is known; a source that does not answer hides them.

        What is applied and not published, since another worker may have been further, still waits.
        """
        try:
            self._end = self._context.source.end_offset(self.partition)
            self.idle = self._end <= self.risk.offset
        except Unavailable:
            self.idle = False
        return max(0, self._end - max(self.position.offset, self.risk.offset))

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


def _batch_attributes(batch: RecordBatch, applied: AppliedBatch, seconds: Mapping[str, float]) -> dict[str, SpanValue]:
    """What the span of a batch says: numbers alone."""
    return {
        "trustwatch.partition": batch.partition,
        "trustwatch.offset.first": batch.base_offset,
        "trustwatch.offset.end": batch.next_offset,
        "trustwatch.records": len(batch.records),
        "trustwatch.events": applied.events,
        "trustwatch.duplicates": applied.duplicates,
        "trustwatch.dead_letters": len(applied.dead_letters),
        "trustwatch.decisions": len(applied.decisions),
        "trustwatch.poll_s": seconds["poll"],
        "trustwatch.apply_s": seconds["apply"],
    }


# A transaction costs much the same for one partition as for all, and so does a wait for brokers. Each partition keeps
# its own compare-and-set: one that the store refuses does not hold the others up.


class CommitRound:
    """Commits of partitions, at least one, in one transaction; then their decisions are published.

    It is made and finished by the thread of the pipeline; `write` may be called by another one meanwhile.

    Args:
        pipelines: what they have applied is committed.
        context: what they share.
        with_states: False = their decisions alone.
    """

    def __init__(
        self, pipelines: Sequence[PartitionPipeline], context: PipelineContext, *, with_states: bool = True
    ) -> None:
        self.pipelines = pipelines
        self._context = context
        self._started = context.monotonic()
        with context.stages.timed("rows"):
            self._commits = [pipeline.begin_commit(with_states=with_states) for pipeline in pipelines]
        self._results: list[CommitResult | Fenced] = []
        self._took_s = 0.0
        self._given_up = False

    def run(self) -> dict[int, Fenced]:
        """Write and finish; see `finish`."""
        self.write()
        return self.finish()

    def write(self) -> None:
        """Write the commits and publish what may leave once they are written; waits while a service is away."""
        with self._context.spans.span("pipeline.commit") as span:
            self._write()
            if span.recorded:
                span.note(self._attributes())

    def _write(self) -> None:
        stages, publisher = self._context.stages, self._context.publisher
        letters = [letter for commit in self._commits for letter in commit.dead_letters]
        if publisher is not None and letters:
            retry_until_available(partial(publisher.write_dead_letters, letters), self._wait_before_retry)
        with stages.timed("commit"):
            self._results = write_commits(self._commits, self._context.store, self._wait_before_retry)
        if publisher is not None:
            with stages.timed("publish"):
                for commit, result in zip(self._commits, self._results, strict=True):
                    if not isinstance(result, Fenced):
                        retry_until_available(partial(publisher.publish_commit, commit), self._wait_before_retry)
                retry_until_available(publisher.wait_acknowledged, self._wait_before_retry)
        self._took_s = self._context.monotonic() - self._started

    def _attributes(self) -> dict[str, SpanValue]:
        """What the span of this round says: numbers alone."""
        seconds = self._context.stages.last
        return {
            "trustwatch.partitions": [commit.position.partition for commit in self._commits],
            "trustwatch.offsets.first": [commit.expected.offset for commit in self._commits],
            "trustwatch.offsets.end": [commit.position.offset for commit in self._commits],
            "trustwatch.agents": sum(len(commit.agents) for commit in self._commits),
            "trustwatch.decisions": sum(len(commit.decisions) for commit in self._commits),
            "trustwatch.outbox_rows": sum(len(commit.outbox) for commit in self._commits),
            "trustwatch.dead_letters": sum(len(commit.dead_letters) for commit in self._commits),
            "trustwatch.refused": sum(isinstance(result, Fenced) for result in self._results),
            "trustwatch.rows_s": seconds["rows"],
            "trustwatch.commit_s": seconds["commit"],
            "trustwatch.publish_s": 0.0 if self._context.publisher is None else seconds["publish"],
        }

    def give_up(self) -> None:
        """Try no more once a service does not answer: `write` raises its error. Another thread may call this."""
        self._given_up = True

    def _wait_before_retry(self, error: Unavailable) -> None:
        if self._given_up:
            raise error
        self.pipelines[0].wait_before_retry(error)

    def finish(self) -> dict[int, Fenced]:
        """Tell the partitions what became of their commits; returns those that the store refused.

        A refused one has lost its partition: nothing of it was written, and it is to be dropped.
        """
        refused: dict[int, Fenced] = {}
        for pipeline, result in zip(self.pipelines, self._results, strict=True):
            if isinstance(result, Fenced):
                refused[pipeline.partition] = result
            else:
                self._context.on_commit(pipeline.mark_committed(result, self._took_s))
        return refused


def write_commits(
    commits: Sequence[Commit], store: SqlStore, wait_before_retry: Callable[[Unavailable], None]
) -> list[CommitResult | Fenced]:
    """Commit; where the outcome is unknown, look before trying again, so that nothing is applied twice."""
    outcomes: dict[int, CommitResult | Fenced] = {}
    unwritten = list(commits)
    while unwritten:
        try:
            for commit, result in zip(unwritten, store.commit_all(unwritten), strict=True):
                outcomes[commit.position.partition] = result
            break
        except Unavailable as error:
            wait_before_retry(error)
        for commit in list(unwritten):
            position = commit.position
            if position == commit.expected:  # nothing moves on, so nothing shows; written twice it is the same
                continue
            stored = retry_until_available(partial(store.partitions.position, position.partition), wait_before_retry)
            if stored == position:
                outcomes[position.partition] = CommitResult(0)
                unwritten.remove(commit)
    return [outcomes[commit.position.partition] for commit in commits]

"""Commits of one partition, and the publication of its risk: what it has applied but not written, and what is due when.

There are two sizes. A *decision commit* holds decisions alone and is written at once; it leaves the position where it
is. A *state commit* also holds the states of agents, which cost far more, and moves the position. After a decision
commit the next owner makes the decisions of later records again, and the store skips those that it has. A
`CommitRound` writes commits of several partitions in one transaction.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from trustwatch.ingest.errors import Unavailable, retry_until_available

from ..delivery.actuators.desired_state import build_decision_action_row
from ..delivery.notifiers.alert_events import build_alert_row, build_identity_conflict_row
from ..records.agents import AgentEdge, AgentIdentity, RiskLevel
from ..records.commits import Commit, EventIdRun, OutboxRow, Position
from ..records.dead_letters import DeadLetter
from ..records.decisions import Decision
from ..records.erasures import PartitionErasure
from .pipeline_context import CommittedChanges, PipelineContext
from .processor import AppliedBatch, Processor, VectorFrames

_log = structlog.get_logger(__name__)

MIN_COMMIT_INTERVAL_S = 0.02
"""Least time between commits, however little they cost."""

MAX_DECISION_INTERVAL_S = 1.0
"""Longest time that decisions wait during a backlog, or if they cause neither action nor alert."""

MAX_AWAITED_S = 10.0
"""Longest time that states wait for their commit if people or containment may look for what changed: a level that is
reported, a new delegation, a dead letter, a feedback rule."""

MANY_RECORDS = 20_000
"""Uncommitted records of a worker from which states wait no longer than `MAX_AWAITED_S`: after a crash, applying them
again takes about a second before answers are fresh."""

BACKLOG_S = 1.0
"""Time after a full batch for which a partition counts as backlogged: fetched records are cut by partition, so some
batches of a backlog are not full."""

DECISION_SHARE = 0.25
"""Share of the pipeline's time that decision commits may take during a backlog."""

EVENT_IDS_OF_A_RUN = 4_096
"""Event ids that are stored together: at most so many records are read again by the next owner."""

MANY_AGENTS = 5_000
"""Agents in memory from which a commit is noted as published at once, not with the next commit: a new owner that does
not know it looks through all rows of the partition, which takes ten seconds for a million."""

MAX_UNCOMMITTED_RECORDS = 200_000
"""Uncommitted records after which no further batch is applied. If a worker dies, the risk of at most two more batches
is published."""


class _BegunCommit(NamedTuple):
    """A commit that was begun and may not be in the store yet."""

    commit: Commit
    has_states: bool  # False = a decision commit
    published: bool = False  # whether the risk in it was published before
    vectors: VectorFrames = VectorFrames((), 0)


class PartitionCommits:
    """Collects what the batches of one partition did, and builds its commits."""

    def __init__(
        self,
        partition: int,
        processor: Processor,
        context: PipelineContext,
        risk: RiskPublication,
        wait_before_retry: Callable[[Unavailable], None],
    ) -> None:
        self._processor = processor
        self._context = context
        self._risk = risk
        self.wait_before_retry = wait_before_retry
        self._decisions: list[Decision] = []
        self._dead_letters: list[DeadLetter] = []
        self._edges: list[AgentEdge] = []
        self._conflict_rows: dict[str, OutboxRow] = {}
        """Alerts of identity conflicts by key, so that each is written once."""
        self._decision_is_acted_on = False
        """True if a waiting decision is reported to people or servers."""
        self._awaited_since = math.inf
        """Time since which people may look for a change that waits for a state commit."""
        self.worker_has_many = False
        """True if the worker has `MANY_RECORDS` uncommitted records."""
        self.is_dropped = False
        """True once another worker owns the partition: what was sent of it may be forgotten before it arrives."""
        self.position = Position(partition, 0, 0)
        """Committed position."""
        self.next_offset = 0
        """Offset of the next record to apply."""
        self.full_at = -math.inf
        """Time of the last full batch."""
        self._begun: _BegunCommit | None = None
        self._event_ids_from = 0
        self._published = self._noted_published = 0
        self._committed_at, self._commit_took_s = context.monotonic(), 0.0
        self._decided_at, self._decision_commit_took_s = self._committed_at, 0.0

    def take_over(self, position: Position) -> None:
        """Continue from a stored position, in the new epoch."""
        self.position, self.next_offset = position, position.offset

    def resume(self, *, published: int, event_ids_from: int) -> None:
        """Note the offsets up to which everything is published, and up to which event ids are stored."""
        self._published = self._noted_published = published
        self._event_ids_from = event_ids_from

    def note_applied(self, applied: AppliedBatch, next_offset: int, *, batch_full: bool) -> None:
        """Collect what a batch did that ends before *next_offset*."""
        self._decisions.extend(applied.decisions)
        is_acted_on = any(map(self._is_acted_on, applied.decisions))
        self._decision_is_acted_on = self._decision_is_acted_on or is_acted_on
        if is_acted_on or applied.dead_letters or self._has_awaited_changes:
            self._awaited_since = min(self._awaited_since, self._context.monotonic())
        self._dead_letters.extend(applied.dead_letters)
        for conflict in applied.identity_conflicts:
            row = build_identity_conflict_row(conflict, self._context.service)
            if row.key not in self._conflict_rows:
                _log.warning("another agent has this agent's key", tenant=conflict.tenant, agent_id=conflict.agent_id)
            self._conflict_rows[row.key] = row
        self.next_offset = next_offset
        if batch_full:
            self.full_at = self._context.monotonic()

    @property
    def backlogged(self) -> bool:
        """True if more records wait than one batch holds."""
        return self._context.monotonic() < self.full_at + BACKLOG_S

    @property
    def _has_awaited_changes(self) -> bool:
        edges, feedback = self._processor.edge_collector, self._processor.engine.feedback_rules
        return feedback.has_uncommitted or (edges is not None and edges.has_new_delegation)

    @property
    def has_uncommitted(self) -> bool:
        return self.next_offset != self.position.offset

    @property
    def uncommitted_records(self) -> int:
        return self.next_offset - self.position.offset

    @property
    def states_due(self) -> bool:
        return self.has_uncommitted and (self.buffer_full or self._state_wait_s() <= 0.0)

    @property
    def states_late_s(self) -> float:
        """Seconds since a state commit became due; negative before."""
        return -self._state_wait_s()

    @property
    def decisions_due(self) -> bool:
        return self._has_decisions and self._decision_wait_s() <= 0.0

    @property
    def has_calm_decisions(self) -> bool:
        """True if decisions wait that may share the commit of another partition."""
        return self._has_decisions and not self.backlogged

    def due_in_s(self) -> float:
        """Seconds until a commit is due; infinite if nothing waits."""
        states = self._state_wait_s() if self.has_uncommitted else math.inf
        return min(states, self._decision_wait_s()) if self._has_decisions else states

    @property
    def _has_decisions(self) -> bool:
        return bool(self._decisions or self._conflict_rows)

    @property
    def has_unnoted_publication(self) -> bool:
        """True if the store does not know all that is published: the next owner would publish it again."""
        return self._context.on_risk is not None and self._noted_published < self._published

    @property
    def buffer_full(self) -> bool:
        """True if memory has no room for more uncommitted changes."""
        if self.uncommitted_records >= MAX_UNCOMMITTED_RECORDS:
            return True
        agents = self._processor.engine.agent_states.unwritten_count
        return agents + len(self._dead_letters) >= self._context.tuning.max_uncommitted

    def _state_wait_s(self) -> float:
        """Return the time until a state commit is due: the faster commits are, the sooner.

        An agent that changes often is written once per commit, so a longer time writes less. A model switch must be
        durable before decisions of the new model are, and a person waits for an erasure. During a backlog the longest
        time holds.
        """
        processor, share = self._processor, self._context.tuning.commit_share
        interval_s = self._context.settings.commit_interval_s
        if processor.model_switcher.pending_switches or processor.control_records.erasures:
            interval_s = 0.0
        elif self.worker_has_many or self.uncommitted_records >= MANY_RECORDS:
            interval_s = min(interval_s, MAX_AWAITED_S)
        if not self.backlogged and share > 0.0:
            interval_s = min(interval_s, max(self._commit_took_s / share, MIN_COMMIT_INTERVAL_S))
        due_at = min(self._committed_at + interval_s, self._awaited_since + MAX_AWAITED_S)
        return due_at - self._context.monotonic()

    def _decision_wait_s(self) -> float:
        """Return the time until a decision commit is due: none for decisions that are alerted or acted on.

        Other decisions, such as those of new agents, share a commit. A backlog changes levels in most batches; then
        the time depends on how long decision commits take.
        """
        interval_s = min(MAX_DECISION_INTERVAL_S, self._context.settings.commit_interval_s)
        if self.backlogged:
            interval_s = min(interval_s, max(self._decision_commit_took_s / DECISION_SHARE, MIN_COMMIT_INTERVAL_S))
        elif self._decision_is_acted_on or self._conflict_rows:
            interval_s = 0.0
        return self._decided_at + interval_s - self._context.monotonic()

    def begin(self, *, with_states: bool = True) -> Commit:
        """Begin to commit everything since the last commit, or begin that one again if it was given up.

        What is applied from now on belongs to the commit after it.
        """
        if self._begun is None:
            if with_states or self._processor.model_switcher.pending_switches:
                self._begun = self._build_state_commit()
            else:  # writing a decision commit twice has no further effect
                decisions, outbox, edges = self._take_decisions()
                commit = Commit(self.position, self.position, [], decisions, outbox, [], self._published, edges)
                self._begun = _BegunCommit(commit, has_states=False)
        return self._begun.commit

    @property
    def publication_to_note(self) -> Position | None:
        """Position to note as published once the begun commit is written; None if it is noted with the next commit."""
        begun, agents = self._begun, self._processor.engine.agent_states
        if begun is None or not begun.published or self._context.on_risk is None:
            return None
        return begun.commit.position if agents.resident_count >= min(MANY_AGENTS, agents.capacity) else None

    def _take_decisions(self) -> tuple[list[Decision], list[OutboxRow], list[AgentEdge]]:
        """Take the decisions since the last commit, with their outbox rows and delegation edges."""
        if self._processor.edge_collector is not None:
            self._edges.extend(self._processor.edge_collector.drain())
        outbox = [row for decision in self._decisions for row in self._outbox_rows(decision)]
        taken = self._decisions, [*outbox, *self._conflict_rows.values()], self._edges
        self._decisions, self._conflict_rows, self._edges = [], {}, []
        self._decision_is_acted_on = False
        return taken

    def _build_state_commit(self) -> _BegunCommit:
        processor, epoch, states = self._processor, self.position.epoch, self._processor.engine.agent_states
        removed, rows = states.removed_agents, states.begin_commit()
        switches = [replace(switch, epoch=epoch) for switch in processor.model_switcher.pending_switches]
        processor.model_switcher.pending_switches.clear()
        vectors = VectorFrames((), 0)
        if processor.vector_collector is not None:
            vectors = processor.vector_collector.drain()
        published = self._risk.begin_commit()
        event_ids, needed_from = self._take_event_ids()
        erasures = processor.control_records.erasures[:]
        processor.control_records.erasures.clear()
        decisions, outbox, edges = self._take_decisions()
        commit = Commit(
            self.position,
            Position(self.position.partition, epoch, self.next_offset),
            rows,
            decisions,
            outbox,
            self._dead_letters,
            self._published,
            edges,
            processor.engine.feedback_rules.begin_commit(self.position.partition, epoch),
            switches,
            removed_agents=removed,
            erasures=erasures if self._context.publisher is not None else (),
            event_ids=event_ids,
            event_ids_needed_from=needed_from,
        )
        self._dead_letters, self._awaited_since = [], math.inf
        return _BegunCommit(commit, True, published, vectors)

    def _take_event_ids(self) -> tuple[EventIdRun | None, int]:
        """Take event ids that are not stored, once there are enough, and the new start of the window if it moved."""
        start, end, window = self._event_ids_from, self.next_offset, self._processor.duplicate_window
        run = None
        if end - start >= EVENT_IDS_OF_A_RUN:
            run = EventIdRun(start, window.take_recorded(start, end).astype("<u8").tobytes())
            self._event_ids_from = end
        before, now = window.first_offset_to_rebuild(self.position.offset), window.first_offset_to_rebuild(end)
        return run, now if now > before else 0

    def mark_committed(self, dropped_dead_letters: int, took_s: float, *, is_noted: bool = False) -> CommittedChanges:
        """Note that the begun commit is stored and published, *took_s* seconds after it was begun.

        *is_noted*: the store knows that it is published.
        """
        begun, now = self._begun, self._context.monotonic()
        assert begun is not None
        commit, self._begun, self._decided_at = begun.commit, None, now
        self._noted_published = commit.published
        if not begun.has_states:
            self._decision_commit_took_s = took_s
            return CommittedChanges(commit.decisions, commit.position, dropped_dead_letters)
        self._processor.engine.agent_states.mark_committed()
        self.position = commit.position
        self._committed_at, self._commit_took_s = now, took_s
        if begun.published:
            self._published = commit.position.offset
        if is_noted:
            self._noted_published = commit.position.offset
        return CommittedChanges(commit.decisions, commit.position, dropped_dead_letters, begun.vectors)

    def _is_acted_on(self, decision: Decision) -> bool:
        """Return whether a decision may have outbox rows."""
        return self._context.acts_at_every_level or max(decision.level, decision.previous_level) >= RiskLevel.MEDIUM

    def _outbox_rows(self, decision: Decision) -> Iterator[OutboxRow]:
        """Yield the outbox rows of a decision, actions first: they stop an agent. No alert is about levels below
        `medium`, such as of new agents."""
        book, every_level = self._context.policy.book, self._context.acts_at_every_level
        action = build_decision_action_row(decision, book, every_level=every_level)
        if action is not None:
            yield action
        if max(decision.level, decision.previous_level) >= RiskLevel.MEDIUM:
            yield build_alert_row(decision, book.policy_members(decision), self._context.service)


MIN_RISK_INTERVAL_S = 0.005
"""Least time between two publications of risk, however little they cost."""

MAX_RISK_INTERVAL_S = 1.0
"""Longest time between two publications of risk, however much they cost."""

RISK_SHARE = 0.2
"""Share of the pipeline's time that publications of risk may take; during a backlog, half of it."""

STORED_RISK_CHUNK = 10_000
"""Agents of the store that are published at a time."""


class RiskPublication:
    """Publishes the risk of agents that moved, through the context's `on_risk`.

    An answer never returns to an earlier state. After a worker dies, the next one applies again what was published, and
    publishes nothing until then. A worker that may have lost the partition checks the store first.
    """

    def __init__(
        self, processor: Processor, context: PipelineContext, wait_before_retry: Callable[[Unavailable], None]
    ) -> None:
        self._agents = processor.engine.agent_states
        self._control_records = processor.control_records
        self._context = context
        self._wait_before_retry = wait_before_retry
        self.offset = 0
        """Offset before which all records are part of the published risk."""
        self.received_ms = 0
        """Arrival of the last record before `offset`; 0 = none was applied here."""
        self._applied = Position(0, 0, 0)
        self._applied_ms = 0
        self._held_until = 0
        self._unpublished_above: int | None = None
        """Offset above which the store has risk that may not be published; None if it has none."""
        self._published_erasures = 0
        """Number of erasures since the last begun commit that are published."""
        self._unpublished_erasures: list[PartitionErasure] = []
        """Erasures of earlier commits that are not published."""
        self._must_confirm, self._confirm_at = False, 0.0
        self._level_changed = self._batch_full = False
        self._published_at, self._took_s = context.monotonic(), 0.0

    def take_over(self, owner: Position, held_until: int, published: int) -> None:
        """Continue from a stored position."""
        self._applied, self.offset, self._held_until = owner, owner.offset, held_until
        if published < owner.offset and self._context.on_risk is not None:
            self._unpublished_above = published
        if not self._is_held:
            self._publish()

    def note_applied(self, next_offset: int, received_ms: int, *, batch_full: bool, level_changed: bool) -> None:
        """Note that a batch was applied, the last record of which arrived at *received_ms*."""
        applied = self._applied
        self._applied, self._applied_ms = Position(applied.partition, applied.epoch, next_offset), received_ms
        self._batch_full = batch_full
        self._level_changed = self._level_changed or level_changed

    def begin_commit(self) -> bool:
        """Note that a commit takes everything that was applied; return whether the risk in it is published."""
        self._unpublished_erasures += self._control_records.erasures[self._published_erasures :]
        self._published_erasures = 0
        return self.offset >= self._applied.offset and self._unpublished_above is None

    def publish_due(self, *, at_once: bool = False) -> None:
        """Publish agents that moved, if that is due, or *at_once*.

        Raises Fenced if the owner had to be checked and another worker owns the partition; the caller drops it.
        """
        if self._applied.offset == self.offset or self._is_held or (self._wait_s() > 0.0 and not at_once):
            return
        if self._must_confirm and not self._is_confirmed():
            return
        started = self._context.monotonic()
        with self._context.stages.timed("publish_risk"):
            self._publish()
        self.offset, self.received_ms = self._applied.offset, self._applied_ms
        self._published_at, self._level_changed = self._context.monotonic(), False
        self._took_s = self._published_at - started

    def due_in_s(self) -> float:
        """Seconds until a publication is due; infinite if nothing waits."""
        return math.inf if self._applied.offset == self.offset or self._is_held else self._wait_s()

    def confirm_first(self) -> None:
        """Check the owner in the store before more risk is published."""
        self._must_confirm = True

    def _publish(self) -> None:
        erasures = self._control_records.erasures
        unpublished = [*self._unpublished_erasures, *erasures[self._published_erasures :]]
        self._unpublished_erasures, self._published_erasures = [], len(erasures)
        agents, publish = self._agents.take_moved(), self._context.on_risk
        if publish is None:
            return
        if self._unpublished_above is not None:
            moved = {agent.name.identity for agent in agents}
            retry_until_available(lambda: self._publish_stored(moved), self._wait_before_retry)
            self._unpublished_above = None
        publish(self._applied, agents, unpublished)

    def _publish_stored(self, moved: Collection[AgentIdentity]) -> None:
        """Publish the stored risk of agents that have not *moved* since: it still holds."""
        publish, above = self._context.on_risk, self._unpublished_above
        assert publish is not None and above is not None
        stored = self._context.store.agents.iterate_unpublished(self._applied.partition, above)
        unmoved = (versioned.agent for versioned in stored if versioned.agent.name.identity not in moved)
        agents = self._agents.after_erasures(unmoved)
        while part := list(itertools.islice(agents, STORED_RISK_CHUNK)):
            publish(self._applied, part, ())

    @property
    def _is_held(self) -> bool:
        """True while nothing may be published.

        The previous owner may have published more than is applied here, or the store did not confirm the owner and is
        not to be queried again yet.
        """
        if self._applied.offset < self._held_until:
            return True
        return self._must_confirm and self._context.monotonic() < self._confirm_at

    def _is_confirmed(self) -> bool:
        """Return whether the store confirms the owner; False if it does not answer. Raises Fenced."""
        try:
            self._context.store.partitions.check_owner(self._applied)
        except Unavailable:
            self._confirm_at = self._context.monotonic() + self._context.tuning.retry_s
            return False
        self._must_confirm = False
        return True

    def _wait_s(self) -> float:
        """Seconds until the next publication: 0 for a change of level, unless there is a backlog."""
        if self._level_changed and not self._batch_full:
            return 0.0
        share = RISK_SHARE / 2 if self._batch_full else RISK_SHARE
        most_s = min(MAX_RISK_INTERVAL_S, self._context.settings.commit_interval_s)
        interval_s = min(max(MIN_RISK_INTERVAL_S, self._took_s / share), most_s)
        return self._published_at + interval_s - self._context.monotonic()

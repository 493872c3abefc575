"""Commits of one partition: what it has applied and not written, when that is due, and what it then is.

Decisions are made durable at once, by themselves, while the agents' states, which cost far more, wait for the next
commit of states. Commits of decisions leave the position where it is. Who takes over from there makes the decisions of
later records again, and the store skips those that it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from trustwatch.ingest.errors import Unavailable

from ..delivery.actuators.desired_state import build_decision_action_row
from ..delivery.notifiers.alert_events import build_alert_row, build_identity_conflict_row
from ..records.agents import AgentEdge, RiskLevel
from ..records.commits import Commit, EventIdRun, OutboxRow, Position
from ..records.dead_letters import DeadLetter
from ..records.decisions import Decision
from ..store.sql_store import CommitResult
from .pipeline_context import CommittedChanges, PipelineContext
from .processor import AppliedBatch, Processor, VectorFrames
from .risk_publication import RiskPublication

_log = structlog.get_logger(__name__)

MIN_COMMIT_INTERVAL_S = 0.02
"""Least time between commits, however little they cost."""

MAX_DECISION_INTERVAL_S = 1.0
"""Longest time that decisions of a backlog wait for their commit, and others that nobody acts on or is alerted by."""

MAX_AWAITED_S = 10.0
"""Longest time that states wait for their commit where people or containment may look for what changed: a level that
somebody is told of, a new delegation, a dead letter, a rule of feedback."""

MANY_RECORDS = 20_000
"""Records of all partitions of a worker from which on states wait no longer than that, either: who takes over from a
worker that died applies them again before its answers are fresh, about a second of work."""

BACKLOG_S = 1.0
"""Time behind a full batch for which a partition counts as backlogged: what is fetched is cut by partition, so that not
every batch of a backlog is full."""

DECISION_SHARE = 0.25
"""Part of the pipeline's time that commits of decisions alone may take behind a backlog."""

EVENT_IDS_OF_A_RUN = 4_096
"""Event ids that wait until they are worth a row: so many records the next owner reads again at most."""

MANY_AGENTS = 5_000
"""Agents in memory from which on the store is told at once that a commit is published, not with the next one: who takes
over and does not know it looks through all rows of the partition, for ten seconds where they are a million."""

MAX_UNCOMMITTED_RECORDS = 200_000
"""Records beyond the last commit behind which no further batch is applied. When a worker dies, the risk of at most two
batches more is published."""


class _BegunCommit(NamedTuple):
    """A commit that was begun and is not known to be in the store."""

    commit: Commit
    has_states: bool  # False = of decisions alone: the position stays where it is
    published: bool = False  # whether the risk in it was published before
    vectors: VectorFrames = VectorFrames((), 0)


class PartitionCommits:
    """Gathers what the batches of one partition did, and makes commits of it."""

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
        """True if a decision that waits is one that people or servers are told of."""
        self._awaited_since = math.inf
        """Time since when people may look for something of what waits for a commit of states."""
        self.worker_has_many = False
        """True if `MANY_RECORDS` of the worker are not committed."""
        self.is_dropped = False
        """True once the partition is not ours any more: what was sent of it may be forgotten before it arrives."""
        self.position = Position(partition, 0, 0)
        """Committed position."""
        self.next_offset = 0
        """Offset of the next record to apply."""
        self.full_at = -math.inf
        """Time of the last batch that was full: more waited than is read at a time."""
        self._begun: _BegunCommit | None = None
        self._event_ids_from = 0
        self._published = self._noted_published = 0
        self._committed_at, self._commit_took_s = context.monotonic(), 0.0
        self._decided_at, self._decision_commit_took_s = self._committed_at, 0.0

    def take_over(self, position: Position) -> None:
        """Go on from a stored position, in the epoch that begins."""
        self.position, self.next_offset = position, position.offset

    def resume(self, *, published: int, event_ids_from: int) -> None:
        """Note that all before the offset *published* is, and that from *event_ids_from* on no event ids are stored."""
        self._published = self._noted_published = published
        self._event_ids_from = event_ids_from

    def note_applied(self, applied: AppliedBatch, next_offset: int, *, batch_full: bool) -> None:
        """Gather what a batch did that ends before *next_offset*."""
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
        """True if more waits than is read at a time."""
        return self._context.monotonic() < self.full_at + BACKLOG_S

    @property
    def _has_awaited_changes(self) -> bool:
        edges, feedback = self._processor.edge_collector, self._processor.engine.feedback_rules
        return feedback.has_uncommitted or (edges is not None and edges.has_new_delegation)

    @property
    def has_uncommitted(self) -> bool:
        """True if something was applied that is not committed."""
        return self.next_offset != self.position.offset

    @property
    def uncommitted_records(self) -> int:
        """Records that were applied and are not committed."""
        return self.next_offset - self.position.offset

    @property
    def states_due(self) -> bool:
        """True if it is time to commit states: much waits, or something urgent, or for long enough."""
        return self.has_uncommitted and (self.buffer_full or self._state_wait_s() <= 0.0)

    @property
    def states_late_s(self) -> float:
        """Seconds since it was time to commit states; negative while it is not."""
        return -self._state_wait_s()

    @property
    def decisions_due(self) -> bool:
        """True if it is time to make decisions durable."""
        return self._has_decisions and self._decision_wait_s() <= 0.0

    @property
    def has_calm_decisions(self) -> bool:
        """True if decisions wait for a commit that another partition's may well take along."""
        return self._has_decisions and not self.backlogged

    def due_in_s(self) -> float:
        """Seconds until something of what was applied has to be committed; infinite if everything is."""
        states = self._state_wait_s() if self.has_uncommitted else math.inf
        return min(states, self._decision_wait_s()) if self._has_decisions else states

    @property
    def _has_decisions(self) -> bool:
        return bool(self._decisions or self._conflict_rows)

    def _state_wait_s(self) -> float:
        due_at = min(self._committed_at + self._state_interval_s(), self._awaited_since + MAX_AWAITED_S)
        return due_at - self._context.monotonic()

    def _decision_wait_s(self) -> float:
        return self._decided_at + self._decision_interval_s() - self._context.monotonic()

    @property
    def has_unnoted_publication(self) -> bool:
        """True if the store does not know how much of it is published: the next owner would publish that again."""
        return self._context.on_risk is not None and self._noted_published < self._published

    @property
    def buffer_full(self) -> bool:
        """True if as much waits for a commit as memory has room for."""
        if self.uncommitted_records >= MAX_UNCOMMITTED_RECORDS:
            return True
        agents = self._processor.engine.agent_states.unwritten_count
        return agents + len(self._dead_letters) >= self._context.tuning.max_uncommitted

    def _state_interval_s(self) -> float:
        """Least time between two commits of states: the quicker they are, the less.

        An agent that changes often is written once for all of it, so the longer the time, the less is written. A switch
        of models is to be durable before decisions by the new one are, and an erasure has somebody who waits for it.
        There is less room while batches are full: more waits than is read at a time.
        """
        processor, share = self._processor, self._context.tuning.commit_share
        if processor.model_switcher.pending_switches or processor.control_records.erasures:
            return 0.0
        longest_s = self._context.settings.commit_interval_s
        if self.worker_has_many or self.uncommitted_records >= MANY_RECORDS:
            longest_s = min(longest_s, MAX_AWAITED_S)
        if self.backlogged or share == 0.0:
            return longest_s
        return min(longest_s, max(self._commit_took_s / share, MIN_COMMIT_INTERVAL_S))

    def _decision_interval_s(self) -> float:
        """Least time between two commits of decisions: none, so that an alert leaves at once.

        Those that nobody waits for, such as of agents that were never seen before, share a commit. A backlog has
        changes of level in most batches; then they wait as long as commits have room.
        """
        most_s = min(MAX_DECISION_INTERVAL_S, self._context.settings.commit_interval_s)
        if not self.backlogged:
            return 0.0 if self._decision_is_acted_on or self._conflict_rows else most_s
        return min(most_s, max(self._decision_commit_took_s / DECISION_SHARE, MIN_COMMIT_INTERVAL_S))

    def begin(self, *, with_states: bool = True) -> Commit:
        """Begin to commit everything since the last commit; or that one again, if it was given up.

        What is applied from here on is for the commit after it.
        """
        if self._begun is None:
            if not with_states and not self._processor.model_switcher.pending_switches:
                self._begun = self._build_decision_commit()
            else:
                self._begun = self._build_state_commit()
        return self._begun.commit

    @property
    def publication_to_note(self) -> Position | None:
        """Position up to which all is published once the commit that was begun is, if the store is to know at once."""
        begun, agents = self._begun, self._processor.engine.agent_states
        if begun is None or not begun.published or self._context.on_risk is None:
            return None
        return begun.commit.position if agents.resident_count >= min(MANY_AGENTS, agents.capacity) else None

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
        self._decision_is_acted_on = False
        return taken

    def _build_state_commit(self) -> _BegunCommit:
        """A commit that moves the position on."""
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
        """Event ids that no commit has stored, once they are many, and where the window begins if that moved."""
        start, end, window = self._event_ids_from, self.next_offset, self._processor.duplicate_window
        run = None
        if end - start >= EVENT_IDS_OF_A_RUN:
            run = EventIdRun(start, window.take_recorded(start, end).astype("<u8").tobytes())
            self._event_ids_from = end
        before, now = window.first_offset_to_rebuild(self.position.offset), window.first_offset_to_rebuild(end)
        return run, now if now > before else 0

    def mark_committed(self, result: CommitResult, took_s: float, *, is_noted: bool = False) -> CommittedChanges:
        """Note that the commit which was begun is in the store and published, *took_s* seconds after it was begun.

        *is_noted*: the store knows that it is published.
        """
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
        if is_noted:
            self._noted_published = commit.position.offset
        return CommittedChanges(commit.decisions, commit.position, result.dropped_dead_letters, begun.vectors)

    def _is_acted_on(self, decision: Decision) -> bool:
        """True if a decision may have outbox rows, which its commit lets leave."""
        return self._context.acts_at_every_level or max(decision.level, decision.previous_level) >= RiskLevel.MEDIUM

    def _outbox_rows(self, decision: Decision) -> list[OutboxRow]:
        """Outbox rows of decisions, actions before alerts: they are what stops an agent."""
        book, every_level = self._context.policy.book, self._context.acts_at_every_level
        rows = (build_decision_action_row(decision, book, every_level=every_level), self._alert_row(decision))
        return [row for row in rows if row is not None]

    def _alert_row(self, decision: Decision) -> OutboxRow | None:
        """The alert of a change of level that people act on; None for cold starts, which are no news."""
        if max(decision.level, decision.previous_level) < RiskLevel.MEDIUM:
            return None
        return build_alert_row(decision, self._context.policy.book.policy_members(decision), self._context.service)

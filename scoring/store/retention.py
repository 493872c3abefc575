"""Retention: remove what is old and finished. Nothing else of the store removes rows by their age."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, exists, select, tuple_

from ..records.agents import RiskLevel
from ..records.containment import OPEN_INTERVENTION_STATUSES
from ..records.feedback import OPEN_FEEDBACK_STATES
from .database import Database, translate_errors
from .decision_chain import advance_anchors
from .outbox_store import PENDING
from .retention_settings import RetentionCutoffs
from .sql_schema import (
    ACTUATIONS,
    AGENTS,
    CASE_AGENTS,
    CASE_DECISIONS,
    CASE_ENTRIES,
    CASE_TIES,
    CASES,
    DEAD_LETTERS,
    DELIVERIES,
    EDGES,
    FEEDBACK,
    FEEDBACK_HOLDINGS,
    FEEDBACK_PREVIEWS,
    FEEDBACK_STEPS,
    INTERVENTIONS,
    MODEL_DAYS,
    OUTBOX,
    SECURITY_EVENTS,
)


class PurgeCounts(NamedTuple):
    """Rows removed by `purge`; `outbox` counts SETs that waited, too."""

    decisions: int
    outbox: int
    dead_letters: int
    agents: int
    containment: int
    feedback: int
    labels: int
    cases: int


class Retention:
    """Removal of what is old, a little at a time, and tables for the weeks to come."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def purge(self, cutoffs: RetentionCutoffs, chunk: int = 1_000) -> PurgeCounts:
        """Remove what is older and finished, *chunk* rows a transaction so that writers get between.

        An agent that comes back later starts again.
        """
        agents = self._purge_agents(cutoffs.agents_ms, chunk)  # first: their current decisions are current no more
        with translate_errors():
            weeks = self._database.dialect.purge_weeks(self._database.writing_engine, cutoffs.decisions_ms)
        return PurgeCounts(
            weeks + self._purge_decisions(cutoffs.decisions_ms, chunk),
            self._purge_outbox(cutoffs.deliveries_ms, chunk) + self._purge_security_events(cutoffs.decisions_ms),
            self._purge_replayed_dead_letters(cutoffs.dead_letters_ms, chunk)
            + self._purge_waiting_dead_letters(cutoffs.waiting_dead_letters_ms, chunk),
            agents,
            self._purge_containment(cutoffs),
            self._purge_feedback(cutoffs.feedback_ms),
            self._purge_labels(cutoffs.labels_ms),
            self._purge_cases(cutoffs.cases_ms),
        )

    def _purge_security_events(self, before_ms: int) -> int:
        """Remove what waits for receivers that never come: it would outlive the decision that it tells of."""
        with self._database.write() as connection:
            return connection.execute(delete(SECURITY_EVENTS).where(SECURITY_EVENTS.c.queued_ms < before_ms)).rowcount

    def _purge_containment(self, cutoffs: RetentionCutoffs) -> int:
        """Remove interventions, actuations and edges; what is lowered at a server stays."""
        ended = (
            ~INTERVENTIONS.c.status.in_(sorted(OPEN_INTERVENTION_STATUSES)),
            INTERVENTIONS.c.updated_ms < cutoffs.interventions_ms,
        )
        undone = (ACTUATIONS.c.updated_ms < cutoffs.actuations_ms, ACTUATIONS.c.original == b"")
        unseen = (EDGES.c.last_ms < cutoffs.edges_ms,)
        with self._database.write() as connection:
            return sum(
                connection.execute(delete(table).where(*old)).rowcount
                for table, old in ((INTERVENTIONS, ended), (ACTUATIONS, undone), (EDGES, unseen))
            )

    def _purge_feedback(self, before_ms: int) -> int:
        """Remove previews made before, and rules of partitions that ended before; feedback itself stays."""
        rules = FEEDBACK_HOLDINGS.c
        over = (rules.until_offset >= 0, rules.expires_ms < before_ms)
        with self._database.write() as connection:
            ended = connection.execute(delete(FEEDBACK_HOLDINGS).where(*over)).rowcount
            old = FEEDBACK_PREVIEWS.c.created_ms < before_ms
            return ended + connection.execute(delete(FEEDBACK_PREVIEWS).where(old)).rowcount

    def _purge_labels(self, before_ms: int) -> int:
        """Remove feedback that is over (noted, revoked, expired) and whose window, end and last change lie before.

        With its steps, and not while a partition holds to its rule: whose feedback is gone could not be revoked.
        """
        label, rules = FEEDBACK.c, FEEDBACK_HOLDINGS.c
        old = (label.until_ms < before_ms, label.updated_ms < before_ms, label.expires_ms < before_ms)
        in_force = select(rules.rule_id).where(rules.until_offset < 0)
        over = (label.status.not_in(sorted(OPEN_FEEDBACK_STATES)), label.feedback_id.not_in(in_force), *old)
        with self._database.write() as connection:
            steps = FEEDBACK_STEPS.c.feedback_id.in_(select(label.feedback_id).where(*over))
            connection.execute(delete(FEEDBACK_STEPS).where(steps))
            return connection.execute(delete(FEEDBACK).where(*over)).rowcount

    def _purge_cases(self, before_ms: int) -> int:
        """Remove cases that changed last before, also unclosed ones: their decisions are gone, too."""
        old = select(CASES.c.case_id).where(CASES.c.updated_ms < before_ms)
        with self._database.write() as connection:
            for table in (CASE_AGENTS, CASE_TIES, CASE_DECISIONS, CASE_ENTRIES):
                connection.execute(delete(table).where(table.c.case_id.in_(old)))
            return connection.execute(delete(CASES).where(CASES.c.case_id.in_(old))).rowcount

    def purge_model_days(self, before_day: int) -> int:
        """Remove days before *before_day*; versions, history and switches stay. Returns the number of rows."""
        with self._database.write() as connection:
            return connection.execute(delete(MODEL_DAYS).where(MODEL_DAYS.c.day < before_day)).rowcount

    def prepare_weeks(self, now_ms: int) -> None:
        """Make room for the weeks to come; to be called at start and once a day. Nothing fails where it was not."""
        with translate_errors():
            self._database.dialect.prepare_weeks(self._database.writing_engine, now_ms)

    def _purge_agents(self, before_ms: int, chunk: int) -> int:
        """Look for them without a lock, and once more at each when it goes: it may just have come back."""
        key = AGENTS.c.key
        calm = (
            AGENTS.c.level <= RiskLevel.LOW,
            AGENTS.c.due_ms == 0,
            AGENTS.c.last_seen_ms < before_ms,
            AGENTS.c.evaluated_ms < before_ms,
        )
        query = select(key).where(*calm).order_by(key).limit(chunk)
        page, removed = query, 0
        while before_ms > 0:
            with self._database.read() as connection:
                keys = connection.scalars(page).all()
            with self._database.write() as connection:
                removed += connection.execute(delete(AGENTS).where(key.in_(keys), *calm)).rowcount
            if len(keys) < chunk:
                break
            page = query.where(key > keys[-1])
        return removed

    def _purge_decisions(self, before_ms: int, chunk: int) -> int:
        """Walk once over the old ones: those that stay (an agent's current one) must not be met again."""
        table = self._database.dialect.ROW_PURGED_DECISIONS
        order = (table.c.decided_ms, table.c.decision_id)
        link = (table.c.partition, table.c.chain_sequence, table.c.chain_digest)
        current = exists().where(AGENTS.c.key == table.c.agent_key, AGENTS.c.decision_id == table.c.decision_id)
        removed, after = 0, (-1, "")
        while True:
            page = select(*order, *link, current.label("current")).where(order[0] < before_ms, tuple_(*order) > after)
            with self._database.write() as connection:
                rows = connection.execute(page.order_by(*order).limit(chunk)).all()
                gone = [row for row in rows if not row.current]  # an old decision never becomes current again
                ids = [row.decision_id for row in gone]
                removed += connection.execute(delete(table).where(order[1].in_(ids))).rowcount
                advance_anchors(connection, [(row.partition, row.chain_sequence, row.chain_digest) for row in gone])
            if len(rows) < chunk:
                return removed
            after = (rows[-1].decided_ms, rows[-1].decision_id)

    def _purge_outbox(self, before_ms: int, chunk: int) -> int:
        pending = exists().where(DELIVERIES.c.seq == OUTBOX.c.seq, DELIVERIES.c.status == PENDING)
        old = (OUTBOX.c.routed_ms > 0, OUTBOX.c.routed_ms < before_ms, ~pending)
        return self._purge_by_id(OUTBOX.c.seq, old, chunk)

    def _purge_replayed_dead_letters(self, before_ms: int, chunk: int) -> int:
        old = (DEAD_LETTERS.c.replayed_ms > 0, DEAD_LETTERS.c.received_ms < before_ms)
        return self._purge_by_id(DEAD_LETTERS.c.letter_id, old, chunk)

    def _purge_waiting_dead_letters(self, before_ms: int, chunk: int) -> int:
        waiting = (DEAD_LETTERS.c.replayed_ms == 0, DEAD_LETTERS.c.received_ms < before_ms)
        return self._purge_by_id(DEAD_LETTERS.c.letter_id, waiting, chunk) if before_ms > 0 else 0

    def _purge_by_id(self, column: Any, old: tuple[ColumnElement[bool], ...], chunk: int) -> int:
        removed = 0
        while True:
            with self._database.write() as connection:
                ids = select(column).where(*old).limit(chunk)
                count = connection.execute(delete(column.table).where(column.in_(ids))).rowcount
            removed += count
            if count < chunk:
                return removed

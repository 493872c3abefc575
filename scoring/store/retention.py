"""Retention: delete what is old and finished. Nothing else of the store deletes rows by their age."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Delete, delete, exists, select, tuple_

from ..records.agents import RiskLevel
from ..records.containment import OPEN_INTERVENTION_STATUSES
from ..records.feedback import OPEN_FEEDBACK_STATES
from .database import TableStore, translate_errors
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
    """Numbers of rows that `purge` deleted; `outbox` includes SETs that waited."""

    decisions: int
    outbox: int
    dead_letters: int
    agents: int
    containment: int
    feedback: int
    labels: int
    cases: int


class Retention(TableStore):
    """Deletes old rows in small transactions, and creates the tables of the next weeks."""

    def purge(self, cutoffs: RetentionCutoffs, chunk: int = 1_000) -> PurgeCounts:
        """Delete old, finished rows, *chunk* rows per transaction so that other writers can proceed in between.

        An agent that comes back later starts again.
        """
        agents = self._purge_agents(cutoffs.agents_ms, chunk)  # first: their current decisions can go, too
        with translate_errors():
            weeks = self._database.dialect.purge_weeks(self._database.writing_engine, cutoffs.decisions_ms)
        others_ms, waiting_ms = cutoffs.others_ms, cutoffs.waiting_dead_letters_ms
        letters, rules = DEAD_LETTERS.c, FEEDBACK_HOLDINGS.c
        decisions = weeks + self._purge_decisions(cutoffs.decisions_ms, chunk)
        pending = exists().where(DELIVERIES.c.seq == OUTBOX.c.seq, DELIVERIES.c.status == PENDING)
        delivered = (OUTBOX.c.routed_ms > 0, OUTBOX.c.routed_ms < others_ms, ~pending)
        replayed = (letters.replayed_ms > 0, letters.received_ms < others_ms)
        waiting = (letters.replayed_ms == 0, letters.received_ms < waiting_ms)
        return PurgeCounts(
            decisions,
            # A SET that its receiver never fetches would outlive the decision that it reports.
            self._purge_by_id(OUTBOX.c.seq, delivered, chunk)
            + self._database.change(delete(SECURITY_EVENTS).where(SECURITY_EVENTS.c.queued_ms < cutoffs.decisions_ms)),
            self._purge_by_id(letters.letter_id, replayed, chunk)
            + (self._purge_by_id(letters.letter_id, waiting, chunk) if waiting_ms > 0 else 0),
            agents,
            self._purge_containment(others_ms),
            self._delete_all(  # feedback itself stays
                delete(FEEDBACK_HOLDINGS).where(rules.until_offset >= 0, rules.expires_ms < others_ms),
                delete(FEEDBACK_PREVIEWS).where(FEEDBACK_PREVIEWS.c.created_ms < others_ms),
            ),
            self._purge_labels(cutoffs.labels_ms),
            self._purge_cases(cutoffs.cases_ms),
        )

    def _purge_containment(self, before_ms: int) -> int:
        """Delete interventions, actuations and edges, but keep an actuation while a server restricts the agent."""
        is_open = INTERVENTIONS.c.status.in_(sorted(OPEN_INTERVENTION_STATUSES))
        ended = (~is_open, INTERVENTIONS.c.updated_ms < before_ms)
        undone = (ACTUATIONS.c.updated_ms < before_ms, ACTUATIONS.c.original == b"")
        return self._delete_all(
            delete(INTERVENTIONS).where(*ended),
            delete(ACTUATIONS).where(*undone),
            delete(EDGES).where(EDGES.c.last_ms < before_ms),
        )

    def _purge_labels(self, before_ms: int) -> int:
        """Delete closed feedback (noted, revoked, expired) with its steps, by its window, end and last change.

        It stays while a partition applies its rule, which could not be revoked without it.
        """
        label, rules = FEEDBACK.c, FEEDBACK_HOLDINGS.c
        old = (label.until_ms < before_ms, label.updated_ms < before_ms, label.expires_ms < before_ms)
        active = select(rules.rule_id).where(rules.until_offset < 0)
        closed = (label.status.not_in(sorted(OPEN_FEEDBACK_STATES)), label.feedback_id.not_in(active), *old)
        with self._database.write() as connection:
            steps = FEEDBACK_STEPS.c.feedback_id.in_(select(label.feedback_id).where(*closed))
            connection.execute(delete(FEEDBACK_STEPS).where(steps))
            return connection.execute(delete(FEEDBACK).where(*closed)).rowcount

    def _purge_cases(self, before_ms: int) -> int:
        """Delete cases by their last change, including open ones, because their decisions are deleted, too."""
        old = select(CASES.c.case_id).where(CASES.c.updated_ms < before_ms)
        with self._database.write() as connection:
            for table in (CASE_AGENTS, CASE_TIES, CASE_DECISIONS, CASE_ENTRIES):
                connection.execute(delete(table).where(table.c.case_id.in_(old)))
            return connection.execute(delete(CASES).where(CASES.c.case_id.in_(old))).rowcount

    def _delete_all(self, *deletions: Delete) -> int:
        with self._database.write() as connection:
            return sum(connection.execute(deletion).rowcount for deletion in deletions)

    def purge_model_days(self, before_day: int) -> int:
        """Delete days before *before_day*, but keep versions, history and switches. Return the number of rows."""
        return self._database.change(delete(MODEL_DAYS).where(MODEL_DAYS.c.day < before_day))

    def prepare_weeks(self, now_ms: int) -> None:
        """Create the tables of the next weeks, at start and once a day. Writes also work without them."""
        with translate_errors():
            self._database.dialect.prepare_weeks(self._database.writing_engine, now_ms)

    def _purge_agents(self, before_ms: int, chunk: int) -> int:
        """Search without a lock, and check again when an agent is deleted, because it may have come back."""
        key = AGENTS.c.key
        quiet = (
            AGENTS.c.level <= RiskLevel.LOW,
            AGENTS.c.due_ms == 0,
            AGENTS.c.last_seen_ms < before_ms,
            AGENTS.c.evaluated_ms < before_ms,
        )
        query = select(key).where(*quiet).order_by(key).limit(chunk)
        page, removed = query, 0
        while before_ms > 0:
            with self._database.read() as connection:
                keys = connection.scalars(page).all()
            with self._database.write() as connection:
                removed += connection.execute(delete(AGENTS).where(key.in_(keys), *quiet)).rowcount
            if len(keys) < chunk:
                break
            page = query.where(key > keys[-1])
        return removed

    def _purge_decisions(self, before_ms: int, chunk: int) -> int:
        """Go through the old decisions once, keeping each agent's current decision."""
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

    def _purge_by_id(self, column: Any, old: tuple[ColumnElement[bool], ...], chunk: int) -> int:
        removed = 0
        while True:
            with self._database.write() as connection:
                ids = select(column).where(*old).limit(chunk)
                count = connection.execute(delete(column.table).where(column.in_(ids))).rowcount
            removed += count
            if count < chunk:
                return removed

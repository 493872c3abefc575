"""Retention: remove what is old and finished, a little at a time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, delete, exists, select, tuple_

from ..records.agents import RiskLevel
from .database import Database, translate_errors
from .decision_store import advance_anchors
from .interface import PurgeCounts
from .outbox_store import PENDING
from .sql_schema import AGENTS, DEAD_LETTERS, DELIVERIES, OUTBOX


class Retention(Database):
    """Part of the store that keeps it small."""

    def purge(
        self,
        before_ms: int,
        chunk: int = 1_000,
        agents_before_ms: int = 0,
        *,
        outbox_before_ms: int | None = None,
        letters_before_ms: int | None = None,
        waiting_letters_before_ms: int = 0,
    ) -> PurgeCounts:
        agents = self._purge_agents(agents_before_ms, chunk)  # first: their current decisions are current no more
        with translate_errors():
            weeks = self._dialect.purge_weeks(self._writer, before_ms)
        return PurgeCounts(
            weeks + self._purge_decisions(before_ms, chunk),
            self._purge_outbox(before_ms if outbox_before_ms is None else outbox_before_ms, chunk),
            self._purge_replayed_dead_letters(before_ms if letters_before_ms is None else letters_before_ms, chunk)
            + self._purge_waiting_dead_letters(waiting_letters_before_ms, chunk),
            agents,
        )

    def upkeep(self, now_ms: int) -> None:
        with translate_errors():
            self._dialect.prepare_weeks(self._writer, now_ms)

    def _purge_agents(self, before_ms: int, chunk: int) -> int:
        """Looks for them without a lock, and once more at each when it goes: it may just have come back."""
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
            with self.read() as connection:
                keys = connection.scalars(page).all()
            with self.write() as connection:
                removed += connection.execute(delete(AGENTS).where(key.in_(keys), *calm)).rowcount
            if len(keys) < chunk:
                break
            page = query.where(key > keys[-1])
        return removed

    def _purge_decisions(self, before_ms: int, chunk: int) -> int:
        """Walks once over the old ones: those that stay (an agent's current one) must not be met again."""
        table = self._dialect.ROW_PURGED_DECISIONS
        order = (table.c.decided_ms, table.c.decision_id)
        link = (table.c.partition, table.c.chain_sequence, table.c.chain_digest)
        current = exists().where(AGENTS.c.key == table.c.agent_key, AGENTS.c.decision_id == table.c.decision_id)
        removed, after = 0, (-1, "")
        while True:
            page = select(*order, *link, current.label("current")).where(order[0] < before_ms, tuple_(*order) > after)
            with self.write() as connection:
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
            with self.write() as connection:
                ids = select(column).where(*old).limit(chunk)
                count = connection.execute(delete(column.table).where(column.in_(ids))).rowcount
            removed += count
            if count < chunk:
                return removed

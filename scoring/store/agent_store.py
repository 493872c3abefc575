"""The edge's side: lists and look-ups. What the caller may see is part of every statement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import func, or_, select, tuple_, update

from ...ingest.hashing import agent_key
from ..records.agents import AgentRow, AgentSummary
from ..records.commits import Delivery
from ..records.dead_letters import StoredDeadLetter
from ..records.decisions import Decision
from . import codec
from .commits import DROPPED_DEAD_LETTERS
from .database import Paged, visible
from .dialects.statements import MAX_IN_LIST, chunked, starts_with
from .interface import AgentQuery, DeadLetterCounts, Page, Tenants
from .sql_schema import AGENTS, COUNTERS, DEAD_LETTERS, DECISIONS, DELIVERIES, OUTBOX

T = TypeVar("T")
_DELIVERY_COLUMNS = tuple(
    (DELIVERIES if name in DELIVERIES.c else OUTBOX).c[name] for name in Delivery.__struct_fields__
)

_NO_TOMBSTONE = or_(DECISIONS.c.erasure_id == "", DECISIONS.c.redacted != "")

if TYPE_CHECKING:
    from .database import AnyRow, AnySelect


class AgentStore(Paged):
    """Part of the store that the edge reads."""

    def summaries(self, after_key: int | None = None, limit: int = 10_000) -> list[AgentSummary]:
        query = select(*codec.SUMMARY_COLUMNS).order_by(AGENTS.c.key).limit(limit)
        if after_key is not None:
            query = query.where(AGENTS.c.key > codec.to_signed(after_key))
        with self.read() as connection:
            return [codec.to_summary(row) for row in connection.execute(query)]

    def all_summaries(self, chunk: int = 10_000) -> Iterator[AgentSummary]:
        after: int | None = None
        while found := self.summaries(after, chunk):
            yield from found
            after = found[-1].name.key

    def list_agents(self, query: AgentQuery) -> Page[AgentSummary]:
        statement = visible(select(*codec.SUMMARY_COLUMNS), AGENTS.c.tenant, query.tenants)
        if query.levels is not None:
            statement = statement.where(AGENTS.c.level.in_(sorted(query.levels)))
        if query.agent_type is not None:
            statement = statement.where(AGENTS.c.agent_type == query.agent_type)
        if query.prefix:
            statement = statement.where(starts_with(AGENTS.c.agent_id, query.prefix))
        order = (AGENTS.c.tenant, AGENTS.c.agent_id, AGENTS.c.issuer)
        if query.cursor is not None:
            statement = statement.where(tuple_(*order) > codec.from_cursor(query.cursor, tuple[str, str, str]))
        return self.page(statement.order_by(*order), order, query.limit, codec.to_summary)

    def agent(self, tenant: str, issuer: str, agent_id: str, tenants: Tenants = None) -> AgentRow | None:
        key = codec.to_signed(agent_key(tenant, issuer, agent_id))
        query = visible(select(*codec.AGENT_COLUMNS).where(AGENTS.c.key == key), AGENTS.c.tenant, tenants)
        return self._fetch_one(query, codec.to_agent)

    def find_agents(self, agent_id: str, tenants: Tenants = None, limit: int = 50) -> list[AgentSummary]:
        query = visible(select(*codec.SUMMARY_COLUMNS), AGENTS.c.tenant, tenants)
        query = query.where(AGENTS.c.agent_id == agent_id).order_by(AGENTS.c.tenant, AGENTS.c.issuer).limit(limit)
        with self.read() as connection:
            return [codec.to_summary(row) for row in connection.execute(query)]

    def list_decisions(
        self, tenants: Tenants = None, agent_key: int | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Decision]:
        query = visible(select(DECISIONS).where(_NO_TOMBSTONE), DECISIONS.c.tenant, tenants)
        if agent_key is not None:
            query = query.where(DECISIONS.c.agent_key == codec.to_signed(agent_key))
        order = (DECISIONS.c.decided_ms, DECISIONS.c.decision_id)
        return self.newest(query, order, limit, cursor, codec.to_decision)

    def decision(self, decision_id: str, tenants: Tenants = None) -> Decision | None:
        query = select(DECISIONS).where(DECISIONS.c.decision_id == decision_id, _NO_TOMBSTONE)
        return self._fetch_one(visible(query, DECISIONS.c.tenant, tenants), codec.to_decision)

    def list_dead_letters(
        self,
        sources: Collection[str] | None = None,
        replayed: bool | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[StoredDeadLetter]:
        query = visible(select(DEAD_LETTERS), DEAD_LETTERS.c.source, sources)
        if replayed is not None:
            query = query.where(DEAD_LETTERS.c.replayed_ms > 0 if replayed else DEAD_LETTERS.c.replayed_ms == 0)
        order = (DEAD_LETTERS.c.received_ms, DEAD_LETTERS.c.letter_id)
        return self.newest(query, order, limit, cursor, codec.to_dead_letter)

    def dead_letter(self, letter_id: str, sources: Collection[str] | None = None) -> StoredDeadLetter | None:
        query = select(DEAD_LETTERS).where(DEAD_LETTERS.c.letter_id == letter_id)
        return self._fetch_one(visible(query, DEAD_LETTERS.c.source, sources), codec.to_dead_letter)

    def mark_replayed(self, letter_ids: Collection[str], at_ms: int) -> int:
        marked = 0
        with self.write() as connection:
            for ids in chunked(letter_ids, MAX_IN_LIST):
                waiting = (DEAD_LETTERS.c.letter_id.in_(ids), DEAD_LETTERS.c.replayed_ms == 0)
                marked += connection.execute(update(DEAD_LETTERS).where(*waiting).values(replayed_ms=at_ms)).rowcount
        return marked

    def letter_counts(self) -> DeadLetterCounts:
        dropped = select(COUNTERS.c.value).where(COUNTERS.c.name == DROPPED_DEAD_LETTERS)
        with self.read() as connection:
            stored = connection.execute(select(func.count()).select_from(DEAD_LETTERS)).scalar_one()
            return DeadLetterCounts(stored, connection.execute(dropped).scalar_one_or_none() or 0)

    def list_deliveries(
        self,
        tenants: Tenants = None,
        status: str | None = None,
        target: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        *,
        agent_key: int | None = None,
        key: str | None = None,
    ) -> Page[Delivery]:
        query = select(*_DELIVERY_COLUMNS, DELIVERIES.c.seq).join_from(DELIVERIES, OUTBOX)
        query = visible(query, OUTBOX.c.tenant, tenants)
        if status is not None:
            query = query.where(DELIVERIES.c.status == status)
        if target is not None:
            query = query.where(DELIVERIES.c.target == target)
        if agent_key is not None:
            query = query.where(DELIVERIES.c.agent_key == codec.to_signed(agent_key))
        if key is not None:
            query = query.where(OUTBOX.c.key == key)
        return self.newest(query, (DELIVERIES.c.seq, DELIVERIES.c.target), limit, cursor, _to_delivery)

    def _fetch_one(self, query: AnySelect, make: Callable[[AnyRow], T]) -> T | None:
        with self.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else make(row)


def _to_delivery(row: AnyRow) -> Delivery:
    values = row._mapping
    fields = {name: values[name] for name in Delivery.__struct_fields__}
    return Delivery(**fields | {"agent_key": codec.to_unsigned(values["agent_key"])})

"""Look-ups of the search that no list has: people by name, names in cases, decisions by the record that they follow."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, or_, select

from ..records.agents import AgentName
from ..records.decisions import Decision
from . import codec
from .database import Database, Page, Tenants, visible
from .decision_store import IS_READABLE
from .dialects.statements import MAX_IN_LIST, chunked
from .sql_schema import CASE_AGENTS, CASE_DECISIONS, CASE_TIES, DECISIONS, EDGES

if TYPE_CHECKING:
    from .codec import AnyRow


class SeenPrincipal(NamedTuple):
    """A person or service that agents act for.

    Attributes:
        agents: how many act for it.
        last_ms: when one did last, UTC; may be an hour old.
    """

    tenant: str
    issuer: str
    principal_id: str
    agents: int
    last_ms: int


class CaseNames(NamedTuple):
    """Names in a case: ids of its agents, and (kind, value) of what was new to them."""

    agents: frozenset[str]
    shared: frozenset[tuple[str, str]]


class DecisionText(NamedTuple):
    """The names in a decision as bytes in lower case (of ASCII letters): what can not fit need not be decoded."""

    decision_id: str
    level: int
    text: bytes


NO_NAMES = CaseNames(frozenset(), frozenset())


_TEXT_COLUMNS = tuple(
    DECISIONS.c[name]
    for name in ("decision_id", "decided_ms", "level", "agent_id", "agent_type", "event_id", "reasons", "evidence")
)


def _to_text(row: AnyRow) -> DecisionText:
    decision_id, _, level, agent_id, agent_type, event_id, reasons, evidence = row
    names = "\n".join((decision_id, agent_id, agent_type, event_id)).encode()
    return DecisionText(decision_id, level, b"\n".join((names, reasons, evidence)).lower())


class SearchStore:
    """Names as commits and the routing of alerts wrote them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def principals(
        self,
        tenants: Tenants,
        parts: Collection[tuple[str, ...]],
        since_ms: int = 0,
        until_ms: int = 0,
        limit: int = 100,
    ) -> list[SeenPrincipal]:
        """Principals with one text of each of *parts* in their id, in whatever case (of ASCII letters); last seen
        first.
        """
        last = func.max(EDGES.c.last_ms)
        grouped = (EDGES.c.tenant, EDGES.c.issuer, EDGES.c.target)
        query = select(*grouped, func.count(), last).where(EDGES.c.kind == "acts_for")
        name = func.lower(EDGES.c.target)
        for either in parts:
            query = query.where(or_(*(name.contains(part.lower(), autoescape=True) for part in either)))
        query = visible(query, EDGES.c.tenant, tenants).group_by(*grouped)
        if since_ms:
            query = query.having(last >= since_ms)
        if until_ms:
            query = query.having(last < until_ms)
        with self._database.read() as connection:
            return [
                SeenPrincipal(*row) for row in connection.execute(query.order_by(last.desc(), *grouped).limit(limit))
            ]

    def case_names(self, case_ids: Collection[str], tenants: Tenants = None) -> dict[str, CaseNames]:
        """Names in cases, by id of the case."""
        agents: dict[str, set[str]] = {}
        shared: dict[str, set[tuple[str, str]]] = {}
        with self._database.read() as connection:
            for part in chunked(sorted(case_ids), MAX_IN_LIST):
                named = select(CASE_AGENTS.c.case_id, CASE_AGENTS.c.agent_id).where(CASE_AGENTS.c.case_id.in_(part))
                for case_id, agent_id in connection.execute(visible(named, CASE_AGENTS.c.tenant, tenants)).all():
                    agents.setdefault(case_id, set()).add(agent_id)
                ties = select(CASE_TIES.c.case_id, CASE_TIES.c.kind, CASE_TIES.c.value)
                mine = ties.where(CASE_TIES.c.case_id.in_(part)).distinct()
                for case_id, kind, value in connection.execute(visible(mine, CASE_TIES.c.tenant, tenants)).all():
                    shared.setdefault(case_id, set()).add((kind, value))
        return {
            case_id: CaseNames(frozenset(agents.get(case_id, ())), frozenset(shared.get(case_id, ())))
            for case_id in case_ids
        }

    def decision_texts(
        self,
        tenants: Tenants,
        agent: AgentName | None = None,
        limit: int = 50,
        cursor: str | None = None,
        *,
        since_ms: int = 0,
        until_ms: int = 0,
    ) -> Page[DecisionText]:
        """Names in decisions, newest first; arguments as of `DecisionStore.page`. Raises BadCursor."""
        query = select(*_TEXT_COLUMNS).where(IS_READABLE)
        query = visible(query, DECISIONS.c.tenant, tenants)
        if agent is not None:
            query = query.where(codec.is_about(DECISIONS, agent))
        if since_ms:
            query = query.where(DECISIONS.c.decided_ms >= since_ms)
        if until_ms:
            query = query.where(DECISIONS.c.decided_ms < until_ms)
        order = (DECISIONS.c.decided_ms, DECISIONS.c.decision_id)
        return self._database.newest(query, order, limit, cursor, _to_text)

    def agents_with_decisions(self, names: Sequence[AgentName], tenants: Tenants = None) -> list[AgentName]:
        """Those of *names* about which decisions are kept, in their order."""
        by_key = {codec.to_signed(name.key): name for name in names}
        kept: set[int] = set()
        with self._database.read() as connection:
            for part in chunked(sorted(by_key), MAX_IN_LIST):
                query = select(DECISIONS.c.agent_key).where(DECISIONS.c.agent_key.in_(part)).distinct()
                kept.update(connection.scalars(visible(query, DECISIONS.c.tenant, tenants)))
        return [name for key, name in by_key.items() if key in kept]

    def decisions_at(
        self, offsets: Mapping[int, Sequence[int]], tenants: Tenants = None
    ) -> dict[tuple[int, int], Decision]:
        """Decisions that records brought, by partition and offset of the record; the highest level where several."""
        decisions: dict[tuple[int, int], Decision] = {}
        with self._database.read() as connection:
            for partition, asked_offsets in sorted(offsets.items()):
                for part in chunked(sorted(set(asked_offsets)), MAX_IN_LIST):
                    mine = (DECISIONS.c.partition == partition, DECISIONS.c.offset.in_(part), IS_READABLE)
                    query = visible(select(DECISIONS).where(*mine), DECISIONS.c.tenant, tenants)
                    for row in connection.execute(query.order_by(DECISIONS.c.level, DECISIONS.c.decision_id)):
                        decisions[partition, row.offset] = codec.to_decision(row)
        return decisions

    def cases_of(self, decision_ids: Collection[str], tenants: Tenants = None) -> dict[str, str]:
        """Ids of the cases that decisions belong to, by id of the decision."""
        case_ids: dict[str, str] = {}
        columns = (CASE_DECISIONS.c.decision_id, CASE_DECISIONS.c.case_id)
        with self._database.read() as connection:
            for part in chunked(sorted(set(decision_ids)), MAX_IN_LIST):
                query = select(*columns).where(CASE_DECISIONS.c.decision_id.in_(part))
                for decision_id, case_id in connection.execute(visible(query, CASE_DECISIONS.c.tenant, tenants)):
                    case_ids[decision_id] = case_id
        return case_ids

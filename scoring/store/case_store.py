"""Cases: lists and look-ups, and what people do with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, update

from ..records.agents import AgentName, RiskLevel
from ..records.cases import (
    Case,
    CaseAgent,
    CaseEntry,
    CaseStatistics,
    CaseTie,
    SharedIndicator,
    WaitingCases,
)
from ..records.commits import OutboxRow
from . import codec
from .case_assignment import CASE_AGENT_ROWS, last_entries
from .codec import RowCodec
from .database import Database, Page, TableStore, Tenants, between, day_of, visible, with_values
from .outbox_store import insert_outbox_rows
from .sql_schema import AGENTS, CASE_AGENTS, CASE_DECISIONS, CASE_ENTRIES, CASE_TIES, CASES, DELIVERIES

MAX_TIMED = 10_000
"""Cases whose times are included in statistics."""

MAX_LISTED_AGENTS = 3
"""Agents of each case that a list shows."""

MAX_ENTRIES = 1_000
"""Entries of a case that are read: every act and every page reads them, and any caller may add notes."""

_ROWS: Final = RowCodec(Case, CASES)
_ENTRY_ROWS: Final = RowCodec(CaseEntry, CASE_ENTRIES)


class CaseFilters(NamedTuple):
    """Filters of a list; empty or None = all. *level* is the lowest level; times bound the last change, 0 = no
    bound."""

    statuses: Collection[str] = ()
    owner: str | None = None
    level: int = 0
    agent: AgentName | None = None
    since_ms: int = 0
    until_ms: int = 0


class CaseUpdate(NamedTuple):
    """The new state of a case, its entry and its outbox rows."""

    case: Case
    entry: CaseEntry
    outbox: Sequence[OutboxRow] = ()


class CaseStore(TableStore):
    """Reads cases, and writes what people do with them."""

    def get(self, case_id: str, tenants: Tenants = None) -> Case | None:
        """Return one case."""
        return self._database.get(_ROWS, CASES.c.case_id == case_id, tenants=tenants)

    def page(
        self, tenants: Tenants = None, filters: CaseFilters | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Case]:
        """List cases, last changed first. Raises BadCursor."""
        given = filters or CaseFilters()
        query = _ROWS.select(tenants)
        if given.statuses:
            query = query.where(CASES.c.status.in_(sorted(given.statuses)))
        if given.level:
            query = query.where(CASES.c.level >= given.level)
        query = with_values(query, {CASES.c.owner: given.owner})
        query = between(query, CASES.c.updated_ms, given.since_ms, given.until_ms)
        if given.agent is not None:
            mine = select(CASE_AGENTS.c.case_id).where(codec.is_about(CASE_AGENTS, given.agent))
            query = query.where(CASES.c.case_id.in_(mine))
        return self._database.newest(query, (CASES.c.updated_ms, CASES.c.case_id), limit, cursor, _ROWS.read)

    def count_by_status(self, tenants: Tenants = None) -> dict[str, int]:
        """Count the cases that are not closed, by status."""
        query = select(CASES.c.status, func.count()).where(CASES.c.status != "closed").group_by(CASES.c.status)
        return dict(self._database.fetch_all(visible(query, CASES.c.tenant, tenants), tuple))

    def waiting(self, tenants: Tenants = None) -> list[WaitingCases]:
        """Count the cases that are not closed, by status and level."""
        kinds = (CASES.c.status, CASES.c.level)
        query = select(*kinds, func.count(), func.min(CASES.c.opened_ms)).where(CASES.c.status != "closed")
        grouped = visible(query, CASES.c.tenant, tenants).group_by(*kinds).order_by(*kinds)
        return self._database.fetch_all(grouped, lambda row: WaitingCases(*row))

    def statistics(self, since_ms: int, tenants: Tenants = None) -> CaseStatistics:
        """Return outcomes of the cases opened since *since_ms*; times are of the newest `MAX_TIMED` of each kind."""
        mine = (CASES.c.opened_ms >= since_ms, CASES.c.merged_into == "")
        kinds = (day_of(CASES.c.opened_ms), CASES.c.verdict)
        counts = visible(select(*kinds, func.count()).where(*mine), CASES.c.tenant, tenants).group_by(*kinds)
        by_day: Counter[int] = Counter()
        closed: Counter[str] = Counter()
        with self._database.read() as connection:
            for at, verdict, count in connection.execute(counts):
                by_day[at] += count
                closed[verdict] += count
            taken = []
            for column in (CASES.c.acknowledged_ms, CASES.c.contained_ms):
                query = visible(select(column, CASES.c.opened_ms).where(*mine, column > 0), CASES.c.tenant, tenants)
                taken.append(connection.execute(query.order_by(CASES.c.opened_ms.desc()).limit(MAX_TIMED)).all())
        acknowledged, contained = ([(at - opened) / 1000 for at, opened in rows] for rows in taken)
        return CaseStatistics(
            by_day.total(),
            {verdict: count for verdict, count in closed.items() if verdict},
            len(acknowledged),
            len(contained),
            median(acknowledged) if acknowledged else None,
            median(contained) if contained else None,
            dict(by_day),
        )

    def closed_by_day(self, since_ms: int, tenants: Tenants = None) -> dict[int, int]:
        """Count the cases that people closed since *since_ms*, by day of UTC since 1970, without merged cases."""
        day = day_of(CASES.c.closed_ms)
        mine = (CASES.c.closed_ms >= max(since_ms, 1), CASES.c.status == "closed", CASES.c.merged_into == "")
        query = visible(select(day, func.count()).where(*mine), CASES.c.tenant, tenants).group_by(day)
        return dict(self._database.fetch_all(query, tuple))

    def agents(self, case_id: str, tenants: Tenants = None) -> list[CaseAgent]:
        """List the agents of a case in the order in which they joined."""
        mine = CASE_AGENTS.c.case_id == case_id
        return self._database.find(CASE_AGENT_ROWS, mine, tenants=tenants, order=(CASE_AGENTS.c.ordinal,))

    def first_agents(self, case_ids: Collection[str], tenants: Tenants = None) -> dict[str, list[CaseAgent]]:
        """Return the first `MAX_LISTED_AGENTS` agents of each case."""
        query = CASE_AGENT_ROWS.select(tenants, CASE_AGENTS.c.ordinal <= MAX_LISTED_AGENTS)
        ordered = query.order_by(CASE_AGENTS.c.case_id, CASE_AGENTS.c.ordinal)
        agents_by_case: dict[str, list[CaseAgent]] = {}
        for agent in self._database.fetch_among(ordered, CASE_AGENTS.c.case_id, case_ids, CASE_AGENT_ROWS.read):
            agents_by_case.setdefault(agent.case_id, []).append(agent)
        return agents_by_case

    def shared_indicators(self, case_id: str, tenants: Tenants = None) -> list[SharedIndicator]:
        """List new targets, keys and networks that agents of a case had, those shared by most agents first."""
        agents, last = func.count(CASE_TIES.c.agent_key), func.max(CASE_TIES.c.last_ms)
        query = select(CASE_TIES.c.kind, CASE_TIES.c.value, agents, last).where(CASE_TIES.c.case_id == case_id)
        grouped = visible(query, CASE_TIES.c.tenant, tenants).group_by(CASE_TIES.c.kind, CASE_TIES.c.value)
        ordered = grouped.order_by(agents.desc(), last.desc(), CASE_TIES.c.kind, CASE_TIES.c.value)
        return self._database.fetch_all(ordered, lambda row: SharedIndicator(*row))

    def decision_ids(self, case_id: str, tenants: Tenants = None, limit: int = 500) -> list[str]:
        """List the ids of the decisions of a case, newest first."""
        query = select(CASE_DECISIONS.c.decision_id).where(CASE_DECISIONS.c.case_id == case_id)
        order = (CASE_DECISIONS.c.decided_ms.desc(), CASE_DECISIONS.c.decision_id.desc())
        return self._database.scalars(visible(query, CASE_DECISIONS.c.tenant, tenants).order_by(*order).limit(limit))

    def case_of_decision(self, decision_id: str, tenants: Tenants = None) -> str | None:
        """Return the id of the case that a decision belongs to, if any."""
        query = select(CASE_DECISIONS.c.case_id).where(CASE_DECISIONS.c.decision_id == decision_id)
        case_id: str | None = self._database.scalar(visible(query, CASE_DECISIONS.c.tenant, tenants))
        return case_id

    def entries(self, case_id: str, tenants: Tenants = None, limit: int = MAX_ENTRIES) -> list[CaseEntry]:
        """List the entries of a case in order; if there are more than *limit*, the newest."""
        mine, newest_first = CASE_ENTRIES.c.case_id == case_id, (CASE_ENTRIES.c.sequence.desc(),)
        return self._database.find(_ENTRY_ROWS, mine, tenants=tenants, order=newest_first, limit=limit)[::-1]

    # Acts of people. Each names the revision that it is based on, so that none silently overwrites another.

    def update(self, changed: CaseUpdate) -> bool:
        """Write a case with its entry and outbox rows; return False and write nothing if it changed meanwhile.

        `case.revision` is the revision that was read; the stored revision is incremented.
        """
        with self._database.write() as connection:
            if not _update_case(connection, changed.case):
                return False
            _add_entry(connection, changed.entry, changed.case.tenant)
            if changed.entry.action == "reopened":  # falls were not recorded while it was closed
                for agent in (case_agent.agent for case_agent in _agents_of(connection, changed.case.case_id)):
                    level = connection.scalar(select(AGENTS.c.level).where(codec.is_about(AGENTS, agent)))
                    mine = _is_agent_of(changed.case.case_id, codec.to_signed(agent.key))
                    connection.execute(update(CASE_AGENTS).where(mine).values(level=level or 0))
            insert_outbox_rows(connection, changed.outbox)
        return True

    def merge(self, merged: CaseUpdate, into: CaseUpdate) -> bool:
        """Move all of one case into another of the same tenant; return False if either changed meanwhile."""
        source, target = merged.case.case_id, into.case.case_id
        with self._database.write() as connection:
            if not _are_current(connection, (merged.case, into.case)):
                return False
            for changed in (merged, into):
                _update_case(connection, changed.case)
                _add_entry(connection, changed.entry, changed.case.tenant)
            _move_agents(connection, source, target, _agents_of(connection, source), into.entry.by, "merge")
            insert_outbox_rows(connection, [*merged.outbox, *into.outbox])
        return True

    def split(self, remaining: CaseUpdate, opened: CaseUpdate, agents: Sequence[AgentName]) -> bool:
        """Move *agents* of a case into a new one; return False if it changed meanwhile, or an agent is not in it."""
        source, target = remaining.case.case_id, opened.case.case_id
        keys = {agent.key for agent in agents}
        with self._database.write() as connection:
            if not _are_current(connection, (remaining.case,)):
                return False
            moved = [case_agent for case_agent in _agents_of(connection, source) if case_agent.agent.key in keys]
            if len(moved) != len(keys):
                return False
            _update_case(connection, remaining.case)
            connection.execute(insert(CASES), _ROWS.params(opened.case))
            for changed in (remaining, opened):
                _add_entry(connection, changed.entry, changed.case.tenant)
            _move_agents(connection, source, target, moved, opened.entry.by, "split")
            insert_outbox_rows(connection, [*remaining.outbox, *opened.outbox])
        return True


def _are_current(connection: Connection, cases: Sequence[Case]) -> bool:
    """Lock the rows of cases; return whether they are unchanged since they were read."""
    ids = [case.case_id for case in cases]
    query = select(CASES.c.case_id, CASES.c.revision).where(CASES.c.case_id.in_(ids)).order_by(CASES.c.case_id)
    stored = {case_id: revision for case_id, revision in connection.execute(query.with_for_update())}
    return stored == {case.case_id: case.revision for case in cases}


def _update_case(connection: Connection, case: Case) -> bool:
    values = _ROWS.params(case) | {"revision": case.revision + 1}
    mine = (CASES.c.case_id == case.case_id, CASES.c.revision == case.revision)
    return connection.execute(update(CASES).where(*mine).values(values)).rowcount == 1


def _add_entry(connection: Connection, entry: CaseEntry, tenant: str) -> None:
    sequence = last_entries(connection, [entry.case_id]).get(entry.case_id, 0) + 1
    values = _ENTRY_ROWS.params(entry) | {"sequence": sequence, "tenant": tenant}
    connection.execute(insert(CASE_ENTRIES), values)


def _agents_of(connection: Connection, case_id: str) -> list[CaseAgent]:
    query = CASE_AGENT_ROWS.select(None, CASE_AGENTS.c.case_id == case_id).order_by(CASE_AGENTS.c.ordinal)
    return list(map(CASE_AGENT_ROWS.read, connection.execute(query)))


def _is_agent_of(case_id: str, agent_key: int) -> ColumnElement[bool]:
    return and_(CASE_AGENTS.c.case_id == case_id, CASE_AGENTS.c.agent_key == agent_key)


def _move_agents(
    connection: Connection, source: str, target: str, agents: Sequence[CaseAgent], tied_by: str, tie: CaseTie
) -> None:
    """Move agents with their ties, decisions and deliveries; merge an agent that is in both cases."""
    # In the order in which a dispatcher settles them, so that the two never deadlock.
    deliveries = select(DELIVERIES.c.seq).where(DELIVERIES.c.case_id == source)
    connection.execute(deliveries.order_by(DELIVERIES.c.seq, DELIVERIES.c.target).with_for_update()).all()
    there = {agent.agent.key: agent for agent in _agents_of(connection, target)}
    ordinal = max((agent.ordinal for agent in there.values()), default=0)
    for agent in agents:
        key = codec.to_signed(agent.agent.key)
        twin = there.get(agent.agent.key)
        connection.execute(CASE_AGENTS.delete().where(_is_agent_of(source, key)))
        if twin is None:
            ordinal += 1
            moved = msgspec.structs.replace(agent, case_id=target, ordinal=ordinal, tie=tie, tied_by=tied_by)
            connection.execute(insert(CASE_AGENTS), CASE_AGENT_ROWS.params(moved))
        else:
            in_target = _is_agent_of(target, key)
            connection.execute(update(CASE_AGENTS).where(in_target).values(_combined(twin, agent)))
        in_both = select(CASE_TIES.c.digest).where(CASE_TIES.c.case_id == target, CASE_TIES.c.agent_key == key)
        of_agent = (CASE_TIES.c.case_id == source, CASE_TIES.c.agent_key == key)
        doubles = CASE_TIES.c.digest.in_(connection.scalars(in_both).all())
        connection.execute(CASE_TIES.delete().where(*of_agent, doubles))
        for table in (CASE_TIES, CASE_DECISIONS, DELIVERIES):
            mine = and_(table.c.case_id == source, table.c.agent_key == key)
            connection.execute(update(table).where(mine).values(case_id=target))
    for case_id in (source, target):
        _recount(connection, case_id)


def _combined(first: CaseAgent, other: CaseAgent) -> dict[str, Any]:
    higher = first if first.peak >= other.peak else other
    later = first if first.last_ms >= other.last_ms else other
    return {
        "level": later.level,
        "peak": higher.peak,
        "decision_id": higher.decision_id,
        "joined_ms": min(first.joined_ms, other.joined_ms),
        "last_ms": later.last_ms,
    }


def _recount(connection: Connection, case_id: str) -> None:
    agents = _agents_of(connection, case_id)
    for ordinal, agent in enumerate(agents, 1):
        if agent.ordinal != ordinal:
            mine = _is_agent_of(case_id, codec.to_signed(agent.agent.key))
            connection.execute(update(CASE_AGENTS).where(mine).values(ordinal=ordinal))
    count = select(func.count()).select_from(CASE_DECISIONS).where(CASE_DECISIONS.c.case_id == case_id)
    values: dict[str, Any] = {
        "agents": len(agents),
        "decisions": int(connection.scalar(count) or 0),
        "revision": CASES.c.revision + 1,
    }
    if agents:
        worst = max(agents, key=lambda agent: (agent.peak, agent.last_ms))
        values |= {
            "level": worst.peak,
            "lead_decision_id": worst.decision_id,
            "risen_ms": max(agent.last_ms for agent in agents),
        }
    connection.execute(update(CASES).where(CASES.c.case_id == case_id).values(values))


def remove_empty_cases(database: Database) -> None:
    """Recount the cases that an erasure removed agents from; delete those without agents, with their entries.

    A merged case has no agents, and stays.
    """
    agents = select(CASE_AGENTS.c.case_id, func.count().label("agents")).group_by(CASE_AGENTS.c.case_id).subquery()
    query = select(CASES.c.case_id).join_from(CASES, agents, CASES.c.case_id == agents.c.case_id, isouter=True)
    differs = CASES.c.agents != func.coalesce(agents.c.agents, 0)
    with database.write() as connection:
        for case_id in sorted(connection.scalars(query.where(differs)).all()):
            connection.execute(select(CASES.c.case_id).where(CASES.c.case_id == case_id).with_for_update())
            _recount(connection, case_id)
            if not _agents_of(connection, case_id):
                for table in (CASE_AGENTS, CASE_TIES, CASE_DECISIONS, CASE_ENTRIES, CASES):
                    connection.execute(table.delete().where(table.c.case_id == case_id))


def new_case(case_id: str, like: Case, at_ms: int) -> Case:
    """Return a case of the same tenant and owner, initially without agents."""
    times = ("acknowledged_ms", "contained_ms", "closed_ms", "held_until_ms", "snoozed_until_ms")
    return msgspec.structs.replace(
        like,
        case_id=case_id,
        status="acknowledged" if like.owner else "open",
        verdict="",
        level=int(RiskLevel.MEDIUM),
        merged_into="",
        **dict.fromkeys(("opened_ms", "updated_ms", "risen_ms"), at_ms),
        **dict.fromkeys((*times, "agents", "decisions", "revision"), 0),
    )

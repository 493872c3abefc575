"""Agents: the state that the pipeline resumes from, and lists for people."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, and_, func, literal, literal_column, or_, select, tuple_

from trustwatch.ingest.identities import unkeyed_agent_key
from trustwatch.ingest.timestamps import DAY_MS

from ..records.agent_pages import AgentPage, StateFormat
from ..records.agents import (
    AgentIdentity,
    AgentName,
    AgentRow,
    AgentSummary,
    DueAgent,
    HistoryExtent,
    VersionedAgent,
    encode_indicators,
)
from ..records.commits import Position
from ..records.decisions import Decision
from ..records.models import AgentLifespans
from . import codec
from .database import (
    MAX_PAGE,
    Page,
    TableStore,
    Tenants,
    day_of,
    from_cursor,
    iterate_pages,
    to_cursor,
    visible,
    with_values,
)
from .decision_store import IS_READABLE
from .dialects.statements import MAX_IN_LIST, chunked, starts_with
from .partition_store import check_owner
from .sql_schema import AGENTS, DECISIONS, POSITIONS

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from .database import AnySelect

_IS_DUE = AGENTS.c.due_ms > literal_column("0")  # spelt as in the partial index, or a planner may not recognize it

_OUTER_SHARE = 0.05
"""Share of all events at each end of a history that its length excludes: one event of last year does not make a
year."""


def _weighted_quantile(values: npt.NDArray[np.int64], weights: npt.NDArray[np.int64], share: float) -> int:
    """Return the lowest value up to which the values have *share* of the weight."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return int(values[order[np.searchsorted(reached, share * reached[-1])]])


AgentOrder = Literal["name", "risk"]
"""By tenant, agent id and issuer; or the riskiest first: by level, above low then by score, else by name.

No index has scores, which every commit of an agent changes: the few agents above low are sorted when they are read.
"""

_BY_NAME = (AGENTS.c.tenant, AGENTS.c.agent_id, AGENTS.c.issuer)
_BY_RISK = (AGENTS.c.level, AGENTS.c.risk_score, *_BY_NAME)
_RISK_PARTS = ((2, 3, 4), (1,), (0,))
"""Levels in the order of risk, by how the agents of each are ordered."""


class AgentQuery(msgspec.Struct, frozen=True):
    """Filters and order of a list of agents."""

    tenants: Tenants = None
    levels: Collection[int] | None = None
    agent_type: str | None = None
    prefix: str = ""  # of the agent id
    limit: int = 50
    cursor: str | None = None
    order: AgentOrder = "name"


class AgentStore(TableStore):
    """Reads and writes agents. Methods with *tenants* return agents of these tenants only."""

    def load(self, keys: Collection[int], owner: Position | None = None) -> dict[int, AgentRow]:
        """Return the rows of those *keys* (unsigned) that exist. Raises Fenced if *owner* lost its partition."""
        with self._database.read() as connection:
            if owner is not None:
                check_owner(connection, owner)
            return {agent.name.key: agent for agent in self._database.dialect.read_agents(connection, keys)}

    def states_of_partition(
        self,
        owner: Position,
        after: int | None,
        limit: int,
        state_format: StateFormat | None = None,
        last: int | None = None,
    ) -> AgentPage:
        """Read agents of a partition after the key *after*, in the order of their keys as signed numbers.

        Raises Fenced if *owner* lost the partition.
        """
        with self._database.read() as connection:
            check_owner(connection, owner)
            keys = codec.key_range(after, last)
            return self._database.dialect.read_page(connection, owner.partition, keys, limit, state_format)

    def find_unkeyed(self, key: int) -> AgentIdentity | None:
        """Find the agent that 0.1 knew by *key*; reads every agent, so this is for rare cases."""
        names = (agent.name.identity for agent in self.iterate())
        return next((name for name in names if unkeyed_agent_key(*name) == key), None)

    def due(self, before_ms: int, limit: int, after: DueAgent | None = None, partition: int = 0) -> list[DueAgent]:
        """List agents of *partition* with 0 < due_ms <= *before_ms* by (due_ms, signed key), starting after *after*.

        The pipeline skips those that it has in memory and loads the others with `load`.
        """
        query = select(AGENTS.c.due_ms, AGENTS.c.key)
        query = query.where(AGENTS.c.partition == partition, _IS_DUE, AGENTS.c.due_ms <= before_ms)
        if after is not None:
            query = query.where(tuple_(AGENTS.c.due_ms, AGENTS.c.key) > (after.due_ms, codec.to_signed(after.key)))
        query = query.order_by(AGENTS.c.due_ms, AGENTS.c.key).limit(limit)
        return self._database.fetch_all(query, lambda row: DueAgent(row.due_ms, codec.to_unsigned(row.key)))

    def get(self, tenant: str, issuer: str, agent_id: str, tenants: Tenants = None) -> AgentRow | None:
        """Return one agent by its full name."""
        names = (AGENTS.c.tenant == tenant, AGENTS.c.issuer == issuer, AGENTS.c.agent_id == agent_id)
        return self._database.get(codec.AGENT_ROWS, *names, tenants=tenants)

    def find(self, agent_id: str, tenants: Tenants = None, limit: int = 50) -> list[AgentSummary]:
        """List agents with that id at any issuer of the tenants."""
        mine, order = AGENTS.c.agent_id == agent_id, (AGENTS.c.tenant, AGENTS.c.issuer)
        return self._database.find(codec.AGENT_SUMMARIES, mine, tenants=tenants, order=order, limit=limit)

    def page(self, query: AgentQuery) -> Page[AgentSummary]:
        """List agents. Raises BadCursor."""
        statement = codec.AGENT_SUMMARIES.select(query.tenants)
        if query.levels is not None:
            statement = statement.where(AGENTS.c.level.in_(sorted(query.levels)))
        statement = with_values(statement, {AGENTS.c.agent_type: query.agent_type})
        if query.prefix:
            statement = statement.where(starts_with(AGENTS.c.agent_id, query.prefix))
        if query.order == "risk":
            return self._page_by_risk(statement, query)
        if query.cursor is not None:
            statement = statement.where(tuple_(*_BY_NAME) > from_cursor(query.cursor, tuple[str, str, str]))
        return self._database.page(statement.order_by(*_BY_NAME), _BY_NAME, query.limit, codec.to_summary)

    def _page_by_risk(self, statement: AnySelect, query: AgentQuery) -> Page[AgentSummary]:
        after = None if query.cursor is None else from_cursor(query.cursor, tuple[int, float, str, str, str])
        limit, items = min(max(query.limit, 1), MAX_PAGE), list[AgentSummary]()
        for levels in _RISK_PARTS:
            is_behind = after is not None and after[0] < levels[0]
            if is_behind or (query.levels is not None and not {*levels} & {*query.levels}):
                continue
            part = statement.where(AGENTS.c.level.in_(levels) if len(levels) > 1 else AGENTS.c.level == levels[0])
            if after is not None and after[0] in levels:
                level, risk_score = after[:2]
                behind: ColumnElement[bool] = tuple_(*_BY_NAME) > after[2:]
                if len(levels) > 1:
                    column = AGENTS.c.risk_score
                    lower_score = or_(column < risk_score, and_(column == risk_score, behind))
                    behind = or_(AGENTS.c.level < level, and_(AGENTS.c.level == level, lower_score))
                part = part.where(behind)
            score = (AGENTS.c.level.desc(), AGENTS.c.risk_score.desc()) if len(levels) > 1 else ()
            page = self._database.page(part.order_by(*score, *_BY_NAME), _BY_RISK, limit - len(items), codec.to_summary)
            items += page.items
            if page.next_cursor is not None:
                return Page(items, page.next_cursor)
            if len(items) == limit and levels != _RISK_PARTS[-1]:
                last, name = items[-1], items[-1].name
                return Page(items, to_cursor([last.level, last.risk_score, name.tenant, name.agent_id, name.issuer]))
        return Page(items, None)

    def history_extent(self) -> HistoryExtent:
        """Return the extent of the events of all agents of every tenant; reads the whole table."""
        table = AGENTS.c
        query = select(table.events, table.first_seen_ms, table.last_seen_ms).where(table.events > 0)
        with self._database.read() as connection:
            shown = np.array([tuple(row) for row in connection.execute(query)], np.int64).reshape(-1, 3)
        if not len(shown):
            return HistoryExtent(0, 0, 0)
        events, first_ms, last_ms = shown.T
        ends = _weighted_quantile(first_ms, events, _OUTER_SHARE), _weighted_quantile(last_ms, events, 1 - _OUTER_SHARE)
        return HistoryExtent(int(events.sum()), *ends)

    def iterate(self, chunk: int = 10_000) -> Iterator[AgentSummary]:
        """Iterate over every agent without its state, read in chunks with a transaction each."""
        return map(codec.to_summary, self._database.iterate(codec.AGENT_SUMMARIES.select(), (AGENTS.c.key,), chunk))

    def iterate_unpublished(self, partition: int, after: int, chunk: int = 10_000) -> Iterator[VersionedAgent]:
        """Iterate over agents of *partition* that commits above the offset *after* wrote, read in chunks.

        This scans the table: every commit would have to update an index. Only the owner of the partition writes such
        rows, so the chunks are consistent.
        """
        newer = (AGENTS.c.partition == partition, AGENTS.c.version_offset > after)
        query = codec.AGENT_SUMMARIES.select(None, *newer).add_columns(AGENTS.c.version_epoch, AGENTS.c.version_offset)
        for row in self._database.iterate(query, (AGENTS.c.key,), chunk):
            yield VersionedAgent(codec.to_summary(row), row.version_epoch, row.version_offset)

    def find_newest(self, name: AgentName) -> AgentSummary | None:
        """Return one agent as of its row or a decision after it, whichever is newer; None if it has neither."""
        if ahead := self.list_ahead(agent=name):
            return ahead[0].agent
        with self._database.read() as connection:
            rows = _read_summaries(connection, [name.key], (name.tenant,))
        return next((row for row in rows if row.name.identity == name.identity), None)

    def iterate_newest(self, levels: Collection[int], tenants: Tenants = None) -> Iterator[AgentSummary]:
        """Iterate over agents at one of *levels*, as of their row or a later decision, whichever is newer."""
        ahead = {versioned.agent.name.identity: versioned.agent for versioned in self.list_ahead(tenants=tenants)}
        query = AgentQuery(tenants, levels, limit=MAX_PAGE)
        for agent in iterate_pages(lambda cursor: self.page(msgspec.structs.replace(query, cursor=cursor))):
            if agent.name.identity not in ahead:
                yield agent
        yield from (agent for agent in ahead.values() if agent.level in levels)

    def list_ahead(
        self, partition: int | None = None, agent: AgentName | None = None, tenants: Tenants = None
    ) -> list[VersionedAgent]:
        """List agents whose last decision is later than the stored state, as of that decision.

        Decisions are committed before the states that belong to them, and answers and actions must follow them.
        """
        tenants = tenants if agent is None else (agent.tenant,)
        with self._database.read() as connection:  # one snapshot: a row that is read later may be the newer one
            ahead = (
                _of_one_agent(agent, partition, tenants) if agent else _of_partitions(connection, partition, tenants)
            )
            newest = {row.agent_key: row for query in ahead for row in connection.execute(query)}
            summaries = _read_summaries(connection, [codec.to_unsigned(key) for key in newest], tenants)
        stored = {summary.name.key: summary for summary in summaries}
        decided = ((row.epoch, codec.to_decision(row[1:])) for row in newest.values())
        return [
            VersionedAgent(_after_decision(decision, stored.get(decision.agent.key)), epoch, decision.offset + 1)
            for epoch, decision in decided
        ]

    def count_by_group(self, from_day: int, tenants: Tenants = None) -> list[AgentLifespans]:
        """Count agents that were seen since *from_day*, by group, first and last day."""
        days = (day_of(AGENTS.c.first_seen_ms), day_of(AGENTS.c.last_seen_ms))
        group = (AGENTS.c.tenant, AGENTS.c.agent_type, *days)
        query = select(*group, func.count()).where(AGENTS.c.last_seen_ms >= from_day * DAY_MS).group_by(*group)
        return self._database.fetch_all(visible(query, AGENTS.c.tenant, tenants), lambda row: AgentLifespans(*row))


def _of_one_agent(agent: AgentName, partition: int | None, tenants: Tenants) -> list[AnySelect]:
    behind = (POSITIONS.c.partition == DECISIONS.c.partition) & (DECISIONS.c.offset >= POSITIONS.c.offset)
    query = select(POSITIONS.c.epoch, DECISIONS).join_from(DECISIONS, POSITIONS, behind).where(IS_READABLE)
    mine = visible(query, DECISIONS.c.tenant, tenants).where(codec.is_about(DECISIONS, agent))
    if partition is not None:
        mine = mine.where(DECISIONS.c.partition == partition)
    return [mine.order_by(DECISIONS.c.partition, DECISIONS.c.offset)]


def _of_partitions(connection: Connection, partition: int | None, tenants: Tenants) -> Iterator[AnySelect]:
    """Yield one query for each partition, because a join would read every decision."""
    positions = select(POSITIONS.c.partition, POSITIONS.c.epoch, POSITIONS.c.offset)
    if partition is not None:
        positions = positions.where(POSITIONS.c.partition == partition)
    for of, epoch, offset in connection.execute(positions.order_by(POSITIONS.c.partition)).all():
        query = select(literal(epoch).label("epoch"), DECISIONS).where(IS_READABLE)
        mine = query.where(DECISIONS.c.partition == of, DECISIONS.c.offset >= offset)
        yield visible(mine, DECISIONS.c.tenant, tenants).order_by(DECISIONS.c.offset)


def _read_summaries(connection: Connection, keys: Collection[int], tenants: Tenants) -> list[AgentSummary]:
    summaries: list[AgentSummary] = []
    for part in chunked([codec.to_signed(key) for key in keys], MAX_IN_LIST):
        summaries += map(
            codec.to_summary, connection.execute(codec.AGENT_SUMMARIES.select(tenants, AGENTS.c.key.in_(part)))
        )
    return summaries


def _after_decision(decision: Decision, row: AgentSummary | None) -> AgentSummary:
    """Return an agent as *decision* left it. Only the pipeline knows when its level decays."""
    seen_ms = decision.event_time_ms
    new = AgentSummary(decision.agent, "", 0, 0.0, 0.0, 0.0, seen_ms, seen_ms, seen_ms, 0, 1, "", b"", "")
    before = new if row is None else row
    return msgspec.structs.replace(
        before,
        name=decision.agent,
        agent_type=decision.agent_type,
        level=decision.level,
        risk_score=decision.risk_score,
        confidence=decision.confidence,
        anomaly_score=decision.anomaly_score,
        evaluated_ms=max(seen_ms, before.evaluated_ms),
        due_ms=0,
        decision_id=decision.decision_id,
        reasons=msgspec.json.encode(decision.reasons),
        counterfactual=decision.counterfactual,
        concern=decision.concern,
        indicators=encode_indicators(decision.indicators),
    )

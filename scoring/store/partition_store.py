"""What several partitions need: what has not left by topics yet, and moving agents when their number changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, bindparam, case, select, tuple_, update

from ..records.agents import AgentName, VersionedAgent
from ..records.commits import Position
from ..records.decisions import Decision
from . import codec
from .database import Database
from .dialects.statements import insert_or_skip
from .feedback_store import copy_rules_to_partitions
from .sql_schema import AGENTS, DECISIONS, POSITIONS

_INSERT_PARTITION = insert_or_skip(POSITIONS, "partition")
_MOVE_AGENT = (
    update(AGENTS)
    .where(AGENTS.c.key == bindparam("k"))
    .values(
        partition=bindparam("to"),
        # Offsets of another partition mean nothing here: 0 is below every offset, so it counts as published.
        version_offset=case((AGENTS.c.version_offset <= bindparam("done"), 0), else_=AGENTS.c.version_offset),
    )
)


class PartitionStore(Database):
    """Part of the store that knows which partition an agent belongs to, and what of it was published."""

    def published(self, partition: int) -> int:
        with self.read() as connection:
            query = select(POSITIONS.c.published).where(POSITIONS.c.partition == partition)
            return connection.execute(query).scalar_one_or_none() or 0

    def unpublished_agents(self, partition: int, after: int, chunk: int = 10_000) -> Iterator[VersionedAgent]:
        query = select(*codec.VERSION_COLUMNS, *codec.SUMMARY_COLUMNS).order_by(AGENTS.c.key).limit(chunk)
        query = query.where(AGENTS.c.partition == partition, AGENTS.c.version_offset > after)
        page = query
        while True:
            with self.read() as connection:
                found = [codec.to_versioned(row) for row in connection.execute(page)]
            yield from found
            if len(found) < chunk:
                return
            page = query.where(AGENTS.c.key > codec.to_signed(found[-1].agent.name.key))

    def unpublished_decisions(self, partition: int, after: int, chunk: int = 1_000) -> Iterator[Decision]:
        # A commit's offset is the one after its last record: what it decided has a record's offset, which is below.
        order = (DECISIONS.c.offset, DECISIONS.c.decision_id)
        query = select(DECISIONS).where(DECISIONS.c.partition == partition).order_by(*order).limit(chunk)
        page = query.where(DECISIONS.c.offset >= after)
        while True:
            with self.read() as connection:
                found = [codec.to_decision(row) for row in connection.execute(page)]
            yield from found
            if len(found) < chunk:
                return
            page = query.where(tuple_(*order) > (found[-1].offset, found[-1].decision_id))

    def positions(self) -> list[Position]:
        query = select(POSITIONS.c.partition, POSITIONS.c.epoch, POSITIONS.c.offset).order_by(POSITIONS.c.partition)
        with self.read() as connection:
            return [Position(*row) for row in connection.execute(query)]

    def set_position(self, partition: int, offset: int, above: int = 0) -> Position:
        mine = POSITIONS.c.partition == partition
        with self.write() as connection:
            # Rows are locked in the order of their numbers, for two that do this at a time.
            epochs = connection.execute(select(POSITIONS.c.epoch).order_by(POSITIONS.c.partition).with_for_update())
            epoch = max([above, *epochs.scalars()]) + 1
            connection.execute(
                _INSERT_PARTITION.for_connection(connection), {"partition": partition, "epoch": 0, "offset": 0}
            )
            published = case((POSITIONS.c.published > offset, offset), else_=POSITIONS.c.published)
            values = {"epoch": epoch, "offset": offset, "published": published}
            connection.execute(update(POSITIONS).where(mine).values(values))
            # Going back means another topic: what was decided at offsets of the old one has been told.
            old = (DECISIONS.c.partition == partition) & (DECISIONS.c.offset >= offset)
            connection.execute(update(DECISIONS).where(old).values(offset=-1))
            old = (AGENTS.c.partition == partition) & (AGENTS.c.version_offset > offset)
            connection.execute(update(AGENTS).where(old).values(version_offset=0))
        return Position(partition, epoch, offset)

    def repartition(self, assign: Callable[[AgentName], int], chunk: int = 10_000) -> int:
        columns = (AGENTS.c.key, AGENTS.c.tenant, AGENTS.c.issuer, AGENTS.c.agent_id, AGENTS.c.partition)
        query = select(*columns).order_by(AGENTS.c.key).limit(chunk)
        page, moved = query, 0
        while True:
            with self.write() as connection:
                rows = connection.execute(page).all()
                moves = []
                done = _published_offsets(connection)
                for key, *words, old in rows:
                    new = assign(AgentName(codec.to_unsigned(key), *words))
                    if new != old:
                        moves.append({"k": key, "to": new, "done": done.get(old, 0)})
                if moves:
                    connection.execute(_MOVE_AGENT, moves)
            moved += len(moves)
            if len(rows) < chunk:
                break
            page = query.where(AGENTS.c.key > rows[-1].key)
        with self.write() as connection:
            copy_rules_to_partitions(connection, connection.scalars(select(POSITIONS.c.partition)).all())
        return moved


def _published_offsets(connection: Connection) -> dict[int, int]:
    return {partition: at for partition, at in connection.execute(select(POSITIONS.c.partition, POSITIONS.c.published))}

"""Partitions: how far each has been applied, who owns it, and moving agents between them; and values by key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection, bindparam, case, delete, insert, select, update

from trustwatch.ingest.errors import Fenced

from ..records.agents import AgentName
from ..records.commits import Commit, EventIdRun, Position
from . import codec
from .database import Database
from .dialects.statements import insert_or_skip, starts_with, upsert
from .feedback_store import copy_rules_to_partitions
from .sql_schema import AGENTS, DECISIONS, EVENT_IDS, META, POSITIONS

UPSERT_META = upsert(META, ("key",))
_INSERT_META = insert_or_skip(META, "key")


class MetadataStore:
    """The table `meta`: number of partitions, state of a training, where erasures are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        """Value of *key*, None = not set."""
        with self._database.read() as connection:
            return _read_value(connection, key)

    def put(self, key: str, value: str) -> None:
        """Set *key*."""
        with self._database.write() as connection:
            UPSERT_META.execute(connection, {"key": key, "value": value})

    def put_default(self, key: str, value: str) -> str:
        """Set *key* unless it is set; returns what is set then. Two processes get the same answer."""
        with self._database.write() as connection:
            _INSERT_META.execute(connection, {"key": key, "value": value})
            stored = _read_value(connection, key)
        return value if stored is None else stored

    def find(self, prefix: str) -> dict[str, str]:
        """Values of all keys that begin with *prefix*."""
        with self._database.read() as connection:
            rows = connection.execute(select(META.c.key, META.c.value).where(starts_with(META.c.key, prefix)))
            return {key: value for key, value in rows}

    def delete_prefix(self, prefix: str) -> None:
        """Remove all keys that begin with *prefix*."""
        with self._database.write() as connection:
            connection.execute(delete(META).where(starts_with(META.c.key, prefix)))

    def delete_range(self, start: str, end: str) -> None:
        """Remove all keys from *start* on that come before *end*."""
        with self._database.write() as connection:
            connection.execute(delete(META).where(META.c.key >= start, META.c.key < end))


def _read_value(connection: Connection, key: str) -> str | None:
    return connection.execute(select(META.c.value).where(META.c.key == key)).scalar_one_or_none()


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


class PartitionStore:
    """Positions of partitions, which the pipeline claims and an administrator moves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self, partition: int) -> Position:
        """Stored position; epoch 0, offset 0 for a partition that was never claimed."""
        with self._database.read() as connection:
            return read_position(connection, partition)

    def list_positions(self) -> list[Position]:
        """Every partition that was ever claimed, by number."""
        query = select(POSITIONS.c.partition, POSITIONS.c.epoch, POSITIONS.c.offset).order_by(POSITIONS.c.partition)
        with self._database.read() as connection:
            return [Position(*row) for row in connection.execute(query)]

    def check_owner(self, owner: Position) -> None:
        """Raise Fenced if *owner* does not own its partition any more."""
        with self._database.read() as connection:
            check_owner(connection, owner)

    def published_offset(self, partition: int) -> int:
        """Offset up to which all that commits of *partition* wrote is known to be published; 0 = nothing yet."""
        with self._database.read() as connection:
            query = select(POSITIONS.c.published).where(POSITIONS.c.partition == partition)
            return connection.execute(query).scalar_one_or_none() or 0

    def note_published(self, committed: Sequence[Position]) -> None:
        """Note that all that commits up to these positions wrote is published; nothing of a partition that is lost."""
        with self._database.write() as connection:
            for one in sorted(committed, key=lambda position: position.partition):  # as commits do: no circle of waits
                owned = (POSITIONS.c.partition == one.partition) & (POSITIONS.c.epoch == one.epoch)
                behind = POSITIONS.c.published < one.offset
                connection.execute(update(POSITIONS).where(owned, behind).values(published=one.offset))

    def claim(self, partition: int) -> Position:
        """Take the partition over: the epoch goes up by one, so that the previous owner is fenced."""
        with self._database.write() as connection:
            _insert_partition(connection, partition)
            mine = POSITIONS.c.partition == partition
            connection.execute(update(POSITIONS).where(mine).values(epoch=POSITIONS.c.epoch + 1))
            return read_position(connection, partition)

    def set_position(self, partition: int, offset: int, above: int = 0) -> Position:
        """Read *partition* on from *offset*; for an administrator.

        Its owner is fenced. The new epoch is above that of every partition, so that agents which move here get versions
        above those they had, and above *above*. What is not published yet stays so, and so do decisions that were
        committed before the states that belong to them, where it goes on from where it was.
        """
        with self._database.write() as connection:
            # Rows are locked in the order of their numbers, for two that do this at a time.
            epochs = connection.execute(select(POSITIONS.c.epoch).order_by(POSITIONS.c.partition).with_for_update())
            epoch = max([above, *epochs.scalars()]) + 1
            _insert_partition(connection, partition)
            before = read_position(connection, partition).offset
            published = case((POSITIONS.c.published > offset, offset), else_=POSITIONS.c.published)
            values = {"epoch": epoch, "offset": offset, "published": published}
            connection.execute(update(POSITIONS).where(POSITIONS.c.partition == partition).values(values))
            if offset < before or (offset and not before):  # 0 after 0: no states are stored yet
                _forget_later_offsets(connection, partition, offset)
            forget_event_ids(connection, partition)
        return Position(partition, epoch, offset)

    def repartition(self, assign: Callable[[AgentName], int], chunk: int = 10_000) -> int:
        """Give every agent to the partition *assign* says; returns how many moved. For an administrator.

        Nobody may work on the partitions meanwhile (`set_position` fences them). Calling it again continues where it
        stopped. What was published stays so at the new place; the rest is published there.
        """
        columns = (AGENTS.c.key, AGENTS.c.tenant, AGENTS.c.issuer, AGENTS.c.agent_id, AGENTS.c.partition)
        query = select(*columns).order_by(AGENTS.c.key).limit(chunk)
        page, moved = query, 0
        while True:
            with self._database.write() as connection:
                rows = connection.execute(page).all()
                moves = _moves(rows, assign, _published_offsets(connection))
                if moves:
                    connection.execute(_MOVE_AGENT, moves)
            moved += len(moves)
            if len(rows) < chunk:
                break
            page = query.where(AGENTS.c.key > rows[-1].key)
        with self._database.write() as connection:
            copy_rules_to_partitions(connection, connection.scalars(select(POSITIONS.c.partition)).all())
        return moved


def read_position(connection: Connection, partition: int) -> Position:
    """Stored position; epoch 0, offset 0 for a partition that was never claimed."""
    query = select(POSITIONS.c.epoch, POSITIONS.c.offset).where(POSITIONS.c.partition == partition)
    row = connection.execute(query).one_or_none()
    return Position(partition, 0, 0) if row is None else Position(partition, row[0], row[1])


def check_owner(connection: Connection, owner: Position) -> None:
    """Raise Fenced if *owner* does not own its partition as of the moment that *connection* sees."""
    stored = read_position(connection, owner.partition)
    if stored.epoch != owner.epoch:
        raise Fenced(f"the position of partition {owner.partition} is {stored}, not of epoch {owner.epoch}")


def _insert_partition(connection: Connection, partition: int) -> None:
    row = {"partition": partition, "epoch": 0, "offset": 0}
    _INSERT_PARTITION.execute(connection, row)


def _forget_later_offsets(connection: Connection, partition: int, offset: int) -> None:
    """Forget later offsets: going back means another topic, and decisions at offsets of the old one were published."""
    decided = (DECISIONS.c.partition == partition) & (DECISIONS.c.offset >= offset)
    connection.execute(update(DECISIONS).where(decided).values(offset=-1))
    written = (AGENTS.c.partition == partition) & (AGENTS.c.version_offset > offset)
    connection.execute(update(AGENTS).where(written).values(version_offset=0))


def _moves(rows: Any, assign: Callable[[AgentName], int], published: dict[int, int]) -> list[dict[str, int]]:
    """Parameters of `_MOVE_AGENT` for agents that are at another partition than they should be."""
    moves = []
    for key, *names, old in rows:
        new = assign(AgentName(codec.to_unsigned(key), *names))
        if new != old:
            moves.append({"k": key, "to": new, "done": published.get(old, 0)})
    return moves


def _published_offsets(connection: Connection) -> dict[int, int]:
    query = select(POSITIONS.c.partition, POSITIONS.c.published)
    return {partition: offset for partition, offset in connection.execute(query)}


# Event ids of the last records of each partition, so that a new owner need not read the records again.


_log = structlog.get_logger(__name__)


class EventIdStore:
    """Hashes of event ids as commits wrote them, a run of consecutive records each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, partition: int, start_offset: int, end_offset: int) -> EventIdRun:
        """The newest hashes that are stored of the records from *start_offset* to *end_offset*, without a gap.

        Commits store a run when it is long enough, so the last records may be missing; and the first, after a version
        that stored none. A row whose length is not that of its offsets counts as missing, and is logged.
        """
        table = EVENT_IDS.c
        query = select(table.first_offset, table.end_offset, table.hashes).where(
            table.partition == partition, table.end_offset > start_offset, table.end_offset <= end_offset
        )
        runs: list[EventIdRun] = []
        with self._database.read() as connection:
            for row in connection.execute(query.order_by(table.first_offset.desc())):
                run = EventIdRun(row.first_offset, row.hashes)
                if not isinstance(run.hashes, bytes) or len(run.hashes) != 8 * (row.end_offset - row.first_offset):
                    _log.warning(
                        "stored event ids are damaged; the log is read", partition=partition, offset=row.first_offset
                    )
                    break
                if runs and run.end_offset != runs[-1].first_offset:
                    break
                runs.append(run)
        first = runs[-1].first_offset if runs else end_offset
        spare = max(0, start_offset - first)
        return EventIdRun(first + spare, b"".join(run.hashes for run in reversed(runs))[spare * 8 :])


def write_event_ids(connection: Connection, commits: Sequence[Commit]) -> None:
    """Add the runs of *commits*, and remove those that they replace or that are needed no more."""
    for commit in commits:
        partition, run = commit.position.partition, commit.event_ids
        if run is not None:
            # A worker that found damaged ones has read them from the log, and stores them again.
            again = (EVENT_IDS.c.partition == partition) & (EVENT_IDS.c.end_offset > run.first_offset)
            connection.execute(delete(EVENT_IDS).where(again))
            row = {"partition": partition, "first_offset": run.first_offset, "end_offset": run.end_offset}
            connection.execute(insert(EVENT_IDS), {**row, "hashes": run.hashes})
        if commit.event_ids_needed_from:
            forget_event_ids(connection, partition, commit.event_ids_needed_from)


def forget_event_ids(connection: Connection, partition: int, before_offset: int | None = None) -> None:
    """Remove the runs of a partition that end at or before an offset; None = all."""
    gone = delete(EVENT_IDS).where(EVENT_IDS.c.partition == partition)
    connection.execute(gone if before_offset is None else gone.where(EVENT_IDS.c.end_offset <= before_offset))

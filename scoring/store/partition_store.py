"""Partitions: how far each has been applied, its owner, event ids and dead letters; and values by key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, bindparam, case, delete, func, insert, select, update

from trustwatch.ingest.errors import Fenced

from ..records.agents import AgentName
from ..records.commits import Commit, EventIdRun, Position
from ..records.dead_letters import DeadLetter
from . import codec
from .codec import RowCodec
from .database import Page, TableStore, visible
from .dialects.statements import INSERT_COUNTER, MAX_IN_LIST, chunked, insert_or_skip, starts_with, upsert
from .feedback_store import copy_rules_to_partitions
from .sql_schema import AGENTS, COUNTERS, DEAD_LETTERS, DECISIONS, EVENT_IDS, META, POSITIONS

UPSERT_META = upsert(META, ("key",))
_INSERT_META = insert_or_skip(META, "key")


class MetadataStore(TableStore):
    """The table `meta`: number of partitions, state of training, positions of erasures."""

    def get(self, key: str) -> str | None:
        """Return the value of *key*; None if it is not set."""
        value: str | None = self._database.scalar(select(META.c.value).where(META.c.key == key))
        return value

    def put(self, key: str, value: str) -> None:
        with self._database.write() as connection:
            UPSERT_META.execute(connection, {"key": key, "value": value})

    def put_default(self, key: str, value: str) -> str:
        """Set *key* unless it is set; return the stored value. Two processes get the same value."""
        with self._database.write() as connection:
            _INSERT_META.execute(connection, {"key": key, "value": value})
            stored: str = connection.execute(select(META.c.value).where(META.c.key == key)).scalar_one()
            return stored

    def find(self, prefix: str) -> dict[str, str]:
        """Return the values of all keys that begin with *prefix*."""
        query = select(META.c.key, META.c.value).where(starts_with(META.c.key, prefix))
        return dict(self._database.fetch_all(query, tuple))

    def delete_prefix(self, prefix: str) -> None:
        """Delete all keys that begin with *prefix*."""
        self._database.change(delete(META).where(starts_with(META.c.key, prefix)))

    def delete_range(self, start: str, end: str) -> None:
        """Delete all keys from *start* up to, but not including, *end*."""
        self._database.change(delete(META).where(META.c.key >= start, META.c.key < end))


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


class PartitionStore(TableStore):
    """Positions of partitions, which the pipeline claims and an operator moves."""

    def position(self, partition: int) -> Position:
        """Return the stored position; epoch 0 and offset 0 if the partition was never claimed."""
        with self._database.read() as connection:
            return read_position(connection, partition)

    def list_positions(self) -> list[Position]:
        """List every partition that was ever claimed, by number."""
        query = select(POSITIONS.c.partition, POSITIONS.c.epoch, POSITIONS.c.offset).order_by(POSITIONS.c.partition)
        return self._database.fetch_all(query, lambda row: Position(*row))

    def check_owner(self, owner: Position) -> None:
        """Raise Fenced if *owner* no longer owns its partition."""
        with self._database.read() as connection:
            check_owner(connection, owner)

    def published_offset(self, partition: int) -> int:
        """Return the offset up to which everything that commits of *partition* wrote is known to be published."""
        return self._database.scalar(select(POSITIONS.c.published).where(POSITIONS.c.partition == partition)) or 0

    def note_published(self, committed: Sequence[Position]) -> None:
        """Record that everything commits wrote up to these positions is published; skips partitions with another
        owner."""
        with self._database.write() as connection:
            for one in sorted(committed, key=lambda position: position.partition):  # as commits do: no circle of waits
                owned = (POSITIONS.c.partition == one.partition) & (POSITIONS.c.epoch == one.epoch)
                behind = POSITIONS.c.published < one.offset
                connection.execute(update(POSITIONS).where(owned, behind).values(published=one.offset))

    def claim(self, partition: int) -> Position:
        """Take over the partition: the epoch increases by one, which fences the previous owner."""
        with self._database.write() as connection:
            _INSERT_PARTITION.execute(connection, {"partition": partition, "epoch": 0, "offset": 0})
            mine = POSITIONS.c.partition == partition
            connection.execute(update(POSITIONS).where(mine).values(epoch=POSITIONS.c.epoch + 1))
            return read_position(connection, partition)

    def set_position(self, partition: int, offset: int, above: int = 0) -> Position:
        """Make *partition* continue from *offset*; for an operator.

        Its owner is fenced. The new epoch is above *above* and that of every partition, so that agents that move here
        get higher versions than they had. What is not published yet stays so. If the partition continues from where it
        was, decisions that were committed before the states that belong to them stay, too.
        """
        with self._database.write() as connection:
            # Rows are locked in the order of their numbers, so that two callers do not deadlock.
            epochs = connection.execute(select(POSITIONS.c.epoch).order_by(POSITIONS.c.partition).with_for_update())
            epoch = max([above, *epochs.scalars()]) + 1
            _INSERT_PARTITION.execute(connection, {"partition": partition, "epoch": 0, "offset": 0})
            before = read_position(connection, partition).offset
            published = case((POSITIONS.c.published > offset, offset), else_=POSITIONS.c.published)
            values = {"epoch": epoch, "offset": offset, "published": published}
            connection.execute(update(POSITIONS).where(POSITIONS.c.partition == partition).values(values))
            if offset < before or (offset and not before):  # 0 after 0: no states are stored yet
                # Moving back means another topic, and decisions at offsets of the old one were published.
                decided = (DECISIONS.c.partition == partition) & (DECISIONS.c.offset >= offset)
                connection.execute(update(DECISIONS).where(decided).values(offset=-1))
                written = (AGENTS.c.partition == partition) & (AGENTS.c.version_offset > offset)
                connection.execute(update(AGENTS).where(written).values(version_offset=0))
            forget_event_ids(connection, partition)
        return Position(partition, epoch, offset)

    def repartition(self, assign: Callable[[AgentName], int], chunk: int = 10_000) -> int:
        """Move every agent to the partition that *assign* returns; return how many moved. For an operator.

        No worker may own the partitions meanwhile (`set_position` fences them). Calling it again continues where it
        stopped. What was published stays so at the new place; the rest is published there.
        """
        columns = (AGENTS.c.key, AGENTS.c.tenant, AGENTS.c.issuer, AGENTS.c.agent_id, AGENTS.c.partition)
        query = select(*columns).order_by(AGENTS.c.key).limit(chunk)
        page, moved = query, 0
        while True:
            with self._database.write() as connection:
                rows = connection.execute(page).all()
                positions = connection.execute(select(POSITIONS.c.partition, POSITIONS.c.published))
                published = {partition: published for partition, published in positions}
                moves = []
                for key, *names, old in rows:
                    new = assign(AgentName(codec.to_unsigned(key), *names))
                    if new != old:
                        moves.append({"k": key, "to": new, "done": published.get(old, 0)})
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
    """Return the stored position; epoch 0 and offset 0 if the partition was never claimed."""
    query = select(POSITIONS.c.epoch, POSITIONS.c.offset).where(POSITIONS.c.partition == partition)
    epoch, offset = connection.execute(query).one_or_none() or (0, 0)
    return Position(partition, epoch, offset)


def check_owner(connection: Connection, owner: Position) -> None:
    """Raise Fenced if *owner* no longer owns its partition in the snapshot that *connection* reads."""
    stored = read_position(connection, owner.partition)
    if stored.epoch != owner.epoch:
        raise Fenced(f"the position of partition {owner.partition} is {stored}, not of epoch {owner.epoch}")


# Event ids of the last records of each partition, so that a new owner does not read the records again.

_log = structlog.get_logger(__name__)


class EventIdStore(TableStore):
    """Hashes of event ids as commits wrote them, in runs of consecutive records."""

    def load(self, partition: int, start_offset: int, end_offset: int) -> EventIdRun:
        """Return the newest stored hashes of the records from *start_offset* to *end_offset*, without a gap.

        Commits store a run when it is long enough, so the last records may be missing; and the first ones, after a
        version that stored none. A row whose length does not match its offsets counts as missing, and is logged.
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
    """Add the runs of *commits*, and delete runs that they replace or that are no longer needed."""
    for commit in commits:
        partition, run = commit.position.partition, commit.event_ids
        if run is not None:
            # A worker that found damaged runs has read their records from the log, and stores the runs again.
            again = (EVENT_IDS.c.partition == partition) & (EVENT_IDS.c.end_offset > run.first_offset)
            connection.execute(delete(EVENT_IDS).where(again))
            row = {"partition": partition, "first_offset": run.first_offset, "end_offset": run.end_offset}
            connection.execute(insert(EVENT_IDS), {**row, "hashes": run.hashes})
        if commit.event_ids_needed_from:
            forget_event_ids(connection, partition, commit.event_ids_needed_from)


def forget_event_ids(connection: Connection, partition: int, before_offset: int | None = None) -> None:
    """Delete the runs of a partition that end at or before an offset; None = all."""
    gone = delete(EVENT_IDS).where(EVENT_IDS.c.partition == partition)
    connection.execute(gone if before_offset is None else gone.where(EVENT_IDS.c.end_offset <= before_offset))


# Dead letters: records that could not become events, kept up to a number of them for each tenant.

DROPPED_DEAD_LETTERS = "dead_letters.dropped"
_INSERT_DEAD_LETTER = insert_or_skip(DEAD_LETTERS, "letter_id")
_LETTER_ROWS = RowCodec(DeadLetter, DEAD_LETTERS)


class DeadLetterCounts(NamedTuple):
    """Dead letters that are kept, and those dropped since the store was created because there was no room."""

    stored: int
    dropped: int


class DeadLetterStore(TableStore):
    """Dead letters as commits wrote them.

    A record that could not be decoded has no tenant; *sources* limits what a caller sees (None = all).
    """

    def get(self, letter_id: str, sources: Collection[str] | None = None) -> DeadLetter | None:
        """Return one dead letter."""
        query = visible(
            _LETTER_ROWS.select(None, DEAD_LETTERS.c.letter_id == letter_id), DEAD_LETTERS.c.source, sources
        )
        return self._database.fetch_one(query, _LETTER_ROWS.read)

    def page(
        self,
        sources: Collection[str] | None = None,
        replayed: bool | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[DeadLetter]:
        """List dead letters, newest first. Raises BadCursor."""
        query = visible(_LETTER_ROWS.select(), DEAD_LETTERS.c.source, sources)
        if replayed is not None:
            query = query.where(DEAD_LETTERS.c.replayed_ms > 0 if replayed else DEAD_LETTERS.c.replayed_ms == 0)
        order = (DEAD_LETTERS.c.received_ms, DEAD_LETTERS.c.letter_id)
        return self._database.newest(query, order, limit, cursor, _LETTER_ROWS.read)

    def mark_replayed(self, letter_ids: Collection[str], at_ms: int) -> int:
        """Record that letters were replayed; return how many were not replayed before."""
        marked = 0
        with self._database.write() as connection:
            for ids in chunked(letter_ids, MAX_IN_LIST):
                waiting = (DEAD_LETTERS.c.letter_id.in_(ids), DEAD_LETTERS.c.replayed_ms == 0)
                marked += connection.execute(update(DEAD_LETTERS).where(*waiting).values(replayed_ms=at_ms)).rowcount
        return marked

    def count(self, sources: Collection[str] | None = None) -> DeadLetterCounts:
        """Count the dead letters that are kept and, for a caller of all sources, the dropped ones."""
        dropped = select(COUNTERS.c.value).where(COUNTERS.c.name == DROPPED_DEAD_LETTERS)
        kept = visible(select(func.count()).select_from(DEAD_LETTERS), DEAD_LETTERS.c.source, sources)
        with self._database.read() as connection:
            stored = connection.execute(kept).scalar_one()
            return DeadLetterCounts(stored, (connection.scalar(dropped) or 0) if sources is None else 0)


def write_dead_letters(connection: Connection, letters: Sequence[DeadLetter], capacity: int) -> int:
    """Store as many of *letters* as fit, at most *capacity* for each tenant; count the others, return their number."""
    if not letters:
        return 0
    stored: set[str] = set()
    for part in chunked(letters, MAX_IN_LIST):  # a flood of bad records must not exceed what one statement may hold
        ids = [letter.letter_id for letter in part]
        stored.update(connection.scalars(select(DEAD_LETTERS.c.letter_id).where(DEAD_LETTERS.c.letter_id.in_(ids))))
    fresh = [letter for letter in letters if letter.letter_id not in stored]
    kept: list[DeadLetter] = []
    for room in dict.fromkeys(letter.room for letter in fresh):
        mine = [letter for letter in fresh if letter.room == room]
        kept += mine[: _make_room(connection, room, len(mine), capacity)]
    _INSERT_DEAD_LETTER.execute(connection, list(map(_LETTER_ROWS.params, kept)))
    dropped = len(fresh) - len(kept)
    if dropped:
        INSERT_COUNTER.execute(connection, {"name": DROPPED_DEAD_LETTERS, "value": 0})
        counter = COUNTERS.c.name == DROPPED_DEAD_LETTERS
        connection.execute(update(COUNTERS).where(counter).values(value=COUNTERS.c.value + dropped))
    return dropped


def _make_room(connection: Connection, room: str, count: int, capacity: int) -> int:
    """Return how many letters fit. Deletes replayed letters of the room, oldest first, because they are not needed."""
    mine = DEAD_LETTERS.c.room == room
    stored = connection.execute(select(func.count()).select_from(DEAD_LETTERS).where(mine)).scalar_one()
    missing = stored + count - capacity
    if missing > 0:
        key, at_ms = DEAD_LETTERS.c.letter_id, DEAD_LETTERS.c.replayed_ms
        replayed = select(key).where(mine, at_ms > 0).order_by(at_ms).limit(missing)
        stored -= connection.execute(delete(DEAD_LETTERS).where(key.in_(replayed))).rowcount
    return max(0, capacity - stored)

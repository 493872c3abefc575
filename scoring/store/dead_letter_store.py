"""Dead letters: records that could not become events, kept up to a number of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, func, select, update

from ..records.dead_letters import DeadLetter
from .codec import RowCodec
from .database import Database, Page, visible
from .dialects.statements import INSERT_COUNTER, MAX_IN_LIST, chunked, insert_or_skip
from .sql_schema import COUNTERS, DEAD_LETTERS

DROPPED_DEAD_LETTERS = "dead_letters.dropped"
_INSERT_DEAD_LETTER = insert_or_skip(DEAD_LETTERS, "letter_id")
_ROWS = RowCodec(DeadLetter, DEAD_LETTERS)


class DeadLetterCounts(NamedTuple):
    """Dead letters that are kept, and those that found no room since the store exists."""

    stored: int
    dropped: int


class DeadLetterStore:
    """Dead letters as commits wrote them.

    What could not be decoded has no tenant; *sources* limits what a caller sees (None = all).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, letter_id: str, sources: Collection[str] | None = None) -> DeadLetter | None:
        """One dead letter."""
        query = select(DEAD_LETTERS).where(DEAD_LETTERS.c.letter_id == letter_id)
        return self._database.fetch_one(visible(query, DEAD_LETTERS.c.source, sources), _ROWS.read)

    def page(
        self,
        sources: Collection[str] | None = None,
        replayed: bool | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[DeadLetter]:
        """Dead letters, newest first. Raises BadCursor."""
        query = visible(select(DEAD_LETTERS), DEAD_LETTERS.c.source, sources)
        if replayed is not None:
            query = query.where(DEAD_LETTERS.c.replayed_ms > 0 if replayed else DEAD_LETTERS.c.replayed_ms == 0)
        order = (DEAD_LETTERS.c.received_ms, DEAD_LETTERS.c.letter_id)
        return self._database.newest(query, order, limit, cursor, _ROWS.read)

    def mark_replayed(self, letter_ids: Collection[str], at_ms: int) -> int:
        """Note that those letters were sent in again; returns how many had not been."""
        marked = 0
        with self._database.write() as connection:
            for ids in chunked(letter_ids, MAX_IN_LIST):
                waiting = (DEAD_LETTERS.c.letter_id.in_(ids), DEAD_LETTERS.c.replayed_ms == 0)
                marked += connection.execute(update(DEAD_LETTERS).where(*waiting).values(replayed_ms=at_ms)).rowcount
        return marked

    def count(self, sources: Collection[str] | None = None) -> DeadLetterCounts:
        """Numbers of dead letters that are kept and, of all sources together, that were dropped."""
        dropped = select(COUNTERS.c.value).where(COUNTERS.c.name == DROPPED_DEAD_LETTERS)
        with self._database.read() as connection:
            kept = visible(select(func.count()).select_from(DEAD_LETTERS), DEAD_LETTERS.c.source, sources)
            stored = connection.execute(kept).scalar_one()
            if sources is not None:
                return DeadLetterCounts(stored, 0)
            return DeadLetterCounts(stored, connection.execute(dropped).scalar_one_or_none() or 0)


def write_dead_letters(connection: Connection, letters: Sequence[DeadLetter], capacity: int) -> int:
    """Keep as many of *letters* as there is room for; count the others and return their number."""
    if not letters:
        return 0
    stored: set[str] = set()
    for part in chunked(letters, MAX_IN_LIST):  # a flood of bad records must not exceed what one statement may hold
        ids = [letter.letter_id for letter in part]
        stored.update(connection.scalars(select(DEAD_LETTERS.c.letter_id).where(DEAD_LETTERS.c.letter_id.in_(ids))))
    fresh = [letter for letter in letters if letter.letter_id not in stored]
    kept = fresh[: _make_room(connection, len(fresh), capacity)]
    _INSERT_DEAD_LETTER.execute(connection, list(map(_ROWS.params, kept)))
    dropped = len(fresh) - len(kept)
    if dropped:
        INSERT_COUNTER.execute(connection, {"name": DROPPED_DEAD_LETTERS, "value": 0})
        mine = COUNTERS.c.name == DROPPED_DEAD_LETTERS
        connection.execute(update(COUNTERS).where(mine).values(value=COUNTERS.c.value + dropped))
    return dropped


def _make_room(connection: Connection, count: int, capacity: int) -> int:
    """Rows that fit. Letters that were replayed make way, oldest first: nothing is lost with them."""
    stored = connection.execute(select(func.count()).select_from(DEAD_LETTERS)).scalar_one()
    missing = stored + count - capacity
    if missing > 0:
        replayed = (
            select(DEAD_LETTERS.c.letter_id)
            .where(DEAD_LETTERS.c.replayed_ms > 0)
            .order_by(DEAD_LETTERS.c.replayed_ms)
            .limit(missing)
        )
        stored -= connection.execute(delete(DEAD_LETTERS).where(DEAD_LETTERS.c.letter_id.in_(replayed))).rowcount
    return max(0, capacity - stored)

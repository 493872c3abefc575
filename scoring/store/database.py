"""Transactions: one way to read, one way to write, and the one place where errors of the driver get their meaning."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ...ingest.errors import Fenced, Unavailable
from . import codec
from .dialects import dialect_of, is_transient
from .dialects.job_locks import JobLock
from .interface import MAX_PAGE, Page

if TYPE_CHECKING:
    from sqlalchemy import Row, Select

    # SQLAlchemy 2.1 types a row by all of its columns; ours are looked at by name.
    AnyRow = Row[*tuple[Any, ...]]
    AnySelect = Select[*tuple[Any, ...]]


class Database:
    """An engine with its two kinds of transaction; base of the parts of the store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = dialect_of(engine)
        self._reader = self._dialect.reader(engine)
        self._writer = self._dialect.writer(engine)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment. Raises Unavailable."""
        with translate_errors(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes, committed at the end or rolled back on an error. Raises Unavailable."""
        with translate_errors(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


@contextmanager
def translate_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not is_transient(error):
            raise
        raise Unavailable(f"the database does not answer: {str(error.orig).strip()}") from error
    except PoolTimeout as error:
        raise Unavailable("the database does not answer: every connection is in use") from error


# Lists in pages, and whose rows a caller may see: alike in every part of the store.


if TYPE_CHECKING:
    pass

T = TypeVar("T")


class Paged(Database):
    """Base of the parts of the store that hand out lists."""

    def newest(
        self,
        query: AnySelect,
        order: Sequence[Any],
        limit: int,
        cursor: str | None,
        make: Callable[[AnyRow], T],
        place: Any = tuple[int, str],
    ) -> Page[T]:
        """One page, from the end of *order* on.

        Args:
            query: what is listed; without an order of its own.
            order: columns that together differ in every row, a time first.
            limit: items, made to be in 1 … MAX_PAGE.
            cursor: where the page before ended; None = this is the first.
            make: the item in a row.
            place: type of the values of *order*.

        Raises:
            BadCursor: not one of this list.
        """
        if cursor is not None:
            query = query.where(tuple_(*order) < codec.from_cursor(cursor, place))
        return self.page(query.order_by(*(column.desc() for column in order)), order, limit, make)

    def page(self, query: AnySelect, order: Sequence[Any], limit: int, make: Callable[[AnyRow], T]) -> Page[T]:
        """The first rows of a query that is in *order* and begins behind the cursor."""
        limit = min(max(limit, 1), MAX_PAGE)
        with self.read() as connection:
            rows = connection.execute(query.limit(limit + 1)).all()  # one more says whether there are more
        cursor = None
        if len(rows) > limit:
            cursor = codec.to_cursor([rows[limit - 1]._mapping[column.name] for column in order])
        return Page([make(row) for row in rows[:limit]], cursor)


def visible(query: AnySelect, column: Any, allowed: Collection[str] | None) -> AnySelect:
    """Of *query* the rows whose *column* is allowed; None = all are."""
    return query if allowed is None else query.where(column.in_(sorted(allowed)))


# Jobs of which a deployment has one: who does them now.


class LeaderLock:
    """A job that this process has. One thread uses it.

    Args:
        job: its name.
        chair: what the database gave.
    """

    def __init__(self, job: str, chair: JobLock) -> None:
        self._job = job
        self._lock = chair

    def ensure_held(self) -> None:
        """Go on only while it is still ours.

        Raises:
            Unavailable: the database does not answer, and may have given it to somebody else.
            Fenced: it is no longer ours.
        """
        with translate_errors():
            ours = self._lock.is_held()
        if not ours:
            raise Fenced(f"the connection that made this process the {self._job} is gone; another may be it by now")

    def release(self) -> None:
        """Let another process have it."""
        self._lock.release()


class Seats(Database):
    """Part of the store."""

    def acquire_leader_lock(self, job: str) -> LeaderLock | None:
        """Take a job that one process does at a time; None = another one has it. Raises Unavailable."""
        with translate_errors():
            chair = self._dialect.acquire_job_lock(self._engine, job)
        return None if chair is None else LeaderLock(job, chair)

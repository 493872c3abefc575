"""Transactions and pages: how every part of the store reads and writes, and what errors of the driver mean."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, Integer, cast, event, select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from trustwatch.ingest.errors import ConfigError, Fenced, TrustwatchError, Unavailable
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import DAY_MS

from .dialects import dialect_of, is_transient
from .dialects.dialect import JobLock
from .dialects.postgresql import advice_on
from .dialects.sqlite import is_damaged
from .dialects.statements import MAX_IN_LIST, chunked
from .read_scope import READ_SCOPE_OPTION, check_executed_statement, current_read_scope
from .sql_schema import META

if TYPE_CHECKING:
    from sqlalchemy import Column, ColumnElement, Delete, Select, Update

    from .codec import AnyRow, RowCodec

    # SQLAlchemy 2.1 types a query by all of its columns; our code accesses columns by name.
    AnySelect = Select[*tuple[Any, ...]]

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
Tenants = Collection[str] | None
"""Tenants whose rows a caller may see; None = all."""

MAX_PAGE = 500

IDENTITY_PROOF = "identity.proof"
"""Key in `meta` of the proof by which the identity key of the database is recognized."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Items of a list, and the cursor of the next ones; None if these were the last."""

    items: list[T]
    next_cursor: str | None


class BadCursor(TrustwatchError):
    """Raised for a page cursor that this store did not return. Start again without a cursor."""

    code = "invalid_cursor"


class DamagedStore(TrustwatchError):
    """Raised if the database file is damaged: no call succeeds until an operator replaces the file."""

    code = "damaged_store"

    def __init__(self, error: object) -> None:
        super().__init__(
            f"the database file is damaged ({str(error).strip()[:200]}): stop the service, keep a copy of "
            "trustwatch.db with its -wal and -shm files, and restore the last back-up or what "
            "`sqlite3 trustwatch.db .recover` finds (docs/operations.md, Back-up and restore)"
        )


class Database:
    """Runs the two kinds of transactions on an engine, and reads pages with them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.identities = IdentityHasher()
        """Makes the keys of agents in the tables; see `identity_keys.adopt_identity_key`."""
        self.dialect = dialect_of(engine)
        self.writing_engine = self.dialect.writer(engine)
        self._reading_engine = self.dialect.reader(engine)
        event.listen(engine, "before_execute", check_executed_statement)

    def known_identities(self) -> IdentityHasher:
        """Return the hasher that makes agent keys in the tables. Raises ConfigError if the identity key is missing."""
        if not self.identities.is_keyed:
            with self.read() as connection:
                keyed = connection.scalar(select(META.c.value).where(META.c.key == IDENTITY_PROOF))
            if keyed:
                raise ConfigError(
                    "identity.key_file: agents of this database are known under an identity key, and it is not here. "
                    "Copy the file `identity-key` of the service, mode 0600"
                )
        return self.identities

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that reads one snapshot.

        Raises Unavailable (the same read may succeed later) or UnscopedRead (the caller may not see all that would be
        read, see `read_scope`).
        """
        scope = current_read_scope()
        with translate_errors(), self._reading_engine.begin() as connection:
            if scope.tenants is not None:
                connection.execution_options(**{READ_SCOPE_OPTION: scope})
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that writes; it commits at the end or rolls back on an error. Raises Unavailable."""
        with translate_errors(), self.writing_engine.begin() as connection:
            yield connection

    def get(self, rows: RowCodec[S], *conditions: ColumnElement[bool], tenants: Tenants = None) -> S | None:
        """Return the one item that meets *conditions* and belongs to a tenant that the caller may see."""
        return self.fetch_one(rows.select(tenants, *conditions), rows.read)

    def find(
        self,
        rows: RowCodec[S],
        *conditions: ColumnElement[bool],
        tenants: Tenants = None,
        order: Sequence[Any] = (),
        limit: int | None = None,
    ) -> list[S]:
        """Return the items that meet *conditions* and belong to tenants that the caller may see."""
        return self.fetch_all(rows.select(tenants, *conditions).order_by(*order).limit(limit), rows.read)

    def scalar(self, query: AnySelect) -> Any:
        """Return the first value of the first row of a query; None if there is no row."""
        with self.read() as connection:
            return connection.scalar(query)

    def scalars(self, query: AnySelect) -> list[Any]:
        """Return the first value of every row of a query."""
        with self.read() as connection:
            return list(connection.scalars(query))

    def change(self, statement: Update | Delete) -> int:
        """Run one statement in a separate transaction; return the number of rows that it changed."""
        with self.write() as connection:
            return connection.execute(statement).rowcount

    def fetch_one(self, query: AnySelect, make: Callable[[AnyRow], T]) -> T | None:
        """Return the item in the one row of a query; None if there is no row."""
        with self.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _make(make, row)

    def fetch_all(self, query: AnySelect, make: Callable[[AnyRow], T]) -> list[T]:
        """Return the items in the rows of a query."""
        with self.read() as connection:
            rows = connection.execute(query).all()
        return [_make(make, row) for row in rows]

    def fetch_among(
        self, query: AnySelect, column: Column[Any], values: Collection[Any], make: Callable[[AnyRow], T]
    ) -> list[T]:
        """Return items whose column has one of many values, querying some of the values at a time."""
        with self.read() as connection:
            parts = (query.where(column.in_(part)) for part in chunked(sorted(values), MAX_IN_LIST))
            rows = [row for part in parts for row in connection.execute(part)]
        return [_make(make, row) for row in rows]

    def newest(
        self,
        query: AnySelect,
        order: Sequence[Any],
        limit: int,
        cursor: str | None,
        make: Callable[[AnyRow], T],
        cursor_type: Any = tuple[int, str],
    ) -> Page[T]:
        """Return one page in descending *order*. Raises BadCursor."""
        if cursor is not None:
            query = query.where(tuple_(*order) < from_cursor(cursor, cursor_type))
        return self.page(query.order_by(*(column.desc() for column in order)), order, limit, make)

    def page(self, query: AnySelect, order: Sequence[Any], limit: int, make: Callable[[AnyRow], T]) -> Page[T]:
        """Return one page of a query that is in *order* and begins after the cursor."""
        limit = min(max(limit, 1), MAX_PAGE)
        with self.read() as connection:
            rows = connection.execute(query.limit(limit + 1)).all()  # one more shows whether there are more
        cursor = None
        if len(rows) > limit:
            cursor = to_cursor([rows[limit - 1]._mapping[column.name] for column in order])
        return Page([_make(make, row) for row in rows[:limit]], cursor)

    def iterate(
        self, query: AnySelect, order: Sequence[Any], chunk: int, *, start: ColumnElement[bool] | None = None
    ) -> Iterator[AnyRow]:
        """Iterate over the rows of a query in *order*, read in chunks with a transaction each."""
        ordered = query.order_by(*order).limit(chunk)
        page = ordered if start is None else ordered.where(start)
        while True:
            with self.read() as connection:
                rows = connection.execute(page).all()
            yield from rows
            if len(rows) < chunk:
                return
            page = ordered.where(tuple_(*order) > tuple(rows[-1]._mapping[column.name] for column in order))

    def acquire_leader_lock(self, job: str) -> LeaderLock | None:
        """Acquire a job that one process runs at a time; return None if another process has it. Raises Unavailable."""
        with translate_errors():
            lock = self.dialect.acquire_job_lock(self.engine, job)
        return None if lock is None else LeaderLock(job, lock)

    def compact(self) -> bool:
        """Remove deleted rows from the database files as far as possible; return False if a reader prevents it.

        Raises Unavailable if the database does not answer, or a table is locked.
        """
        with translate_errors():
            return self.dialect.compact(self.engine)

    def copy_to(self, target: Path) -> None:
        """Copy a snapshot of the database into a new file while other processes continue to use it.

        Raises ConfigError (the database is not a file), DamagedStore (a page of it is damaged) or Unavailable (it is
        locked, or the disk is full).
        """
        damage = self.dialect.copy_to(self.engine, target)
        if damage is not None:
            raise DamagedStore(damage)

    def close(self) -> None:
        self.engine.dispose()


class TableStore:
    """Base class for the classes that read and write the tables of one subject."""

    def __init__(self, database: Database) -> None:
        self._database = database


class LeaderLock:
    """A job that this process holds; for use by one thread."""

    def __init__(self, job: str, lock: JobLock) -> None:
        self._job = job
        self._lock = lock

    def ensure_held(self) -> None:
        """Raise Fenced if this process lost the job, or Unavailable if the database does not answer."""
        with translate_errors():
            ours = self._lock.is_held()
        if not ours:
            raise Fenced(f"the connection that made this process the {self._job} is gone; another may be it by now")

    def release(self) -> None:
        self._lock.release()


class LeaderSeat:
    """A job that one process of a deployment runs: this process takes it if no other has it. For one thread at a
    time."""

    def __init__(self, database: Database, job: str) -> None:
        self._database = database
        self._job = job
        self.lock: LeaderLock | None = None  # None = the job is not ours

    def take(self) -> bool:
        """Take the job, or check that this process still has it; return whether it does. Gives it up and raises on any
        error."""
        try:
            if self.lock is None:
                self.lock = self._database.acquire_leader_lock(self._job)
            else:
                self.lock.ensure_held()
        except Exception:
            self.give_up()
            raise
        return self.lock is not None

    def give_up(self) -> None:
        """Let another process have the job, because a connection that went back to the pool would keep the lock."""
        lost, self.lock = self.lock, None
        if lost is not None:
            lost.release()


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise Unavailable for driver errors after which the same call may succeed, and DamagedStore for a damaged
    file."""
    try:
        yield
    except UnicodeDecodeError as error:  # of the driver: every text that is written is UTF-8
        raise DamagedStore(error.reason) from error
    except DBAPIError as error:
        if is_damaged(error):
            raise DamagedStore(error.orig) from error
        if not is_transient(error):
            raise
        raise Unavailable(f"the database does not answer: {str(error.orig).strip()}{advice_on(error)}") from error
    except PoolTimeout as error:
        raise Unavailable("the database does not answer: every connection is in use") from error


def _make(make: Callable[[AnyRow], T], row: AnyRow) -> T:
    """Return the item in a row. SQLite has no checksums, so a damaged page may have rows with invalid values."""
    try:
        return make(row)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise DamagedStore(error) from error


def visible(query: AnySelect, column: Any, allowed: Collection[str] | None) -> AnySelect:
    """Restrict *query* to rows whose *column* has an allowed value; None = no restriction."""
    return query if allowed is None else query.where(column.in_(sorted(allowed)))


def with_values(query: AnySelect, values: Mapping[Column[Any], Any]) -> AnySelect:
    """Restrict *query* to rows with one of some values; None = any."""
    return query.where(*(column == value for column, value in values.items() if value is not None))


def day_of(column: Column[int]) -> ColumnElement[int]:
    """Return the day of UTC since 1970 of a time in ms; division of whole numbers rounds down."""
    return cast(column.op("/")(DAY_MS), Integer)


def between(query: AnySelect, column: Column[int], since_ms: int, until_ms: int) -> AnySelect:
    """Restrict *query* to times from *since_ms* and before *until_ms*; 0 = no bound."""
    if since_ms:
        query = query.where(column >= since_ms)
    return query.where(column < until_ms) if until_ms else query


def iterate_pages(read_page: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """Iterate over the items of a list that is read page by page."""
    cursor = None
    while True:
        page = read_page(cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


_Cursor = TypeVar("_Cursor", bound=tuple[Any, ...])


def to_cursor(values: Sequence[Any]) -> str:
    """Encode the place after a row with these *values* in the order of the list as opaque text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(list(values))).rstrip(b"=").decode()


def from_cursor(cursor: str, shape: type[_Cursor]) -> _Cursor:
    """Decode a cursor of `to_cursor`; *shape* specifies the expected values. Raises BadCursor."""
    try:
        raw = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values: _Cursor = msgspec.json.decode(raw, type=shape)
        for value in values:  # drivers fail for integers beyond 64 bits, and PostgreSQL for text with NUL
            if (isinstance(value, int) and not -(2**63) <= value < 2**63) or (isinstance(value, str) and "\0" in value):
                raise ValueError("no column has this value")
    except (binascii.Error, ValueError, RecursionError, msgspec.MsgspecError):
        raise BadCursor("the cursor is not one of ours; start again without it") from None
    return values

"""Statements that databases word differently, made for each of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    column,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.functions import FunctionElement

from ..sql_schema import AGENT_NAME_COLUMNS, AGENTS, COUNTERS, escape_nul


class DialectInsert(NamedTuple):
    """An INSERT that handles existing rows, in the SQL of each database."""

    by_database: dict[str, Insert]

    def for_connection(self, connection: Connection) -> Insert:
        """Return the statement for the database of *connection*."""
        return self.by_database[connection.dialect.name]

    def execute(self, connection: Connection, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Write any number of rows."""
        if rows:
            connection.execute(self.for_connection(connection), rows)

    def adds(self, connection: Connection, row: Mapping[str, Any]) -> bool:
        """Write a row; return False if it exists."""
        statement = self.for_connection(connection)
        # By RETURNING: not every driver has a row count of an insert.
        return connection.execute(statement.returning(*statement.table.primary_key), row).first() is not None


def _worded(table: Table, word: Callable[[Any], Insert]) -> DialectInsert:
    return DialectInsert({"sqlite": word(sqlite.insert(table)), "postgresql": word(postgresql.insert(table))})


def insert_or_skip(table: Table, *columns: str) -> DialectInsert:
    """Build an INSERT that skips existing rows with the same *columns*, or the same primary key if none are given."""
    return _worded(table, lambda insert: insert.on_conflict_do_nothing(index_elements=list(columns) or None))


def upsert(
    table: Table, keys: tuple[str, ...], keep: tuple[str, ...] = (), same: tuple[str, ...] = ()
) -> DialectInsert:
    """Build an INSERT that overwrites an existing row with the same *keys*, except its columns *keep*.

    If the columns *same* differ, the existing row stays as it is.
    """
    return _worded(
        table,
        lambda insert: insert.on_conflict_do_update(
            index_elements=list(keys),
            set_={column.name: insert.excluded[column.name] for column in table.c if column.name not in keys + keep},
            where=and_(*(table.c[name] == insert.excluded[name] for name in same)) if same else None,
        ),
    )


def insert_or_succeed(table: Table, keys: tuple[str, ...], column: str, least: int) -> DialectInsert:
    """Build an INSERT that overwrites an existing row with the same *keys* only if its *column* is lower by *least* or
    more.

    If several writers of the same row run at the same time, one succeeds.
    """
    return _worded(
        table,
        lambda insert: insert.on_conflict_do_update(
            index_elements=list(keys),
            set_={changed.name: insert.excluded[changed.name] for changed in table.c if changed.name not in keys},
            where=table.c[column] <= insert.excluded[column] - least,
        ),
    )


class RowsInsert(NamedTuple):
    """An INSERT of many rows that handles existing ones; see `insert_or_merge` and `insert_rows_or_skip`."""

    for_sqlite: Insert
    for_postgresql: Insert
    rows_at_once: int

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write *rows* in their order, each with all columns of the table. Floats must be finite.

        If rows are merged no two may have the same keys: PostgreSQL changes a row once in a statement.
        """
        for some in chunked(rows, self.rows_at_once):
            if connection.dialect.name == "sqlite":
                connection.execute(self.for_sqlite, some)
            else:
                connection.execute(self.for_postgresql, {"given": rows_as_json(some)})


_MERGED_ROWS = 5_000
"""Rows in a statement: some megabytes of usual names."""
_SKIPPED_ROWS = 500
"""Rows with bytes in a statement: two or three megabytes of decisions."""

_encode_json = msgspec.json.Encoder().encode


def rows_as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Encode rows as a JSON list of objects: texts as PostgreSQL accepts them, bytes in base64, floats exactly."""
    given = _encode_json(rows)
    # Few texts must be escaped, and searching each of them would take longer than everything else. A single byte is
    # found ten times as fast as several.
    if b"\\" in given and (b"\\u0000" in given or b"\\u0001" in given):
        escaped = [{name: escape_nul(it) if isinstance(it, str) else it for name, it in row.items()} for row in rows]
        given = _encode_json(escaped)
    return given.decode()


def insert_or_merge(
    table: Table, keys: tuple[str, ...], merged: Callable[[Any], Mapping[str, ColumnElement[Any]]]
) -> RowsInsert:
    """Build an INSERT that sets columns of an existing row with the same *keys*."""
    by_row, together = sqlite.insert(table), _insert_from_json(table)
    return RowsInsert(
        by_row.on_conflict_do_update(index_elements=list(keys), set_=merged(by_row.excluded)),
        together.on_conflict_do_update(index_elements=list(keys), set_=merged(together.excluded)),
        _MERGED_ROWS,
    )


def insert_rows_or_skip(table: Table) -> RowsInsert:
    """Build an INSERT of many rows that skips existing rows with the same primary key."""
    return RowsInsert(
        sqlite.insert(table).on_conflict_do_nothing(), _insert_from_json(table).on_conflict_do_nothing(), _SKIPPED_ROWS
    )


def _insert_from_json(table: Table) -> postgresql.Insert:
    """Build an INSERT of all rows from one JSON text.

    A statement for each row takes the client five times as long, and arrays of columns three times (psycopg writes them
    item by item).
    """
    names = table.columns.keys()
    rows = func.json_to_recordset(cast(bindparam("given", type_=Text()), postgresql.JSON))
    binary = {name for name in names if isinstance(table.c[name].type, LargeBinary)}
    given = rows.table_valued(*(column(name, Text() if name in binary else table.c[name].type) for name in names))
    given = given.render_derived(with_types=True)
    values = [func.decode(given.c[name], "base64") if name in binary else given.c[name] for name in names]
    return postgresql.insert(table).from_select(names, select(*values))


def starts_with(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """Match a text prefix as a range, which uses an index (LIKE ignores case in SQLite). Needs a byte-wise
    collation."""
    return (column >= prefix) & (column < prefix + "\U0010ffff")


def contains(column: ColumnElement[Any], needle: str | bytes) -> ColumnElement[bool]:
    """Return the condition that a column contains text or bytes; *needle* is not a pattern."""
    return _Contains(column, bindparam(None, needle, column.type, unique=True))


class _Contains(FunctionElement[bool]):
    type = Boolean()
    inherit_cache = True
    name = "contains"


@compiles(_Contains, "sqlite")
def _compile_contains_sqlite(element: _Contains, compiler: Any, **named: Any) -> str:
    return f"(instr({compiler.process(element.clauses, **named)}) > 0)"


@compiles(_Contains, "postgresql")
def _compile_contains_postgresql(element: _Contains, compiler: Any, **named: Any) -> str:
    """Call POSITION by its full name, which accepts (text, text) and (bytea, bytea), since it is a keyword of SQL."""
    return f'(pg_catalog."position"({compiler.process(element.clauses, **named)}) > 0)'


UPSERT_AGENT = upsert(AGENTS, ("key",), keep=AGENT_NAME_COLUMNS, same=AGENT_NAME_COLUMNS)
"""The name never changes, so its indexes stay as they are. An agent with the key of another one overwrites nothing."""
INSERT_COUNTER = insert_or_skip(COUNTERS, "name")

T = TypeVar("T")

MAX_IN_LIST = 500
"""Keys in an IN list: few enough for every database, enough that the overhead of a statement does not matter."""


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split *items* into lists of at most *size*."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def find_stored(connection: Connection, key: Column[str], texts: Sequence[str]) -> set[str]:
    """Return those of *texts* that an indexed column contains."""
    found: set[str] = set()
    for some in chunked(texts, MAX_IN_LIST):
        if connection.dialect.name == "sqlite":
            found.update(connection.scalars(select(key).where(key.in_(some))))
        else:  # one parameter takes the client a quarter of the time of a list of them
            among = key == any_(bindparam("texts", type_=postgresql.ARRAY(Text())))
            found.update(connection.scalars(select(key).where(among), {"texts": list(map(escape_nul, some))}))
    return found


class leading_code(FunctionElement[str]):
    """Return the code of the first reason in a column with reasons as JSON; NULL if there is none."""

    inherit_cache = True


@compiles(leading_code, "sqlite")
def _in_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"json_extract(CAST({compiler.process(element.clauses, **options)} AS TEXT), '$[0].code')"


@compiles(leading_code, "postgresql")
def _in_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    """Search the text, where the code comes first: PostgreSQL's JSON rejects U+0000, which names may contain."""
    reasons = f"convert_from({compiler.process(element.clauses, **options)}, 'UTF8')"
    return f'substring({reasons} from \'^\\[\\{{"code":"([^"]*)"\')'

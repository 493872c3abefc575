"""Statements that databases word in their own way, made for each of them once."""

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
from sqlalchemy.types import TypeEngine

from ..sql_schema import AGENT_NAME_COLUMNS, AGENTS, COUNTERS, escape_nul


class DialectInsert(NamedTuple):
    """An INSERT that minds rows which are there already, in the words of each database."""

    by_database: dict[str, Insert]

    def for_connection(self, connection: Connection) -> Insert:
        """The statement for the database of *connection*."""
        return self.by_database[connection.dialect.name]

    def execute(self, connection: Connection, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Write a row, or some; none where there are none."""
        if rows:
            connection.execute(self.for_connection(connection), rows)

    def adds(self, connection: Connection, row: Mapping[str, Any]) -> bool:
        """Write a row; False = it was there."""
        statement = self.for_connection(connection)
        # Asked by RETURNING: not every driver has a row count of an insert.
        return connection.execute(statement.returning(*statement.table.primary_key), row).first() is not None


def _worded(table: Table, word: Callable[[Any], Insert]) -> DialectInsert:
    return DialectInsert({"sqlite": word(sqlite.insert(table)), "postgresql": word(postgresql.insert(table))})


def insert_or_skip(table: Table, *columns: str) -> DialectInsert:
    """INSERT that leaves an existing row with the same *columns* as it is; without them: the same primary key."""
    return _worded(table, lambda insert: insert.on_conflict_do_nothing(index_elements=list(columns) or None))


def upsert(
    table: Table, keys: tuple[str, ...], keep: tuple[str, ...] = (), same: tuple[str, ...] = ()
) -> DialectInsert:
    """INSERT that overwrites an existing row with the same *keys*, except its columns *keep*.

    Where the columns *same* differ, the existing row stays as it is.
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
    """INSERT that overwrites an existing row with the same *keys* only where its *column* is lower by *least* or more.

    Of several at a time that would write the same row, one does.
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
    """An INSERT of many rows that minds rows which are there already; see `insert_or_merge`, `insert_rows_or_skip`."""

    for_sqlite: Insert
    for_postgresql: Insert
    rows_at_once: int

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write *rows*, in their order; each has all columns of the table. Floats must be finite.

        Where rows are merged no two may have the same keys: PostgreSQL changes a row once a statement.
        """
        for some in chunked(rows, self.rows_at_once):
            if connection.dialect.name == "sqlite":
                connection.execute(self.for_sqlite, some)
            else:
                connection.execute(self.for_postgresql, {"given": rows_as_json(some)})


_MERGED_ROWS = 5_000
"""Rows of a statement: some megabytes of usual names."""

_SKIPPED_ROWS = 500
"""The same where rows have bytes: of decisions two or three megabytes."""

_encode_json = msgspec.json.Encoder().encode


def rows_as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a JSON list of objects: texts as PostgreSQL takes them, bytes in base64, floats to their last bit."""
    given = _encode_json(rows)
    # Few texts have what must be escaped, and to look for it in each of them costs more than the rest. A single letter
    # is found ten times as fast as several.
    if b"\\" in given and (b"\\u0000" in given or b"\\u0001" in given):
        escaped = [{name: escape_nul(it) if isinstance(it, str) else it for name, it in row.items()} for row in rows]
        given = _encode_json(escaped)
    return given.decode()


def insert_or_merge(
    table: Table, keys: tuple[str, ...], merged: Callable[[Any], Mapping[str, ColumnElement[Any]]]
) -> RowsInsert:
    """INSERT that sets columns of an existing row with the same *keys*."""
    by_row, together = sqlite.insert(table), _insert_from_json(table)
    return RowsInsert(
        by_row.on_conflict_do_update(index_elements=list(keys), set_=merged(by_row.excluded)),
        together.on_conflict_do_update(index_elements=list(keys), set_=merged(together.excluded)),
        _MERGED_ROWS,
    )


def insert_rows_or_skip(table: Table) -> RowsInsert:
    """INSERT of many rows that leaves an existing row with the same primary key as it is."""
    return RowsInsert(
        sqlite.insert(table).on_conflict_do_nothing(), _insert_from_json(table).on_conflict_do_nothing(), _SKIPPED_ROWS
    )


def _insert_from_json(table: Table) -> postgresql.Insert:
    """INSERT of all rows of one JSON text.

    A statement for each costs the client five times as much, and arrays of columns three times (psycopg writes them
    item by item).
    """
    names = table.columns.keys()
    rows = func.json_to_recordset(cast(bindparam("given", type_=Text()), postgresql.JSON))
    given = rows.table_valued(*(column(name, _type_in_json(table.c[name])) for name in names))
    given = given.render_derived(with_types=True)
    values = [_from_json(given.c[name], table.c[name]) for name in names]
    return postgresql.insert(table).from_select(names, select(*values))


def _type_in_json(written: Column[Any]) -> TypeEngine[Any]:
    return Text() if isinstance(written.type, LargeBinary) else written.type


def _from_json(given: ColumnElement[Any], written: Column[Any]) -> ColumnElement[Any]:
    return func.decode(given, "base64") if isinstance(written.type, LargeBinary) else given


def starts_with(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """Text prefix as a range, which an index answers (LIKE folds case in SQLite). Needs a byte-wise collation."""
    return (column >= prefix) & (column < prefix + "\U0010ffff")


def contains(column: ColumnElement[Any], needle: str | bytes) -> ColumnElement[bool]:
    """Condition that text or bytes stand in a column; nothing in *needle* is a pattern."""
    return _Contains(column, bindparam(None, needle, column.type, unique=True))


class _Contains(FunctionElement[bool]):
    """Place of bytes or text in a column, compared with 0."""

    type = Boolean()
    inherit_cache = True
    name = "contains"


@compiles(_Contains, "sqlite")
def _compile_contains_sqlite(element: _Contains, compiler: Any, **named: Any) -> str:
    return f"(instr({compiler.process(element.clauses, **named)}) > 0)"


@compiles(_Contains, "postgresql")
def _compile_contains_postgresql(element: _Contains, compiler: Any, **named: Any) -> str:
    """Call POSITION by its full name, since it is a word of SQL: that takes (text, text) and (bytea, bytea)."""
    return f'(pg_catalog."position"({compiler.process(element.clauses, **named)}) > 0)'


UPSERT_AGENT = upsert(AGENTS, ("key",), keep=AGENT_NAME_COLUMNS, same=AGENT_NAME_COLUMNS)
"""The name never changes, so the indexes on it are left alone. An agent with the key of another overwrites nothing."""
INSERT_COUNTER = insert_or_skip(COUNTERS, "name")


T = TypeVar("T")

MAX_IN_LIST = 500
"""Keys per IN list: few enough for every database, many enough that the statement is not the cost."""


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """*items* in lists of at most *size*."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def find_stored(connection: Connection, key: Column[str], texts: Sequence[str]) -> set[str]:
    """Those of *texts* that stand in a column which has an index."""
    found: set[str] = set()
    for some in chunked(texts, MAX_IN_LIST):
        if connection.dialect.name == "sqlite":
            found.update(connection.scalars(select(key).where(key.in_(some))))
        else:  # one parameter: the client takes a quarter of the time that a list of them costs it
            among = key == any_(bindparam("texts", type_=postgresql.ARRAY(Text())))
            found.update(connection.scalars(select(key).where(among), {"texts": list(map(escape_nul, some))}))
    return found


class leading_code(FunctionElement[str]):
    """The code of the first reason in a column with reasons as JSON; NULL = there is none."""

    inherit_cache = True


@compiles(leading_code, "sqlite")
def _in_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"json_extract(CAST({compiler.process(element.clauses, **options)} AS TEXT), '$[0].code')"


@compiles(leading_code, "postgresql")
def _in_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    """By the text: JSON of PostgreSQL takes no U+0000, and names of agents may have it. The code is written first."""
    reasons = f"convert_from({compiler.process(element.clauses, **options)}, 'UTF8')"
    return f'substring({reasons} from \'^\\[\\{{"code":"([^"]*)"\')'
